package raftnode

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// TestContacts holds the record against the list of all contacts: it tells of none
// too early a time, and of the newest term's the right one.
func TestContacts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1000, 0)
		c, began := NewContacts(now), now
		noted := map[uint64]time.Time{}
		var newest uint64
		for range rapid.IntRange(0, 40).Draw(t, "contacts") {
			now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
			term := uint64(rapid.IntRange(1, 8).Draw(t, "term"))
			c.Note(term, now)
			noted[term], newest = now, max(newest, term)
		}
		for term := uint64(1); term < 10; term++ {
			want := began
			for of, at := range noted {
				if of < term {
					want = laterOf(want, at)
				}
			}
			if term >= newest {
				require.Equal(t, want, c.Last(term), "term %d", term)
			} else {
				require.False(t, c.Last(term).Before(want), "term %d", term)
			}
		}
	})
}

// TestSurvivorsKnowUntilWhenALeaderLed: whoever a leader could make sure with has
// noted it since, and nobody has contact with it when it is gone. One that starts anew
// cannot tell of what was before.
func TestSurvivorsKnowUntilWhenALeaderLed(t *testing.T) {
	c := newTestNodes(t, 3, Options{})
	c.begin()
	old := c.leader()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	asked := time.Now()
	term, err := old.node.AsLeader().Verify(ctx)
	require.NoError(t, err)
	var self uuid.UUID
	var voters []uuid.UUID
	require.Eventually(t, func() (same bool) {
		var reign uint64
		reign, self, voters = old.node.AsLeader().Reign()
		return reign == term
	}, 20*time.Second, time.Millisecond, "it takes over once its image has all")
	require.Equal(t, old.dir, self)
	require.Len(t, voters, 3)
	for _, m := range c.members {
		require.Contains(t, voters, m.dir)
	}
	_, err = c.others(old)[0].node.AsLeader().Verify(ctx)
	require.ErrorIs(t, err, metadata.ErrNotLeader)

	c.kill(old, 100, 1)
	gone := time.Now()
	next := c.leader()
	later, err := next.node.AsLeader().Verify(ctx)
	require.NoError(t, err)
	require.Greater(t, later, term)
	var contacts []time.Time
	for _, m := range c.others(old) {
		require.NoError(t, m.node.ReadBarrier(ctx))
		known, ago := m.node.Contact()
		require.Equal(t, later, known)
		contacts = append(contacts, time.Now().Add(-ago))
		// What it had sent may arrive late; but no election is over so soon. Somebody who
		// led between the two would be contact, too.
		if later == term+1 {
			require.False(t, contacts[len(contacts)-1].After(gone.Add(250*time.Millisecond)), "contact with a leader that is gone")
		}
	}
	require.False(t, slices.MaxFunc(contacts, time.Time.Compare).Before(asked), "nobody knows of the leader that had made sure")

	other := c.others(next)[0]
	c.close(other)
	began := time.Now()
	c.start(other, nil)
	c.ready(other)
	_, ago := other.node.Contact()
	require.False(t, time.Now().Add(-ago).Before(began), "the process of before may have been in contact until it ended")
}

// TestAnAcknowledgementOfBeforeIsNone: what a server acknowledged before Verify was
// called, or of another term, or to nobody, does not make a leader sure.
func TestAnAcknowledgementOfBeforeIsNone(t *testing.T) {
	c := newTestNodes(t, 1, Options{})
	c.begin()
	tr := c.members[0].node.transport
	one, two := serverID(uuid.New()), serverID(uuid.New())
	now := time.Now()
	tr.mu.Lock()
	tr.peerLocked(one).acked, tr.peerLocked(one).ackTerm = now, 5
	tr.mu.Unlock()
	require.Equal(t, 1, tr.confirms([]raft.ServerID{one, two}, 5, now))
	require.Zero(t, tr.confirms([]raft.ServerID{one, two}, 5, now.Add(1)))
	require.Zero(t, tr.confirms([]raft.ServerID{one, two}, 6, now))
	require.Zero(t, tr.confirms([]raft.ServerID{two}, 5, now))
}

// TestContactOfOneWhoLeadsAlone: a lone voter is sure of its leadership without a
// heartbeat to anybody. It knows that it led until then when it leads anew.
func TestContactOfOneWhoLeadsAlone(t *testing.T) {
	n := openNode(t, Options{FS: vfs.NewMem(), Dir: "/data/meta"})
	ready(t, n)
	asked := time.Now()
	term, err := n.AsLeader().Verify(t.Context())
	require.NoError(t, err)
	require.NoError(t, n.transport.elect())
	require.Eventually(t, func() bool { return n.leads() && n.raft.CurrentTerm() > term }, 20*time.Second, time.Millisecond)
	known, ago := n.Contact()
	require.Greater(t, known, term)
	require.False(t, time.Now().Add(-ago).Before(asked), "it was a leader when it had made sure")
}

// TestTasksOfAnEarlierLeadershipChangeNothing: a leader is deposed, and leads again,
// before its tasks have ended. Between the two another may have led: nothing that they
// decided counts.
func TestTasksOfAnEarlierLeadershipChangeNothing(t *testing.T) {
	var n *Node
	leads, deposed, done := make(chan struct{}, 2), make(chan struct{}), make(chan error, 1)
	first := true
	n = openNode(t, Options{FS: vfs.NewMem(), Dir: "/data/meta", OnLead: func(context.Context) {
		leads <- struct{}{}
		if !first {
			return
		}
		first = false
		<-deposed
		_, err := n.AsLeader().Propose(context.Background(), &command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.New(), Incarnation: uuid.New()})
		done <- err
	}})
	<-leads
	term := n.raft.CurrentTerm()
	require.NoError(t, n.transport.elect())
	require.Eventually(t, func() bool { return n.leads() && n.raft.CurrentTerm() > term }, 20*time.Second, time.Millisecond)
	close(deposed)
	require.ErrorIs(t, <-done, metadata.ErrNotLeader)
	<-leads
}

// TestVotersOfAReign: they are those of the election. Majorities of others, to which the
// leader itself has come since, need not meet those of the leader before.
func TestVotersOfAReign(t *testing.T) {
	reigns := make(chan struct{}, 2)
	n := openNode(t, Options{FS: vfs.NewMem(), Dir: "/data/meta", OnLead: func(context.Context) { reigns <- struct{}{} }})
	<-reigns
	term, self, voters := n.AsLeader().Reign()
	require.Equal(t, []uuid.UUID{self}, voters)
	require.NoError(t, n.AddNonvoter(t.Context(), uuid.New(), "nowhere", 0))
	_, _, voters = n.AsLeader().Reign()
	require.Empty(t, voters, "it has changed the servers")
	require.NoError(t, n.transport.elect())
	<-reigns
	next, self, voters := n.AsLeader().Reign()
	require.Greater(t, next, term)
	require.Equal(t, []uuid.UUID{self}, voters)
}
