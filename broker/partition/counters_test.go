package partition

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
)

// A follower's lag is told by the watermark of the leader's last answer, which is
// ahead of what the answer brought.
func TestLagIsWhatAFollowerLacksOfTheCommitted(t *testing.T) {
	g := newGroup(t, map[string]string{"durability": "replicated"}, 1, 2)
	g.assign(1, 0, []int32{1})
	g.append(1, batch(3, plain()), false)
	g.append(1, batch(4, plain()), false)
	require.NoError(t, g.part(1).Log().Flush(context.Background()))
	p := g.part(2)
	require.Zero(t, p.Lag(), "nobody has told it anything")
	at, ok := p.Position()
	require.True(t, ok)
	rep, err := g.ask(2, at)
	require.NoError(t, err)
	require.EqualValues(t, 7, rep.HighWatermark)
	first := len(batch(3, plain()))
	rest := rep.Raw[first:]
	rep.Raw = rep.Raw[:first]
	_, err = p.OnReply(rep)
	require.NoError(t, err)
	require.EqualValues(t, 4, p.Lag())
	require.Zero(t, g.part(1).Lag(), "a leader has none")
	require.EqualValues(t, first, p.Counters().ReplicaIn)
	g.settle(2)
	require.Zero(t, p.Lag())
	require.EqualValues(t, first+len(rest), p.Counters().ReplicaIn)
}

// The leader counts what its ISR loses and gains, others do not; what was counted
// stays when the partition goes.
func TestISRChangesAreCountedByTheLeader(t *testing.T) {
	g := newGroup(t, nil, 1, 2, 3)
	changes := func(id int32) [2]uint64 {
		n := g.nodes[id].set.Totals()
		return [2]uint64{n.ISRShrinks, n.ISRExpands}
	}
	epoch := int32(0)
	isr := func(leader int32, ids ...int32) {
		epoch++
		g.assign(leader, 0, ids, func(p *metadata.Partition) { p.PartitionEpoch = epoch })
	}
	isr(1, 1, 2, 3)
	require.Equal(t, [2]uint64{0, 0}, changes(1), "it has just become leader")
	isr(1, 1, 2)
	require.Equal(t, [2]uint64{1, 0}, changes(1))
	isr(1, 2, 1)
	require.Equal(t, [2]uint64{1, 0}, changes(1), "the same replicas")
	isr(1, 1, 3)
	require.Equal(t, [2]uint64{2, 1}, changes(1), "one left, one joined")
	g.assign(2, 1, []int32{2})
	require.Equal(t, [2]uint64{2, 1}, changes(1), "it leads no longer")
	require.Equal(t, [2]uint64{0, 0}, changes(2))
	g.edit(func(e *metadata.Editor) { e.DeleteTopic(g.topic) })
	require.Nil(t, g.nodes[1].set.Get(g.tp))
	require.Equal(t, [2]uint64{2, 1}, changes(1))
}
