package goclients

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	kafka "github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"
)

// TestSegmentio writes with every codec and kind of ack, reads a partition by
// offset and time, and shares a topic between the members of a group.
func TestSegmentio(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	conn, err := kafka.DialContext(ctx, "tcp", b.Addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.CreateTopics(kafka.TopicConfig{Topic: "segmentio", NumPartitions: 3, ReplicationFactor: 1,
		ConfigEntries: []kafka.ConfigEntry{{ConfigName: "retention.ms", ConfigValue: "3600000"}}}))
	partitions, err := conn.ReadPartitions("segmentio")
	require.NoError(t, err)
	require.Len(t, partitions, 3)

	const perKind = 25
	sent := map[string]bool{}
	for _, codec := range []kafka.Compression{0, kafka.Gzip, kafka.Snappy, kafka.Lz4, kafka.Zstd} {
		for _, acks := range []kafka.RequiredAcks{kafka.RequireAll, kafka.RequireOne, kafka.RequireNone} {
			w := &kafka.Writer{Addr: kafka.TCP(b.Addr), Topic: "segmentio", Balancer: &kafka.Hash{}, Compression: codec, RequiredAcks: acks,
				BatchTimeout: 5 * time.Millisecond, Transport: &kafka.Transport{MetadataTTL: 50 * time.Millisecond}}
			var batch []kafka.Message
			for i := range perKind {
				value := fmt.Sprintf("%v-%v-%d", codec, acks, i)
				sent[value] = true
				batch = append(batch, kafka.Message{Key: []byte(value), Value: []byte(value), Headers: []kafka.Header{{Key: "k", Value: []byte(value)}}})
			}
			require.NoError(t, w.WriteMessages(ctx, batch...))
			require.NoError(t, w.Close())
		}
	}

	var mu sync.Mutex
	seen := map[string]bool{}
	var members sync.WaitGroup
	groupCtx, leave := context.WithCancel(ctx)
	full := make(chan struct{})
	for range 2 {
		members.Go(func() {
			r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{b.Addr}, Topic: "segmentio", GroupID: "g", StartOffset: kafka.FirstOffset,
				MaxWait: 200 * time.Millisecond, HeartbeatInterval: 200 * time.Millisecond, RebalanceTimeout: 5 * time.Second, JoinGroupBackoff: 100 * time.Millisecond})
			defer r.Close()
			for {
				m, err := r.FetchMessage(groupCtx)
				if err != nil {
					return // the test is over
				}
				if err := r.CommitMessages(ctx, m); err != nil {
					t.Errorf("commit: %v", err)
				}
				mu.Lock()
				before := len(seen)
				seen[string(m.Value)] = string(m.Key) == string(m.Value) && string(m.Headers[0].Value) == string(m.Value)
				if before < len(sent) && len(seen) == len(sent) {
					close(full)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-full:
	case <-ctx.Done():
		t.Errorf("the group read %d of %d records", len(seen), len(sent))
	}
	leave()
	members.Wait()
	require.Equal(t, sent, seen)

	client := &kafka.Client{Addr: kafka.TCP(b.Addr), Transport: &kafka.Transport{}}
	listed, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{Topics: map[string][]kafka.OffsetRequest{
		"segmentio": {kafka.FirstOffsetOf(0), kafka.LastOffsetOf(0), kafka.FirstOffsetOf(1), kafka.LastOffsetOf(1), kafka.FirstOffsetOf(2), kafka.LastOffsetOf(2)}}})
	require.NoError(t, err)
	var total int64
	for _, p := range listed.Topics["segmentio"] {
		require.NoError(t, p.Error)
		total += p.LastOffset - p.FirstOffset
	}
	require.EqualValues(t, len(sent), total)

	host, _, err := net.SplitHostPort(b.Addr)
	require.NoError(t, err)
	require.Equal(t, host, partitions[0].Leader.Host)
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: []string{b.Addr}, Topic: "segmentio", Partition: 1, MaxWait: 200 * time.Millisecond})
	defer r.Close()
	require.NoError(t, r.SetOffset(3))
	m, err := r.ReadMessage(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 3, m.Offset)
	require.NoError(t, r.SetOffsetAt(ctx, time.Now().Add(-time.Minute)))
	m, err = r.ReadMessage(ctx)
	require.NoError(t, err)
	require.EqualValues(t, 0, m.Offset)
}
