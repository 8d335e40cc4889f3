package raftnode

import (
	"context"
	"sync"

	"github.com/firnlog/firn/metadata"
)

// maxDeltas is how many changes wait for the subscribers before they become one.
const maxDeltas = 256

// dispatcher tells the subscribers of each new image, in order, on its one
// goroutine (run), without a lock held.
type dispatcher struct {
	wake chan struct{} // capacity 1
	quit chan struct{}
	done chan struct{}

	mu struct {
		sync.Mutex
		// image is the newest one, and deltas lead to it from the image that the
		// subscribers saw last.
		image  *metadata.Image
		deltas []metadata.Delta
		subs   []*subscriber
	}
	// published is the index of the newest image, delivered that of the image which
	// every subscriber has seen.
	published, delivered indexWait
}

type subscriber struct {
	fn      func(old, new *metadata.Image, delta metadata.Delta)
	started bool // run's own
}

func newDispatcher(img *metadata.Image) *dispatcher {
	d := &dispatcher{wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	d.mu.image = img
	d.published.reach(img.Index())
	return d
}

// publish notes a new image. It does not block.
func (d *dispatcher) publish(img *metadata.Image, delta metadata.Delta) {
	d.mu.Lock()
	d.mu.image = img
	d.mu.deltas = append(d.mu.deltas, delta)
	if len(d.mu.deltas) > maxDeltas {
		d.mu.deltas = append(d.mu.deltas[:0], mergeAll(d.mu.deltas))
	}
	d.mu.Unlock()
	d.published.reach(img.Index())
	d.signal()
}

func (d *dispatcher) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// mergeAll makes one delta of several by halves, so that a large one is not
// copied once for each small one after it.
func mergeAll(deltas []metadata.Delta) metadata.Delta {
	switch n := len(deltas); n {
	case 0:
		return metadata.Delta{}
	case 1:
		return deltas[0]
	default:
		return mergeAll(deltas[:n/2]).Merge(mergeAll(deltas[n/2:]))
	}
}

func (d *dispatcher) subscribe(fn func(old, new *metadata.Image, delta metadata.Delta)) (cancel func()) {
	s := &subscriber{fn: fn}
	d.mu.Lock()
	d.mu.subs = append(d.mu.subs[:len(d.mu.subs):len(d.mu.subs)], s)
	d.mu.Unlock()
	d.signal()
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		var rest []*subscriber
		for _, o := range d.mu.subs {
			if o != s {
				rest = append(rest, o)
			}
		}
		d.mu.subs = rest
	}
}

// run serves the subscribers until close.
func (d *dispatcher) run(img *metadata.Image) {
	defer close(d.done)
	last := img
	for {
		select {
		case <-d.quit:
			return
		case <-d.wake:
		}
		d.mu.Lock()
		next, deltas, subs := d.mu.image, d.mu.deltas, d.mu.subs
		d.mu.deltas = nil
		d.mu.Unlock()
		delta := mergeAll(deltas)
		for _, s := range subs {
			if !d.subscribed(s) {
				continue
			}
			if !s.started {
				s.started = true
				s.fn(metadata.Empty(), next, next.Everything())
			} else if len(deltas) > 0 {
				s.fn(last, next, delta)
			}
		}
		last = next
		d.delivered.reach(next.Index())
	}
}

func (d *dispatcher) subscribed(s *subscriber) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.mu.subs {
		if o == s {
			return true
		}
	}
	return false
}

// wait returns once every subscriber has seen index.
func (d *dispatcher) wait(ctx context.Context, index uint64) error {
	d.signal()
	return d.delivered.wait(ctx, index, d.done)
}

// close ends run and waits for it.
func (d *dispatcher) close() {
	close(d.quit)
	<-d.done
}
