package sim

import (
	"errors"
	"time"
)

// network carries messages between brokers (ids from 1) and clients (outside).
// A message may be lost, late, doubled, and thereby overtaken.
type network struct {
	base, spread time.Duration // of a message without trouble
	lose, double float64       // chances
	late         float64       // the chance of a delay up to lateBy
	lateBy       time.Duration
	// cut[a][b]: nothing from a arrives at b.
	cut [][]bool
}

// outside is the place of clients: no link to it is cut, but it loses messages
// as every other.
const outside = int32(0)

// errTimeout says that no answer came in time: what was asked for may have been
// done, or may be done yet.
var errTimeout = errors.New("sim: no answer in time")

// errRefused says that nothing listens there.
var errRefused = errors.New("sim: connection refused")

func (w *world) connected(a, b int32) bool {
	return a == outside || b == outside || a == b || !w.net.cut[a][b]
}

// linked says that messages pass both ways.
func (w *world) linked(a, b int32) bool { return w.connected(a, b) && w.connected(b, a) }

// delay draws how long a message takes.
func (w *world) delay(from, to int32) time.Duration {
	if from == to {
		return w.upTo(50 * time.Microsecond)
	}
	d := w.net.base + w.upTo(w.net.spread)
	if w.chance(w.net.late) {
		d += w.upTo(w.net.lateBy)
	}
	return d
}

// send carries a message: deliver happens at the receiver's place, never, or
// twice. It is cut off by what the link is when it is sent and when it arrives.
func (w *world) send(from, to int32, deliver func()) {
	times := 1
	if from != to {
		if w.chance(w.net.lose) {
			times = 0
		} else if w.chance(w.net.double) {
			times = 2
		}
	}
	for range times {
		if !w.connected(from, to) {
			return
		}
		w.after(w.delay(from, to), func() {
			if w.connected(from, to) {
				deliver()
			}
		})
	}
}

// call asks the process on the broker to. serve runs there, and answers by
// reply, at once or later, or never; done runs at the caller, exactly once,
// unless the caller's process has ended. A nil from is a client. once says that the
// request is not doubled on its way.
func call[T any](w *world, from *proc, to int32, timeout time.Duration, once bool, serve func(p *proc, reply func(T)), done func(T, error)) {
	place := outside
	if from != nil {
		place = from.id
	}
	open := true
	finish := func(v T, err error) {
		at(w, from, func() {
			if open {
				open = false
				done(v, err)
			}
		})
	}
	var none T
	w.after(timeout, func() { finish(none, errTimeout) })
	served := false
	w.send(place, to, func() {
		if served && once {
			return
		}
		served = true
		p := w.nodes[to].proc
		if p == nil {
			w.send(to, place, func() { finish(none, errRefused) })
			return
		}
		at(w, p, func() {
			serve(p, func(v T) {
				w.send(to, place, func() { finish(v, nil) })
			})
		})
	})
}

// at runs fn in the process: now, when it is resumed, or never if it has ended.
// A nil process is a client, which always runs.
func at(w *world, p *proc, fn func()) {
	switch {
	case p == nil:
		fn()
	case p.ended:
	case p.node.paused:
		p.node.backlog = append(p.node.backlog, func() { at(w, p, fn) })
	default:
		fn()
	}
}

// after has fn happen in the process d from now, unless it ends before. A paused
// process does it when it is resumed.
func (p *proc) after(d time.Duration, fn func()) {
	p.w.after(d, func() { at(p.w, p, fn) })
}

// every repeats fn as long as the process lives.
func (p *proc) every(period time.Duration, fn func()) {
	p.after(period/2+p.w.upTo(period), func() {
		fn()
		p.every(period, fn)
	})
}
