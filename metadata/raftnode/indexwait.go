package raftnode

import (
	"context"
	"sync"

	"github.com/firnlog/firn/metadata"
)

// indexWait lets any number of goroutines wait until an index is reached.
type indexWait struct {
	mu struct {
		sync.Mutex
		reached uint64
		waiters []*indexWaiter
	}
}

type indexWaiter struct {
	index uint64
	done  chan struct{}
}

// reach tells that everything up to index is reached; an index may also go back.
func (w *indexWait) reach(index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.reached = index
	rest := w.mu.waiters[:0]
	for _, o := range w.mu.waiters {
		if o.index <= index {
			close(o.done)
		} else {
			rest = append(rest, o)
		}
	}
	clear(w.mu.waiters[len(rest):])
	w.mu.waiters = rest
}

// wait returns once index is reached. It is ErrClosed after closed.
func (w *indexWait) wait(ctx context.Context, index uint64, closed <-chan struct{}) error {
	w.mu.Lock()
	if w.mu.reached >= index {
		w.mu.Unlock()
		return nil
	}
	o := &indexWaiter{index: index, done: make(chan struct{})}
	w.mu.waiters = append(w.mu.waiters, o)
	w.mu.Unlock()
	select {
	case <-o.done:
		return nil
	case <-ctx.Done():
		w.forget(o)
		return ctx.Err()
	case <-closed:
		w.forget(o)
		return metadata.ErrClosed
	}
}

func (w *indexWait) forget(o *indexWaiter) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.mu.waiters {
		if w.mu.waiters[i] == o {
			w.mu.waiters = append(w.mu.waiters[:i], w.mu.waiters[i+1:]...)
			return
		}
	}
}
