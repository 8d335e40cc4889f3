package partition

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// bench is a Set over a file system in memory, with one topic of one partition
// that this broker leads.
type bench struct {
	t     testing.TB
	fs    vfs.FS
	dir   *commitlog.Dir
	set   *Set
	img   *metadata.Image
	topic record.TopicID
	tp    record.TopicPartition

	mu    sync.Mutex
	roles []string
}

func newBench(t testing.TB, configs map[string]string) *bench {
	t.Helper()
	return newBenchOn(t, vfs.NewMem(), configs)
}

func newBenchOn(t testing.TB, fs vfs.FS, configs map[string]string) *bench {
	t.Helper()
	b := &bench{t: t, fs: fs, img: metadata.Empty(), topic: record.NewTopicID()}
	b.tp = record.TopicPartition{Topic: b.topic}
	b.open()
	b.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: b.topic, Name: "t", Partitions: 1, Configs: configs})
		e.PutPartition(b.tp, led(1, 0))
	})
	return b
}

func led(leader int32, epoch record.Epoch) *metadata.Partition {
	return &metadata.Partition{Replicas: []int32{1, 2}[:1], ISR: []int32{1}, Leader: leader, LeaderEpoch: epoch,
		PartitionEpoch: int32(epoch), RemoteEpoch: -1, LastKnownLeader: -1}
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	b.dir, err = commitlog.OpenDir(b.fs, "data", commitlog.DirOptions{BootID: "boot"})
	require.NoError(b.t, err)
	b.set = NewSet(SetOptions{NodeID: 1, FS: b.fs, Dir: b.dir, FlushWorkers: 2, MaxFiles: 64, LagMax: 10 * time.Second,
		OnFatal: func(err error) { b.t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.DiscardHandler),
		OnLeadership: func(p *Partition, leads bool, epoch record.Epoch) {
			b.mu.Lock()
			b.roles = append(b.roles, fmt.Sprintf("%s %t %d", p.Topic(), leads, epoch))
			b.mu.Unlock()
		}})
	b.t.Cleanup(func() { b.shut() })
}

func (b *bench) shut() {
	require.NoError(b.t, b.set.Close(true))
	if b.dir != nil {
		require.NoError(b.t, b.dir.Close(true))
		b.dir = nil
	}
}

func (b *bench) edit(f func(*metadata.Editor)) {
	e := b.img.Edit()
	f(e)
	next, delta := e.Commit(b.img.Index() + 1)
	b.set.Apply(b.img, next, delta)
	b.img = next
}

func (b *bench) part() *Partition {
	p := b.set.Get(b.tp)
	require.NotNil(b.t, p)
	return p
}

// waiting is an owner that waits for its append.
type waiting struct{ done chan struct{} }

func (w *waiting) AppendWritten(*Append) {}
func (w *waiting) AppendDone(*Append)    { close(w.done) }

func batch(n int, opts record.BuilderOptions) []byte {
	b := record.NewBuilder(opts)
	for i := range n {
		b.Append(time.Now().UnixMilli(), []byte("k"), fmt.Appendf(nil, "value %d", i))
	}
	return b.Build()
}

func plain() record.BuilderOptions {
	return record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
}

func (b *bench) append(raw []byte, all bool) *Append {
	b.t.Helper()
	w := &waiting{done: make(chan struct{})}
	a := &Append{Raw: raw, AcksAll: all, LeaderEpoch: -1, ZstdOK: true, Owner: w}
	b.part().Append(a)
	select {
	case <-w.done:
	case <-time.After(10 * time.Second):
		b.t.Fatal("append was not answered")
	}
	return a
}

func read(p *Partition, from record.Offset) (ReadResult, error) {
	return p.Read(Read{From: from, Current: -1, LastFetched: -1, MaxBytes: 1 << 20, AtLeastOne: true})
}

func TestAppendAndRead(t *testing.T) {
	for _, durability := range []string{"fsync", "replicated"} {
		b := newBench(t, map[string]string{"durability": durability})
		for i := range 5 {
			a := b.append(batch(3, plain()), i%2 == 0)
			require.NoError(t, a.Err)
			require.EqualValues(t, i*3, a.Base)
			require.EqualValues(t, -1, a.AppendTime)
		}
		require.NoError(t, b.part().Log().Flush(context.Background()))
		st := b.part().State()
		require.EqualValues(t, 15, st.LogEnd)
		require.EqualValues(t, 15, st.HighWatermark)
		res, err := read(b.part(), 7)
		require.NoError(t, err)
		raw, err := res.Slice.ReadAll(nil)
		require.NoError(t, err)
		res.Slice.Release()
		first, err := record.ReadBatch(raw)
		require.NoError(t, err)
		require.EqualValues(t, 6, first.BaseOffset, "the batch that holds the offset comes whole")
		require.EqualValues(t, 15, res.Slice.Next)

		res, err = read(b.part(), 15)
		require.NoError(t, err)
		require.Zero(t, res.Slice.Bytes)
		_, err = read(b.part(), 16)
		require.ErrorIs(t, err, kerr.OffsetOutOfRange)
	}
}

// TestNow: records are judged and stamped by SetOptions.Now, not by this machine's clock.
func TestNow(t *testing.T) {
	b := newBench(t, nil)
	b.set.opts.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	require.ErrorContains(t, b.append(batch(1, plain()), true).Err, "invalid timestamp")
	b.set.opts.Now = time.Now
	require.NoError(t, b.append(batch(1, plain()), true).Err)

	b = newBench(t, map[string]string{"message.timestamp.type": "LogAppendTime"})
	b.set.opts.Now = func() time.Time { return time.UnixMilli(123456789) }
	a := b.append(batch(1, plain()), true)
	require.NoError(t, a.Err)
	require.EqualValues(t, 123456789, a.AppendTime)
}

func TestDuplicateIsAnsweredWithTheOriginal(t *testing.T) {
	b := newBench(t, nil)
	opts := record.BuilderOptions{ProducerID: 7, ProducerEpoch: 0, BaseSequence: 0}
	first := b.append(batch(2, opts), true)
	require.NoError(t, first.Err)
	b.append(batch(1, plain()), true)
	again := b.append(batch(2, opts), true)
	require.NoError(t, again.Err)
	require.Equal(t, first.Base, again.Base)
	require.EqualValues(t, 3, b.part().State().LogEnd, "a duplicate lands once")

	opts.BaseSequence = 5
	require.ErrorIs(t, b.append(batch(1, opts), true).Err, kerr.OutOfOrderSequenceNumber)
	opts.BaseSequence, opts.ProducerEpoch = 0, 1
	require.NoError(t, b.append(batch(1, opts), true).Err)
	opts.ProducerEpoch = 0
	require.ErrorIs(t, b.append(batch(1, opts), true).Err, kerr.InvalidProducerEpoch)
}

// Many producers at once: each batch lands once, in each producer's order.
func TestGatheredAppendsKeepEachProducersOrder(t *testing.T) {
	b := newBench(t, nil)
	const producers, each = 8, 50
	var wg sync.WaitGroup
	for id := range producers {
		wg.Go(func() {
			calls := make([]*Append, each)
			dones := make([]*waiting, each)
			for i := range each {
				dones[i] = &waiting{done: make(chan struct{})}
				calls[i] = &Append{AcksAll: true, LeaderEpoch: -1, Owner: dones[i],
					Raw: batch(1, record.BuilderOptions{ProducerID: int64(id), BaseSequence: int32(i)})}
				b.part().Append(calls[i])
			}
			for i := range each {
				<-dones[i].done
				if calls[i].Err != nil {
					t.Errorf("producer %d batch %d: %v", id, i, calls[i].Err)
				}
				if i > 0 && calls[i].Base <= calls[i-1].Base {
					t.Errorf("producer %d: batch %d is at %d, the one before at %d", id, i, calls[i].Base, calls[i-1].Base)
				}
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, producers*each, b.part().State().HighWatermark)
}

func TestEpochsFenceReadersAndCoordinators(t *testing.T) {
	b := newBench(t, nil)
	b.append(batch(1, plain()), true)
	b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp, led(1, 4)) })
	p := b.part()
	require.ErrorIs(t, p.CheckLeader(3), kerr.FencedLeaderEpoch)
	require.ErrorIs(t, p.CheckLeader(5), kerr.UnknownLeaderEpoch)
	require.NoError(t, p.CheckLeader(4))
	require.NoError(t, p.CheckLeader(-1))
	b.append(batch(1, plain()), true)
	res, err := p.Read(Read{From: 1, Current: 4, LastFetched: 0, MaxBytes: 100, AtLeastOne: true})
	require.NoError(t, err)
	require.Nil(t, res.Diverging)
	res.Slice.Release()
	res, err = p.Read(Read{From: 2, Current: 4, LastFetched: 0, MaxBytes: 100, AtLeastOne: true})
	require.NoError(t, err)
	require.NotNil(t, res.Diverging, "epoch 0 ended at 1")
	require.EqualValues(t, 1, res.Diverging.End)
	require.Equal(t, []string{"t true 0", "t true 4"}, b.roles)
}

// A partition that stops leading answers those who wait, and refuses the rest.
func TestLosingLeadershipAnswersWaiters(t *testing.T) {
	b := newBench(t, map[string]string{"durability": "fsync", "min.insync.replicas": "1"})
	// With a second in-sync replica the watermark cannot move.
	b.edit(func(e *metadata.Editor) {
		p := led(1, 1)
		p.Replicas, p.ISR = []int32{1, 2}, []int32{1, 2}
		e.PutPartition(b.tp, p)
	})
	w := &waiting{done: make(chan struct{})}
	a := &Append{Raw: batch(1, plain()), AcksAll: true, LeaderEpoch: -1, Owner: w}
	b.part().Append(a)
	select {
	case <-w.done:
		t.Fatal("acknowledged without the follower")
	default:
	}
	b.edit(func(e *metadata.Editor) {
		p := led(2, 2)
		p.Replicas, p.ISR = []int32{1, 2}, []int32{1, 2}
		e.PutPartition(b.tp, p)
	})
	<-w.done
	require.ErrorIs(t, a.Err, kerr.NotLeaderForPartition)
	require.ErrorIs(t, b.append(batch(1, plain()), false).Err, kerr.NotLeaderForPartition)
}

type moved chan struct{}

func (m moved) Moved() {
	select {
	case m <- struct{}{}:
	default:
	}
}

func TestWatcherHearsOfTheWatermarkAndOfTheEnd(t *testing.T) {
	b := newBench(t, nil)
	m := make(moved, 1)
	p := b.part()
	p.Watch(m)
	b.append(batch(1, plain()), true)
	<-m
	p.Unwatch(m)
	b.append(batch(1, plain()), true)
	select {
	case <-m:
		t.Fatal("told after Unwatch")
	default:
	}
	p.Watch(m)
	b.edit(func(e *metadata.Editor) { e.DeleteTopic(b.topic) })
	<-m
	require.ErrorIs(t, p.CheckLeader(-1), kerr.NotLeaderForPartition)
	require.Nil(t, b.set.Get(b.tp))
	left, err := b.dir.ListPartitions()
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestRestartKeepsWhatWasWrittenAndSetsStraysAside(t *testing.T) {
	b := newBench(t, nil)
	b.append(batch(5, plain()), true)
	b.shut()
	b.open()
	b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
	require.EqualValues(t, 5, b.part().State().HighWatermark)
	b.shut()
	// The metadata forgot the topic: the log is put away, not deleted.
	b.open()
	b.set.Apply(metadata.Empty(), metadata.Empty(), metadata.Delta{})
	left, err := b.dir.ListPartitions()
	require.NoError(t, err)
	require.Empty(t, left)
	require.Nil(t, b.set.Get(b.tp))
}

func TestLogStartHidesWhatIsBelow(t *testing.T) {
	b := newBench(t, nil)
	b.append(batch(5, plain()), true)
	b.edit(func(e *metadata.Editor) {
		p := led(1, 0)
		p.LogStart = 3
		e.PutPartition(b.tp, p)
	})
	_, err := read(b.part(), 2)
	require.ErrorIs(t, err, kerr.OffsetOutOfRange)
	require.EqualValues(t, 3, b.part().State().LocalStart)
}

// TestTrimGoesNoFurtherThanIsKnown: retention decides by the metadata, which may
// be ahead of what the partition was told. A log trimmed by it began above the
// remote end that readers were shown, with a hole between the two.
func TestTrimGoesNoFurtherThanIsKnown(t *testing.T) {
	b := newBench(t, map[string]string{"segment.bytes": "1048576"})
	p := b.part()
	for range 3 {
		b.append(batch(5, plain()), true)
		rolled, err := p.Log().Roll()
		require.True(t, rolled)
		require.NoError(t, err)
	}
	_, err := p.Trim(10)
	require.NoError(t, err)
	require.EqualValues(t, 0, p.Log().Start())
	b.edit(func(e *metadata.Editor) {
		next := led(1, 0)
		next.RemoteEnd = 5
		e.PutPartition(b.tp, next)
	})
	_, err = p.Trim(10)
	require.NoError(t, err)
	st := p.State()
	require.EqualValues(t, 5, st.LocalStart)
	require.LessOrEqual(t, st.LocalStart, st.RemoteEnd)
	b.edit(func(e *metadata.Editor) {
		next := led(1, 0)
		next.RemoteEnd, next.LogStart = 5, 10
		e.PutPartition(b.tp, next)
	})
	_, err = p.Trim(10)
	require.NoError(t, err)
	require.EqualValues(t, 10, p.Log().Start())
}
