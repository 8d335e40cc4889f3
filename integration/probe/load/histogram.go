package load

import (
	"math/bits"
	"time"
)

// histogram counts durations in buckets whose width is at most 1/64 of their
// value. One goroutine fills it; histograms add up.
type histogram struct {
	counts [buckets]int64
	total  int64
	max    int64 // ns
}

const (
	subBits = 6 // 64 buckets for each power of two
	buckets = (64 - subBits) << subBits
)

// bucket returns the place of v nanoseconds.
func bucket(v int64) int {
	u := uint64(max(v, 0))
	shift := max(bits.Len64(u)-subBits-1, 0)
	return shift<<subBits + int(u>>shift)
}

// upper returns the largest value of a bucket.
func upper(i int) int64 {
	shift := max(i>>subBits-1, 0)
	return (int64(i-shift<<subBits)+1)<<shift - 1
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(int64(d))]++
	h.total++
	h.max = max(h.max, int64(d))
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.total += o.total
	h.max = max(h.max, o.max)
}

// quantile returns the smallest duration that at least q of all do not exceed,
// rounded up to its bucket; 0 where there is none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := int64(q*float64(h.total) + 0.5)
	rank = min(max(rank, 1), h.total)
	var seen int64
	for i, n := range h.counts {
		if seen += n; n > 0 && seen >= rank {
			return time.Duration(min(upper(i), h.max))
		}
	}
	return 0
}
