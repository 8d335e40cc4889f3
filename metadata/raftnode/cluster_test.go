package raftnode

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// TestThreeNodes proposes on every node; each sees its own result, and what the
// others did after a barrier.
func TestThreeNodes(t *testing.T) {
	c := newTestNodes(t, 3, Options{})
	c.begin()
	lead := c.leader()
	for _, m := range c.members {
		name := fmt.Sprintf("by-%d", m.id)
		start := time.Now()
		require.NoError(t, makeTopic(t.Context(), m.node, name))
		t.Logf("node %d, leader %v: proposed in %v", m.id, m == lead, time.Since(start))
		require.NotNil(t, m.node.Image().TopicByName(name), "its own image has it")
		for _, o := range c.members {
			require.NoError(t, o.node.ReadBarrier(t.Context()))
			require.NotNil(t, o.node.Image().TopicByName(name), "node %d", o.id)
			require.Equal(t, lead.id, o.node.Image().ControllerID())
			dir, ok := o.node.Leader()
			require.True(t, ok)
			require.Equal(t, lead.dir, dir)
		}
		// A refusal arrives as what it is.
		err := makeTopic(t.Context(), m.node, name)
		var refusal *command.Error
		require.ErrorAs(t, err, &refusal)
		require.ErrorIs(t, err, command.ErrExists)
		_, err = m.node.Propose(t.Context(), &command.SetBrokerState{BrokerID: 1, BrokerEpoch: 12345, State: command.BrokerActive})
		require.ErrorIs(t, err, command.ErrFenced)
		servers, version := m.node.Servers()
		require.Len(t, servers, 3)
		_, want := lead.node.Servers()
		require.Equal(t, want, version)
	}
	c.same()

	// All of them restart; nobody bootstraps again.
	for _, m := range c.members {
		c.close(m)
		has, err := HasState(m.fs, m.path)
		require.NoError(t, err)
		require.True(t, has)
		c.start(m, c.servers(3))
	}
	for _, m := range c.members {
		c.ready(m)
		require.NotNil(t, m.node.Image().TopicByName("by-1"))
	}
	c.same()
}

func TestHasState(t *testing.T) {
	fs := vfs.NewMem()
	has, err := HasState(fs, "/data/meta")
	require.NoError(t, err)
	require.False(t, has)
	open := func(bootstrap []Server) *Node {
		n, err := Open(Options{FS: fs, Dir: "/data/meta", DirectoryID: testDirectory, Bootstrap: bootstrap})
		require.NoError(t, err)
		return n
	}
	require.NoError(t, open(nil).Close()) // it waited, and heard of nobody
	has, err = HasState(fs, "/data/meta")
	require.NoError(t, err)
	require.False(t, has)
	n := open(alone)
	ready(t, n)
	require.NoError(t, n.Close())
	has, err = HasState(fs, "/data/meta")
	require.NoError(t, err)
	require.True(t, has)
}

// TestLeadershipMovesAfterKill kills the leader, time and again, and measures how
// long the others are without one: by their time-outs, and by the hint that the
// process is gone.
func TestLeadershipMovesAfterKill(t *testing.T) {
	for _, hints := range []bool{false, true} {
		t.Run(fmt.Sprintf("hints=%v", hints), func(t *testing.T) {
			c := newTestNodes(t, 3, Options{})
			c.hints = hints
			c.begin()
			var times []time.Duration
			for round := range 6 {
				lead := c.leader()
				start := time.Now()
				c.kill(lead, 0, int64(round))
				rest := c.others(lead)
				require.NoError(t, makeTopic(t.Context(), rest[round%2].node, fmt.Sprintf("round-%d", round)))
				times = append(times, time.Since(start))
				c.start(lead, nil)
				c.ready(lead)
				require.Equal(t, c.leader().id, lead.node.Image().ControllerID())
			}
			slices.Sort(times)
			t.Logf("the first command after a kill took %v", times)
			require.Less(t, times[len(times)-1], 3*time.Second) // 1.5 s is the aim; the machine is shared
			if hints {
				require.Less(t, times[0], 300*time.Millisecond)
			}
			c.same()
		})
	}
}

func TestTransferLeadership(t *testing.T) {
	c := newTestNodes(t, 3, Options{})
	c.begin()
	before := c.leader()
	start := time.Now()
	require.NoError(t, c.others(before)[0].node.TransferLeadership(t.Context()), "it has nothing to hand over")
	require.True(t, before.node.leads(), "another node's leadership was handed over")
	require.NoError(t, before.node.TransferLeadership(t.Context()))
	require.NoError(t, makeTopic(t.Context(), before.node, "after"))
	t.Logf("handed over and committed in %v", time.Since(start))
	require.NotEqual(t, before.id, c.leader().id)
	c.same()

	lone := openNode(t, Options{FS: vfs.NewMem(), Dir: "/data/meta"})
	ready(t, lone)
	require.ErrorContains(t, lone.TransferLeadership(t.Context()), "no other voter")
	require.NoError(t, lone.Close())
}

// TestPartitionedLeader cuts the leader off. What it is asked meanwhile never
// succeeds; the others have a new leader soon; afterwards all agree.
func TestPartitionedLeader(t *testing.T) {
	c := newTestNodes(t, 3, Options{})
	c.begin()
	old := c.leader()
	c.cut(old, swallows)
	cutAt := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			// Without a request id, so that an unknown outcome comes out as it is.
			_, err := old.node.Propose(ctx, &command.AlterConfigs{Changes: []command.ConfigChange{{
				Resource: command.ConfigResource{Kind: command.ResourceBroker}, Set: map[string]string{"k": fmt.Sprint(i)}}}})
			if !errors.Is(err, metadata.ErrUnknownOutcome) && !errors.Is(err, metadata.ErrNotLeader) {
				t.Errorf("a leader cut off answered %v", err)
			}
		})
	}
	wg.Go(func() {
		short, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		if err := old.node.ReadBarrier(short); err == nil {
			t.Error("a leader cut off passed a read barrier")
		}
	})
	rest := c.others(old)
	require.NoError(t, makeTopic(ctx, rest[0].node, "after"))
	t.Logf("the first command after a cut took %v", time.Since(cutAt))
	require.Less(t, time.Since(cutAt), 3*time.Second)
	wg.Wait()
	require.False(t, old.node.leads(), "it still believes that it leads")
	require.Eventually(t, func() bool { return old.node.Image().ControllerID() == -1 }, 5*time.Second, time.Millisecond)
	require.Nil(t, old.node.Image().TopicByName("after"))

	c.cut(old, passes)
	healed := time.Now()
	c.same()
	t.Logf("caught up %v after the cut was mended", time.Since(healed))
	require.NotNil(t, old.node.Image().TopicByName("after"))
	require.Equal(t, c.leader().id, old.node.Image().ControllerID())
}

// TestSilentFollower has a follower that accepts and never answers, and one that
// hangs in the middle of a stream: the others go on as if nothing was, and it
// catches up soon after it speaks again.
func TestSilentFollower(t *testing.T) {
	for _, mode := range []cableMode{swallows, hangs} {
		t.Run(fmt.Sprint(mode), func(t *testing.T) {
			// Patient, so that the leadership does not move because the machine is busy.
			c := newTestNodes(t, 3, Options{HeartbeatTimeout: 1500 * time.Millisecond})
			c.begin()
			lead := c.leader()
			silent, other := c.others(lead)[0], c.others(lead)[1]
			var made atomic.Int32
			propose := func(n int, tag string) {
				var wg sync.WaitGroup
				for w := range 4 {
					wg.Go(func() {
						for i := range n {
							if err := makeTopic(t.Context(), []*member{lead, other}[w%2].node, fmt.Sprintf("%s-%d-%d", tag, w, i)); err != nil {
								t.Error(err)
							}
							made.Add(1)
						}
					})
				}
				wg.Wait()
			}
			propose(20, "before")
			c.cut(silent, mode)
			start := time.Now()
			for round := range 12 { // some seconds, through all of Raft's time-outs
				propose(10, fmt.Sprintf("silent%d", round))
				<-time.After(150 * time.Millisecond)
			}
			t.Logf("%d topics in %v beside a silent follower", made.Load(), time.Since(start))
			require.Same(t, lead, c.leader(), "the leadership moved")
			q, err := other.node.Quorum(t.Context())
			require.NoError(t, err)
			require.Equal(t, lead.dir, q.Leader)
			for _, s := range q.Servers {
				require.Equal(t, s.DirectoryID == silent.dir, time.Since(s.LastContact) > time.Second, "%+v", s)
				require.Equal(t, s.DirectoryID == silent.dir, q.LastIndex > s.LastIndex+100, "%+v", s)
			}
			c.cut(silent, passes)
			healed := time.Now()
			c.same()
			t.Logf("caught up %v after it spoke again", time.Since(healed))
			require.Less(t, time.Since(healed), 8*time.Second)
			require.Same(t, lead, c.leader())
		})
	}
}

// TestWipedVoterCountsForNothing: a node with an empty disk at the address of a voter
// neither votes nor acknowledges in its place.
func TestWipedVoterCountsForNothing(t *testing.T) {
	c := newTestNodes(t, 3, Options{})
	c.begin()
	lead := c.leader()
	wiped, third := c.others(lead)[0], c.others(lead)[1]
	require.NoError(t, makeTopic(t.Context(), lead.node, "a"))
	c.close(wiped)
	was := wiped.dir
	c.wipe(wiped)
	me := c.index(wiped.dir)
	c.start(wiped, nil)
	c.kill(third, 0, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	require.Error(t, makeTopic(ctx, lead.node, "b"), "committed by one voter and somebody else")
	c.start(third, nil)
	require.NoError(t, makeTopic(t.Context(), lead.node, "c"))
	_, ok := wiped.node.Leader()
	require.False(t, ok, "it was taken for the voter that it was")

	// It joins as itself, by one address: Raft has a race of its own where that changes.
	addr := c.cables[[2]int{0, me}].addr()
	require.NoError(t, third.node.Remove(t.Context(), was, 0))
	require.NoError(t, third.node.AddNonvoter(t.Context(), wiped.dir, addr, 0))
	c.ready(wiped)
	_, version := lead.node.Servers()
	require.ErrorIs(t, third.node.AddVoter(t.Context(), wiped.dir, addr, version+1), ErrConflict)
	require.NoError(t, third.node.AddVoter(t.Context(), wiped.dir, addr, version))
	c.same()
}

// TestOnLead begins on each leader, ends with its leadership, and is awaited.
func TestOnLead(t *testing.T) {
	var running atomic.Int32
	started := make(chan struct{}, 16)
	c := newTestNodes(t, 3, Options{OnLead: func(ctx context.Context) {
		running.Add(1)
		started <- struct{}{}
		<-ctx.Done()
		running.Add(-1)
	}})
	c.begin()
	<-started
	require.NoError(t, c.leader().node.TransferLeadership(t.Context()))
	<-started
	require.Eventually(t, func() bool { return running.Load() == 1 }, 5*time.Second, time.Millisecond, "the task of a deposed leader runs on")
	require.NoError(t, makeTopic(t.Context(), c.leader().node, "x"))
	for _, m := range c.members {
		c.close(m)
	}
	require.Zero(t, running.Load(), "Close did not wait for the task")
}

// TestGrowFromOneToThree adds two nodes to a lone one, makes voters of them, and
// loses the first.
func TestGrowFromOneToThree(t *testing.T) {
	c := newTestNodes(t, 3, Options{})
	first := c.members[0]
	c.start(first, c.servers(1))
	c.ready(first)
	c.register(first)
	require.NoError(t, makeTopic(t.Context(), first.node, "a"))
	for _, m := range c.members[1:] {
		c.start(m, nil)
		require.NoError(t, first.node.AddNonvoter(t.Context(), m.dir, m.link.Addr(), 0))
		c.ready(m)
		require.NotNil(t, m.node.Image().TopicByName("a"))
		require.NoError(t, makeTopic(t.Context(), m.node, fmt.Sprintf("by-%d", m.id)))
	}
	for _, m := range c.members[1:] {
		require.NoError(t, m.node.AddVoter(t.Context(), m.dir, m.link.Addr(), 0))
	}
	servers, _ := first.node.Servers()
	for _, s := range servers {
		require.True(t, s.Voter)
	}
	c.kill(first, 0, 1)
	require.NoError(t, makeTopic(t.Context(), c.members[1].node, "b"))
	require.NoError(t, c.members[2].node.Demote(t.Context(), first.dir, 0))
	require.NoError(t, c.members[2].node.Remove(t.Context(), first.dir, 0))
	servers, _ = c.leader().node.Servers()
	require.Len(t, servers, 2)
	c.same()
}

// TestPowerLossUnderLoad proposes on every node while nodes lose power one after
// the other, now and then two at once. Nothing acknowledged is lost, and all states
// are one.
func TestPowerLossUnderLoad(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 2))
	c := newTestNodes(t, 3, Options{SnapshotEntries: 60, TrailingEntries: 20, SnapshotInterval: 20 * time.Millisecond})
	c.begin()
	var mu sync.Mutex
	var acked []string
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for w := range 6 {
		clients.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				node := c.nodeOf(w % 3)
				if node == nil {
					<-time.After(time.Millisecond)
					continue
				}
				name := fmt.Sprintf("t-%d-%d", w, i)
				ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
				err := makeTopic(ctx, node, name)
				cancel()
				mu.Lock()
				if err == nil {
					acked = append(acked, name)
				}
				mu.Unlock()
			}
		})
	}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(acked)
	}
	progress := func(n int) {
		t.Helper()
		from := count()
		require.Eventually(t, func() bool { return count() >= from+n }, 20*time.Second, time.Millisecond, "no progress")
	}
	for range 12 {
		progress(1 + rng.IntN(60))
		var down []*member
		for _, i := range rng.Perm(3)[:1+rng.IntN(2)] {
			m := c.members[i]
			c.kill(m, []int{0, 50, 100}[rng.IntN(3)], seed)
			down = append(down, m)
		}
		if len(down) == 1 && rng.IntN(2) == 0 {
			progress(20)
		}
		for _, m := range down {
			c.start(m, nil)
		}
	}
	progress(20)
	close(stop)
	clients.Wait()
	c.same()
	t.Logf("%d commands acknowledged", len(acked))
	for _, m := range c.members {
		for _, name := range acked {
			require.NotNil(t, m.node.Image().TopicByName(name), "node %d lost %s", m.id, name)
		}
	}
}
