package partition

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
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
	damaged := *rep
	damaged.Raw = slices.Clone(rep.Raw)
	damaged.Raw[first-1] ^= 1
	_, err = p.OnReply(&damaged)
	require.Error(t, err)
	require.EqualValues(t, 7, p.Lag(), "who cannot append, its disk being full, say, lacks the most, and had no lag at all")
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
	for _, line := range []string{`msg="replicas leave the ISR" broker=2 partitions=1 first=t-0`, `msg="replicas leave the ISR" broker=3 partitions=1 first=t-0`,
		`msg="replicas are back in the ISR" broker=3 partitions=1 first=t-0`} {
		require.Eventually(t, func() bool { return strings.Contains(g.nodes[1].log.String(), line) }, 20*time.Second, time.Millisecond, line)
	}
	g.assign(2, 1, []int32{2})
	require.Equal(t, [2]uint64{2, 1}, changes(1), "it leads no longer")
	require.Equal(t, [2]uint64{0, 0}, changes(2))
	g.edit(func(e *metadata.Editor) { e.DeleteTopic(g.topic) })
	require.Nil(t, g.nodes[1].set.Get(g.tp))
	require.Equal(t, [2]uint64{2, 1}, changes(1))
}

// However many partitions a broker leaves, a round of it is one line.
func TestISRChangesAreOneLineOfEachBroker(t *testing.T) {
	var n isrNews
	var log testlog.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	for part := range int32(100) {
		p := &Partition{topic: "orders", tp: record.TopicPartition{Partition: part}}
		n.note(p, 3, true)
		if part%2 == 0 {
			n.note(p, 2, false)
		}
	}
	n.tell(logger)
	n.tell(logger)
	require.Equal(t, 2, strings.Count(log.String(), "\n"), log.String())
	require.Contains(t, log.String(), `level=INFO msg="replicas leave the ISR" broker=3 partitions=100 first=orders-0`)
	require.Contains(t, log.String(), `level=INFO msg="replicas are back in the ISR" broker=2 partitions=50 first=orders-0`)
}
