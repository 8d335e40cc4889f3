package fetch

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// minEvictionAge is how long a session is safe from being displaced by a larger
// one, and how long one may be idle before any newcomer displaces it
// (Kafka's MIN_INCREMENTAL_FETCH_SESSION_EVICTION_MS).
const minEvictionAge = 2 * time.Minute

// Sessions is the broker's table of fetch sessions, of bounded size.
//
// Lock order: Session.mu before the lock of a partition; Sessions.mu is taken
// alone.
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

// use finds an open session and notes that it is in use.
func (t *Sessions) use(id int32, now time.Time) *Session {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[id]
	if s != nil {
		s.used = now
	}
	return s
}

// open makes a session if there is room for it, nil otherwise.
func (t *Sessions) open(b *Begin) *Session {
	s := &Session{epoch: 1, byID: b.ByID, follower: b.Follower, stable: b.Committed, index: make(map[SessionKey]*element, len(b.Parts)),
		created: b.Now, used: b.Now}
	s.mu.Lock()
	for i := range b.Parts {
		s.putLocked(&b.Parts[i])
	}
	s.size = len(s.index)
	s.mu.Unlock()

	t.mu.Lock()
	var evicted *Session
	room := len(t.byID) < t.slots
	if !room {
		evicted = t.evictLocked(b.Now, s)
		room = evicted != nil
	}
	if room {
		for s.id == 0 || t.byID[s.id] != nil {
			s.id = rand.Int32N(math.MaxInt32-1) + 1
		}
		t.byID[s.id] = s
	}
	t.mu.Unlock()
	if evicted != nil {
		evicted.close()
	}
	if !room {
		return nil
	}
	return s
}

// evictLocked makes room for a newcomer by what it returns: the session idle for
// longest if that is over minEvictionAge, else the smallest of those that are
// old enough and smaller than the newcomer. A follower displaces consumers,
// whatever their age and size, and is displaced by followers alone while it is
// in use.
func (t *Sessions) evictLocked(now time.Time, newcomer *Session) *Session {
	var idle, other *Session
	for _, s := range t.byID {
		if now.Sub(s.used) > minEvictionAge && (idle == nil || s.used.Before(idle.used)) {
			idle = s
		}
		if mayDisplace(now, newcomer, s) && (other == nil || lesser(s, other)) {
			other = s
		}
	}
	victim := idle
	if victim == nil {
		victim = other
	}
	if victim != nil {
		delete(t.byID, victim.id)
	}
	return victim
}

// mayDisplace reports whether a newcomer may have the slot of a session in use.
func mayDisplace(now time.Time, newcomer, s *Session) bool {
	if newcomer.follower && !s.follower {
		return true
	}
	return newcomer.follower == s.follower && now.Sub(s.created) > minEvictionAge && s.size < newcomer.size
}

// lesser orders sessions by how little is lost with them: consumers before
// followers, small before large.
func lesser(a, b *Session) bool {
	if a.follower != b.follower {
		return b.follower
	}
	return a.size < b.size
}

// close ends the session with an id, if there is one.
func (t *Sessions) close(id int32) {
	t.mu.Lock()
	s := t.byID[id]
	delete(t.byID, id)
	t.mu.Unlock()
	if s != nil {
		s.close()
	}
}

func (t *Sessions) resize(s *Session, n int) {
	t.mu.Lock()
	s.size = n
	t.mu.Unlock()
}
