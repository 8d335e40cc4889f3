package fetch

import (
	"context"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/partition"
)

// waiter is a fetch that waits. Until it is answered, its session wakes it, or,
// without one, it is in the watch list of each of its partitions.
type waiter struct {
	s     *Service
	r     *Request
	timer *time.Timer
	stops [2]func() bool // end the watch on the client's context and on Drain

	mu      sync.Mutex
	parts   []*partition.Partition
	done    bool
	running bool // a goroutine plans
	again   bool // something moved while it did
}

func (s *Service) wait(r *Request, deadline time.Time) {
	w := &waiter{s: s, r: r, running: true}
	if r.Plan != nil {
		r.Plan.session.wait(w)
	} else {
		w.watch()
	}
	w.timer = time.AfterFunc(time.Until(deadline), func() { w.run(true) })
	w.stops[0] = context.AfterFunc(r.Ctx, func() { w.run(true) })
	w.stops[1] = context.AfterFunc(s.draining, func() { w.run(true) })
	// What moved between the plan and the watch is found by planning once more.
	w.replan(false)
}

// watch puts w into the watch list of each partition of a full fetch.
func (w *waiter) watch() {
	for i := range w.r.Wants {
		want := &w.r.Wants[i]
		p := w.s.opts.Partitions.Get(want.TP)
		switch {
		case p == nil:
			continue
		case want.Read.Replica != nil:
			p.WatchEnd(w)
		default:
			p.Watch(w)
		}
		w.parts = append(w.parts, p)
	}
}

// Moved is called by a partition that has more to read or a new leader.
func (w *waiter) Moved() { w.run(false) }

func (w *waiter) run(final bool) {
	w.mu.Lock()
	if w.done {
		w.mu.Unlock()
		return
	}
	if w.running {
		w.again = true
		if final {
			w.r.MaxWait = 0 // read under mu by replan
		}
		w.mu.Unlock()
		return
	}
	w.running = true
	w.mu.Unlock()
	w.replan(final)
}

// replan plans until nothing moves while it does. REQUIRES: w.running was set by
// the caller.
func (w *waiter) replan(final bool) {
	for {
		got, v := w.s.plan(w.r)
		w.mu.Lock()
		final = final || w.r.MaxWait == 0
		if v.done || v.cold || final {
			w.done = true
			w.mu.Unlock()
			w.leave()
			if v.cold && !final {
				w.s.goCold(w.r, got, time.Now())
				return
			}
			w.r.Done(got)
			return
		}
		again := w.again
		w.again = false
		w.running = again
		w.mu.Unlock()
		release(got)
		if !again {
			return
		}
	}
}

func (w *waiter) leave() {
	w.timer.Stop()
	w.stops[0]()
	w.stops[1]()
	if w.r.Plan != nil {
		w.r.Plan.session.leave(w)
	}
	for _, p := range w.parts {
		p.Unwatch(w)
	}
}
