package fetch

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/record"
)

// SessionKey names a partition in a fetch session as the client named it: by
// topic name (Fetch below version 13) or by topic id.
type SessionKey struct {
	Name      string
	ID        record.TopicID
	Partition int32
}

// SessionPartition is what a session remembers of one partition: the client's
// last wish and what it was told last.
type SessionPartition struct {
	Key         SessionKey
	From        record.Offset
	LogStart    record.Offset // the follower's; −1 from consumers
	Current     record.Epoch
	LastFetched record.Epoch
	MaxBytes    int32

	toldWatermark, toldStart record.Offset
}

// Session is one client's incremental fetch session (KIP-227). It watches each
// of its partitions, and an incremental fetch looks at those alone that are
// ready (ready.go): the others cost it nothing.
//
// An idle partition holds an element, its entry in the index and its place in
// the partition's watch list: about 330 bytes, the topic's name not counted.
//
// Fetches of one client come one after another. Nothing breaks when they do not:
// each looks at what is ready and is answered.
type Session struct {
	id       int32
	byID     bool // uses topic ids
	follower bool // of another broker, reading to the log's end
	created  time.Time

	mu      sync.Mutex
	epoch   int32
	closed  bool
	stable  bool // it reads to the last stable offset, as of the last fetch
	index   map[SessionKey]*element
	ready   readyList
	waiting []*waiter // replaced when it changes, never edited

	// Guarded by Sessions.mu.
	used time.Time
	size int
}

// Begin is how a fetch names its session and what it changes in it.
type Begin struct {
	Now       time.Time
	ID, Epoch int32
	ByID      bool // by topic ids
	Follower  bool // from another broker
	Committed bool // read_committed
	Parts     []SessionPartition
	Forgotten []SessionKey
}

// Plan is one fetch in the light of its session: what to read, and how to shape
// the answer.
type Plan struct {
	// ID goes into the answer: 0 where there is no session.
	ID int32
	// Parts are the partitions to read, in order. Those of an incremental fetch
	// are found by the service, and found anew with each look: when the answer is
	// done, they are those of the answer.
	Parts []SessionPartition
	// Incremental answers leave out what has not changed.
	Incremental bool

	session *Session
	looks   []look // of an incremental fetch, as Parts
}

// Begin finds or opens the session that a fetch names by id and epoch, and takes
// up the partitions that it adds, changes and forgets. Errors are for the whole
// answer: kerr.FetchSessionIDNotFound, InvalidFetchSessionEpoch or
// FetchSessionTopicIDError.
func (t *Sessions) Begin(b Begin) (*Plan, error) {
	if b.Epoch == 0 || b.Epoch == -1 {
		if b.ID != 0 {
			t.close(b.ID)
		}
		plan := &Plan{Parts: b.Parts}
		if b.Epoch == 0 {
			plan.session = t.open(&b)
		}
		if plan.session != nil {
			plan.ID = plan.session.id
		}
		return plan, nil
	}
	s := t.use(b.ID, b.Now)
	if s == nil || s.follower != b.Follower {
		return nil, kerr.FetchSessionIDNotFound
	}
	size, err := s.change(&b)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		t.close(b.ID)
		return &Plan{Incremental: true}, nil
	}
	t.resize(s, size)
	return &Plan{ID: b.ID, Incremental: true, session: s}, nil
}

// change takes the next epoch and its changes, and returns how many partitions
// the session has.
func (s *Session) change(b *Begin) (size int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, kerr.FetchSessionIDNotFound
	case b.Epoch != s.epoch:
		return 0, kerr.InvalidFetchSessionEpoch
	case b.ByID != s.byID:
		return 0, kerr.FetchSessionTopicIDError
	}
	if s.stable != b.Committed {
		// What has nothing for one isolation level may have for the other.
		s.stable = b.Committed
		s.allReadyLocked()
	}
	for i := range b.Parts {
		s.putLocked(&b.Parts[i])
	}
	for _, k := range b.Forgotten {
		if e := s.index[k]; e != nil {
			delete(s.index, k)
			s.dropLocked(e)
		}
	}
	s.epoch = nextEpoch(s.epoch)
	return len(s.index), nil
}

// nextEpoch wraps to 1, since 0 opens a session.
func nextEpoch(e int32) int32 {
	if e == math.MaxInt32 {
		return 1
	}
	return e + 1
}

// putLocked adds a partition or changes what is wished of it, keeping its place
// and what the client was told. It is to be looked at.
func (s *Session) putLocked(p *SessionPartition) {
	e := s.index[p.Key]
	if e == nil {
		e = &element{session: s, part: *p}
		e.part.toldWatermark, e.part.toldStart = -1, -1
		s.index[p.Key] = e
	} else {
		told, start := e.part.toldWatermark, e.part.toldStart
		e.part = *p
		e.part.toldWatermark, e.part.toldStart = told, start
	}
	s.readyLocked(e)
}

// Told shapes the answer for the i-th partition of the plan: it reports whether
// the partition belongs into it, and remembers what the client is told. Those
// with data move to the end of what is ready, so that none starves.
func (p *Plan) Told(i int, g *Got) bool {
	tell := !p.Incremental || g.Bytes() > 0 || g.Err != nil || g.Diverging != nil || g.Preferred >= 0
	s := p.session
	if s == nil {
		return tell
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var e *element
	if p.Incremental {
		e = p.looks[i].e
	} else {
		e = s.index[p.Parts[i].Key]
	}
	if e == nil || e.gone {
		return tell // it was forgotten since, or the session closed
	}
	if g.Err != nil {
		// Told again each time, and so is what follows it.
		e.part.toldWatermark, e.part.toldStart = -1, -1
		return true
	}
	if e.part.toldWatermark != g.State.HighWatermark || e.part.toldStart != g.State.LogStart {
		e.part.toldWatermark, e.part.toldStart = g.State.HighWatermark, g.State.LogStart
		tell = true
	}
	if g.Bytes() > 0 && e.ready {
		s.ready.remove(e)
		s.ready.push(e)
	}
	return tell
}

// close ends a session: nothing is watched any more, and the fetches that wait
// in it are answered.
func (s *Session) close() {
	s.mu.Lock()
	s.closed = true
	for _, e := range s.index {
		s.dropLocked(e)
	}
	clear(s.index)
	waiting := s.waiting
	s.mu.Unlock()
	for _, w := range waiting {
		w.Moved()
	}
}

// wait adds a fetch to those that wait in the session.
func (s *Session) wait(w *waiter) {
	s.mu.Lock()
	s.waiting = append(slices.Clip(s.waiting), w)
	s.mu.Unlock()
}

func (s *Session) leave(w *waiter) {
	s.mu.Lock()
	s.waiting = slices.DeleteFunc(slices.Clone(s.waiting), func(x *waiter) bool { return x == w })
	s.mu.Unlock()
}

// watchLocked makes e watch p and nothing else.
func (s *Session) watchLocked(e *element, p *partition.Partition) {
	if e.watched != nil {
		e.watched.Unwatch(e)
	}
	e.watched = p
	switch {
	case p == nil:
	case s.follower:
		p.WatchEnd(e)
	default:
		p.Watch(e)
	}
}

// dropLocked takes e out of what is ready and watched, for good.
func (s *Session) dropLocked(e *element) {
	e.gone = true
	if e.ready {
		s.ready.remove(e)
	}
	s.watchLocked(e, nil)
}
