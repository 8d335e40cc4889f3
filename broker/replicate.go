package broker

import (
	"context"
	"fmt"
	"math"
	"net"
	"strconv"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/peer"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/metadata/link"
)

// followerRate is the setting that bounds what throttled replicas fetch.
const followerRate = "follower.replication.throttled.rate"

// startReplication makes who pulls for the partitions that this broker follows.
func (b *Broker) startReplication() error {
	var err error
	b.pulls, err = peer.New(peer.Options{
		NodeID: b.cfg.ID, BrokerEpoch: b.cluster.beats.Epoch, Dial: b.dialBroker, Sessions: b.cfg.ReplicaFetchers,
		MaxWait: b.cfg.ReplicaFetchMaxWait, MinBytes: b.cfg.ReplicaFetchMinBytes,
		MaxBytes: b.cfg.ReplicaFetchBytes, ResponseBytes: b.cfg.ReplicaResponseBytes,
		ThrottleRate: func() int64 {
			text, _ := configdef.BrokerValue(partition.Layers(b.meta.Image(), b.cfg.ID, b.cfg.Static).Flat(), followerRate)
			// The default is the largest number there is, which bounds nothing.
			rate, err := strconv.ParseInt(text, 10, 64)
			if err != nil || rate == math.MaxInt64 {
				return 0
			}
			return rate
		},
		Backoff: b.cfg.ReplicaFetchBackoff,
		Logger:  b.log,
	})
	if err != nil {
		return fmt.Errorf("replication: %w", err)
	}
	b.undo = append(b.undo, b.pulls.Close)
	return nil
}

// dialBroker connects to another broker's port for brokers.
func (b *Broker) dialBroker(ctx context.Context, id int32) (net.Conn, error) {
	addr, err := b.peerAddress(id)
	if err != nil {
		return nil, err
	}
	conn, _, err := b.cluster.link.Dial(ctx, addr, link.KindKafka)
	return conn, err
}
