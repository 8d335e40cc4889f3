package wire

import (
	"sync/atomic"
	"time"
)

// LatencyBounds are the upper bounds of the latency buckets in seconds; one more
// bucket holds what is slower.
var LatencyBounds = [...]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Latency is how long requests of one API took, from the decoded frame to the
// handler's answer. Waiting for earlier answers and sending are not in it.
type Latency struct {
	// Counts are per bucket, not cumulative; the last is above every bound.
	Counts [len(LatencyBounds) + 1]uint64
	// Sum is in seconds.
	Sum float64
}

// histogram counts latencies without a lock.
type histogram struct {
	counts [len(LatencyBounds) + 1]atomic.Uint64
	nanos  atomic.Int64
}

func (h *histogram) observe(took time.Duration) {
	s := took.Seconds()
	i := 0
	for i < len(LatencyBounds) && s > LatencyBounds[i] {
		i++
	}
	h.counts[i].Add(1)
	h.nanos.Add(int64(took))
}

func (h *histogram) read() Latency {
	l := Latency{Sum: time.Duration(h.nanos.Load()).Seconds()}
	for i := range h.counts {
		l.Counts[i] = h.counts[i].Load()
	}
	return l
}
