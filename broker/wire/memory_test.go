package wire

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBufferSizes(t *testing.T) {
	for n, want := range map[int]int{
		0: minBuffer, 1: minBuffer, minBuffer: minBuffer, minBuffer + 1: 2 * minBuffer,
		maxPooled: maxPooled, maxPooled + 1: maxPooled + largeUnit,
	} {
		require.Equal(t, want, bufferSize(n), "%d", n)
	}
	for size := minBuffer; size <= maxPooled; size *= 2 {
		bud := &budget{limit: 1 << 30}
		bud.force(int64(size))
		b := newBuffer(size, bud)
		require.Len(t, b.b, size)
		b.retain()
		require.True(t, b.shared())
		b.release()
		require.False(t, b.shared())
		require.Equal(t, int64(size), bud.used.Load())
		b.release()
		require.Zero(t, bud.used.Load())
	}
	require.Equal(t, &pools[len(pools)-1], poolOf(maxPooled))
	require.Nil(t, poolOf(maxPooled+largeUnit))
}

// Readers reserve, wait, give up and give back in random order. What is used is
// always what was granted; a grant beyond the limit is the overdrawer's or
// alone; and when everybody is done, nothing is used.
func TestBudgetRandomly(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 200 {
		b := &budget{limit: 100}
		conns := make([]*Conn, 6)
		for i := range conns {
			conns[i] = &Conn{}
		}
		held := map[*Conn]int64{}
		waits := map[*Conn]*memoryWait{}
		check := func() {
			t.Helper()
			var sum int64
			for _, n := range held {
				sum += n
			}
			for _, w := range waits {
				if w.granted.Load() {
					sum += w.n
				}
			}
			require.Equal(t, sum, b.used.Load())
			b.mu.Lock()
			defer b.mu.Unlock()
			require.Equal(t, len(b.queue), int(b.waiting.Load()))
			if len(b.queue) > 0 {
				// No lost wake-up: the first must really have to wait.
				require.Greater(t, sum+b.queue[0].n, b.limit)
				require.Positive(t, sum)
				require.False(t, b.overdrawer == nil && b.queue[0].midFrame)
			}
		}
		for range 200 {
			c := conns[rng.IntN(len(conns))]
			switch w := waits[c]; {
			case w != nil && w.granted.Load():
				held[c] += w.n
				delete(waits, c)
			case w != nil && rng.IntN(4) == 0:
				b.abandon(w)
				delete(waits, c)
				b.frameDone(c)
			case w != nil:
			case rng.IntN(3) > 0:
				n := 1 + rng.Int64N(60)
				if b.tryReserve(n) {
					held[c] += n
				} else if b.mayOverdraw(c) {
					b.force(n)
					held[c] += n
				} else {
					w := &memoryWait{c: c, n: n, midFrame: held[c] > 0}
					waits[c] = w
					b.enqueue(w)
				}
			default:
				n := held[c]
				delete(held, c)
				b.frameDone(c)
				if n > 0 {
					b.release(n)
				}
			}
			check()
		}
		for c, w := range waits {
			delete(waits, c)
			b.abandon(w)
			b.frameDone(c)
		}
		for c, n := range held {
			delete(held, c)
			b.release(n)
		}
		check()
		require.Zero(t, b.used.Load())
		require.Zero(t, b.waiting.Load())
	}
}
