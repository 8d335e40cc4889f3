package peer

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

const (
	// firstBackoff is the pause after a first failure; it doubles from there.
	firstBackoff = 25 * time.Millisecond
	// gatherFor is how long a session lets partitions come together after it gave a
	// waiting request up for the first of them.
	gatherFor = 5 * time.Millisecond
	// interruptEvery is how often at most it gives one up.
	interruptEvery = 200 * time.Millisecond
	// shortWait bounds the leader's wait while changes are likely to follow.
	shortWait = 50 * time.Millisecond
	// throttlePause is when a throttled partition is looked at again.
	throttlePause = 100 * time.Millisecond
	// durableWait is how long a session waits for the disk before it asks on without
	// the partitions that it waits for.
	durableWait = 250 * time.Millisecond
)

// entry is a partition in a session.
type entry struct {
	p  *partition.Partition
	tp record.TopicPartition

	// Guarded by session.mu.
	queued bool // in session.dirty
	gone   bool // no longer the session's

	// Of the session's goroutine:

	// asked: the leader's part of the session has it, at the position sent, with the
	// local log's start as it was then.
	asked bool
	sent  replica.Position
	start record.Offset
	// until is when it may be asked for again after a failure, zero: now. delay is
	// the last pause.
	until time.Time
	delay time.Duration
}

// session pulls a share of what one leader leads. Its methods but run's may be
// called by anyone.
type session struct {
	m   *Manager
	key sessionKey

	wake chan struct{} // capacity 1: there is something to look at

	mu      sync.Mutex
	parts   map[record.TopicPartition]*entry
	dirty   []*entry // may have another position than was sent
	removed []*entry
	running bool
	stopped bool
	changed bool     // partitions came since the last request
	waiting net.Conn // of a request that may wait at the leader, to give it up
	brief   bool     // it ends soon by itself
	// interrupted is when one was given up last; broken that the one under way was;
	// pending that one will be, as soon as that is not too often.
	interrupted     time.Time
	broken, pending bool

	loop loop
}

func newSession(m *Manager, key sessionKey) *session {
	s := &session{m: m, key: key, wake: make(chan struct{}, 1), parts: make(map[record.TopicPartition]*entry)}
	s.loop.init(s)
	return s
}

// add takes a partition up, or looks at it again under a new leader epoch.
func (s *session) add(p *partition.Partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.parts[p.TP()]
	if e == nil || e.p != p {
		if e != nil {
			s.dropLocked(e)
		}
		e = &entry{p: p, tp: p.TP()}
		s.parts[e.tp] = e
	}
	s.changed = true
	s.queueLocked(e)
	if !s.running && !s.stopped {
		s.running = true
		s.m.wg.Go(s.loop.run)
	}
	s.hurryLocked()
}

// remove gives a partition up. Replies that are under way mean nothing to it.
func (s *session) remove(p *partition.Partition) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.parts[p.TP()]; e != nil && e.p == p {
		s.dropLocked(e)
	}
	if len(s.parts) == 0 {
		s.interruptLocked() // nothing that it brings is of use
	}
	s.signal()
}

func (s *session) dropLocked(e *entry) {
	delete(s.parts, e.tp)
	e.gone = true
	s.removed = append(s.removed, e)
}

// FollowReady implements partition.Puller. It is called under the partition's
// lock.
func (s *session) FollowReady(p *partition.Partition) {
	s.mu.Lock()
	if e := s.parts[p.TP()]; e != nil && e.p == p {
		s.queueLocked(e)
	}
	s.mu.Unlock()
}

func (s *session) queueLocked(e *entry) {
	if !e.queued {
		e.queued = true
		s.dirty = append(s.dirty, e)
	}
	s.signal()
}

func (s *session) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hurryLocked has partitions that came asked for soon: a request that waits at the
// leader for long is given up, but not too often.
func (s *session) hurryLocked() {
	if s.waiting == nil || s.brief || s.pending {
		return
	}
	wait := interruptEvery - time.Since(s.interrupted)
	if wait <= 0 {
		s.interruptLocked()
		return
	}
	s.pending = true
	time.AfterFunc(wait, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending = false
		if s.changed && !s.brief {
			s.interruptLocked()
		}
	})
}

// interruptLocked gives a request up that waits at the leader.
func (s *session) interruptLocked() {
	if s.waiting == nil {
		return
	}
	s.interrupted, s.broken = time.Now(), true
	_ = s.waiting.Close() // the reader finds out
	s.waiting = nil
}

// stop ends the session for good.
func (s *session) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	clear(s.parts)
	s.interruptLocked()
	s.signal()
}

// loop is what belongs to a session's goroutine.
type loop struct {
	*session

	conn net.Conn
	// id and epoch are those of the fetch session at the leader; 0: the next request
	// is a full one, which begins another.
	id, epoch int32
	held      int // entries that are asked

	list     []*entry // to look at for the next request
	later    []*entry // that failed, or are throttled
	unsynced []*entry // whose last records are not durable yet
	forget   []record.TopicPartition

	req     request
	frame   []byte
	rep     partition.Reply
	backoff time.Duration // of the leader
	failing bool          // told of in the log
}

func (l *loop) init(s *session) { l.session = s }

// run pulls until the session has no partitions.
func (l *loop) run() {
	for !l.ended() {
		if l.conn == nil && !l.connect() {
			continue
		}
		wait, any := l.build()
		if !any {
			l.sleep(wait)
			continue
		}
		if err := l.exchange(wait); err != nil {
			l.failed(err)
			continue
		}
		l.awaitDurable()
	}
}

// ended says that there is nothing left to do; the next add begins another run.
func (l *loop) ended() bool {
	if l.some() {
		return false
	}
	l.disconnect()
	l.list, l.later, l.unsynced, l.forget, l.frame = nil, nil, nil, nil, nil
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.parts) > 0 && !l.stopped {
		return false // partitions came meanwhile
	}
	l.running, l.broken = false, false
	l.removed, l.dirty = nil, nil
	return true
}

func (l *loop) some() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.parts) > 0 && !l.stopped
}

// sleep waits for news, for at most the time given.
func (l *loop) sleep(wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-l.wake:
	case <-timer.C:
	case <-l.m.ctx.Done():
	}
}

func (l *loop) connect() bool {
	conn, err := l.dial()
	if err != nil {
		l.failed(fmt.Errorf("dial: %w", err))
		return false
	}
	l.conn = conn
	l.id, l.epoch, l.held = 0, 0, 0
	return true
}

// failed ends the connection, and pauses unless it was given up on purpose.
func (l *loop) failed(err error) {
	l.disconnect()
	l.mu.Lock()
	broken, stopped := l.broken, l.stopped || len(l.parts) == 0
	l.broken = false
	l.mu.Unlock()
	switch {
	case stopped:
		return
	case broken:
		l.pause(gatherFor)
		return
	}
	l.m.stats.failedFetches.Add(1)
	if !l.failing {
		l.failing = true
		l.m.opts.Logger.Warn("fetch from leader failed; tried again until it works", "leader", l.key.leader, "session", l.key.slot, "err", err)
	}
	l.backoff = l.longer(l.backoff)
	l.pause(l.backoff)
}

// pause waits whatever comes, but the end.
func (l *loop) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-l.m.ctx.Done():
	}
}

// longer is the pause after one of d, with jitter.
func (l *loop) longer(d time.Duration) time.Duration {
	d = min(max(2*d, firstBackoff), l.m.opts.Backoff)
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

func (l *loop) disconnect() {
	if l.conn != nil {
		_ = l.conn.Close() // it has served
		l.conn = nil
	}
	l.id, l.held = 0, 0
}

// collect moves what there is to look at into list, in no order: all entries for
// a full request, else those that something happened to.
func (l *loop) collect(now time.Time) (changed bool) {
	full := l.id == 0
	l.mu.Lock()
	defer l.mu.Unlock()
	changed, l.changed = l.changed, false
	for _, e := range l.removed {
		if !e.asked {
			continue
		}
		e.asked = false
		if again := l.parts[e.tp]; again != nil {
			again.asked, again.sent = true, replica.Position{Leader: -1}
		} else {
			l.held--
			l.forget = append(l.forget, e.tp)
		}
	}
	clear(l.removed)
	l.removed = l.removed[:0]
	for _, e := range l.dirty {
		e.queued = false
		if !e.gone && !full {
			l.list = append(l.list, e)
		}
	}
	clear(l.dirty)
	l.dirty = l.dirty[:0]
	if full {
		l.forget, l.held = l.forget[:0], 0
		for _, e := range l.parts {
			e.asked = false
			l.list = append(l.list, e)
		}
	}
	rest := l.later[:0]
	for _, e := range l.later {
		switch {
		case full || e.gone: // a full list has it
		case now.Before(e.until):
			rest = append(rest, e)
		default:
			l.list = append(l.list, e)
		}
	}
	clear(l.later[len(rest):])
	l.later = rest
	l.list = slices.DeleteFunc(l.list, func(e *entry) bool { return e.gone })
	return changed
}

// build makes the next request; any is false where there is nothing to ask and
// nothing asked that could be answered. wait is how long the leader may keep it,
// or how long to sleep.
func (l *loop) build() (wait time.Duration, any bool) {
	now := time.Now()
	l.req.reset()
	wait = l.m.opts.MaxWait
	if l.collect(now) {
		wait = min(wait, shortWait)
	}
	for _, e := range l.list {
		at, ok := e.p.Position()
		start := e.p.LocalStart()
		ok = ok && at.Leader == l.key.leader // else it is about to be given up
		switch {
		case !ok:
		case now.Before(e.until):
			l.putOff(e, e.until)
			ok = false
		case l.m.heldBack(e.p, now):
			l.putOff(e, now.Add(throttlePause))
			ok = false
		}
		switch {
		case !ok && e.asked:
			e.asked = false
			l.held--
			l.forget = append(l.forget, e.tp)
		case !ok || e.asked && e.sent == at && e.start == start:
		default:
			if !e.asked {
				l.held++
			}
			e.asked, e.sent, e.start = true, at, start
			l.req.add(e.tp, &at, start, l.m.opts.MaxBytes)
		}
	}
	clear(l.list)
	l.list = l.list[:0]
	for _, e := range l.later {
		wait = min(wait, max(e.until.Sub(now), time.Millisecond))
	}
	if l.held == 0 {
		// An empty session is closed by the leader; the next request begins one.
		l.id, l.forget = 0, l.forget[:0]
		return wait, false
	}
	if l.id != 0 {
		l.req.forget(l.forget)
	}
	l.forget = l.forget[:0]
	return wait, true
}

// putOff has an entry looked at again when its time has come.
func (l *loop) putOff(e *entry, until time.Time) {
	e.until = until
	for _, have := range l.later {
		if have == e {
			return
		}
	}
	l.later = append(l.later, e)
}

// backOff takes an entry out of the session for a while, longer each time.
func (l *loop) backOff(e *entry) {
	e.delay = l.longer(e.delay)
	l.putOff(e, time.Now().Add(e.delay))
	l.list = append(l.list, e) // to be forgotten by the next request
}

// exchange asks once and hands each partition its part of the reply.
func (l *loop) exchange(wait time.Duration) error {
	full := l.id == 0
	epoch := l.epoch
	if full {
		epoch = 0
		l.m.stats.sessions.Add(1)
	}
	frame := l.req.encode(&l.m.opts, wait, l.m.opts.BrokerEpoch(), l.id, epoch, l.key.slot)
	body, err := l.roundTrip(frame, wait)
	if err != nil {
		return err
	}
	l.m.stats.fetches.Add(1)
	if err := walkReply(body, func(h *replyHead) error { return l.head(h, full) }, l.part); err != nil {
		return err
	}
	l.backoff = 0
	if l.failing {
		l.failing = false
		l.m.opts.Logger.Info("fetch from leader works again", "leader", l.key.leader, "session", l.key.slot)
	}
	return nil
}

// head takes what a reply says of the session.
func (l *loop) head(h *replyHead, full bool) error {
	switch err := kerr.ErrorForCode(h.Err); {
	case err == nil:
	case errors.Is(err, kerr.FetchSessionIDNotFound), errors.Is(err, kerr.InvalidFetchSessionEpoch), errors.Is(err, kerr.FetchSessionTopicIDError):
		if full {
			return fmt.Errorf("a new fetch session is refused: %w", err)
		}
		l.id = 0 // the next request begins another
		return nil
	default:
		return err
	}
	if full {
		l.id, l.epoch = h.SessionID, 0 // 0: the leader keeps none, so each request is full
	}
	if l.epoch++; l.epoch <= 0 {
		l.epoch = 1
	}
	return nil
}

// part takes the reply for one partition.
func (l *loop) part(r *partReply) error {
	l.mu.Lock()
	e := l.parts[record.TopicPartition{Topic: r.Topic, Partition: r.Partition}]
	l.mu.Unlock()
	if e == nil || !e.asked {
		return nil // given up meanwhile
	}
	rep := &l.rep
	rep.At, rep.Raw = e.sent, r.Records
	rep.Reply = replica.Reply{Kind: kindOf(r), DivergingEpoch: r.DivergingEpoch, DivergingEnd: r.DivergingEnd,
		HighWatermark: r.HighWatermark, LogStart: r.LogStart}
	out, err := e.p.OnReply(rep)
	rep.Raw = nil
	switch {
	case err != nil || out.Step == replica.Wait:
		l.partFailed(e, r, err)
		return nil
	case out.Step == replica.Append && out.Bytes == 0:
	case out.Step == replica.Append:
		l.m.stats.bytes.Add(uint64(out.Bytes))
		if l.m.throttled(e.p) {
			l.m.throttle.Sent(int64(out.Bytes))
		}
		l.list = append(l.list, e)
		if e.p.AwaitsFlush() {
			l.unsynced = append(l.unsynced, e)
		}
	default:
		l.list = append(l.list, e) // it has another position, or none
	}
	e.delay, e.until = 0, time.Time{}
	return nil
}

func (l *loop) partFailed(e *entry, r *partReply, err error) {
	l.m.stats.failedReplies.Add(1)
	if err == nil {
		err = kerr.ErrorForCode(r.Err)
	}
	if e.delay == 0 && !passing(err) {
		l.m.opts.Logger.Warn("a partition cannot follow its leader; tried again until it works", "partition", e.tp,
			"leader", l.key.leader, "position", e.sent.Offset, "err", err)
	}
	l.backOff(e)
}

// passing says that an error is part of a change of leadership that this broker or
// the leader has not heard of yet.
func passing(err error) bool {
	return errors.Is(err, kerr.FencedLeaderEpoch) || errors.Is(err, kerr.UnknownLeaderEpoch) ||
		errors.Is(err, kerr.NotLeaderForPartition) || errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.ReplicaNotAvailable)
}

func kindOf(r *partReply) replica.ReplyKind {
	switch err := kerr.ErrorForCode(r.Err); {
	case err == nil && r.Diverges:
		return replica.ReplyDiverging
	case err == nil:
		return replica.ReplyRecords
	case errors.Is(err, kerr.OffsetOutOfRange):
		return replica.ReplyOutOfRange
	case errors.Is(err, kerr.OffsetMovedToTieredStorage):
		return replica.ReplyTiered
	default:
		return replica.ReplyRefused
	}
}

// awaitDurable waits until what the last reply brought is durable, where it must
// be before the next request may acknowledge it.
func (l *loop) awaitDurable() {
	if len(l.unsynced) == 0 {
		return
	}
	timer := time.NewTimer(durableWait)
	defer timer.Stop()
	for {
		rest := l.unsynced[:0]
		for _, e := range l.unsynced {
			if e.p.AwaitsFlush() {
				rest = append(rest, e)
			}
		}
		clear(l.unsynced[len(rest):])
		l.unsynced = rest
		if len(rest) == 0 {
			return
		}
		select {
		case <-l.wake:
		case <-timer.C:
			clear(l.unsynced)
			l.unsynced = l.unsynced[:0]
			return
		case <-l.m.ctx.Done():
			return
		}
	}
}
