package fetch

import (
	"container/list"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// minEvictionAge is how long a session is safe from being displaced by a larger
// one, and how long one may be idle before any newcomer displaces it
// (Kafka's MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS).
const minEvictionAge = 2 * time.Minute

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

// Session is one client's incremental fetch session (KIP-227). A fetch holds it
// from Begin to its answer; a second one with the same id waits for no one and
// is refused by its epoch.
type Session struct {
	mu      sync.Mutex
	id      int32
	epoch   int32
	byID    bool // uses topic ids
	parts   *list.List
	index   map[SessionKey]*list.Element
	created time.Time

	// Guarded by Sessions.mu.
	used time.Time
	size int
}

// Sessions is the broker's table of fetch sessions, of bounded size.
type Sessions struct {
	slots int

	mu   sync.Mutex
	byID map[int32]*Session
}

// NewSessions returns a table of at most slots sessions
// (max.incremental.fetch.session.cache.slots, 1000).
func NewSessions(slots int) *Sessions {
	return &Sessions{slots: slots, byID: make(map[int32]*Session)}
}

// Len is the number of open sessions.
func (t *Sessions) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byID)
}

// Partitions is the number of partitions in all sessions.
func (t *Sessions) Partitions() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, s := range t.byID {
		n += s.size
	}
	return n
}

// Plan is one fetch in the light of its session: what to read, and how to shape
// the answer.
type Plan struct {
	// ID goes into the answer: 0 where there is no session.
	ID int32
	// Parts are the partitions to read, in order.
	Parts []SessionPartition
	// Incremental answers leave out what has not changed.
	Incremental bool

	session *Session
}

// Begin finds or opens the session that a fetch names by id and epoch, and takes
// up the partitions that it adds, changes and forgets. Errors are for the whole
// answer: kerr.FetchSessionIDNotFound, InvalidFetchSessionEpoch or
// FetchSessionTopicIDError.
func (t *Sessions) Begin(now time.Time, id, epoch int32, byID bool, parts []SessionPartition, forgotten []SessionKey) (*Plan, error) {
	if epoch == 0 || epoch == -1 {
		if id != 0 {
			t.remove(id)
		}
		plan := &Plan{Parts: parts}
		if epoch == 0 {
			plan.session = t.open(now, byID, parts)
		}
		if plan.session != nil {
			plan.ID = plan.session.id
		}
		return plan, nil
	}
	t.mu.Lock()
	s := t.byID[id]
	if s != nil {
		s.used = now
	}
	t.mu.Unlock()
	if s == nil {
		return nil, kerr.FetchSessionIDNotFound
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if epoch != s.epoch {
		return nil, kerr.InvalidFetchSessionEpoch
	}
	if byID != s.byID {
		return nil, kerr.FetchSessionTopicIDError
	}
	for _, p := range parts {
		s.putLocked(p)
	}
	for _, k := range forgotten {
		if e := s.index[k]; e != nil {
			s.parts.Remove(e)
			delete(s.index, k)
		}
	}
	s.epoch = nextEpoch(s.epoch)
	plan := &Plan{ID: id, Incremental: true, session: s}
	if s.parts.Len() == 0 {
		t.remove(id)
		plan.ID, plan.session = 0, nil
		return plan, nil
	}
	plan.Parts = make([]SessionPartition, 0, s.parts.Len())
	for e := s.parts.Front(); e != nil; e = e.Next() {
		plan.Parts = append(plan.Parts, *e.Value.(*SessionPartition))
	}
	t.resize(s)
	return plan, nil
}

// nextEpoch wraps to 1, since 0 opens a session.
func nextEpoch(e int32) int32 {
	if e == math.MaxInt32 {
		return 1
	}
	return e + 1
}

// putLocked adds a partition or changes what is wished of it, keeping its place
// and what the client was told.
func (s *Session) putLocked(p SessionPartition) {
	if e := s.index[p.Key]; e != nil {
		old := e.Value.(*SessionPartition)
		p.toldWatermark, p.toldStart = old.toldWatermark, old.toldStart
		*old = p
		return
	}
	p.toldWatermark, p.toldStart = -1, -1
	s.index[p.Key] = s.parts.PushBack(&p)
}

// Told shapes the answer for the i-th partition of the plan: it reports whether
// the partition belongs into it, and remembers what the client is told. Those
// with data move to the end of the session, so that none starves.
func (p *Plan) Told(i int, g *Got, preferred bool) bool {
	if p.session == nil {
		return !p.Incremental || g.Bytes() > 0 || g.Err != nil || g.Diverging != nil
	}
	s := p.session
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.index[p.Parts[i].Key]
	if e == nil {
		return !p.Incremental
	}
	sp := e.Value.(*SessionPartition)
	tell := !p.Incremental || g.Bytes() > 0 || g.Err != nil || g.Diverging != nil || preferred
	if g.Err != nil {
		// Told again each time, and so is what follows it.
		sp.toldWatermark, sp.toldStart = -1, -1
		return true
	}
	if sp.toldWatermark != g.State.HighWatermark || sp.toldStart != g.State.LogStart {
		sp.toldWatermark, sp.toldStart = g.State.HighWatermark, g.State.LogStart
		tell = true
	}
	if g.Bytes() > 0 {
		s.parts.MoveToBack(e)
	}
	return tell
}

// open makes a session if there is room for it, nil otherwise.
func (t *Sessions) open(now time.Time, byID bool, parts []SessionPartition) *Session {
	s := &Session{epoch: 1, byID: byID, parts: list.New(), index: make(map[SessionKey]*list.Element, len(parts)),
		created: now, used: now}
	for _, p := range parts {
		s.putLocked(p)
	}
	s.size = s.parts.Len()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.byID) >= t.slots && !t.evictLocked(now, s.size) {
		return nil
	}
	for s.id == 0 || t.byID[s.id] != nil {
		s.id = rand.Int32N(math.MaxInt32-1) + 1
	}
	t.byID[s.id] = s
	return s
}

// evictLocked makes room for a session of the given size: the one idle for
// longest if that is over minEvictionAge, else the smallest of those that are
// old enough and smaller than the newcomer.
func (t *Sessions) evictLocked(now time.Time, size int) bool {
	var idle, small *Session
	for _, s := range t.byID {
		if now.Sub(s.used) > minEvictionAge && (idle == nil || s.used.Before(idle.used)) {
			idle = s
		}
		if now.Sub(s.created) > minEvictionAge && s.size < size && (small == nil || s.size < small.size) {
			small = s
		}
	}
	victim := idle
	if victim == nil {
		victim = small
	}
	if victim == nil {
		return false
	}
	delete(t.byID, victim.id)
	return true
}

func (t *Sessions) remove(id int32) {
	t.mu.Lock()
	delete(t.byID, id)
	t.mu.Unlock()
}

func (t *Sessions) resize(s *Session) {
	n := s.parts.Len()
	t.mu.Lock()
	s.size = n
	t.mu.Unlock()
}
