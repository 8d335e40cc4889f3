package partition

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Local segments go as soon as the copy is in the metadata, which the partition
// itself hears of a moment later. A reader that looked before the trim and read
// after it was told OFFSET_OUT_OF_RANGE, by a remote end of before the copy: a
// consumer with auto.offset.reset=latest then skipped all that the log held.
func TestATrimUnderAReaderIsNotOutOfRange(t *testing.T) {
	b := newBench(t, nil)
	p := b.part()
	const segments = 200
	for range segments {
		require.NoError(t, b.append(batch(1, plain()), true).Err)
		_, err := p.Log().Roll()
		require.NoError(t, err)
	}
	require.NoError(t, p.Log().Flush(context.Background()))
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				res, err := read(p, p.Log().Start())
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				res.Slice.Release()
			}
		})
	}
	for _, seg := range p.Log().Segments() {
		_, err := p.Log().TrimTo(seg.End)
		require.NoError(t, err)
	}
	close(done)
	wg.Wait()
	res, err := read(p, 0)
	require.NoError(t, err)
	require.True(t, res.Remote, "above the log start: the bucket has it")
}
