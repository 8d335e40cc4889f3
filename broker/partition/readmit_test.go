package partition

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metadata"
)

// early is told when its bytes are let go, and looks whether its answer could
// have gone out already.
type early struct {
	p        *Partition
	wasReady bool
	written  int
}

func (e *early) AppendWritten(a *Append) {
	e.p.mu.Lock()
	defer e.p.mu.Unlock()
	e.written++
	e.wasReady = e.wasReady || slices.Contains(e.p.ready, a)
}

func (e *early) AppendDone(*Append) {}

// An append that was queued while the partition lost its leadership was put up
// for its answer before its owner heard that its bytes are let go, so another
// goroutine could answer it first.
func TestRefusedAppendIsLetGoBeforeItIsAnswered(t *testing.T) {
	b := newBench(t, nil)
	p := b.part()
	b.edit(func(e *metadata.Editor) {
		next := led(2, 1)
		next.Replicas, next.ISR = []int32{1, 2}, []int32{2}
		e.PutPartition(b.tp, next)
	})
	owner := &early{p: p}
	a := &Append{Raw: batch(1, plain()), LeaderEpoch: -1, Owner: owner}
	kept, _ := p.readmit([]*Append{a})
	require.Empty(t, kept)
	require.ErrorIs(t, a.Err, kerr.NotLeaderForPartition)
	require.Equal(t, 1, owner.written)
	require.False(t, owner.wasReady, "its answer could have come first")
	p.deliver()
}
