package goclients

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/harness"
)

// saramaVersions are what users of sarama set, from the oldest that Kafka 4
// still serves to the newest that sarama knows: each makes it speak other
// versions of the APIs.
var saramaVersions = []sarama.KafkaVersion{
	sarama.V2_1_0_0, sarama.V2_4_0_0, sarama.V2_8_0_0, sarama.V3_3_0_0, sarama.V3_9_0_0, sarama.V4_0_0_0, sarama.MaxVersion,
}

func saramaConfig(v sarama.KafkaVersion) *sarama.Config {
	c := sarama.NewConfig()
	c.Version = v
	c.ClientID = "sarama"
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Group.Heartbeat.Interval = 200 * time.Millisecond
	return c
}

// TestSarama writes, reads, joins a group and administers with each version.
func TestSarama(t *testing.T) {
	b := start(t)
	for _, v := range saramaVersions {
		t.Run(v.String(), func(t *testing.T) {
			saramaRoundTrip(deadline(t), t, b, v)
		})
	}
}

func saramaRoundTrip(ctx context.Context, t *testing.T, b *harness.Broker, v sarama.KafkaVersion) {
	topic, group := "sarama-"+v.String(), "g-"+v.String()
	addrs := []string{b.Addr}
	adm, err := sarama.NewClusterAdmin(addrs, saramaConfig(v))
	require.NoError(t, err)
	defer adm.Close()
	retention := "3600000"
	require.NoError(t, adm.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 2, ReplicationFactor: 1,
		ConfigEntries: map[string]*string{"retention.ms": &retention}}, false))

	const perCodec = 20
	sent := map[string]bool{}
	for _, codec := range []sarama.CompressionCodec{sarama.CompressionNone, sarama.CompressionGZIP, sarama.CompressionSnappy, sarama.CompressionLZ4, sarama.CompressionZSTD} {
		for _, idempotent := range []bool{false, true} {
			c := saramaConfig(v)
			c.Producer.Compression, c.Producer.Idempotent = codec, idempotent
			if idempotent {
				c.Net.MaxOpenRequests = 1
			}
			p, err := sarama.NewSyncProducer(addrs, c)
			require.NoError(t, err)
			var batch []*sarama.ProducerMessage
			for i := range perCodec {
				value := fmt.Sprintf("%s-%v-%d", codec, idempotent, i)
				sent[value] = true
				batch = append(batch, &sarama.ProducerMessage{Topic: topic, Key: sarama.StringEncoder(value), Value: sarama.StringEncoder(value),
					Headers: []sarama.RecordHeader{{Key: []byte("k"), Value: []byte(value)}}})
			}
			require.NoError(t, p.SendMessages(batch))
			require.NoError(t, p.Close())
		}
	}

	direct := readSaramaPartitions(ctx, t, addrs, saramaConfig(v), topic, len(sent))
	require.Equal(t, sent, direct)

	read := &saramaGroup{want: len(sent), seen: map[string]bool{}, full: make(chan struct{})}
	g, err := sarama.NewConsumerGroup(addrs, group, saramaConfig(v))
	require.NoError(t, err)
	groupCtx, leave := context.WithCancel(ctx)
	consumed := make(chan error, 1)
	go func() { consumed <- g.Consume(groupCtx, []string{topic}, read) }()
	select {
	case <-read.full:
	case <-ctx.Done():
		t.Fatal("the group did not read everything in time")
	}
	leave()
	if err := <-consumed; err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	require.NoError(t, g.Close())
	require.Equal(t, sent, read.seen)

	offsets, err := adm.ListConsumerGroupOffsets(group, map[string][]int32{topic: {0, 1}})
	require.NoError(t, err)
	require.EqualValues(t, len(sent), offsets.GetBlock(topic, 0).Offset+offsets.GetBlock(topic, 1).Offset)
	//nolint:staticcheck // deprecated, and what programs out there call
	entries, err := adm.DescribeConfig(sarama.ConfigResource{Type: sarama.TopicResource, Name: topic, ConfigNames: []string{"retention.ms"}})
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, retention, entries[0].Value)
	described, err := adm.DescribeConsumerGroups([]string{group})
	require.NoError(t, err)
	require.Equal(t, "Empty", described[0].State)
	require.NoError(t, adm.DeleteRecords(topic, map[int32]int64{0: 1, 1: 1}))
	require.NoError(t, adm.CreatePartitions(topic, 3, nil, false))
	require.NoError(t, adm.DeleteConsumerGroup(group))
	require.NoError(t, adm.DeleteTopic(topic))
}

func readSaramaPartitions(ctx context.Context, t *testing.T, addrs []string, c *sarama.Config, topic string, n int) map[string]bool {
	consumer, err := sarama.NewConsumer(addrs, c)
	require.NoError(t, err)
	defer consumer.Close()
	seen := map[string]bool{}
	for p := range int32(2) {
		part, err := consumer.ConsumePartition(topic, p, sarama.OffsetOldest)
		require.NoError(t, err)
		client, err := sarama.NewClient(addrs, c)
		require.NoError(t, err)
		end, err := client.GetOffset(topic, p, sarama.OffsetNewest)
		require.NoError(t, err)
		require.NoError(t, client.Close())
		for at := int64(0); at < end; at++ {
			select {
			case m := <-part.Messages():
				require.Equal(t, at, m.Offset)
				require.Equal(t, m.Key, m.Value)
				require.Equal(t, m.Value, m.Headers[0].Value)
				seen[string(m.Value)] = true
			case <-ctx.Done():
				t.Fatalf("partition %d ends at %d, read up to %d", p, end, at)
			}
		}
		require.NoError(t, part.Close())
	}
	require.Len(t, seen, n)
	return seen
}

// saramaGroup collects what a group reads.
type saramaGroup struct {
	want int
	full chan struct{} // closed once all was read

	mu   sync.Mutex
	seen map[string]bool
}

func (*saramaGroup) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (*saramaGroup) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (g *saramaGroup) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for {
		select {
		case m, ok := <-c.Messages():
			if !ok {
				return nil
			}
			s.MarkMessage(m, "")
			g.mu.Lock()
			before := len(g.seen)
			g.seen[string(m.Value)] = true
			if before < g.want && len(g.seen) == g.want {
				close(g.full)
			}
			g.mu.Unlock()
		case <-s.Context().Done():
			return nil
		}
	}
}
