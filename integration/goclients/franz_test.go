package goclients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/harness"
)

// consume reads n records of the topics from their starts.
func consume(ctx context.Context, t *testing.T, b *harness.Broker, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	c := b.Client(t, append([]kgo.Opt{kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())}, opts...)...)
	defer c.Close()
	return poll(ctx, t, c, n)
}

// poll reads n records with a client.
func poll(ctx context.Context, t *testing.T, c *kgo.Client, n int) []*kgo.Record {
	t.Helper()
	var got []*kgo.Record
	for len(got) < n {
		fetches := c.PollFetches(ctx)
		require.NoError(t, fetches.Err(), "after %d of %d records", len(got), n)
		got = append(got, fetches.Records()...)
	}
	return got
}

// TestFranzCodecsAndAcks writes with every codec and every kind of ack, and
// reads back each record as it was given.
func TestFranzCodecsAndAcks(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	acks := map[string][]kgo.Opt{
		"idempotent": {kgo.RequiredAcks(kgo.AllISRAcks())},
		"all":        {kgo.RequiredAcks(kgo.AllISRAcks()), kgo.DisableIdempotentWrite()},
		"one":        {kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite()},
		"none":       {kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite()},
	}
	const records = 200
	for codecName, codec := range codecs {
		for ackName, ack := range acks {
			topic := "t-" + codecName + "-" + ackName
			t.Run(topic, func(t *testing.T) {
				b.CreateTopic(t, topic, 1)
				c := b.Client(t, append(ack, kgo.ProducerBatchCompression(codec), kgo.DefaultProduceTopic(topic))...)
				base := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
				var sent []*kgo.Record
				for i := range records {
					r := &kgo.Record{
						Key: fmt.Appendf(nil, "key-%d", i), Value: bytes.Repeat(fmt.Appendf(nil, "value-%d ", i), 1+rand.IntN(50)),
						Timestamp: base.Add(time.Duration(i) * time.Second),
						Headers:   []kgo.RecordHeader{{Key: "n", Value: fmt.Append(nil, i)}, {Key: "empty"}, {Key: "n", Value: []byte("again")}},
					}
					switch i % 10 {
					case 3:
						r.Key, r.Headers = nil, nil
					case 7:
						r.Value = nil
					}
					sent = append(sent, r)
				}
				require.NoError(t, c.ProduceSync(ctx, sent...).FirstErr())
				got := consume(ctx, t, b, records, kgo.ConsumeTopics(topic))
				require.Len(t, got, records)
				for i, r := range got {
					require.EqualValues(t, i, r.Offset)
					require.Equal(t, sent[i].Key, r.Key)
					require.Equal(t, sent[i].Value, r.Value)
					require.Equal(t, sent[i].Timestamp.UnixMilli(), r.Timestamp.UnixMilli())
					require.Equal(t, len(sent[i].Headers), len(r.Headers))
					for j, h := range sent[i].Headers {
						require.Equal(t, h.Key, r.Headers[j].Key)
						require.Equal(t, h.Value, r.Headers[j].Value)
					}
				}
			})
		}
	}
}

// TestFranzDirect reads single partitions from places in them: an offset, a
// time, the end.
func TestFranzDirect(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	b.CreateTopic(t, "direct", 3)
	c := b.Client(t, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	base := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i := range 90 {
		r := &kgo.Record{Topic: "direct", Partition: int32(i % 3), Value: fmt.Append(nil, i), Timestamp: base.Add(time.Duration(i) * time.Second)}
		require.NoError(t, c.ProduceSync(ctx, r).FirstErr())
	}
	read := func(partition int32, at kgo.Offset, n int) []*kgo.Record {
		return consume(ctx, t, b, n, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"direct": {partition: at}}))
	}
	require.Equal(t, "31", string(read(1, kgo.NewOffset().At(10), 20)[0].Value))
	require.Equal(t, "62", string(read(2, kgo.NewOffset().AfterMilli(base.Add(60*time.Second).UnixMilli()), 10)[0].Value))
	require.Equal(t, "87", string(read(0, kgo.NewOffset().AtEnd().Relative(-1), 1)[0].Value))

	// Beyond the end the client is told so, and goes where it was told to.
	out := b.Client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"direct": {0: kgo.NewOffset().At(1000)}}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	require.ErrorIs(t, out.PollFetches(ctx).Err(), kerr.OffsetOutOfRange)

	// A reader at the end is woken by the next record.
	tail := b.Client(t, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"direct": {1: kgo.NewOffset().AtEnd()}}), kgo.FetchMaxWait(30*time.Second))
	short, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	require.Empty(t, tail.PollFetches(short).Records())
	cancel()
	began := time.Now()
	require.NoError(t, c.ProduceSync(ctx, &kgo.Record{Topic: "direct", Partition: 1, Value: []byte("new")}).FirstErr())
	require.Equal(t, "new", string(poll(ctx, t, tail, 1)[0].Value))
	require.Less(t, time.Since(began), 10*time.Second, "the fetch waited out its time")
}

// TestFranzGroups has members join and leave groups of both rebalance styles
// while records come: each record is read, and what was committed is where the
// next member goes on.
func TestFranzGroups(t *testing.T) {
	b := start(t)
	for name, balancer := range map[string]kgo.GroupBalancer{"eager": kgo.RangeBalancer(), "cooperative": kgo.CooperativeStickyBalancer()} {
		t.Run(name, func(t *testing.T) {
			ctx := deadline(t)
			topic, group := "groups-"+name, "g-"+name
			b.CreateTopic(t, topic, 6)
			const total = 4000
			seen := &seenSet{values: map[string]int{}}
			var members sync.WaitGroup
			memberCtx, stop := context.WithCancel(ctx)
			defer func() { stop(); members.Wait() }()
			member := func(ctx context.Context) {
				c := b.Client(t, kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.Balancers(balancer),
					kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(200*time.Millisecond),
					kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.RebalanceTimeout(10*time.Second))
				members.Go(func() {
					defer c.Close()
					defer c.LeaveGroup()
					for ctx.Err() == nil {
						fetches := c.PollFetches(ctx)
						records := fetches.Records()
						seen.add(records)
						if len(records) > 0 {
							if err := c.CommitRecords(context.WithoutCancel(ctx), records...); err != nil {
								t.Errorf("commit: %v", err)
							}
						}
						c.AllowRebalance()
					}
				})
			}
			p := b.Client(t, kgo.DefaultProduceTopic(topic))
			produce := func(from, to int) {
				for i := from; i < to; i++ {
					require.NoError(t, p.ProduceSync(ctx, &kgo.Record{Key: fmt.Append(nil, i), Value: fmt.Append(nil, i)}).FirstErr())
				}
			}
			firstCtx, stopFirst := context.WithCancel(memberCtx)
			defer stopFirst()
			member(firstCtx)
			produce(0, total/4)
			member(memberCtx)
			produce(total/4, total/2)
			member(memberCtx)
			produce(total/2, total*3/4)
			stopFirst() // and its partitions go to the others
			produce(total*3/4, total)
			harness.Eventually(t, 30*time.Second, func() string {
				if n := seen.distinct(); n < total {
					return fmt.Sprintf("%d of %d records were read", n, total)
				}
				return ""
			})
			require.Zero(t, seen.doubles(), "records were read twice in spite of orderly rebalances")
			adm := kadm.NewClient(p)
			harness.Eventually(t, 20*time.Second, func() string {
				lags, err := adm.Lag(ctx, group)
				if err = errors.Join(err, lags.Error()); err != nil {
					return err.Error()
				}
				if lag := lags[group]; lag.Lag.Total() != 0 || lag.State != "Stable" {
					return fmt.Sprintf("group is %s with a lag of %d", lag.State, lag.Lag.Total())
				}
				return ""
			})
		})
	}
}

// seenSet counts the values that members of a group read.
type seenSet struct {
	mu     sync.Mutex
	values map[string]int
}

func (s *seenSet) add(records []*kgo.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range records {
		s.values[string(r.Value)]++
	}
}

func (s *seenSet) distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.values)
}

func (s *seenSet) doubles() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, times := range s.values {
		n += times - 1
	}
	return n
}

// TestFranzStaticMember comes back under its instance id within the session and
// gets its partitions back without a rebalance; another of the same name fences
// the first.
func TestFranzStaticMember(t *testing.T) {
	b := start(t)
	ctx := deadline(t)
	b.CreateTopic(t, "static", 4)
	p := b.Client(t, kgo.DefaultProduceTopic("static"))
	adm := kadm.NewClient(p)
	join := func(instance string) *kgo.Client {
		return b.Client(t, kgo.ConsumerGroup("g"), kgo.InstanceID(instance), kgo.ConsumeTopics("static"), kgo.Balancers(kgo.RangeBalancer()),
			kgo.SessionTimeout(20*time.Second), kgo.HeartbeatInterval(200*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	}
	stable := func(members int) kadm.DescribedGroup {
		var g kadm.DescribedGroup
		harness.Eventually(t, 30*time.Second, func() string {
			groups, err := adm.DescribeGroups(ctx, "g")
			if err != nil {
				return err.Error()
			}
			if g = groups["g"]; g.State != "Stable" || len(g.Members) != members {
				return fmt.Sprintf("group is %s with %d members", g.State, len(g.Members))
			}
			return ""
		})
		return g
	}
	require.NoError(t, p.ProduceSync(ctx, kgo.StringRecord("a")).FirstErr())
	first, second := join("one"), join("two")
	go func() { // polls so that it takes part in rebalances
		for second.PollFetches(ctx).Err() == nil {
		}
	}()
	short, cancel := context.WithTimeout(ctx, 2*time.Second)
	first.PollFetches(short)
	cancel()
	stable(2)
	generation := b.Metric("kafka_network_requestmetrics_requests_total", `request="SyncGroup"`)
	first.Close() // a static member does not leave
	again := join("one")
	short, cancel = context.WithTimeout(ctx, 2*time.Second)
	again.PollFetches(short)
	cancel()
	g := stable(2)
	instances := []string{*g.Members[0].InstanceID, *g.Members[1].InstanceID}
	slices.Sort(instances)
	require.Equal(t, []string{"one", "two"}, instances)
	// Only the one that came back synced: the other was not disturbed.
	require.LessOrEqual(t, b.Metric("kafka_network_requestmetrics_requests_total", `request="SyncGroup"`)-generation, 1.0)

	resp, err := adm.LeaveGroup(ctx, kadm.LeaveGroup("g").InstanceIDs("one", "two"))
	require.NoError(t, err)
	require.NoError(t, resp.Error())
	second.Close()
}
