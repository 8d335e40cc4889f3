package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// inBubble runs a test on a fake clock. The world is made outside: its database has
// goroutines of its own.
func inBubble(t *testing.T, fn func(t *testing.T, w *world)) {
	w := newWorld(t)
	synctest.Test(t, func(t *testing.T) { fn(t, w) })
}

// TestLifeOfABroker: fenced until its logs are open, active while it is heard, without
// a lease before it is fenced, fenced in time, and back.
func TestLifeOfABroker(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		var ready atomic.Bool
		h := w.heartbeater(1, uuid.New(), func(o *HeartbeaterOptions) {
			o.Ready, o.DiskFull = ready.Load, func() bool { return true }
		})
		epoch, err := h.Register(t.Context())
		require.NoError(t, err)
		require.Equal(t, epoch, h.Epoch())
		defer run(h.Run)()
		time.Sleep(10 * time.Second)
		require.True(t, w.Image().Broker(1).Fenced, "unfenced before its logs are open")
		require.False(t, h.Lease().Valid())
		ready.Store(true)
		h.Poke()
		start := time.Now()
		require.NoError(t, h.Active(t.Context()))
		require.True(t, h.Lease().Valid(), "active, and may not lead")
		require.Less(t, time.Since(start), 100*time.Millisecond)
		before := w.Image().Index()
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			require.True(t, h.Lease().Valid())
		}
		require.Equal(t, before, w.Image().Index(), "a heartbeat wrote to the log")
		require.Equal(t, epoch, w.Image().Broker(1).Epoch)

		status, err := FetchStatus(t.Context(), node{w, "b1"}, "leader")
		require.NoError(t, err)
		require.Len(t, status, 1)
		require.Equal(t, BrokerStatus{BrokerID: 1, Epoch: epoch, SilentMs: status[0].SilentMs, Applied: before, DiskFull: true}, status[0])
		require.LessOrEqual(t, status[0].SilentMs, int64(500))
		behind, known := h.ClockBehind(time.Now())
		require.True(t, known)
		require.Zero(t, behind)

		w.setCut("b1", true)
		cut := time.Now()
		for w.Image().Broker(1).Eligible() {
			time.Sleep(time.Millisecond)
			require.True(t, h.Lease().Valid() || time.Since(cut) > 2*time.Second, "the lease ended early")
		}
		require.False(t, h.Lease().Valid(), "fenced while it may lead")
		require.LessOrEqual(t, time.Since(cut), 3500*time.Millisecond)
		require.GreaterOrEqual(t, time.Since(cut), 2500*time.Millisecond)
		w.setCut("b1", false)
		require.NoError(t, h.Active(t.Context()))
		time.Sleep(time.Second)
		require.True(t, h.Lease().Valid())
	})
}

// TestNewLeaderGrantsAFullLease: however long nobody was heard before, a node that
// begins to lead waits a whole session. What has certainly ended it fences at once.
func TestNewLeaderGrantsAFullLease(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c, stop := w.controller(UpkeepOptions{})
		_, leave := w.join(t, 3)
		stop()
		leave()
		time.Sleep(time.Hour)
		c.Suspect(w.Image().Broker(3).DirectoryID, true)
		time.Sleep(time.Second)
		began := time.Now()
		defer run(c.Run)()
		synctest.Wait()
		require.True(t, w.Image().Broker(3).Fenced)
		for w.Image().Broker(1).Eligible() {
			time.Sleep(10 * time.Millisecond)
			require.Less(t, time.Since(began), 4*time.Second)
		}
		require.GreaterOrEqual(t, time.Since(began), 3*time.Second)
	})
}

// TestHeartbeatToALeaderThatIsSilentIsGivenUp: as soon as another one leads, it is
// heard by that one.
func TestHeartbeatToALeaderThatIsSilentIsGivenUp(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		var silent atomic.Bool
		dir := uuid.New()
		h := w.heartbeater(1, dir, func(o *HeartbeaterOptions) {
			o.Leader = func() (string, bool) {
				if silent.Load() {
					return "silent", true
				}
				return "leader", true
			}
		})
		_, err := h.Register(t.Context())
		require.NoError(t, err)
		defer run(h.Run)()
		require.NoError(t, h.Active(t.Context()))
		w.setCut("silent", true)
		silent.Store(true)
		for h.Lease().Left() > 2100*time.Millisecond {
			time.Sleep(10 * time.Millisecond) // a heartbeat is under way by now
		}
		silent.Store(false)
		old := w.Image()
		w.SetLeader(dir)
		w.tell(old)
		time.Sleep(20 * time.Millisecond)
		require.Greater(t, h.Lease().Left(), 2900*time.Millisecond)
	})
}

// TestSuspicion: the certain end of a process fences it at once; a hint does not,
// while its lease may last; a hint about an earlier life is void.
func TestSuspicion(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c, stop := w.controller(UpkeepOptions{})
		defer stop()
		_, leave := w.join(t, 2)
		defer leave()
		dir := w.Image().Broker(1).DirectoryID
		c.Suspect(dir, false)
		c.Suspect(uuid.New(), true)
		time.Sleep(100 * time.Millisecond)
		require.True(t, w.Image().Broker(1).Eligible())
		start := w.Image().Broker(1).Epoch
		c.Suspect(dir, true)
		synctest.Wait()
		time.Sleep(time.Second)
		w.mu.Lock()
		last := w.log[len(w.log)-2:]
		w.mu.Unlock()
		require.Equal(t, &command.SetBrokerState{BrokerID: 1, BrokerEpoch: start, State: command.BrokerFenced}, last[0])
		require.Equal(t, &command.SetBrokerState{BrokerID: 1, BrokerEpoch: start, State: command.BrokerActive}, last[1], "it was alive after all")

		l := NewLeases(LeaseOptions{}, time.Now(), w.Image())
		l.Suspect(1, start-1, true)
		require.False(t, l.Expired(time.Now(), 1))
		l.Suspect(1, start, true)
		require.True(t, l.Expired(time.Now(), 1))
	})
}

// TestSuspicionShortensALongSession: with a session longer than the lease a hint has
// the broker fenced when its lease has ended for sure.
func TestSuspicionShortensALongSession(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, err := Register(t.Context(), w, &command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.New(), Incarnation: uuid.New()})
		require.NoError(t, err)
		now := time.Now()
		opts := LeaseOptions{Session: 9 * time.Second, Grant: 2 * time.Second}
		at := func(d time.Duration, suspect bool) bool {
			l := NewLeases(opts, now, w.Image())
			if suspect {
				l.Suspect(1, w.Image().Broker(1).Epoch, false)
			}
			return l.Expired(now.Add(d), 1)
		}
		require.False(t, at(2*time.Second-1, true))
		require.True(t, at(2*time.Second, true))
		require.False(t, at(9*time.Second-1, false))
		require.True(t, at(9*time.Second, false))
	})
}

// TestPausedLeader: a process that did not run for a while finds every lease ended
// and the heartbeats of the meantime unread. It must not fence anybody for it.
func TestPausedLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, err := Register(t.Context(), w, &command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.New(), Incarnation: uuid.New()})
		require.NoError(t, err)
		now := time.Now()
		l := NewLeases(LeaseOptions{}, now, w.Image())
		require.Empty(t, Decide(now, w.Image(), l))
		now = now.Add(time.Minute)
		require.Empty(t, Decide(now, w.Image(), l), "fenced for the leader's own pause")
		for range 4 {
			now = l.Next(now)
			require.Empty(t, Decide(now.Add(-time.Millisecond), w.Image(), l))
		}
		require.Len(t, Decide(now, w.Image(), l), 1)
	})
}

// TestUnsureLeaderGrantsNothing: a node that cannot tell whether it still leads
// grants no lease, and one that does not lead says so.
func TestUnsureLeaderGrantsNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		all, leave := w.join(t, 1)
		w.mu.Lock()
		w.refuse = errors.New("no quorum")
		w.mu.Unlock()
		require.Error(t, all[0].beat(t.Context()))
		time.Sleep(3 * time.Second)
		require.False(t, all[0].Lease().Valid())
		stop()
		require.ErrorContains(t, all[0].beat(t.Context()), CodeNotLeader)
		_, err := FetchStatus(t.Context(), node{w, "b1"}, "leader")
		require.ErrorContains(t, err, CodeNotLeader)
		leave()
	})
}

// proposing calls before ahead of each proposal.
type proposing struct {
	*world
	before func(command.Command)
}

func (p proposing) Propose(ctx context.Context, cmd command.Command) (command.Result, error) {
	p.before(cmd)
	return p.world.Propose(ctx, cmd)
}

// TestNoLeaseWhileFencing: a broker comes back while the command that fences it is
// under way.
func TestNoLeaseWhileFencing(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		epoch, err := Register(t.Context(), w, &command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.New(), Incarnation: uuid.New()})
		require.NoError(t, err)
		hb := &Heartbeat{BrokerID: 1, BrokerEpoch: epoch, Applied: w.Image().Index(), Ready: true, Clock: time.Now().UnixMilli()}
		var c *Controller
		var during []Grant
		c = New(Options{Meta: proposing{w, func(command.Command) {
			g, _, err := c.hear(hb)
			require.NoError(t, err)
			during = append(during, g)
		}}, Calls: node{w, "leader"}, Verify: func(context.Context) (uint64, error) { return 0, nil }})
		stop := run(c.Run)
		time.Sleep(2 * time.Second)
		g, _, err := c.hear(hb)
		require.NoError(t, err)
		require.Equal(t, int64(2940), g.Lease)
		require.False(t, g.Fenced)
		time.Sleep(4 * time.Second)
		stop()
		require.Len(t, during, 1) // fenced; the heartbeat is of before that, so it stays fenced
		require.Zero(t, during[0].Lease)
	})
}

// TestControlledShutdown: leaderships move to replicas in sync before the broker
// goes; one that is catching up is waited for; what nobody else has stays until the
// end and does not hold it up.
func TestControlledShutdown(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		check := w.check
		w.check = func(cmd command.Command, old, img *metadata.Image) {
			check(cmd, old, img)
			for tp, p := range img.AllPartitions() {
				for _, id := range p.Replicas {
					require.False(t, p.Leader < 0 && img.Broker(id).Eligible() && p.InSync(id), "%s has no leader", tp)
				}
			}
		}
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		all, leave := w.join(t, 3)
		defer leave()
		synced := w.topic(t, "synced", []int32{1, 2, 3}, []int32{2, 1, 3})
		slow := w.topic(t, "slow", []int32{1, 2})
		alone := w.topic(t, "alone", []int32{1})
		w.isr(t, record.TopicPartition{Topic: slow}, 1)
		done := make(chan error, 1)
		go func() { done <- all[0].Shutdown(t.Context()) }()
		time.Sleep(5 * time.Second)
		img := w.Image()
		require.True(t, img.Broker(1).ShuttingDown)
		require.False(t, img.Broker(1).Fenced, "went while a replica was catching up")
		require.True(t, all[0].Lease().Valid())
		p := img.Partition(record.TopicPartition{Topic: synced})
		require.Equal(t, int32(2), p.Leader)
		require.Equal(t, []int32{2, 3}, p.ISR)
		require.Equal(t, int32(1), img.Partition(record.TopicPartition{Topic: alone}).Leader)
		require.Empty(t, done)
		start := time.Now()
		w.isr(t, record.TopicPartition{Topic: slow}, 1, 2)
		require.Equal(t, int32(2), w.Image().Partition(record.TopicPartition{Topic: slow}).Leader, "the step that brought it in sync has to move the leadership")
		require.NoError(t, <-done)
		require.Less(t, time.Since(start), time.Second)
		img = w.Image()
		require.True(t, img.Broker(1).Fenced)
		require.Equal(t, int32(-1), img.Partition(record.TopicPartition{Topic: alone}).Leader)
		require.Equal(t, int32(1), img.Partition(record.TopicPartition{Topic: alone}).LastKnownLeader)
		require.False(t, all[0].Lease().Valid())

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		w.setCut("b2", true)
		require.ErrorIs(t, all[1].Shutdown(ctx), context.DeadlineExceeded)
	})
}

// TestWipedBrokerWaitsForItsFormerLife: the id comes back from another directory
// while the old process is not fenced yet.
func TestWipedBrokerWaitsForItsFormerLife(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		_, leave := w.join(t, 2)
		topic := w.topic(t, "a", []int32{1, 2})
		leave()
		again := w.heartbeater(1, uuid.New(), nil)
		start := time.Now()
		epoch, err := again.Register(t.Context())
		require.NoError(t, err)
		require.Less(t, time.Since(start), 4*time.Second)
		require.Equal(t, epoch, w.Image().Broker(1).Epoch)
		p := w.Image().Partition(record.TopicPartition{Topic: topic})
		require.False(t, p.InSync(1), "%+v", p)

		defer run(w.heartbeater(2, w.Image().Broker(2).DirectoryID, nil).Run)()
		third := w.heartbeater(1, uuid.New(), nil)
		defer run(again.Run)()
		require.NoError(t, again.Active(t.Context()))
		_, err = third.Register(t.Context())
		require.ErrorIs(t, err, command.ErrDuplicateBroker, "took the id of a broker that is alive")
	})
}

// TestUnregisteredBrokerComesBack: a broker that was unregistered though it is alive
// registers again.
func TestUnregisteredBrokerComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		all, leave := w.join(t, 1)
		defer leave()
		first := all[0].Epoch()
		w.setCut("b1", true)
		time.Sleep(4 * time.Second)
		_, err := w.Propose(t.Context(), &command.UnregisterBroker{BrokerID: 1, BrokerEpoch: -1})
		require.NoError(t, err)
		require.Nil(t, w.Image().Broker(1))
		w.setCut("b1", false)
		time.Sleep(time.Second)
		require.NoError(t, all[0].Active(t.Context()))
		require.Greater(t, all[0].Epoch(), first)
	})
}

// TestLeasesUnderFaults cuts brokers off at random, slows their calls down, changes
// the metadata leader and hints at failures, for ten minutes of each of some seeds: no
// broker is fenced while its lease is valid, and once all is quiet all are active.
func TestLeasesUnderFaults(t *testing.T) {
	for seed := range uint64(4) {
		inBubble(t, func(t *testing.T, w *world) {
			rng := rand.New(rand.NewPCG(seed, 1))
			var mu sync.Mutex // of rng, which the calls use too
			n := func(n int) int { mu.Lock(); defer mu.Unlock(); return rng.IntN(n) }
			c, stop := w.controller(UpkeepOptions{})
			all, leave := w.join(t, 3)
			defer leave()
			w.topic(t, "a", []int32{1, 2, 3}, []int32{2, 3, 1}, []int32{3}, []int32{1, 3})
			check, fenced := w.check, 0
			w.mu.Lock()
			w.delay = func() time.Duration { return time.Duration(n(250)) * time.Millisecond }
			w.check = func(cmd command.Command, old, img *metadata.Image) {
				check(cmd, old, img)
				if s, ok := cmd.(*command.SetBrokerState); ok && s.State == command.BrokerFenced {
					fenced++
					require.False(t, all[s.BrokerID-1].Lease().Valid(), "seed %d: broker %d fenced with %v left", seed, s.BrokerID, all[s.BrokerID-1].Lease().Left())
				}
			}
			w.mu.Unlock()
			for range 600 {
				time.Sleep(time.Duration(n(2000)) * time.Millisecond)
				id := n(3) + 1
				switch n(8) {
				case 0, 1:
					w.setCut(fmt.Sprint("b", id), true)
				case 2, 3, 4, 5:
					w.setCut(fmt.Sprint("b", id), false)
				case 6:
					c.Suspect(w.Image().Broker(int32(id)).DirectoryID, false)
				default:
					stop()
					time.Sleep(time.Duration(n(4000)) * time.Millisecond)
					stop = run(c.Run)
				}
			}
			for id := range 3 {
				w.setCut(fmt.Sprint("b", id+1), false)
			}
			time.Sleep(5 * time.Second)
			for _, h := range all {
				require.NoError(t, h.Active(t.Context()))
			}
			require.NotZero(t, fenced)
			for tp, p := range w.Image().AllPartitions() {
				require.GreaterOrEqual(t, p.Leader, int32(0), "%s", tp)
			}
			stop()
		})
	}
}

// TestUpkeep: leaderships go back where they belong, and internal topics grow as
// brokers join.
func TestUpkeep(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{Balance: true, BalancePercent: -1, InternalFactor: 3})
		defer stop()
		_, leave := w.join(t, 1)
		defer leave()
		internal := w.newTopic(t, command.NewTopic{ID: record.NewTopicID(), Name: "__consumer_offsets", Internal: true, Assignments: [][]int32{{1}, {1}, {1}}})
		plain := w.topic(t, "plain", []int32{1})
		for id := int32(2); id <= 3; id++ {
			h := w.heartbeater(id, uuid.New(), nil)
			_, err := h.Register(t.Context())
			require.NoError(t, err)
			defer run(h.Run)()
			require.NoError(t, h.Active(t.Context()))
		}
		time.Sleep(6 * time.Second)
		first := map[int32]int{}
		for n, p := range w.Image().Partitions(internal) {
			require.ElementsMatch(t, []int32{1, 2, 3}, p.Replicas)
			require.Equal(t, int32(1), p.Leader)
			require.Equal(t, 1, p.Factor(), "min.insync.replicas rose before the replicas were there")
			w.isr(t, record.TopicPartition{Topic: internal, Partition: n}, 1, 2, 3)
			first[p.Replicas[0]]++
		}
		require.Equal(t, map[int32]int{1: 1, 2: 1, 3: 1}, first)
		for _, p := range w.Image().Partitions(internal) {
			require.False(t, p.Reassigning())
			require.Equal(t, int32(1), p.Leader)
		}
		time.Sleep(5 * time.Minute)
		for _, p := range w.Image().Partitions(internal) {
			require.Equal(t, p.Replicas[0], p.Leader)
		}
		require.Equal(t, []int32{1}, w.Image().Partition(record.TopicPartition{Topic: plain}).Replicas)
	})
}
