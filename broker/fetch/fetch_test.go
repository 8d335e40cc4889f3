package fetch

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/remote"
)

// node hosts the partitions of one topic over a file system in memory.
type node struct {
	t   testing.TB
	set *partition.Set
	dir *commitlog.Dir
	id  record.TopicID

	mu  sync.Mutex
	img *metadata.Image
}

// newNode leads n partitions. It is closed by close, within a test's bubble.
func newNode(t testing.TB, n int32) *node {
	fs := vfs.NewMem()
	dir, err := commitlog.OpenDir(fs, "data", commitlog.DirOptions{BootID: "boot"})
	require.NoError(t, err)
	b := &node{t: t, dir: dir, img: metadata.Empty(), id: record.NewTopicID()}
	b.set = partition.NewSet(partition.SetOptions{NodeID: 1, FS: fs, Dir: dir, FlushWorkers: 1, MaxFiles: 64, LagMax: time.Hour,
		OnFatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.DiscardHandler)})
	b.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: b.id, Name: "t", Partitions: n})
		for i := range n {
			e.PutPartition(b.tp(i), ledBy(1, 0))
		}
	})
	return b
}

func ledBy(leader int32, remoteEnd record.Offset) *metadata.Partition {
	return &metadata.Partition{Replicas: []int32{1, 2}, ISR: []int32{1}, Leader: leader, LeaderEpoch: record.Epoch(leader),
		PartitionEpoch: leader, RemoteEnd: remoteEnd, RemoteEpoch: -1, LastKnownLeader: -1}
}

func (b *node) tp(n int32) record.TopicPartition {
	return record.TopicPartition{Topic: b.id, Partition: n}
}

// edit changes the image, and then has the partitions follow, as a broker does.
// It returns when their watchers were told. Edits do not run beside each other.
func (b *node) edit(f func(*metadata.Editor)) {
	old := b.image()
	e := old.Edit()
	f(e)
	next, delta := e.Commit(old.Index() + 1)
	b.mu.Lock()
	b.img = next
	b.mu.Unlock()
	touched := slices.Clone(delta.Partitions)
	for _, topic := range delta.Deleted {
		for n := range topic.Partitions {
			touched = append(touched, record.TopicPartition{Topic: topic.ID, Partition: n})
		}
	}
	var due []func()
	for _, tp := range touched {
		if p := b.set.Get(tp); p != nil {
			w := make(notice, 1)
			p.Watch(w)
			due = append(due, func() {
				<-w
				p.Unwatch(w)
			})
		}
	}
	b.set.Apply(old, next, delta)
	for _, wait := range due {
		wait()
	}
}

// notice is a watcher to wait for.
type notice chan struct{}

func (n notice) Moved() {
	select {
	case n <- struct{}{}:
	default:
	}
}

func (b *node) image() *metadata.Image {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.img
}

func (b *node) close() {
	require.NoError(b.t, b.set.Close(true))
	require.NoError(b.t, b.dir.Close(true))
}

type outcome chan error

func (outcome) AppendWritten(*partition.Append)  {}
func (c outcome) AppendDone(a *partition.Append) { c <- a.Err }

// write appends a batch of one record with about size bytes.
func (b *node) write(n int32, size int) {
	build := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
	build.Append(1, nil, make([]byte, size))
	done := make(outcome, 1)
	b.set.Get(b.tp(n)).Append(&partition.Append{Raw: build.Build(), AcksAll: true, LeaderEpoch: -1, Owner: done})
	require.NoError(b.t, <-done)
}

// freeze leaves the partition's records below end in the bucket alone.
func (b *node) freeze(n int32, end record.Offset) {
	p := b.set.Get(b.tp(n))
	_, err := p.Log().Roll()
	require.NoError(b.t, err)
	b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(n), ledBy(1, end)) })
	_, err = p.Trim(end)
	require.NoError(b.t, err)
	require.Equal(b.t, end, p.State().LocalStart)
}

func (b *node) wants(from record.Offset, parts ...int32) []Want {
	out := make([]Want, len(parts))
	for i, n := range parts {
		out[i] = Want{TP: b.tp(n), Read: partition.Read{From: from, Current: -1, LastFetched: -1, MaxBytes: 1 << 20}}
	}
	return out
}

// store is a bucket that does what a test says.
type store struct {
	read func(ctx context.Context, r remote.Request) (*remote.Result, error)
}

func (s store) Read(ctx context.Context, r remote.Request) (*remote.Result, error) {
	return s.read(ctx, r)
}
func (store) Hint(remote.Request) {}

func (b *node) service(r Remote) *Service {
	return New(Options{Partitions: b.set, Remote: r, Logger: slog.New(slog.DiscardHandler), MaxBytes: 1 << 20,
		ColdFetches: 2, RemoteWait: 500 * time.Millisecond})
}

// ask runs one fetch; its answer is checked to come once.
func ask(t *testing.T, s *Service, r *Request) <-chan []Got {
	out := make(chan []Got, 2)
	if r.Ctx == nil {
		r.Ctx = t.Context()
	}
	if r.MaxBytes == 0 {
		r.MaxBytes = 1 << 20
	}
	var once sync.Once
	r.Done = func(got []Got) {
		first := false
		once.Do(func() { first = true })
		if !first {
			t.Error("a fetch was answered twice")
		}
		out <- got
	}
	s.Fetch(r)
	return out
}

func TestFetchWaitsForMinBytesOrItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, 2)
		defer b.close()
		s := b.service(nil)
		defer s.Close()

		begin := time.Now()
		got := <-ask(t, s, &Request{Wants: b.wants(0, 0, 1), MinBytes: 1, MaxWait: 700 * time.Millisecond})
		require.Equal(t, 700*time.Millisecond, time.Since(begin))
		require.Len(t, got, 2)
		release(got)

		answer := ask(t, s, &Request{Wants: b.wants(0, 0, 1), MinBytes: 400, MaxWait: time.Hour})
		b.write(0, 100)
		synctest.Wait()
		require.Empty(t, answer, "too little")
		b.write(1, 300)
		got = <-answer
		require.Positive(t, got[0].Bytes())
		require.Positive(t, got[1].Bytes())
		release(got)

		b.write(0, 10)
		got = <-ask(t, s, &Request{Wants: b.wants(2, 0), MinBytes: 0, MaxWait: time.Hour})
		require.NoError(t, got[0].Err, "no bytes are wanted: there is nothing to wait for")
		release(got)
	})
}

// A waiting fetch ends with the client, with the broker, and with the leadership
// of any of its partitions, and is forgotten by all of them.
func TestWhatEndsAWait(t *testing.T) {
	for name, end := range map[string]func(b *node, s *Service, cancel func()){
		"the client goes": func(_ *node, _ *Service, cancel func()) { cancel() },
		"drain":           func(_ *node, s *Service, _ func()) { s.Drain() },
		"a new leader": func(b *node, _ *Service, _ func()) {
			b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(1), ledBy(2, 0)) })
		},
		"deletion": func(b *node, _ *Service, _ func()) {
			b.edit(func(e *metadata.Editor) { e.DeleteTopic(b.id) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newNode(t, 2)
				defer b.close()
				s := b.service(nil)
				defer s.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				begin := time.Now()
				answer := ask(t, s, &Request{Ctx: ctx, Wants: b.wants(0, 0, 1), MinBytes: 1, MaxWait: time.Hour})
				synctest.Wait()
				require.Empty(t, answer)
				end(b, s, cancel)
				got := <-answer
				require.Less(t, time.Since(begin), time.Minute)
				if name == "a new leader" {
					require.NoError(t, got[0].Err)
					require.ErrorIs(t, got[1].Err, kerr.NotLeaderForPartition)
				}
				release(got)
				if name == "drain" {
					got = <-ask(t, s, &Request{Wants: b.wants(0, 0), MinBytes: 1, MaxWait: time.Hour})
					release(got)
				}
			})
		})
	}
}

// Writers and waiting readers meet in every order, and no reader sleeps through.
func TestNoWakeUpIsLost(t *testing.T) {
	b := newNode(t, 1)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	const batches, readers = 300, 4
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for next := record.Offset(0); next < batches; {
				select {
				case got := <-ask(t, s, &Request{Wants: b.wants(next, 0), MinBytes: 1, MaxWait: time.Hour}):
					if got[0].Err != nil || got[0].Bytes() == 0 {
						t.Errorf("at %d: %d bytes, %v", next, got[0].Bytes(), got[0].Err)
						return
					}
					next = got[0].Local.Next
					release(got)
				case <-time.After(30 * time.Second):
					t.Errorf("nothing came at %d of %d", next, b.set.Get(b.tp(0)).State().HighWatermark)
					return
				}
			}
		})
	}
	for range batches {
		b.write(0, 10)
	}
	wg.Wait()
}

// The first partition that has something gives one batch whatever the limits;
// the others keep to them.
func TestLimits(t *testing.T) {
	b := newNode(t, 3)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	for n := int32(1); n < 3; n++ {
		b.write(n, 1000)
		b.write(n, 1000)
	}
	sizes := func(maxBytes int64, each int) (out []int) {
		wants := b.wants(0, 0, 1, 2)
		for i := range wants {
			wants[i].Read.MaxBytes = each
		}
		got := <-ask(t, s, &Request{Wants: wants, MinBytes: 1, MaxBytes: maxBytes})
		for i := range got {
			n := 0
			for _, x := range got[i].Local.Extents {
				n += int(x.Len)
			}
			require.EqualValues(t, n, got[i].Bytes())
			require.EqualValues(t, map[bool]int{true: 2}[i > 0], got[i].State.HighWatermark, "told whatever the limits")
			out = append(out, (n+500)/1000)
		}
		release(got)
		return out
	}
	require.Equal(t, []int{0, 2, 2}, sizes(1<<20, 1<<20))
	require.Equal(t, []int{0, 1, 0}, sizes(1, 1<<20))
	require.Equal(t, []int{0, 1, 0}, sizes(1<<20, 1))
	require.Equal(t, []int{0, 1, 1}, sizes(1<<20, 1500))
	require.Equal(t, []int{0, 2, 0}, sizes(2500, 1<<20))
}

func TestColdReads(t *testing.T) {
	slow := func(ctx context.Context, _ remote.Request) (*remote.Result, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	give := func(context.Context, remote.Request) (*remote.Result, error) {
		return &remote.Result{Bytes: 77, Next: 1}, nil
	}
	for name, c := range map[string]struct {
		read  func(context.Context, remote.Request) (*remote.Result, error)
		none  bool // no bucket at all
		err   error
		bytes int64
		took  time.Duration
	}{
		"found":      {read: give, bytes: 77},
		"slow":       {read: slow, took: 500 * time.Millisecond},
		"not there":  {read: func(context.Context, remote.Request) (*remote.Result, error) { return nil, remote.ErrNotFound }},
		"broken":     {read: func(context.Context, remote.Request) (*remote.Result, error) { return nil, errors.New("disk on fire") }, err: kerr.KafkaStorageError},
		"no bucket":  {none: true, err: kerr.KafkaStorageError},
		"behind gap": {read: func(context.Context, remote.Request) (*remote.Result, error) { return &remote.Result{Next: 1}, nil }, bytes: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newNode(t, 2)
				defer b.close()
				b.write(0, 10)
				b.freeze(0, 1)
				b.write(0, 10)
				var r Remote
				if !c.none {
					r = store{c.read}
				}
				s := b.service(r)
				defer s.Close()
				begin := time.Now()
				// The second partition has nothing, which is no fault of the bucket.
				got := <-ask(t, s, &Request{Wants: b.wants(0, 0, 1), MinBytes: 1, MaxWait: 100 * time.Millisecond})
				defer release(got)
				require.Equal(t, c.took, time.Since(begin))
				require.ErrorIs(t, got[0].Err, c.err)
				require.NoError(t, got[1].Err)
				require.Zero(t, got[1].Bytes())
				if c.bytes < 0 {
					require.Positive(t, got[0].Local.Bytes, "read on where the local log begins")
					return
				}
				require.Equal(t, c.bytes, got[0].Bytes())
			})
		})
	}
}

// Close ends the reads from the bucket; the fetches are answered.
func TestCloseAnswersColdFetches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, 1)
		defer b.close()
		b.write(0, 10)
		b.freeze(0, 1)
		s := New(Options{Partitions: b.set, Logger: slog.New(slog.DiscardHandler), MaxBytes: 1 << 20, ColdFetches: 1, RemoteWait: time.Hour,
			Remote: store{func(ctx context.Context, _ remote.Request) (*remote.Result, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			}}})
		one := ask(t, s, &Request{Wants: b.wants(0, 0), MinBytes: 1})
		two := ask(t, s, &Request{Wants: b.wants(0, 0), MinBytes: 1}) // waits for the one slot
		synctest.Wait()
		require.Empty(t, one)
		require.Empty(t, two)
		s.Close()
		release(<-one)
		release(<-two)
	})
}
