package controller

import (
	"sync/atomic"
	"time"
)

// Lease says whether this process may lead: the controller has heard from it, and
// will not fence it, before the lease ends. It counts on a clock that goes on while
// the machine sleeps. Any goroutine may ask; only the Heartbeater extends it.
type Lease struct {
	// clock counts from an arbitrary start.
	clock func() time.Duration
	until atomic.Int64 // ns on clock
}

// Valid reports whether this process may lead now. It takes no lock.
func (l *Lease) Valid() bool { return l.clock() < time.Duration(l.until.Load()) }

// Left is how long the lease lasts still, 0 if it ended.
func (l *Lease) Left() time.Duration {
	return max(time.Duration(l.until.Load())-l.clock(), 0)
}

// extend grants d from sent; it never shrinks the lease.
func (l *Lease) extend(sent time.Duration, d time.Duration) {
	l.until.Store(max(l.until.Load(), int64(sent+d)))
}

// end ends the lease.
func (l *Lease) end() { l.until.Store(0) }
