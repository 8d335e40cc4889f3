package partition

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
)

type counting struct{ n int }

func (c *counting) Moved() { c.n++ }

// Who reads to the watermark is told when it moves, who reads to the log's end
// is told of each append, and nobody after Unwatch.
func TestWatchersAreToldOfWhatTheyCanRead(t *testing.T) {
	b := newBench(t, map[string]string{"durability": "replicated"})
	two := led(1, 1)
	two.Replicas, two.ISR = []int32{1, 2}, []int32{1, 2}
	b.edit(func(e *metadata.Editor) { e.PutPartition(b.tp, two) })
	var reader, follower, gone counting
	p := b.part()
	p.Watch(&reader)
	p.WatchEnd(&follower)
	p.Watch(&gone)
	p.WatchEnd(&gone)
	p.Unwatch(&gone)
	p.Unwatch(&gone)

	require.NoError(t, b.append(batch(1, plain()), false).Err)
	require.Equal(t, counting{0}, reader, "the watermark waits for the other replica")
	require.Equal(t, counting{1}, follower)

	b.edit(func(e *metadata.Editor) {
		alone := *two
		alone.ISR, alone.PartitionEpoch = []int32{1}, 2
		e.PutPartition(b.tp, &alone)
	})
	require.EqualValues(t, 1, p.State().HighWatermark)
	require.Equal(t, counting{1}, reader)
	require.Equal(t, counting{2}, follower)
	require.Zero(t, gone)

	p.Unwatch(&reader)
	p.Unwatch(&follower)
	require.NoError(t, b.append(batch(1, plain()), true).Err)
	require.Equal(t, counting{1}, reader)
	require.Equal(t, counting{2}, follower)
}

// noted is a Marker that writes down what it is told.
type noted struct{ events *[]string }

func (n noted) Mark()                 { *n.events = append(*n.events, "mark") }
func (n noted) Moved()                { *n.events = append(*n.events, "moved") }
func (n noted) AppendWritten(*Append) {}
func (n noted) AppendDone(*Append)    { *n.events = append(*n.events, "acked") }

// Whoever was acked finds its records: a marker is marked before, and does its
// work after.
func TestMarksComeBeforeAcks(t *testing.T) {
	b := newBench(t, map[string]string{"durability": "replicated"})
	var events []string
	n := noted{&events}
	b.part().Watch(n)
	b.part().Append(&Append{Raw: batch(1, plain()), AcksAll: true, LeaderEpoch: -1, ZstdOK: true, Owner: n})
	require.Equal(t, []string{"mark", "acked", "moved"}, events)
	b.part().Unwatch(n)
}
