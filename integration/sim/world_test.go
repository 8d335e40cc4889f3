package sim

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/google/uuid"
)

// world is one simulated cluster: the virtual clock, the queue of what is going
// to happen, the brokers, and what the checker knows to be true.
type world struct {
	plan  plan
	rng   *rand.Rand
	now   time.Duration // since the beginning
	queue eventQueue
	seq   uint64
	steps int

	nodes  []*node // by id, from 1: nodes[0] is nil
	meta   *metaLog
	bucket *bucket
	parts  []*truth
	net    network
	users  []*producerClient
	faults faultState
	// calm is set when all faults have ended: from then on the cluster has to
	// become whole.
	calm   bool
	health string // what was not whole yet when last asked

	hash  uint64 // of all that happened
	trace io.Writer
	count counts
}

// counts tell, over many seeds, that what the simulator claims to do takes place.
type counts struct {
	appended, acked, read, elections, isrChanges, truncations, resets, unclean int
	crashes, powerLosses, wipes, pauses, cuts, metaElections, reassigned       int
	copies, refused, deposed, wedges, stuck, raised, cold, filled, handed      int
}

func (c *counts) add(o *counts) {
	for _, pair := range [...][2]*int{
		{&c.appended, &o.appended}, {&c.acked, &o.acked}, {&c.read, &o.read}, {&c.elections, &o.elections},
		{&c.isrChanges, &o.isrChanges}, {&c.truncations, &o.truncations}, {&c.resets, &o.resets}, {&c.unclean, &o.unclean},
		{&c.crashes, &o.crashes}, {&c.powerLosses, &o.powerLosses}, {&c.wipes, &o.wipes}, {&c.pauses, &o.pauses}, {&c.cuts, &o.cuts},
		{&c.metaElections, &o.metaElections}, {&c.reassigned, &o.reassigned},
		{&c.copies, &o.copies}, {&c.refused, &o.refused}, {&c.deposed, &o.deposed}, {&c.wedges, &o.wedges}, {&c.stuck, &o.stuck}, {&c.raised, &o.raised}, {&c.cold, &o.cold},
		{&c.filled, &o.filled}, {&c.handed, &o.handed},
	} {
		*pair[0] += *pair[1]
	}
}

// violation is a broken invariant. It travels as a panic from where it was seen
// to run.
type violation struct {
	invariant string // of design.md §8
	message   string
}

func (v *violation) Error() string { return "invariant " + v.invariant + ": " + v.message }

// violate ends the run: an invariant does not hold.
func (w *world) violate(invariant, format string, args ...any) {
	panic(&violation{invariant: invariant, message: fmt.Sprintf(format, args...)})
}

// event is something that happens at a time. Of those at the same time the one
// that was asked for first comes first.
type event struct {
	at  time.Duration
	seq uint64
	fn  func()
}

// eventQueue is a binary heap: container/heap would box each event.
type eventQueue []event

func (q eventQueue) less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *eventQueue) push(e event) {
	*q = append(*q, e)
	s := *q
	for i := len(s) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.less(i, up) {
			break
		}
		s[i], s[up] = s[up], s[i]
		i = up
	}
}

func (q *eventQueue) pop() event {
	s := *q
	first := s[0]
	n := len(s) - 1
	s[0], s[n] = s[n], event{}
	s = s[:n]
	for i := 0; ; {
		down := 2*i + 1
		if down >= n {
			break
		}
		if down+1 < n && s.less(down+1, down) {
			down++
		}
		if !s.less(down, i) {
			break
		}
		s[i], s[down] = s[down], s[i]
		i = down
	}
	*q = s
	return first
}

// after has fn happen d from now.
func (w *world) after(d time.Duration, fn func()) {
	w.seq++
	w.queue.push(event{at: w.now + max(d, 0), seq: w.seq, fn: fn})
}

// every repeats fn for ever, at times that vary by half of the period.
func (w *world) every(period time.Duration, fn func()) {
	w.after(period/2+w.upTo(period), func() {
		fn()
		w.every(period, fn)
	})
}

// runUntil lets things happen until the time end.
func (w *world) runUntil(end time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= end {
		e := w.queue.pop()
		w.now = e.at
		w.steps++
		w.mix(uint64(e.at))
		e.fn()
		w.checkTouched()
	}
	w.now = end
}

// mix takes something that happened into the hash of the run.
func (w *world) mix(values ...uint64) {
	h := w.hash
	for _, v := range values {
		h ^= v
		h *= 0x100000001b3
		h ^= h >> 29
	}
	w.hash = h
}

// tracing says that a person reads along; tracef must be asked for under it, so
// that a run of many seeds formats nothing.
func (w *world) tracing() bool { return w.trace != nil }

func (w *world) tracef(format string, args ...any) {
	fmt.Fprintf(w.trace, "%10.3f ms  %s\n", float64(w.now)/1e6, fmt.Sprintf(format, args...))
}

// chance is true with probability p.
func (w *world) chance(p float64) bool { return p > 0 && w.rng.Float64() < p }

// upTo draws a duration in [0, d).
func (w *world) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(w.rng.Int64N(int64(d)))
}

// between draws a duration in [lo, hi).
func (w *world) between(lo, hi time.Duration) time.Duration { return lo + w.upTo(hi-lo) }

// newID draws a UUID.
func (w *world) newID() uuid.UUID {
	var id uuid.UUID
	for i := 0; i < 16; i += 8 {
		v := w.rng.Uint64()
		for j := range 8 {
			id[i+j] = byte(v >> (8 * j))
		}
	}
	return id
}

// result is what came of one run.
type result struct {
	seed  uint64
	err   error
	hash  uint64
	steps int
	now   time.Duration
	count counts
	plan  plan
}

// run lets one seed live: formation, work under faults, calm, and the last
// examination.
func run(seed uint64, trace io.Writer) (res result) {
	w := newWorld(seed, trace)
	defer func() {
		switch r := recover().(type) {
		case nil:
		case *violation:
			res.err = r
		default:
			res.err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
		if res.err != nil && w.tracing() {
			w.tracef("VIOLATED: %v", res.err)
			w.dump()
		}
		if err := w.meta.close(); err != nil && res.err == nil {
			res.err = err
		}
		res.seed, res.hash, res.steps, res.now, res.count, res.plan = seed, w.hash, w.steps, w.now, w.count, w.plan
	}()
	w.form()
	w.runUntil(w.plan.work)
	w.endFaults()
	w.settle()
	return res
}
