package main

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Sub-buckets per power of two: a bucket is at most 1/32 of its values wide, so
// quantiles are good to about 3 %.
const (
	histogramShift = 5
	histogramSub   = 1 << histogramShift
	histogramSize  = (64 - histogramShift) * histogramSub
)

// histogram counts durations from any number of goroutines without a lock.
// Quantiles are the upper edge of a bucket: never better than the truth.
type histogram struct {
	buckets [histogramSize]atomic.Int64
	count   atomic.Int64
	sum     atomic.Int64
	max     atomic.Int64
}

func bucketOf(v uint64) int {
	if v < histogramSub {
		return int(v)
	}
	exponent := bits.Len64(v) - 1 - histogramShift
	return (exponent+1)*histogramSub + int(v>>exponent) - histogramSub
}

// upperEdge is the largest value of a bucket.
func upperEdge(bucket int) uint64 {
	if bucket < histogramSub {
		return uint64(bucket)
	}
	exponent := bucket/histogramSub - 1
	return (uint64(bucket%histogramSub+histogramSub)+1)<<exponent - 1
}

func (h *histogram) record(d time.Duration) {
	v := max(int64(d), 0)
	h.buckets[bucketOf(uint64(v))].Add(1)
	h.count.Add(1)
	h.sum.Add(v)
	for old := h.max.Load(); v > old && !h.max.CompareAndSwap(old, v); old = h.max.Load() {
	}
}

// quantile is the duration that a share q of all did not exceed.
func (h *histogram) quantile(q float64) time.Duration {
	rank, seen := int64(q*float64(h.count.Load())), int64(0)
	for i := range h.buckets {
		if seen += h.buckets[i].Load(); seen > rank {
			return time.Duration(min(int64(upperEdge(i)), h.max.Load()))
		}
	}
	return time.Duration(h.max.Load())
}

// latencies are the figures that results show, in ms.
type latencies struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99_9"`
	Max  float64 `json:"max"`
}

// latencies returns nil when nothing was recorded.
func (h *histogram) latencies() *latencies {
	n := h.count.Load()
	if n == 0 {
		return nil
	}
	ms := func(d time.Duration) float64 { return float64(d.Round(time.Microsecond)) / float64(time.Millisecond) }
	return &latencies{
		Mean: ms(time.Duration(h.sum.Load() / n)), P50: ms(h.quantile(0.5)), P90: ms(h.quantile(0.9)),
		P99: ms(h.quantile(0.99)), P999: ms(h.quantile(0.999)), Max: ms(time.Duration(h.max.Load())),
	}
}
