package raftnode

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// electorate is a cluster whose voters change. After a change a voter may lose power at
// once, before all others have heard of the change; while it is away, the rest must
// choose a leader and go on, and nothing acknowledged is ever lost.
type electorate struct {
	*testNodes
	rng     *rand.Rand
	servers []*member
	voters  []*member
	down    *member
	topics  []string
}

func (e *electorate) pick(from []*member) *member { return from[e.rng.IntN(len(from))] }

func without(all []*member, some ...*member) []*member {
	return slices.DeleteFunc(slices.Clone(all), func(m *member) bool { return slices.Contains(some, m) })
}

// through runs a change on a node that follows, and runs, whether it leads or not.
func (e *electorate) through(what string, change func(ctx context.Context, n *Node) error) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	by := e.pick(without(e.servers, e.down))
	require.NoError(e.t, change(ctx, by.node), "%s, by node %d", what, by.id)
}

// address is what Raft stores for a member, the same through all its lives: Raft has a race
// of its own where it changes. Who is where is found by directory.
func (e *electorate) address(m *member) string {
	return e.testNodes.servers(len(e.members))[e.index(m.dir)].Address
}

func (e *electorate) addVoter() {
	e.vote(e.pick(without(e.servers, e.voters...)))
}

func (e *electorate) vote(m *member) {
	e.through(fmt.Sprintf("a vote for %d", m.id), func(ctx context.Context, n *Node) error {
		return n.AddVoter(ctx, m.dir, e.address(m), 0)
	})
	e.voters = append(e.voters, m)
}

// addDeafVoter gives a vote to one that does not hear of it before the leader is gone,
// and whose vote the rest needs, where they are an even number.
func (e *electorate) addDeafVoter() {
	m := e.pick(without(e.servers, e.voters...))
	e.cut(m, swallows)
	e.down = m // nobody asks it for anything
	e.vote(m)
	lead := e.leader()
	e.losePower(lead, func() { e.cut(m, passes) })
}

// removeVoter takes out a voter that does not lead, as the keeper of the voters does.
func (e *electorate) removeVoter() *member {
	m := e.pick(without(e.voters, e.leader()))
	e.voters, e.servers = without(e.voters, m), without(e.servers, m)
	e.through(fmt.Sprintf("without %d", m.id), func(ctx context.Context, n *Node) error { return n.Remove(ctx, m.dir, 0) })
	return m
}

func (e *electorate) follow(m *member) {
	e.through(fmt.Sprintf("%d follows", m.id), func(ctx context.Context, n *Node) error {
		return n.AddNonvoter(ctx, m.dir, e.address(m), 0)
	})
	e.servers = append(e.servers, m)
}

func (e *electorate) write() {
	name := fmt.Sprintf("t-%d", len(e.topics))
	e.through("topic "+name, func(ctx context.Context, n *Node) error { return makeTopic(ctx, n, name) })
	e.topics = append(e.topics, name)
}

// loser is a voter, the leader more often than not.
func (e *electorate) loser() *member {
	if e.rng.IntN(2) == 0 {
		return e.leader()
	}
	return e.pick(e.voters)
}

// losePower takes a voter down while the rest goes on.
func (e *electorate) losePower(m *member, then func()) {
	e.kill(m, []int{0, 50, 100}[e.rng.IntN(3)], e.rng.Int64())
	e.down = m
	then()
	e.write()
	if e.rng.IntN(2) == 0 {
		e.write()
	}
	e.start(m, nil)
	e.down = nil
}

func TestVotersChangeUnderPowerLoss(t *testing.T) {
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	e := &electorate{testNodes: newTestNodes(t, 5, Options{SnapshotEntries: 30, TrailingEntries: 10, SnapshotInterval: 20 * time.Millisecond}),
		rng: rand.New(rand.NewPCG(uint64(seed), 3))}
	first := e.members[0]
	e.start(first, e.testNodes.servers(1))
	e.ready(first)
	e.register(first)
	e.voters, e.servers = []*member{first}, []*member{first}
	for _, m := range e.members[1:] {
		e.start(m, nil)
		e.follow(m)
		e.ready(m)
	}
	for range 14 {
		switch n := len(e.voters); {
		case n < 2:
			e.addVoter()
		case n == 2:
			e.addDeafVoter()
		case n == 5, n > 3 && e.rng.IntN(2) == 0, n == 3 && e.rng.IntN(3) == 0:
			gone := e.removeVoter()
			if len(e.voters) > 2 && e.rng.IntN(2) == 0 {
				e.losePower(e.loser(), func() {})
			}
			e.follow(gone)
		case e.rng.IntN(2) == 0:
			e.addDeafVoter()
		default:
			e.addVoter()
		}
		if len(e.voters) > 2 && e.rng.IntN(4) != 0 {
			e.losePower(e.loser(), func() {})
		} else {
			e.write()
		}
	}
	e.same()
	for _, m := range e.members {
		for _, name := range e.topics {
			require.NotNil(t, m.node.Image().TopicByName(name), "node %d lost %s", m.id, name)
		}
	}
}
