package archive

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/objstore"
)

// MachineOptions tune a Machine. The zero value takes every default but NewID
// and Jitter, which are required.
type MachineOptions struct {
	// Concurrency bounds the copies under way; default 4.
	Concurrency int
	// TargetBytes: sealed segments are joined into one object while together
	// they have at most this many bytes; default 128 MiB. A single segment may
	// be larger.
	TargetBytes int64
	// A failed step is tried again after a time that doubles from MinBackoff
	// to MaxBackoff; defaults 1 s and 1 min.
	MinBackoff, MaxBackoff time.Duration
	// NewID draws a UUID that was never drawn before.
	NewID func() uuid.UUID
	// Jitter draws a number in [0, 1).
	Jitter func() float64
}

func (o *MachineOptions) fill() {
	if o.Concurrency <= 0 {
		o.Concurrency = 4
	}
	if o.TargetBytes <= 0 {
		o.TargetBytes = 128 << 20
	}
	if o.MinBackoff <= 0 {
		o.MinBackoff = time.Second
	}
	if o.MaxBackoff < o.MinBackoff {
		o.MaxBackoff = max(time.Minute, o.MinBackoff)
	}
}

// Phase is how far a partition's copy is.
type Phase uint8

// The phases.
const (
	Idle       Phase = iota // nothing to copy, or waiting for its turn
	Starting                // CopyStarted is proposed
	Uploading               // the object is built and sent
	Verifying               // size and checksum are checked
	Finishing               // CopyFinished is proposed
	Abandoning              // CopyAbandoned is proposed
)

// String names the phase as tools print it.
func (p Phase) String() string {
	return [...]string{"idle", "starting", "uploading", "verifying", "finishing", "abandoning"}[p]
}

// Machine decides about the copies of all partitions of a broker. It is not
// safe for concurrent use.
type Machine struct {
	o          MachineOptions
	partitions map[record.TopicPartition]*progress
	ready      []record.TopicPartition // idle ones with something to copy; the first is next
	// delayed ones wait for their retryAt. INVARIANT: all are in partitions.
	delayed  map[record.TopicPartition]struct{}
	inFlight int
	paused   bool
	// While the store fails, one copy at a time probes it.
	storeFailures int
	storeRetryAt  time.Time
	totals        Totals
}

// progress is one partition's.
//
// INVARIANT: phase is Idle ⇔ no effect is under way and none is awaited by
// retryAt for the copy; queued says that the partition is in Machine.ready.
type progress struct {
	led      Led
	gone     bool // led no longer: end the copy and forget the partition
	queued   bool
	phase    Phase
	copy     Copy
	uploaded UploadedObject
	working  bool // an effect of the copy is under way
	failures int
	retryAt  time.Time // of the present step, or of the next copy when Idle
	err      error     // of the last failure
	since    time.Time // of the phase
}

// NewMachine makes a machine that knows no partition yet.
func NewMachine(o MachineOptions) *Machine {
	o.fill()
	return &Machine{o: o, partitions: map[record.TopicPartition]*progress{}, delayed: map[record.TopicPartition]struct{}{}}
}

// Observe takes the whole list of partitions that the broker leads now.
func (m *Machine) Observe(now time.Time, leads []Led) []Effect {
	seen := make(map[record.TopicPartition]struct{}, len(leads))
	var effects []Effect
	for _, led := range leads {
		seen[led.Partition] = struct{}{}
		p := m.partitions[led.Partition]
		if p == nil {
			p = &progress{since: now}
			m.partitions[led.Partition] = p
		}
		if p.led.Fence != led.Fence && p.phase == Idle {
			p.failures, p.retryAt, p.err = 0, time.Time{}, nil
			delete(m.delayed, led.Partition)
		}
		if led.Fence == p.led.Fence {
			led.from(p.led.Start)
		}
		p.led, p.gone = led, false
		m.maybeQueue(now, led.Partition, p)
	}
	for tp, p := range m.partitions {
		if _, ok := seen[tp]; !ok {
			effects = append(effects, m.drop(tp, p)...)
		}
	}
	return append(effects, m.Tick(now)...)
}

// drop ends what goes on for a partition that is led no longer. Whether its
// copy still commits is the metadata's to decide: it knows the fence.
func (m *Machine) drop(tp record.TopicPartition, p *progress) []Effect {
	if p.phase == Idle {
		delete(m.partitions, tp)
		delete(m.delayed, tp)
		return nil
	}
	wasGone := p.gone
	p.gone = true
	if wasGone || !p.working || p.phase != Uploading {
		return nil
	}
	return []Effect{Cancel{tp}}
}

// maybeQueue lets an idle partition that has something to copy wait for its
// turn.
func (m *Machine) maybeQueue(now time.Time, tp record.TopicPartition, p *progress) {
	if p.phase != Idle || p.queued || p.gone || len(p.led.Sealed) == 0 {
		return
	}
	if now.Before(p.retryAt) {
		m.delayed[tp] = struct{}{}
		return
	}
	p.queued = true
	m.ready = append(m.ready, tp)
}

// SetPaused stops new copies from being begun, or lets the next Tick begin
// them. Copies under way go on.
func (m *Machine) SetPaused(paused bool) { m.paused = paused }

// Tick does what is due at now: copies that wait, and steps to repeat.
func (m *Machine) Tick(now time.Time) []Effect {
	var effects []Effect
	for _, tp := range m.due(now) {
		p := m.partitions[tp]
		delete(m.delayed, tp)
		if p.phase != Idle {
			effects = append(effects, m.repeat(p)...)
		} else {
			m.maybeQueue(now, tp, p)
		}
	}
	return append(effects, m.startReady(now)...)
}

// due are the partitions whose wait is over, the longest waiting first.
func (m *Machine) due(now time.Time) []record.TopicPartition {
	var tps []record.TopicPartition
	for tp := range m.delayed {
		if p := m.partitions[tp]; !now.Before(p.retryAt) {
			tps = append(tps, tp)
		}
	}
	slices.SortFunc(tps, func(a, b record.TopicPartition) int {
		return cmp.Or(m.partitions[a].retryAt.Compare(m.partitions[b].retryAt),
			bytes.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Partition, b.Partition))
	})
	return tps
}

// NextWake is when Tick has something to do, if no event comes before; zero
// for never.
func (m *Machine) NextWake() time.Time {
	var wake time.Time
	earlier := func(t time.Time) {
		if wake.IsZero() || t.Before(wake) {
			wake = t
		}
	}
	for tp := range m.delayed {
		earlier(m.partitions[tp].retryAt)
	}
	if len(m.ready) > 0 && m.storeFailures > 0 && m.inFlight == 0 && !m.paused {
		earlier(m.storeRetryAt)
	}
	return wake
}

func (m *Machine) mayStart(now time.Time) bool {
	if m.paused || m.inFlight >= m.o.Concurrency {
		return false
	}
	return m.storeFailures == 0 || (m.inFlight == 0 && !now.Before(m.storeRetryAt))
}

func (m *Machine) startReady(now time.Time) []Effect {
	var effects []Effect
	for len(m.ready) > 0 && m.mayStart(now) {
		tp := m.ready[0]
		m.ready = m.ready[1:]
		p := m.partitions[tp]
		if p == nil { // led no longer
			continue
		}
		p.queued = false
		if p.phase != Idle || len(p.led.Sealed) == 0 {
			continue
		}
		m.inFlight++
		p.copy = m.plan(p.led)
		effects = append(effects, m.enter(now, p, Starting)...)
	}
	return effects
}

// plan chooses the range: the first sealed segment, and those after it while
// they are small.
func (m *Machine) plan(led Led) Copy {
	c := Copy{Led: led, Object: m.o.NewID(), Start: led.Start}
	c.Led.Sealed = nil
	for i, s := range led.Sealed {
		if i > 0 && c.Bytes+s.Bytes > m.o.TargetBytes {
			break
		}
		c.End, c.Bytes = s.End, c.Bytes+s.Bytes
	}
	return c
}

// enter begins a phase and asks for its effect.
func (m *Machine) enter(now time.Time, p *progress, phase Phase) []Effect {
	p.phase, p.since = phase, now
	return m.repeat(p)
}

// repeat asks for the effect of the present phase.
func (m *Machine) repeat(p *progress) []Effect {
	p.working = true
	c := p.copy
	switch p.phase {
	case Idle: // has no effect
	case Starting:
		return []Effect{Propose{c, &command.CopyStarted{
			Fence: c.Led.Fence, Partition: c.Led.Partition, Object: c.Object, Store: c.Led.Store,
			Start: c.Start, End: c.End, Generation: c.Led.Generation, Time: p.since.UnixMilli(),
		}}}
	case Uploading:
		return []Effect{Upload{c}}
	case Verifying:
		return []Effect{Verify{c, p.uploaded}}
	case Finishing:
		sum := binary.BigEndian.AppendUint32(nil, p.uploaded.Checksum.Value())
		return []Effect{Propose{c, &command.CopyFinished{
			Fence: c.Led.Fence, Partition: c.Led.Partition, Object: c.Object, Entry: p.uploaded.Entry,
			Size: p.uploaded.Size, Footer: p.uploaded.Footer, Checksum: sum, Time: p.since.UnixMilli(),
		}}}
	case Abandoning:
		return []Effect{Propose{c, &command.CopyAbandoned{
			BrokerID: c.Led.Fence.BrokerID, BrokerEpoch: c.Led.Fence.BrokerEpoch, Object: c.Object, Time: p.since.UnixMilli(),
		}}}
	}
	panic(fmt.Sprintf("archive: no effect in phase %v", p.phase))
}

// Step takes the outcome of an effect.
func (m *Machine) Step(now time.Time, e Event) []Effect {
	c := e.of()
	p := m.partitions[c.Led.Partition]
	if p == nil || !p.working || p.copy.Object != c.Object {
		panic(fmt.Sprintf("archive: outcome %T of %v, which is not under way", e, c.Object))
	}
	p.working = false
	var effects []Effect
	switch e := e.(type) {
	case Proposed:
		effects = m.proposed(now, p, e)
	case Uploaded:
		effects = m.uploadEnded(now, p, e)
	case Verified:
		effects = m.verified(now, p, e)
	}
	return append(effects, m.Tick(now)...)
}

func (m *Machine) proposed(now time.Time, p *progress, e Proposed) []Effect {
	if e.Err != nil && !refused(e.Err) { // the outcome is unknown; all our commands may be repeated
		return m.again(now, p, e.Err)
	}
	switch p.phase {
	case Starting:
		return m.started(now, p, e)
	case Finishing:
		return m.finished(now, p, e)
	default: // Abandoning: done, or no longer ours to say
		return m.end(now, p, p.err)
	}
}

// refused says that the metadata has answered, and the answer is no.
func refused(err error) bool {
	var refusal *command.Error
	return errors.As(err, &refusal)
}

func (m *Machine) started(now time.Time, p *progress, e Proposed) []Effect {
	if e.Err != nil { // no intent: nothing to clean up
		return m.end(now, p, e.Err)
	}
	p.copy.Intent = e.Result.Index
	if p.gone {
		return m.abandon(now, p, errors.New("led no longer"))
	}
	return m.enter(now, p, Uploading)
}

func (m *Machine) uploadEnded(now time.Time, p *progress, e Uploaded) []Effect {
	m.noteStore(now, e.Err)
	switch {
	case e.Err != nil:
		// The attempt's key may be taken by bytes on their way: a new attempt
		// draws a new one.
		return m.abandon(now, p, e.Err)
	case p.gone:
		return m.abandon(now, p, errors.New("led no longer"))
	}
	p.uploaded = e.Object
	return m.enter(now, p, Verifying)
}

func (m *Machine) verified(now time.Time, p *progress, e Verified) []Effect {
	m.noteStore(now, e.Err)
	switch {
	case e.Err == nil:
		return m.enter(now, p, Finishing)
	case p.gone, errors.Is(e.Err, objstore.ErrChecksum), errors.Is(e.Err, objstore.ErrNotExist):
		return m.abandon(now, p, e.Err)
	}
	return m.again(now, p, e.Err)
}

func (m *Machine) finished(now time.Time, p *progress, e Proposed) []Effect {
	switch {
	case errors.Is(e.Err, command.ErrNotFound): // given up by others, and deleted
		return m.end(now, p, e.Err)
	case e.Err != nil: // deposed, or the ends have moved
		return m.abandon(now, p, e.Err)
	}
	m.totals.Finished++
	if e.Result.Applied {
		m.totals.Bytes += p.uploaded.Size
		p.led.from(p.copy.End)
	} else {
		// Below the log start by now, or given up meanwhile by the sweeper of
		// another leadership: only the next look tells where to go on.
		m.totals.Dropped++
		p.led.Sealed = nil
	}
	p.failures = 0
	return m.end(now, p, nil)
}

// from leaves out what is copied up to start. A look at the partitions may be
// older than the commit, which reaches them a moment later.
func (l *Led) from(start record.Offset) {
	if l.Start >= start {
		return
	}
	l.Start = start
	for len(l.Sealed) > 0 && l.Sealed[0].End <= start {
		l.Sealed = l.Sealed[1:]
	}
}

// noteStore keeps the store's health: a failure that is the store's own makes
// all partitions wait, and not only the one that met it.
func (m *Machine) noteStore(now time.Time, err error) {
	switch {
	case err == nil:
		m.storeFailures = 0
	case errors.Is(err, objstore.ErrTransient), errors.Is(err, objstore.ErrDenied):
		m.storeFailures++
		m.storeRetryAt = now.Add(m.backoff(m.storeFailures))
	}
}

// again repeats the present step later.
func (m *Machine) again(now time.Time, p *progress, err error) []Effect {
	m.fail(now, p, err)
	m.delayed[p.copy.Led.Partition] = struct{}{}
	return nil
}

// abandon gives the copy up, because of err.
func (m *Machine) abandon(now time.Time, p *progress, err error) []Effect {
	m.fail(now, p, err)
	return m.enter(now, p, Abandoning)
}

// end makes the partition idle, and has it wait when err is not nil.
func (m *Machine) end(now time.Time, p *progress, err error) []Effect {
	tp := p.copy.Led.Partition
	m.inFlight--
	if err != nil && p.phase != Abandoning { // abandon has counted it
		m.fail(now, p, err)
	}
	if err == nil {
		p.err = nil
	}
	p.phase, p.since, p.copy, p.uploaded = Idle, now, Copy{}, UploadedObject{}
	if p.gone {
		delete(m.partitions, tp)
		delete(m.delayed, tp)
		return nil
	}
	if refused(err) {
		// What is known of the partition is out of date: wait for news.
		p.led.Sealed = nil
	}
	m.maybeQueue(now, tp, p)
	return nil
}

func (m *Machine) fail(now time.Time, p *progress, err error) {
	if errors.Is(err, context.Canceled) && p.gone {
		err = errors.New("led no longer")
	}
	m.totals.Failures++
	p.failures++
	p.err = err
	p.retryAt = now.Add(m.backoff(p.failures))
	if errors.Is(err, ErrSource) {
		p.retryAt = now.Add(m.o.MaxBackoff)
	}
}

// backoff is the wait after the nth failure in a row: at least half of a time
// that doubles, the rest random.
func (m *Machine) backoff(n int) time.Duration {
	limit := m.o.MaxBackoff
	if n <= 20 {
		limit = min(limit, m.o.MinBackoff<<(n-1))
	}
	return limit/2 + time.Duration(m.o.Jitter()*float64(limit/2))
}
