package fetch

import (
	"context"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// resolve looks partitions of topics up by name, as the api does.
func (b *node) resolve(parts []SessionPartition, wants []Want) []Want {
	img := b.image()
	for i := range parts {
		p := &parts[i]
		w := Want{Read: partition.Read{From: p.From, Current: -1, LastFetched: -1, MaxBytes: int(p.MaxBytes)}}
		topic := img.TopicByName(p.Key.Name)
		if topic == nil || p.Key.Partition >= topic.Partitions {
			w.Err = kerr.UnknownTopicOrPartition
		} else {
			w.TP = record.TopicPartition{Topic: topic.ID, Partition: p.Key.Partition}
		}
		wants = append(wants, w)
	}
	return wants
}

// told is what a client sees of one partition in an answer.
type told struct {
	err              error
	bytes            int64
	watermark, start record.Offset
	next             record.Offset
}

// sessionReader is a client with a session.
type sessionReader struct {
	b        *node
	s        *Service
	sessions *Sessions
	id       int32
	epoch    int32
	maxBytes int64
	minBytes int64
	wait     time.Duration
	follower bool
	resolve  func([]SessionPartition, []Want) []Want
}

func newSessionReader(b *node, s *Service) *sessionReader {
	return &sessionReader{b: b, s: s, sessions: NewSessions(4), maxBytes: 1 << 20, minBytes: 1, resolve: b.resolve}
}

// request begins a fetch, and returns it with its plan.
func (c *sessionReader) request(parts []SessionPartition, forgotten ...SessionKey) (*Request, *Plan) {
	plan, err := c.sessions.Begin(Begin{Now: time.Now(), ID: c.id, Epoch: c.epoch, Follower: c.follower,
		Parts: parts, Forgotten: forgotten})
	require.NoError(c.b.t, err)
	r := &Request{Ctx: context.Background(), MinBytes: c.minBytes, MaxBytes: c.maxBytes, MaxWait: c.wait, Resolve: c.resolve}
	if plan.Incremental {
		r.Plan = plan
	} else {
		r.Wants = c.resolve(plan.Parts, nil)
	}
	c.id, c.epoch = plan.ID, nextEpoch(c.epoch)
	if plan.ID == 0 {
		c.epoch = 0
	}
	return r, plan
}

// answer reads what a fetch tells, and gives its files back.
func answer(plan *Plan, got []Got) map[SessionKey]told {
	out := make(map[SessionKey]told)
	for i := range got {
		g := &got[i]
		if plan.Told(i, g) {
			out[plan.Parts[i].Key] = told{g.Err, g.Bytes(), g.State.HighWatermark, g.State.LogStart, g.Local.Next}
		}
	}
	release(got)
	return out
}

func (c *sessionReader) fetch(parts []SessionPartition, forgotten ...SessionKey) map[SessionKey]told {
	r, plan := c.request(parts, forgotten...)
	done := make(chan []Got, 1)
	r.Done = func(got []Got) { done <- got }
	c.s.Fetch(r)
	return answer(plan, <-done)
}

// readyCount is how many partitions the session's next fetch looks at.
func (c *sessionReader) readyCount() int {
	s := c.sessions.use(c.id, time.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for e := s.ready.head; e != nil; e = e.next {
		n++
	}
	return n
}

func at(n int32, from record.Offset) SessionPartition {
	return SessionPartition{Key: SessionKey{Name: "t", Partition: n}, From: from, Current: -1, LastFetched: -1, MaxBytes: 1 << 20}
}

// A session's fetches against a reader that looks at all of its partitions each
// time: whatever happens to the partitions, the same is told.
func TestReadyListAgainstNaiveReader(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const partitions = 5
		b := newNode(t, partitions)
		defer b.close()
		s := b.service(nil)
		defer s.Close()
		c := newSessionReader(b, s)

		type naive struct {
			from             record.Offset // the client's position
			asked            record.Offset // what the session knows of it
			watermark, start record.Offset // as told; −1 after an error
		}
		model := map[int32]*naive{}
		leaders := make([]int32, partitions)
		for i := range leaders {
			leaders[i] = 1
		}
		// look is what the naive reader finds: what is there, and whether it is told.
		look := func(n int32, m *naive) (told, bool) {
			w := b.resolve([]SessionPartition{at(n, m.asked)}, nil)[0]
			if w.Err != nil {
				return told{err: w.Err}, true
			}
			p := b.set.Get(w.TP)
			if p == nil {
				return told{err: kerr.NotLeaderForPartition}, true
			}
			w.Read.AtLeastOne = true
			res, err := p.Read(w.Read)
			defer res.Slice.Release()
			if err != nil {
				return told{err: err}, true
			}
			return told{nil, res.Slice.Bytes, res.State.HighWatermark, res.State.LogStart, res.Slice.Next},
				res.Slice.Bytes > 0 || res.State.HighWatermark != m.watermark || res.State.LogStart != m.start
		}
		fetch := func(parts []SessionPartition, forgotten ...SessionKey) {
			for _, p := range parts {
				if m := model[p.Key.Partition]; m != nil {
					m.from, m.asked = p.From, p.From
				} else {
					model[p.Key.Partition] = &naive{p.From, p.From, -1, -1}
				}
			}
			for _, k := range forgotten {
				delete(model, k.Partition)
			}
			full := c.epoch == 0
			limited := c.maxBytes < 1<<20
			want := map[int32]told{}
			data := false
			for n, m := range model {
				if w, tell := look(n, m); tell || full {
					want[n] = w
					data = data || w.bytes > 0
				}
			}
			got := c.fetch(parts, forgotten...)
			anyData := false
			for k, g := range got {
				w, ok := want[k.Partition]
				if !ok {
					rt.Fatalf("partition %d is told without need: %+v", k.Partition, g)
				}
				if g.err != nil || w.err != nil {
					if g.err == nil || w.err == nil || g.err.Error() != w.err.Error() {
						rt.Fatalf("partition %d: error %v, want %v", k.Partition, g.err, w.err)
					}
				} else if g.watermark != w.watermark || g.start != w.start || (!limited && g.bytes != w.bytes) {
					rt.Fatalf("partition %d: %+v, want %+v", k.Partition, g, w)
				}
				m := model[k.Partition]
				m.watermark, m.start = g.watermark, g.start
				if g.err != nil {
					m.watermark, m.start = -1, -1
				}
				if g.bytes > 0 {
					anyData = true
					m.from = g.next // told to the session with the next fetch
				}
			}
			for n, w := range want {
				if _, ok := got[SessionKey{Name: "t", Partition: n}]; !ok && (!limited || w.err != nil) {
					rt.Fatalf("partition %d is not told: %+v", n, w)
				}
			}
			if data && !anyData {
				rt.Fatal("there is data, and none was given")
			}
		}
		// moved are the positions that the session does not know yet.
		moved := func() (parts []SessionPartition) {
			for n, m := range model {
				if m.from != m.asked {
					parts = append(parts, at(n, m.from))
				}
			}
			return parts
		}
		fetch([]SessionPartition{at(0, 0), at(1, 0), at(2, 0)})
		number := func() int32 { return rapid.Int32Range(0, partitions-1).Draw(rt, "partition") }
		steps := map[string]func(*rapid.T){
			"append": func(*rapid.T) {
				n := number()
				if topic := b.image().TopicByName("t"); topic != nil && leaders[n] == 1 {
					b.write(n, rapid.IntRange(1, 300).Draw(rt, "size"))
				}
			},
			"fetch": func(*rapid.T) { fetch(moved()) },
			"seek": func(*rapid.T) {
				n := number()
				if model[n] != nil {
					fetch([]SessionPartition{at(n, record.Offset(rapid.IntRange(0, 5).Draw(rt, "from")))})
				}
			},
			"fetch unchanged": func(*rapid.T) { fetch(nil) }, // what was read and not asked beyond is read again
			"fetch little": func(*rapid.T) {
				c.maxBytes = int64(rapid.IntRange(1, 700).Draw(rt, "max"))
				fetch(moved())
				c.maxBytes = 1 << 20
			},
			"add or forget": func(*rapid.T) {
				n := number()
				if model[n] != nil && len(model) > 1 {
					fetch(nil, SessionKey{Name: "t", Partition: n})
				} else if model[n] == nil {
					fetch([]SessionPartition{at(n, record.Offset(rapid.IntRange(0, 3).Draw(rt, "from")))})
				}
			},
			"leader": func(*rapid.T) {
				n := number()
				old := b.image().Partition(b.tp(n))
				if old == nil || !old.HasReplica(1) {
					return
				}
				next := *old
				leaders[n] = 3 - leaders[n]
				next.Leader, next.LeaderEpoch, next.PartitionEpoch = leaders[n], old.LeaderEpoch+1, old.PartitionEpoch+1
				b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(n), &next) })
			},
			"log start": func(*rapid.T) {
				n := number()
				old, p := b.image().Partition(b.tp(n)), b.set.Get(b.tp(n))
				if old == nil || p == nil {
					return
				}
				next := *old
				next.LogStart = min(old.LogStart+1, p.State().HighWatermark)
				next.PartitionEpoch++
				b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(n), &next) })
			},
			"move away or back": func(*rapid.T) {
				n := number()
				old := b.image().Partition(b.tp(n))
				if old == nil {
					return
				}
				next := *old
				next.PartitionEpoch++
				next.LeaderEpoch++
				if old.HasReplica(1) {
					next.Replicas, next.ISR, next.Leader, leaders[n] = []int32{2}, []int32{2}, 2, 2
				} else {
					next.Replicas, next.ISR, next.Leader, leaders[n] = []int32{1, 2}, []int32{1}, 1, 1
				}
				b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(n), &next) })
			},
			"delete or make the topic": func(*rapid.T) {
				if rapid.IntRange(0, 2).Draw(rt, "really") > 0 {
					return
				}
				if b.image().TopicByName("t") != nil {
					b.edit(func(e *metadata.Editor) { e.DeleteTopic(b.id) })
					return
				}
				b.id = record.NewTopicID()
				b.edit(func(e *metadata.Editor) {
					e.PutTopic(&metadata.Topic{ID: b.id, Name: "t", Partitions: partitions})
					for i := range int32(partitions) {
						leaders[i] = 1
						e.PutPartition(b.tp(i), ledBy(1, 0))
					}
				})
			},
			"": func(*rapid.T) {
				if c.id == 0 {
					return
				}
				// Once all was told, only what has something to tell is looked at.
				fetch(moved())
				fetch(moved())
				fetch(nil)
				fetch(nil)
				busy := 0
				for n, m := range model {
					if w, _ := look(n, m); w.err != nil || w.bytes > 0 {
						busy++
					}
				}
				if n := c.readyCount(); n != busy {
					rt.Fatalf("%d partitions are looked at, %d have something to tell", n, busy)
				}
			},
		}
		rt.Repeat(steps)
	})
}

// What moves between the read and the end of a look is looked at again.
func TestWhatMovesDuringALook(t *testing.T) {
	b := newNode(t, 1)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	c := newSessionReader(b, s)
	c.fetch([]SessionPartition{at(0, 0)})
	r, plan := c.request(nil)
	r.Prefer = func(*partition.Partition, record.Offset) int32 { // asked after the read
		b.write(0, 10)
		return -1
	}
	done := make(chan []Got, 1)
	r.Done = func(got []Got) { done <- got }
	s.Fetch(r)
	require.Empty(t, answer(plan, <-done))
	require.Positive(t, c.fetch(nil)[SessionKey{Name: "t"}].bytes)
}

// Writers, leaders that come and go, and partitions that are added and forgotten
// meet a waiting session in every order: it is told of everything.
func TestNoWakeUpIsLostInASession(t *testing.T) {
	const partitions, batches = 8, 400
	b := newNode(t, partitions)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	var writers, flips sync.WaitGroup
	var stop atomic.Bool
	flips.Go(func() { // new epochs of the same leader, which interrupt but refuse nothing
		for !stop.Load() {
			n := rand.Int32N(partitions)
			next := *b.image().Partition(b.tp(n))
			next.PartitionEpoch++
			b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(n), &next) })
			time.Sleep(100 * time.Microsecond)
		}
	})
	for range 2 {
		writers.Go(func() {
			for range batches {
				b.write(rand.Int32N(partitions), 10)
			}
		})
	}
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			c := newSessionReader(b, s)
			c.wait = time.Hour
			next := make([]record.Offset, partitions)
			var parts []SessionPartition
			for n := range next {
				parts = append(parts, at(int32(n), 0))
			}
			var forgotten []SessionKey
			for total := record.Offset(0); total < 2*batches; {
				r, plan := c.request(parts, forgotten...)
				done := make(chan []Got, 1)
				r.Done = func(got []Got) { done <- got }
				s.Fetch(r)
				parts, forgotten = nil, nil
				select {
				case got := <-done:
					for k, g := range answer(plan, got) {
						if g.err != nil {
							t.Errorf("partition %d: %v", k.Partition, g.err)
							return
						}
						if g.bytes > 0 {
							total += g.next - next[k.Partition]
							next[k.Partition] = g.next
							parts = append(parts, at(k.Partition, g.next))
						}
					}
				case <-time.After(30 * time.Second):
					t.Errorf("nothing came after %d of %d", total, 2*batches)
					return
				}
				if rand.IntN(4) == 0 && total < 2*batches {
					// Forgotten and taken up again at once: the element is another one.
					n := rand.Int32N(partitions)
					c.wait = 0
					r, plan := c.request(parts, SessionKey{Name: "t", Partition: n})
					r.Done = func(got []Got) { done <- got }
					s.Fetch(r)
					parts = nil
					for k, g := range answer(plan, <-done) {
						if g.bytes > 0 {
							total += g.next - next[k.Partition]
							next[k.Partition] = g.next
							parts = append(parts, at(k.Partition, g.next))
						}
					}
					parts = append(parts, at(n, next[n]))
					c.wait = time.Hour
				}
			}
		})
	}
	writers.Wait()
	readers.Wait()
	stop.Store(true)
	flips.Wait()
}

// What ends a wait in a session, and that nothing is watched after its end.
func TestWhatEndsAWaitInASession(t *testing.T) {
	for name, end := range map[string]func(b *node, s *Service, c *sessionReader, cancel func()){
		"the client goes": func(_ *node, _ *Service, _ *sessionReader, cancel func()) { cancel() },
		"drain":           func(_ *node, s *Service, _ *sessionReader, _ func()) { s.Drain() },
		"eviction":        func(_ *node, _ *Service, c *sessionReader, _ func()) { c.sessions.close(c.id) },
		"a new leader": func(b *node, _ *Service, _ *sessionReader, _ func()) {
			b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp(1), ledBy(2, 0)) })
		},
		"deletion": func(b *node, _ *Service, _ *sessionReader, _ func()) {
			b.edit(func(e *metadata.Editor) { e.DeleteTopic(b.id) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newNode(t, 2)
				defer b.close()
				s := b.service(nil)
				defer s.Close()
				c := newSessionReader(b, s)
				c.fetch([]SessionPartition{at(0, 0), at(1, 0)})
				c.wait = time.Hour
				r, plan := c.request(nil)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r.Ctx = ctx
				begin := time.Now()
				done := make(chan []Got, 1)
				r.Done = func(got []Got) { done <- got }
				s.Fetch(r)
				synctest.Wait()
				require.Empty(t, done)
				require.Zero(t, c.readyCount(), "nothing is left to look at")
				end(b, s, c, cancel)
				got := answer(plan, <-done)
				require.Less(t, time.Since(begin), time.Minute)
				switch name {
				case "a new leader":
					require.Len(t, got, 1)
					require.ErrorIs(t, got[SessionKey{Name: "t", Partition: 1}].err, kerr.NotLeaderForPartition)
					require.Len(t, c.fetch(nil), 1, "told each time")
				case "deletion":
					require.NotEmpty(t, got)
					require.Len(t, c.fetch(nil), 2)
				default:
					require.Empty(t, got)
				}
				if name == "eviction" {
					_, err := c.sessions.Begin(Begin{ID: c.id, Epoch: c.epoch})
					require.ErrorIs(t, err, kerr.FetchSessionIDNotFound)
				}
			})
		})
	}
}

// Two fetches of one session at a time, which no client sends: both are answered.
func TestFetchesOfOneSessionBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newNode(t, 1)
		defer b.close()
		s := b.service(nil)
		defer s.Close()
		c := newSessionReader(b, s)
		c.fetch([]SessionPartition{at(0, 0)})
		c.wait = time.Hour
		done := make(chan []Got, 2)
		for range 2 {
			r, _ := c.request(nil)
			r.Done = func(got []Got) { done <- got }
			s.Fetch(r)
		}
		synctest.Wait()
		require.Empty(t, done)
		b.write(0, 10)
		for range 2 {
			got := <-done
			require.Positive(t, got[0].Bytes())
			release(got)
		}
	})
}

// A client may change its isolation level from one fetch to the next.
func TestAnotherIsolationLevelIsLookedAt(t *testing.T) {
	b := newNode(t, 2)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	c := newSessionReader(b, s)
	c.fetch([]SessionPartition{at(0, 0), at(1, 0)})
	c.fetch(nil)
	require.Zero(t, c.readyCount())
	plan, err := c.sessions.Begin(Begin{ID: c.id, Epoch: c.epoch, Committed: true})
	require.NoError(t, err)
	require.Len(t, numbers(plan), 2)
}

// lease is valid until it is not.
type lease struct{ lost atomic.Bool }

func (l *lease) Valid() bool { return !l.lost.Load() }

// The end of the broker's lease moves nothing, and yet each partition of a session
// has an answer to give that it did not have before.
func TestALostLeaseIsLookedAt(t *testing.T) {
	b := newNode(t, 3)
	defer b.close()
	held := new(lease)
	s := b.service(nil)
	defer s.Close()
	s.opts.Lease = held
	c := newSessionReader(b, s)
	c.fetch([]SessionPartition{at(0, 0), at(1, 0), at(2, 0)})
	c.fetch(nil)
	require.Zero(t, c.readyCount())
	held.lost.Store(true)
	looked := 0
	r, plan := c.request(nil)
	r.Resolve = func(parts []SessionPartition, wants []Want) []Want {
		looked = len(parts)
		return b.resolve(parts, wants)
	}
	done := make(chan []Got, 1)
	r.Done = func(got []Got) { done <- got }
	s.Fetch(r)
	answer(plan, <-done)
	require.Equal(t, 3, looked)
}

// A fetch with 10,000 partitions in its session, of which none, or one, has news.
func BenchmarkIdleSession(bb *testing.B) {
	const partitions = 10_000
	b := newNode(bb, partitions)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	c := newSessionReader(b, s)
	var parts []SessionPartition
	for n := range int32(partitions) {
		parts = append(parts, at(n, 0))
	}
	c.fetch(parts)
	c.fetch(nil)
	for name, f := range map[string]func(i int){
		"idle":    func(int) { c.fetch(nil) },
		"one new": func(i int) { c.fetch([]SessionPartition{at(int32(i%partitions), 0)}) },
		"full": func(int) {
			c.epoch = 0
			c.fetch(parts)
		},
	} {
		bb.Run(name, func(bb *testing.B) {
			bb.ReportAllocs()
			for i := range bb.N {
				f(i)
			}
		})
	}
}

// An idle partition of a session is cheap: see Session.
func TestMemoryOfIdlePartitions(t *testing.T) {
	const partitions = 2000
	b := newNode(t, partitions)
	defer b.close()
	s := b.service(nil)
	defer s.Close()
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var parts []SessionPartition
	for n := range int32(partitions) {
		parts = append(parts, at(n, 0))
	}
	readers := make([]*sessionReader, 10)
	before := heap()
	for i := range readers {
		readers[i] = newSessionReader(b, s)
		readers[i].fetch(parts)
		readers[i].fetch(nil)
		require.Zero(t, readers[i].readyCount())
	}
	each := int64(heap()-before) / partitions / int64(len(readers))
	t.Logf("%d bytes for each idle partition of a session", each)
	require.Less(t, each, int64(450))
	for _, c := range readers {
		c.sessions.close(c.id)
		*c = sessionReader{}
	}
	require.Less(t, int64(heap()-before)/partitions/int64(len(readers)), int64(30), "a closed session is watched by nobody")
	runtime.KeepAlive(parts)
}
