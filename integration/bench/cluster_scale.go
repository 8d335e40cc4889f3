package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/probe/load"
)

func codeError(code int16) error { return kerr.ErrorForCode(code) }

// electPreferred gives every leadership to the first replica, if it can lead.
func (c *cluster) electPreferred(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	req := kmsg.NewPtrElectLeadersRequest() // of all topics
	req.TimeoutMillis = int32(startLimit.Milliseconds())
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = codeError(resp.ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("bench: elect preferred leaders: %w", err)
	}
	return nil
}

const (
	hotBytes  = 64 << 20
	moveTopic = "moved"
)

// move is the row of a large partition that moves.
func move(ctx context.Context, e *Env) (figures []Figure, err error) {
	size := e.bytes(20e9)
	note := ""
	free, err := freeDisk(e.Dir)
	if err != nil {
		return nil, err
	}
	if most := free / 2; size > most {
		note = fmt.Sprintf("the disk has room for %d GB only; ", most/1e9)
		size = most
	}
	if err := e.room(size + size/4); err != nil {
		return nil, err
	}
	c, err := e.startCluster(ctx, false, "log.retention.check.interval.ms=500", "remote.log.manager.task.interval.ms=500")
	defer func() { err = errors.Join(err, c.end()) }()
	if err != nil {
		return nil, err
	}
	configs := map[string]string{"remote.storage.enable": "true", "segment.bytes": fmt.Sprint(hotBytes / 2), "local.retention.bytes": fmt.Sprint(hotBytes / 2),
		"durability": "replicated", "min.insync.replicas": "1"}
	if err := c.createTopic(ctx, moveTopic, [][]int32{{1}}, configs); err != nil {
		return nil, err
	}
	e.logf("  writing %.1f GB", float64(size)/1e9)
	_, err = load.Produce(ctx, load.ProduceOptions{Addr: c.Brokers[0].Kafka, Topic: moveTopic, Partitions: 1, Acks: -1, Bytes: size})
	if err != nil {
		return nil, err
	}
	if err := c.awaitCold(ctx); err != nil {
		return nil, err
	}
	// What is written from now on stays out of the bucket, and is what moves.
	if err := c.setConfigs(ctx, moveTopic, "remote.log.copy.disable", "true", "local.retention.bytes", "-2"); err != nil {
		return nil, err
	}
	_, err = load.Produce(ctx, load.ProduceOptions{Addr: c.Brokers[0].Kafka, Topic: moveTopic, Partitions: 1, Acks: -1, Bytes: hotBytes})
	if err != nil {
		return nil, err
	}
	f := Figure{What: fmt.Sprintf("moving a partition of %.1f GB of which %d MB are hot", float64(size)/1e9, hotBytes>>20), Unit: "s", Target: &Target{Bound: 5},
		Note: note + "from the request until the target alone is replica and in sync"}
	at := int32(1)
	for range e.Runs {
		to := 1 + at%clusterSize
		began := time.Now()
		if err := c.reassign(ctx, moveTopic, 0, to); err != nil {
			return nil, err
		}
		seconds, err := until(ctx, began, 5*time.Millisecond, func(ctx context.Context) (bool, error) {
			req := kmsg.NewPtrListPartitionReassignmentsRequest()
			resp, err := req.RequestWith(ctx, c.client)
			if err != nil || codeError(resp.ErrorCode) != nil || len(resp.Topics) > 0 {
				return false, err
			}
			leaders, err := c.leaders(ctx, c.Brokers[0], moveTopic)
			return err == nil && leaders[0] == to, err
		})
		if err != nil {
			return nil, err
		}
		f.Values = append(f.Values, seconds)
		e.logf("  moved from broker %d to %d in %.3f s", at, to, seconds)
		at = to
	}
	return []Figure{f}, nil
}

// awaitCold waits until only the last segments are on the leader's disk.
func (c *cluster) awaitCold(ctx context.Context) error {
	_, err := until(ctx, time.Now(), 100*time.Millisecond, func(ctx context.Context) (bool, error) {
		var m adminapi.TierMap
		if err := c.Brokers[0].GetJSON(ctx, adminapi.PathTierMap+"?topic="+url.QueryEscape(moveTopic), &m); err != nil {
			return false, err
		}
		entries, err := os.ReadDir(dataOf(c.Brokers[0], m.TopicID, 0))
		if err != nil {
			return false, err
		}
		local := int64(0)
		for _, entry := range entries {
			if info, err := entry.Info(); err == nil && strings.HasSuffix(entry.Name(), ".log") {
				local += info.Size()
			}
		}
		if local > hotBytes {
			return false, fmt.Errorf("bench: %d MB are on disk still", local>>20)
		}
		return true, nil
	})
	return err
}

// setConfigs sets configs of a topic, given as name, value, name, value.
func (c *cluster) setConfigs(ctx context.Context, topic string, pairs ...string) error {
	resp, err := configChange(topic, pairs...).RequestWith(ctx, c.client)
	if err == nil {
		err = codeError(resp.Resources[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("bench: configs %v of %s: %w", pairs, topic, err)
	}
	return nil
}

// configChange asks for configs of one topic.
func configChange(topic string, pairs ...string) *kmsg.IncrementalAlterConfigsRequest {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeTopic, topic
	for i := 0; i+1 < len(pairs); i += 2 {
		config := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
		config.Name, config.Op, config.Value = pairs[i], kmsg.IncrementalAlterConfigOpSet, &pairs[i+1]
		resource.Configs = append(resource.Configs, config)
	}
	req.Resources = append(req.Resources, resource)
	return req
}

// reassign asks for new replicas of a partition.
func (c *cluster) reassign(ctx context.Context, name string, partition int32, replicas ...int32) error {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.TimeoutMillis = int32(startLimit.Milliseconds())
	topic := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	topic.Topic = name
	part := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
	part.Partition, part.Replicas = partition, replicas
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = codeError(resp.ErrorCode)
	}
	if err == nil && len(resp.Topics) > 0 {
		err = codeError(resp.Topics[0].Partitions[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("bench: move %s-%d to %v: %w", name, partition, replicas, err)
	}
	return nil
}

// manyPartitions is the row of ten thousand partitions.
func manyPartitions(ctx context.Context, e *Env) (figures []Figure, err error) {
	n := max(clusterSize, int(10_000*e.Scale))
	f := Figure{What: fmt.Sprintf("failover of the third of %d partitions that a broker led", n), Unit: "s", Target: &Target{Bound: 3},
		Note: "kill -9 of a broker that does not lead the metadata; until a survivor names a leader for each"}
	c, err := e.startCluster(ctx, false)
	defer func() { err = errors.Join(err, c.end()) }()
	if err != nil {
		return nil, err
	}
	if err := c.createTopic(ctx, failTopic, spread(n), map[string]string{"remote.storage.enable": "false"}); err != nil {
		return nil, err
	}
	for range e.Runs {
		if err := c.rebalance(ctx); err != nil {
			return nil, err
		}
		leader, err := c.Controller(ctx)
		if err != nil || leader == nil {
			return nil, fmt.Errorf("bench: no metadata leader: %w", err)
		}
		victim := c.survivor(leader)
		asked := c.survivor(victim)
		led, err := c.leaders(ctx, asked, failTopic)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(led, victim.ID) {
			return nil, fmt.Errorf("bench: broker %d leads nothing", victim.ID)
		}
		began := time.Now()
		if err := victim.Kill(); err != nil {
			return nil, err
		}
		seconds, err := until(ctx, began, 20*time.Millisecond, func(ctx context.Context) (bool, error) { return c.takenOver(ctx, asked, victim, failTopic) })
		if err != nil {
			return nil, err
		}
		f.Values = append(f.Values, seconds)
		e.logf("  %d partitions: failover in %.3f s", n, seconds)
		if err := victim.Start(ctx); err != nil {
			return nil, err
		}
	}
	return []Figure{f}, nil
}

const (
	commitsInFlight = 64
	commitTopic     = "commits"
)

// metadataCommits is the row of changes to the metadata.
func metadataCommits(ctx context.Context, e *Env) (figures []Figure, err error) {
	f := Figure{What: fmt.Sprintf("metadata commits, %d in flight, three voters, fsync", commitsInFlight), Unit: "a second",
		Target: &Target{Least: true, Bound: 2000}, Note: "IncrementalAlterConfigs of one topic each, asked of the metadata leader"}
	c, err := e.startCluster(ctx, false)
	defer func() { err = errors.Join(err, c.end()) }()
	if err != nil {
		return nil, err
	}
	for i := range commitsInFlight {
		if err := c.createTopic(ctx, fmt.Sprintf("%s-%d", commitTopic, i), [][]int32{{1}}, nil); err != nil {
			return nil, err
		}
	}
	leader, err := c.Controller(ctx)
	if err != nil || leader == nil {
		return nil, fmt.Errorf("bench: no metadata leader: %w", err)
	}
	for range e.Runs {
		rate, err := c.commits(ctx, leader, e.duration(5*time.Second))
		if err != nil {
			return nil, err
		}
		f.Values = append(f.Values, rate)
		e.logf("  %.0f metadata commits a second", rate)
	}
	return []Figure{f}, nil
}

// commits changes configs for a while and returns how many changes a second were
// answered.
func (c *cluster) commits(ctx context.Context, leader *fleet.Broker, span time.Duration) (float64, error) {
	var done atomic.Int64
	began := time.Now()
	g, gctx := errgroup.WithContext(ctx)
	for i := range commitsInFlight {
		g.Go(func() error {
			// A connection of its own: a broker answers one connection's requests in
			// their order.
			client, err := c.dedicated()
			if err != nil {
				return err
			}
			defer client.Close()
			for n := 0; time.Since(began) < span; n++ {
				req := configChange(fmt.Sprintf("%s-%d", commitTopic, i), "flush.ms", fmt.Sprint(1000+n))
				resp, err := req.RequestWith(gctx, client.Broker(int(leader.ID)))
				if err == nil {
					err = codeError(resp.Resources[0].ErrorCode)
				}
				if err != nil {
					return fmt.Errorf("bench: metadata commit: %w", err)
				}
				done.Add(1)
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), err
}
