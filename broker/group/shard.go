package group

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
)

type phase int8

const (
	loading phase = iota
	active
	closed
)

// shard is one led offsets partition: its groups, offsets, deadlines and
// writes. It lives from Lead to Resign; a partition led again gets another.
type shard struct {
	c         *Coordinator
	partition int32
	epoch     record.Epoch
	cancel    context.CancelFunc // ends the loading goroutine

	mu      sync.Mutex // guards the rest; never held across Log or an answer
	phase   phase
	groups  map[string]*group
	offsets *offsetStore
	timers  timerQueue
	clock   *time.Timer
	wake    time.Time // when clock fires, zero if not armed

	// queue waits for flight, the writes being appended, to be done.
	queue, flight []*write
	// deletedTopics came while loading.
	deletedTopics []deletedTopic
}

// group is what a shard knows of one group id. Group types that come later
// (KIP-848, 932, 1071) are further fields beside classic.
type group struct {
	id      string
	classic *classicGroup

	known  bool // a record of the group is in the log
	writes int  // queued or in flight
	// alone: an operation that must see no other's writes is at work. waiting
	// run after it, in order.
	alone   bool
	waiting []waiting

	// logged is the state and generation that the log was last told of.
	logged struct {
		state      State
		generation int32
	}
}

type waiting struct {
	alone bool
	run   func(*turn)
}

// write is a part of a batch that succeeds or fails as one.
type write struct {
	group   *group
	records []Record
	size    int
	// done gets the offset of the first record. Called once, under the lock.
	done func(base record.Offset, err error, t *turn)
	// late, where not nil, is called at the deadline, once; done still follows,
	// and finds late nil.
	late     func(t *turn)
	deadline time.Time
}

// turn is one event's stay under the lock.
type turn struct {
	now     time.Time
	answers []func() // to call after it, in order
}

func (t *turn) answer(fn func()) { t.answers = append(t.answers, fn) }

func newShard(c *Coordinator, partition int32, epoch record.Epoch, cancel context.CancelFunc) *shard {
	s := &shard{
		c: c, partition: partition, epoch: epoch, cancel: cancel,
		groups: map[string]*group{}, offsets: newOffsetStore(), timers: newTimerQueue(),
	}
	s.clock = time.AfterFunc(time.Hour, s.tick)
	s.clock.Stop()
	return s
}

// run takes a turn, then starts what can be appended and calls the answers.
func (s *shard) run(fn func(t *turn)) {
	var t turn
	s.mu.Lock()
	t.now = s.c.now()
	fn(&t)
	s.armLocked(t.now)
	s.mu.Unlock()
	s.flush()
	for _, answer := range t.answers {
		answer()
	}
}

// readyLocked returns the error for requests that cannot be served now.
func (s *shard) readyLocked() error {
	switch s.phase {
	case loading:
		return kerr.CoordinatorLoadInProgress
	case closed:
		return kerr.NotCoordinator
	default:
		return nil
	}
}

// within runs an operation on a group: at once, or after the operations that
// it must not overtake. An operation alone sees no write in flight.
func (s *shard) within(id string, alone bool, t *turn, run func(*turn)) {
	g := s.groups[id]
	if g != nil && (g.alone || len(g.waiting) > 0 || (alone && g.writes > 0)) {
		g.waiting = append(g.waiting, waiting{alone, run})
		return
	}
	run(t)
}

// resume runs what waited, as far as it may go on.
func (s *shard) resume(g *group, t *turn) {
	for len(g.waiting) > 0 && !g.alone && (g.writes == 0 || !g.waiting[0].alone) {
		next := g.waiting[0]
		g.waiting = g.waiting[1:]
		next.run(t)
	}
}

// drop forgets a group. What waited for it finds none, or the next of its name.
func (s *shard) drop(g *group, t *turn) {
	id := g.id
	delete(s.groups, id)
	s.timers.stop(timerKey{kind: timerJoin, group: id})
	s.timers.stop(timerKey{kind: timerSync, group: id})
	for m := range g.classic.members {
		s.timers.stop(timerKey{kind: timerSession, group: id, member: m})
	}
	for m := range g.classic.pending {
		s.timers.stop(timerKey{kind: timerSession, group: id, member: m})
	}
	rest := g.waiting
	g.waiting = nil
	for _, w := range rest {
		s.within(id, w.alone, t, w.run)
	}
}

// apply carries out the effects of an event of g.
func (s *shard) apply(g *group, out *effects, t *turn) {
	for _, e := range out.list {
		switch e := e.(type) {
		case answerJoin:
			t.answer(func() { e.to(e.resp) })
			continue
		case answerSync:
			t.answer(func() { e.to(e.resp) })
			continue
		}
		if s.phase == closed {
			continue
		}
		switch e := e.(type) {
		case setTimer:
			s.timers.set(e.key, e.at)
		case stopTimer:
			s.timers.stop(e.key)
		case persist:
			s.persist(g, e, t)
		}
	}
	s.logState(g, t)
}

// logState tells the log of a group's rebalances: where they end, and at debug
// level each step and its reason.
func (s *shard) logState(g *group, t *turn) {
	c := g.classic
	if s.phase != active || (g.logged.state == c.state && g.logged.generation == c.generation) {
		return
	}
	g.logged.state, g.logged.generation = c.state, c.generation
	attrs := []any{"group", g.id, "state", c.state, "generation", c.generation, "members", len(c.members)}
	level := slog.LevelInfo
	switch c.state {
	case PreparingRebalance:
		attrs = append(attrs, "reason", c.reason)
		level = slog.LevelDebug
	case CompletingRebalance:
		level = slog.LevelDebug
	default: // where a rebalance ended
	}
	t.answer(func() { s.c.logger.Log(context.Background(), level, "group: state changed", attrs...) })
}

// persist writes a group's record and tells the group how it went. A record
// that takes too long counts as failed, so that members do not wait without
// end; should it land all the same, the group's next one supersedes it.
func (s *shard) persist(g *group, p persist, t *turn) {
	outcome := func(err error, t *turn) {
		var out effects
		g.classic.persisted(&p.note, err, t.now, &out)
		s.apply(g, &out, t)
	}
	w := &write{group: g, records: []Record{p.record}}
	w.late = func(t *turn) { outcome(kerr.RequestTimedOut, t) }
	w.done = func(_ record.Offset, err error, t *turn) {
		if w.late != nil {
			w.late = nil
			outcome(err, t)
		}
	}
	s.enqueue(w, t)
}

// enqueue hands a write to the next batch.
func (s *shard) enqueue(w *write, t *turn) {
	if w.late != nil {
		w.deadline = t.now.Add(s.c.cfg.OffsetCommitTimeout)
		if key := (timerKey{kind: timerWrites}); !s.timers.armed(key) {
			s.timers.set(key, w.deadline)
		}
	}
	for i := range w.records {
		w.size += w.records[i].size()
	}
	w.group.writes++
	s.queue = append(s.queue, w)
}

// flush starts an append of what is queued, unless one is under way.
func (s *shard) flush() {
	s.mu.Lock()
	if s.phase == closed || s.flight != nil || len(s.queue) == 0 {
		s.mu.Unlock()
		return
	}
	n, size := 0, record.HeaderSize
	for n < len(s.queue) && (n == 0 || size+s.queue[n].size <= s.c.cfg.MaxBatchBytes) {
		size += s.queue[n].size
		n++
	}
	writes := s.queue[:n:n]
	s.queue = s.queue[n:]
	s.flight = writes
	now := s.c.now().UnixMilli()
	s.mu.Unlock()

	if size > s.c.cfg.MaxBatchBytes {
		s.appended(writes, 0, kerr.MessageTooLarge)
		return
	}
	batch := record.NewBuilder(record.BuilderOptions{Codec: s.c.cfg.Compression})
	for _, w := range writes {
		for i := range w.records {
			batch.Append(now, w.records[i].Key, w.records[i].Value)
		}
	}
	s.c.log.Append(s.partition, s.epoch, batch.Build(), func(base record.Offset, err error) {
		s.appended(writes, base, err)
	})
}

// appended takes the outcome of an append.
func (s *shard) appended(writes []*write, base record.Offset, err error) {
	if err != nil {
		level := slog.LevelWarn
		if errors.Is(err, kerr.NotLeaderForPartition) {
			level = slog.LevelDebug // it leads no more, or has no lease; members try elsewhere
		}
		s.c.logger.Log(context.Background(), level, "offsets partition: append failed", "partition", s.partition, "epoch", s.epoch, "writes", len(writes), "err", err)
	}
	s.run(func(t *turn) {
		if s.phase == closed {
			return // answered by close
		}
		s.flight = nil
		for _, w := range writes {
			s.complete(w, base, err, t)
			base += record.Offset(len(w.records))
		}
	})
}

func (s *shard) complete(w *write, base record.Offset, err error, t *turn) {
	g := w.group
	g.writes--
	g.known = g.known || err == nil
	w.done(base, err, t)
	if g.writes > 0 {
		return
	}
	if !g.known && s.groups[g.id] == g {
		// A new group of which nothing reached the log has never been.
		var out effects
		g.classic.answerAll(appendError(err), &out)
		s.apply(g, &out, t)
		s.drop(g, t)
		return
	}
	s.resume(g, t)
}

// armLocked sets the clock to the next deadline.
func (s *shard) armLocked(now time.Time) {
	next, ok := s.timers.next()
	if s.phase != active || !ok || (!s.wake.IsZero() && !next.Before(s.wake)) {
		return
	}
	s.wake = next
	s.clock.Reset(max(next.Sub(now), 0))
}

// tick runs the deadlines that have passed. It is the clock's function.
func (s *shard) tick() {
	s.run(func(t *turn) {
		if s.phase != active {
			return
		}
		s.wake = time.Time{}
		for key, ok := s.timers.pop(t.now); ok; key, ok = s.timers.pop(t.now) {
			s.expire(key, t)
		}
	})
}

func (s *shard) expire(key timerKey, t *turn) {
	switch key.kind {
	case timerWrites:
		s.answerLate(t)
	case timerRetention:
		s.expireOffsets(t)
	default:
		s.within(key.group, false, t, func(t *turn) {
			if g := s.groups[key.group]; g != nil && s.phase == active {
				var out effects
				g.classic.expire(key, t.now, &out)
				s.apply(g, &out, t)
			}
		})
	}
}

// answerLate tells those whose record takes too long.
func (s *shard) answerLate(t *turn) {
	var next time.Time
	for _, list := range [2][]*write{s.flight, s.queue} {
		for _, w := range list {
			switch {
			case w.late == nil:
			case !w.deadline.After(t.now):
				late := w.late
				w.late = nil
				late(t)
			case next.IsZero():
				next = w.deadline
			}
		}
	}
	if !next.IsZero() {
		s.timers.set(timerKey{kind: timerWrites}, next)
	}
}

// close answers everything that waits and ends the shard. It may be called
// again.
func (s *shard) close() {
	s.cancel()
	s.run(func(t *turn) {
		if s.phase == closed {
			return
		}
		s.phase = closed
		s.clock.Stop()
		for _, g := range s.groups {
			var out effects
			g.classic.answerAll(kerr.NotCoordinator, &out)
			s.apply(g, &out, t)
		}
		for _, list := range [2][]*write{s.flight, s.queue} {
			for _, w := range list {
				w.done(0, kerr.NotCoordinator, t)
			}
		}
		for _, g := range s.groups {
			for len(g.waiting) > 0 {
				next := g.waiting[0]
				g.waiting = g.waiting[1:]
				next.run(t) // finds the shard closed
			}
		}
		s.flight, s.queue, s.groups, s.offsets = nil, nil, map[string]*group{}, newOffsetStore()
	})
}
