package fetch

import (
	"sync/atomic"

	"github.com/firnlog/firn/broker/partition"
)

// How a session knows what is ready
//
// An element is ready from the time that something may have to be told of its
// partition until a look finds that there is nothing: the client has all that it
// may see, it was told the watermark and the log start, and there is no error,
// divergence or better replica to tell. Errors, what the limits have cut off,
// what the bucket did not give in time and what was not found at all stay ready,
// and so repeat.
//
// No wake-up is lost. A look begins by clearing the element's pending mark, makes
// sure that the element watches the partition that it is about to read, and
// reads. What changes after the read sets the mark and then, under the session's
// lock, counts in moves and makes the element ready; the look takes it out of
// what is ready, under that lock too, only if moves is as it was and the element
// still watches what was read. What changed before the read is in what was read.
// A waiting fetch is woken with each mark that is set, and looks again.
//
// Two things change without the partition telling, and whoever depends on them
// says so: the image, by which a follower's element stays ready while it is out
// of sync (Want.Stay), and the broker's lease, whose end makes everything ready
// (Options.Lease).

// element is one partition of a session, and a watcher of it.
type element struct {
	session *Session
	// pending: it moved since the last look began. wake: who waits is to be told.
	pending, wake atomic.Bool

	// The rest is guarded by Session.mu.
	ready bool // it is in the session's list
	gone  bool // forgotten, or the session closed
	// moves counts what made it ready, again or for the first time.
	moves      uint32
	watched    *partition.Partition // nil before it was found
	prev, next *element             // in the list
	part       SessionPartition
}

// Mark is told by the partition that there may be more to read. From now on a
// fetch looks at it.
func (e *element) Mark() {
	if e.pending.Swap(true) {
		return // the look that clears it is yet to come
	}
	s := e.session
	s.mu.Lock()
	if !e.gone {
		s.readyLocked(e)
	}
	s.mu.Unlock()
	e.wake.Store(true)
}

// Moved wakes who waits in the session, if there was no mark before this one's.
func (e *element) Moved() {
	if !e.wake.Swap(false) {
		return
	}
	s := e.session
	s.mu.Lock()
	waiting := s.waiting
	s.mu.Unlock()
	for _, w := range waiting {
		w.Moved()
	}
}

// readyLocked makes e ready; what is known of it may be outdated.
func (s *Session) readyLocked(e *element) {
	e.moves++
	if !e.ready {
		s.ready.push(e)
	}
}

// allReady has every partition of the session looked at.
func (p *Plan) allReady() {
	s := p.session
	if s == nil || !p.Incremental {
		return
	}
	s.mu.Lock()
	s.allReadyLocked()
	s.mu.Unlock()
}

func (s *Session) allReadyLocked() {
	for _, e := range s.index {
		s.readyLocked(e)
	}
}

// look is what a plan knows of one element that it looks at.
type look struct {
	e     *element
	moves uint32
	read  *partition.Partition // what was read
	idle  bool                 // there is nothing to tell, by what was read
}

// look takes what is ready into Parts, in order. It reports whether the session
// is still open.
func (p *Plan) look() bool {
	s := p.session
	p.Parts, p.looks = p.Parts[:0], p.looks[:0]
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for e := s.ready.head; e != nil; e = e.next {
		e.pending.Store(false)
		p.Parts = append(p.Parts, e.part)
		p.looks = append(p.looks, look{e: e, moves: e.moves, read: e.watched})
	}
	return !s.closed
}

// watch makes the i-th element watch what is about to be read for it.
func (p *Plan) watch(i int, part *partition.Partition) {
	l := &p.looks[i]
	if l.read == part {
		return
	}
	l.read = part
	s := p.session
	s.mu.Lock()
	if !l.e.gone && l.e.watched != part {
		s.watchLocked(l.e, part)
	}
	s.mu.Unlock()
}

// settle ends a look: what is idle, and has not moved since, is not ready.
func (p *Plan) settle(got []Got) {
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range p.looks {
		l, st := &p.looks[i], &got[i].State
		e := l.e
		if l.idle && e.ready && e.moves == l.moves && e.watched == l.read &&
			e.part.toldWatermark == st.HighWatermark && e.part.toldStart == st.LogStart {
			s.ready.remove(e)
		}
	}
}

// readyList is a queue of elements.
type readyList struct{ head, tail *element }

func (l *readyList) push(e *element) {
	e.ready, e.prev, e.next = true, l.tail, nil
	if l.tail == nil {
		l.head = e
	} else {
		l.tail.next = e
	}
	l.tail = e
}

func (l *readyList) remove(e *element) {
	if e.prev == nil {
		l.head = e.next
	} else {
		e.prev.next = e.next
	}
	if e.next == nil {
		l.tail = e.prev
	} else {
		e.next.prev = e.prev
	}
	e.ready, e.prev, e.next = false, nil, nil
}
