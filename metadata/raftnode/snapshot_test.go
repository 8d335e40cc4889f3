package raftnode

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// fillState makes topics with many partitions.
func fillState(t *testing.T, n *Node, topics, partitions int) {
	t.Helper()
	for i := range topics {
		topic := command.NewTopic{ID: record.NewTopicID(), Name: fmt.Sprintf("large-%d", i)}
		for range partitions {
			topic.Assignments = append(topic.Assignments, []int32{1})
		}
		_, err := n.Propose(t.Context(), &command.CreateTopics{Request: command.Request{RequestID: uuid.New()}, Topics: []command.NewTopic{topic}})
		require.NoError(t, err)
	}
}

// busy proposes topics on a node until stop is called.
func busy(t *testing.T, n *Node) (stop func()) {
	t.Helper()
	quit := make(chan struct{})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				default:
				}
				if err := makeTopic(t.Context(), n, fmt.Sprintf("busy-%d-%d", w, i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() { close(quit); wg.Wait() }
}

// TestFreshFollowerGetsASnapshot adds a node to a cluster with a large state, whose
// log was cut, while commands are applied and snapshots taken; it loses power at any
// point of it, time and again.
func TestFreshFollowerGetsASnapshot(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 3))
	c := newTestNodes(t, 4, Options{SnapshotEntries: 200, TrailingEntries: 50, SnapshotInterval: 50 * time.Millisecond})
	fresh := c.members[3]
	c.members = c.members[:3]
	c.begin()
	c.members = append(c.members, fresh)
	lead := c.leader()
	fillState(t, lead.node, 40, 500)
	require.NoError(t, lead.node.Snapshot())
	stop := busy(t, c.others(lead)[0].node)

	c.start(fresh, nil)
	start := time.Now()
	require.NoError(t, lead.node.AddNonvoter(t.Context(), fresh.dir, fresh.link.Addr(), 0))
	c.ready(fresh)
	require.NotNil(t, fresh.node.Image().TopicByName("large-39"))
	t.Logf("20,000 partitions reached a fresh follower in %v", time.Since(start))
	store := &snapStore{fs: fresh.fs, dir: fresh.path + "/snapshots"}
	metas, err := store.List()
	require.NoError(t, err)
	require.NotEmpty(t, metas, "it was not told by a snapshot")

	for round := range 6 {
		c.kill(fresh, []int{0, 50, 100}[round%3], seed)
		if round%2 == 0 { // a wiped disk: all from the beginning
			fresh.fs = vfs.NewCrashableMem()
		}
		c.start(fresh, nil)
		<-time.After(time.Duration(rng.IntN(300)) * time.Millisecond) // wherever it is then
	}
	c.ready(fresh)
	stop()
	c.same()
	// A log without a hole.
	logs := &logStore{db: fresh.node.logDB}
	first, last, err := logs.bounds()
	require.NoError(t, err)
	for i := first; i <= last; i++ {
		require.NoError(t, logs.GetLog(i, new(raft.Log)), "log %d of %d to %d", i, first, last)
	}
}

// TestFollowerBehindTheCutLog stops a follower while the others cut their logs above
// its end: it gets a snapshot and goes on, as a voter.
func TestFollowerBehindTheCutLog(t *testing.T) {
	c := newTestNodes(t, 3, Options{SnapshotEntries: 40, TrailingEntries: 10, SnapshotInterval: 10 * time.Millisecond})
	c.begin()
	lead := c.leader()
	late := c.others(lead)[0]
	require.NoError(t, makeTopic(t.Context(), lead.node, "before"))
	c.same()
	c.kill(late, 0, 1)
	for i := range 200 {
		require.NoError(t, makeTopic(t.Context(), lead.node, fmt.Sprintf("t-%d", i)))
	}
	require.NoError(t, lead.node.Snapshot())
	c.start(late, nil)
	c.ready(late)
	require.NotNil(t, late.node.Image().TopicByName("t-199"))
	c.same()
	// It counts: with it alone the leader commits.
	c.kill(c.others(lead)[len(c.others(lead))-1], 0, 2)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, makeTopic(ctx, late.node, "after"))
}

// TestLogBelowASnapshotIsDropped crashes between the arrival of a snapshot and the
// emptying of the log below it.
func TestLogBelowASnapshotIsDropped(t *testing.T) {
	fs := vfs.NewMem()
	n := openNode(t, Options{FS: fs, Dir: "/data/meta", TrailingEntries: 1})
	ready(t, n)
	register(t, n)
	for i := range 20 {
		createTopic(t, n, fmt.Sprintf("t-%d", i), 1)
	}
	require.NoError(t, n.Snapshot())
	_, want, err := n.StateHash()
	require.NoError(t, err)
	term := n.raft.CurrentTerm()
	last := n.raft.LastIndex()
	require.NoError(t, n.Close())

	// The disk of a follower that had but the first entries, and got that snapshot.
	behind := vfs.NewMem()
	ok, err := vfs.Clone(fs, behind, "/data/meta/snapshots", "/data/meta/snapshots")
	require.NoError(t, err)
	require.True(t, ok)
	m := openNode(t, Options{FS: behind, Dir: "/data/other"})
	ready(t, m)
	require.NoError(t, m.Close())
	ok, err = vfs.Clone(behind, behind, "/data/other/raft", "/data/meta/raft")
	require.NoError(t, err)
	require.True(t, ok)
	again := openNode(t, Options{FS: behind, Dir: "/data/meta"})
	ready(t, again)
	_, got, err := again.StateHash()
	require.NoError(t, err)
	require.Equal(t, want, got)
	logs := &logStore{db: again.logDB}
	first, _, err := logs.bounds()
	require.NoError(t, err)
	require.GreaterOrEqual(t, first, last, "the entries below the snapshot are still there (term %d)", term)
	require.NoError(t, again.Close())
}
