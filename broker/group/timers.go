package group

import (
	"container/heap"
	"time"
)

// timerQueue holds a shard's deadlines. Moving one later, which each heartbeat
// does, costs a map lookup: the heap learns of it when the old time comes up.
type timerQueue struct {
	byKey map[timerKey]*timerEntry
	heap  timerHeap
}

type timerEntry struct {
	key   timerKey
	at    time.Time // the deadline
	slot  time.Time // its place in the heap; slot ≤ at
	index int
}

func newTimerQueue() timerQueue { return timerQueue{byKey: map[timerKey]*timerEntry{}} }

// set arms the deadline, or moves it.
func (q *timerQueue) set(key timerKey, at time.Time) {
	e := q.byKey[key]
	if e == nil {
		e = &timerEntry{key: key, at: at, slot: at}
		q.byKey[key] = e
		heap.Push(&q.heap, e)
		return
	}
	e.at = at
	if at.Before(e.slot) {
		e.slot = at
		heap.Fix(&q.heap, e.index)
	}
}

func (q *timerQueue) stop(key timerKey) {
	if e := q.byKey[key]; e != nil {
		heap.Remove(&q.heap, e.index)
		delete(q.byKey, key)
	}
}

func (q *timerQueue) armed(key timerKey) bool { return q.byKey[key] != nil }

// pop removes and returns a deadline that has passed.
func (q *timerQueue) pop(now time.Time) (timerKey, bool) {
	for len(q.heap) > 0 && !q.heap[0].slot.After(now) {
		e := q.heap[0]
		if e.at.After(e.slot) {
			e.slot = e.at
			heap.Fix(&q.heap, 0)
			continue
		}
		q.stop(e.key)
		return e.key, true
	}
	return timerKey{}, false
}

// next is when to call pop again.
func (q *timerQueue) next() (time.Time, bool) {
	if len(q.heap) == 0 {
		return time.Time{}, false
	}
	return q.heap[0].slot, true
}

type timerHeap []*timerEntry

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].slot.Before(h[j].slot) }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *timerHeap) Push(x any) {
	e := x.(*timerEntry)
	e.index = len(*h)
	*h = append(*h, e)
}
func (h *timerHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	return e
}
