package commitlog

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// model is a log in a slice.
type model struct {
	batches    []record.Batch // from the first that was not trimmed
	start, end record.Offset
	epochs     EpochCache
	next       map[int64]int32 // sequence by producer
}

// TestAgainstModel runs random operations on a log and on a slice and compares
// all that can be read.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		e := memEnv(t)
		e.fds = segment.NewFDCache(3)
		e.cfg.SegmentBytes = rapid.Int64Range(300, 3000).Draw(rt, "segment bytes")
		e.cfg.IndexIntervalBytes = rapid.Int64Range(1, 500).Draw(rt, "index interval")
		e.cfg.Lazy = rapid.Bool().Draw(rt, "lazy")
		l := e.open()
		m := &model{next: map[int64]int32{}}
		epoch := record.Epoch(0)
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				epoch += record.Epoch(rapid.IntRange(0, 1).Draw(t, "epoch"))
				var batches []record.Batch
				end := m.end
				for range rapid.IntRange(1, 8).Draw(t, "batches") {
					if rapid.IntRange(0, 9).Draw(t, "gap") == 0 {
						end += 5
					}
					id := rapid.Int64Range(0, 2).Draw(t, "id")
					b := idempotent(end, id, 0, m.next[id], false, rapid.IntRange(1, 5).Draw(t, "records"))
					b.Stamp(end, epoch)
					m.next[id] = b.LastSequence() + 1
					end = b.NextOffset()
					batches = append(batches, b)
				}
				require.NoError(t, l.Append(batches))
				for _, b := range batches {
					m.epochs.Assign(b.LeaderEpoch, b.BaseOffset)
				}
				m.batches, m.end = append(m.batches, batches...), end
			},
			"truncate": func(t *rapid.T) {
				off := record.Offset(rapid.Int64Range(int64(m.start), int64(m.end)+1).Draw(t, "offset"))
				require.NoError(t, l.TruncateTo(off))
				if off >= m.end {
					return
				}
				n := len(m.batches)
				for n > 0 && m.batches[n-1].LastOffset() >= off {
					n--
				}
				m.batches = m.batches[:n:n]
				m.end = m.start
				if n > 0 {
					m.end = m.batches[n-1].NextOffset()
				}
				m.epochs = m.epochs.Truncate(m.end)
				clear(m.next)
				for _, p := range l.Producers() {
					m.next[p.ProducerID] = p.LastSequence + 1
				}
			},
			"trim": func(t *rapid.T) {
				_, err := l.TrimTo(record.Offset(rapid.Int64Range(int64(m.start), int64(m.end)).Draw(t, "offset")))
				require.NoError(t, err)
				m.start = l.Start()
				for len(m.batches) > 0 && m.batches[0].BaseOffset < m.start {
					m.batches = m.batches[1:]
				}
			},
			"roll": func(t *rapid.T) {
				_, err := l.MaybeRoll(time.Now().Add(10000 * time.Hour))
				require.NoError(t, err)
			},
			"flush": func(t *rapid.T) {
				require.NoError(t, l.Flush(context.Background()))
				require.Equal(t, m.end, l.FlushedEnd())
			},
			"reopen": func(t *rapid.T) {
				producers := l.Producers()
				require.NoError(t, l.Close(rapid.Bool().Draw(t, "clean")))
				l = e.open()
				require.Equal(t, producers, l.Producers())
			},
			"": func(t *rapid.T) {
				require.Equal(t, m.start, l.Start())
				require.Equal(t, m.end, l.End())
				require.LessOrEqual(t, l.FlushedEnd(), l.End())
				require.Equal(t, append([]EpochStart{}, m.epochs...), append([]EpochStart{}, l.Epochs()...))
				var want []byte
				for i := range m.batches {
					want = append(want, m.batches[i].Raw...)
				}
				require.Equal(t, want, readAll(rt, l, l.Start(), rapid.IntRange(1, 2000).Draw(t, "read size")))
				var size, end = int64(0), l.Start()
				for _, s := range l.Segments() {
					require.Equal(t, end, s.Base)
					end = s.End
					size += s.Bytes
				}
				require.Equal(t, l.End(), end)
				require.Equal(t, size, l.Size())
			},
		})
		require.NoError(t, l.Close(true))
		require.Zero(t, e.fds.Open())
		e.flusher.Close()
		require.Empty(t, e.fatal)
	})
}

// TestReadersBesideWriter reads while the log grows, is flushed, rolled,
// trimmed and compacted. A reader sees what was appended, in order.
func TestReadersBesideWriter(t *testing.T) {
	e := memEnv(t)
	e.fds = segment.NewFDCache(4)
	e.cfg.MinCleanableRatio = -1
	l := e.open()
	const total = 3000
	done := make(chan struct{})
	var wg sync.WaitGroup
	run := func(fn func(rng *rand.Rand) error) {
		seed := rand.Uint64()
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 0))
			for {
				select {
				case <-done:
					return
				default:
				}
				if err := fn(rng); err != nil {
					t.Errorf("seed %d: %v", seed, err)
					return
				}
			}
		})
	}
	for range 3 {
		run(func(rng *rand.Rand) error {
			start, end := l.Start(), l.End()
			from := start + record.Offset(rng.Int64N(int64(end-start)+1))
			s, err := l.Read(from, end, 1+rng.IntN(4000), true)
			if err != nil {
				if from < l.Start() {
					return nil // trimmed meanwhile
				}
				return err
			}
			defer s.Release()
			raw, err := s.ReadAll(nil)
			if err != nil {
				return err
			}
			next := record.NoOffset
			for b, err := range record.Batches(raw) {
				if err != nil {
					return err
				}
				if err := b.VerifyCRC(); err != nil {
					return err
				}
				if next == record.NoOffset && b.LastOffset() < from || b.BaseOffset < next || b.NextOffset() > end {
					return fmt.Errorf("batch [%d, %d) after %d, read from %d to %d", b.BaseOffset, b.NextOffset(), next, from, end)
				}
				next = b.NextOffset()
			}
			if next > s.Next {
				return fmt.Errorf("batches to %d, next %d", next, s.Next)
			}
			return nil
		})
	}
	run(func(rng *rand.Rand) error {
		_, err := l.TrimTo(l.End() - 500)
		return err
	})
	run(func(rng *rand.Rand) error {
		_, err := l.Compact(context.Background(), CompactOptions{Now: time.Now(), UpTo: l.FlushedEnd() - 200})
		if err != nil && (l.Failed() != nil || !benign(err)) {
			return err
		}
		return nil
	})
	run(func(rng *rand.Rand) error {
		_, _, _, _, err := l.LookupTime(int64(l.End()) * 8)
		return err
	})
	run(func(rng *rand.Rand) error {
		end := l.End()
		_, err := l.ProducerSnapshotAt(end)
		if end < l.Start() {
			return nil // trimmed meanwhile
		}
		return err
	})
	for range total {
		b := batch(l.End(), 0, int64(l.End())*10, "value-one", "value-two")
		require.NoError(t, l.Append([]record.Batch{b}))
	}
	close(done)
	wg.Wait()
	require.NoError(t, l.Close(true))
	require.Zero(t, e.fds.Open())
	require.Empty(t, e.fatal)
}

// benign says whether a compaction only lost a race against a trim.
func benign(err error) bool {
	return errors.Is(err, ErrStale)
}
