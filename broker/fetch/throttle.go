package fetch

import (
	"sync"
	"time"
)

// Throttle bounds the bytes per second that a leader sends to followers that are
// not in sync, for the partitions that leader.replication.throttled.replicas
// names (KIP-73). It is a bucket that holds one second's worth and may be
// overdrawn: what is sent is known only afterwards, and a batch larger than the
// bucket must pass.
type Throttle struct {
	now func() time.Time

	mu   sync.Mutex
	rate float64 // bytes per second; 0 is none
	left float64
	at   time.Time
}

// NewThrottle returns a throttle without a rate, which never holds back.
func NewThrottle() *Throttle { return &Throttle{now: time.Now} }

// SetRate takes leader.replication.throttled.rate, in bytes per second; 0 and
// below hold nothing back.
func (t *Throttle) SetRate(bytesPerSecond int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rate := float64(max(bytesPerSecond, 0))
	if rate == t.rate {
		return
	}
	t.refillLocked()
	if t.rate == 0 {
		t.left = rate
	}
	t.rate, t.left = rate, min(t.left, rate)
}

// Exceeded says that no more is to be sent now.
func (t *Throttle) Exceeded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refillLocked()
	return t.rate > 0 && t.left <= 0
}

// Sent counts bytes that go out, to followers in sync as well.
func (t *Throttle) Sent(bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.rate == 0 {
		return
	}
	t.refillLocked()
	t.left -= float64(bytes)
}

func (t *Throttle) refillLocked() {
	now := t.now()
	if !t.at.IsZero() {
		t.left = min(t.left+t.rate*now.Sub(t.at).Seconds(), t.rate)
	}
	t.at = now
}
