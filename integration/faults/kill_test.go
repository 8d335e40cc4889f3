package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/integration/harness"
)

const kills = 20

// TestKillTwentyTimes kills the broker at arbitrary moments under load, also
// while it starts: on topics of both durabilities, with segments on their way to
// the bucket and a group that commits. What was acked is there, once and in
// order, and what was committed does not go back.
func TestKillTwentyTimes(t *testing.T) {
	t.Parallel()
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(uint64(seed), 1))
	b := harness.Start(t, harness.Options{Store: "fs://" + filepath.Join(t.TempDir(), "bucket"),
		Set: []string{"offsets.topic.num.partitions=3", "log.retention.check.interval.ms=200", "remote.log.manager.task.interval.ms=200"}})
	var loads []*harness.Load
	for _, durability := range []string{"fsync", "replicated"} {
		b.CreateTopic(t, durability, 3, tiered("durability", durability)...)
		loads = append(loads, harness.StartLoad(t, b, durability, harness.LoadOptions{Partitions: 3, RecordBytes: 2000}))
	}
	g := startGroup(t, b, loads)
	for kill := range kills {
		for _, l := range loads {
			l.Await(1+random.Int64N(1500), time.Minute)
		}
		b.Kill()
		if kill%4 == 3 { // once more, somewhere in the start
			b.Launch()
			select {
			case <-b.Exited():
				t.Fatal("the broker ended by itself while it started")
			case <-time.After(time.Duration(random.IntN(120)) * time.Millisecond):
			}
			b.Kill()
		}
		b.Start()
		g.check(t, b)
	}
	for _, l := range loads {
		l.Stop()
		l.Check(b, harness.CheckOptions{})
		_, ends := b.Ends(t, l.Topic)
		require.Equal(t, l.Ends(), ends, "the log holds more than was acked, and nothing was given up")
		require.Positive(t, b.TierMap(l.Topic).Partitions[0].RemoteEnd, "nothing was tiered: the test is weaker than it says")
		problems, objects := b.TierVerify(l.Topic)
		require.Empty(t, problems)
		require.Positive(t, objects)
	}
	g.finish(t, b, loads)
}

// group is a consumer group of one member, which commits each poll.
type group struct {
	name   string
	stop   context.CancelFunc
	done   chan struct{}
	errs   chan error
	mu     sync.Mutex
	acked  map[string]map[int32]int64 // commits that were answered
	begun  map[string]map[int32]int64 // commits that were sent
	reads  map[string]map[int32]int64 // next offset due
	client *kgo.Client
}

func startGroup(t *testing.T, b *harness.Broker, loads []*harness.Load) *group {
	ctx, stop := context.WithCancel(context.Background())
	g := &group{name: "g", stop: stop, done: make(chan struct{}), errs: make(chan error, 1),
		acked: map[string]map[int32]int64{}, begun: map[string]map[int32]int64{}, reads: map[string]map[int32]int64{}}
	var topics []string
	for _, l := range loads {
		topics = append(topics, l.Topic)
		g.acked[l.Topic], g.begun[l.Topic], g.reads[l.Topic] = map[int32]int64{}, map[int32]int64{}, map[int32]int64{}
	}
	g.client = b.Client(t, kgo.ConsumerGroup(g.name), kgo.ConsumeTopics(topics...), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(300*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond))
	go func() {
		defer close(g.done)
		for ctx.Err() == nil {
			g.step(ctx)
		}
	}()
	t.Cleanup(func() { stop(); <-g.done })
	return g
}

func (g *group) fail(err error) {
	select {
	case g.errs <- err:
	default:
	}
}

// step reads and commits once. Errors of either are the faults' work; another
// order of records than the log's is not.
func (g *group) step(ctx context.Context) {
	fetches := g.client.PollFetches(ctx)
	commit := map[string]map[int32]kgo.EpochOffset{}
	g.mu.Lock()
	fetches.EachRecord(func(r *kgo.Record) {
		due := g.reads[r.Topic][r.Partition]
		// A member that was taken out of the group begins at the last commit again.
		if r.Offset > due || (r.Offset < due && r.Offset < g.acked[r.Topic][r.Partition]) {
			g.fail(fmt.Errorf("%s-%d: the group read offset %d where %d was due and %d committed", r.Topic, r.Partition, r.Offset, due, g.acked[r.Topic][r.Partition]))
		}
		g.reads[r.Topic][r.Partition] = r.Offset + 1
		if commit[r.Topic] == nil {
			commit[r.Topic] = map[int32]kgo.EpochOffset{}
		}
		commit[r.Topic][r.Partition] = kgo.EpochOffset{Epoch: r.LeaderEpoch, Offset: r.Offset + 1}
		g.begun[r.Topic][r.Partition] = max(g.begun[r.Topic][r.Partition], r.Offset+1)
	})
	g.mu.Unlock()
	if len(commit) == 0 {
		return
	}
	ok := false
	g.client.CommitOffsetsSync(ctx, commit, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		ok = err == nil && resp != nil
		if !ok {
			return
		}
		for _, topic := range resp.Topics {
			for _, p := range topic.Partitions {
				ok = ok && p.ErrorCode == 0
			}
		}
	})
	if !ok {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for topic, parts := range commit {
		for p, o := range parts {
			g.acked[topic][p] = max(g.acked[topic][p], o.Offset)
		}
	}
}

// check holds the committed offsets against what was answered before the look.
func (g *group) check(t *testing.T, b *harness.Broker) {
	t.Helper()
	g.mu.Lock()
	acked := map[string]map[int32]int64{}
	for topic, parts := range g.acked {
		acked[topic] = maps.Clone(parts)
	}
	g.mu.Unlock()
	got := g.committed(t, b)
	for topic, parts := range acked {
		for p, at := range parts {
			require.GreaterOrEqual(t, got[topic][p], at, "the committed offset of %s-%d went back", topic, p)
		}
	}
	select {
	case err := <-g.errs:
		t.Fatal(err)
	default:
	}
}

func (g *group) committed(t *testing.T, b *harness.Broker) map[string]map[int32]int64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := b.Client(t)
	defer c.Close()
	offsets, err := kadm.NewClient(c).FetchOffsets(ctx, g.name)
	require.NoError(t, err)
	out := map[string]map[int32]int64{}
	offsets.Each(func(o kadm.OffsetResponse) {
		require.NoError(t, o.Err)
		if out[o.Topic] == nil {
			out[o.Topic] = map[int32]int64{}
		}
		out[o.Topic][o.Partition] = o.At
	})
	return out
}

// finish waits until the group has read and committed everything.
func (g *group) finish(t *testing.T, b *harness.Broker, loads []*harness.Load) {
	t.Helper()
	harness.Eventually(t, time.Minute, func() string {
		got := g.committed(t, b)
		for _, l := range loads {
			for p, end := range l.Ends() {
				if got[l.Topic][p] != end {
					return fmt.Sprintf("%s-%d is committed up to %d of %d", l.Topic, p, got[l.Topic][p], end)
				}
			}
		}
		return ""
	})
	g.check(t, b)
	g.stop()
	<-g.done
}
