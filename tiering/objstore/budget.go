package objstore

import (
	"sync"
	"time"
)

// Budget limits how many retries a store gets, over all calls that share it,
// so that an overloaded store sees hardly more load than without retries. It
// is a token bucket: a retry takes a token; a success and time give some back.
type Budget struct {
	burst float64

	mu     sync.Mutex
	tokens float64
	last   time.Time
}

const (
	defaultBurst    = 100
	budgetPerOK     = 0.1 // so a tenth of successful traffic may be retries
	budgetPerSecond = 0.5 // so that a store that is down is probed at all
)

// NewBudget makes a full budget of burst retries.
func NewBudget(burst int) *Budget { return &Budget{burst: float64(burst), tokens: float64(burst)} }

// take takes a token for a retry, and says whether there was one.
func (b *Budget) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() {
		b.tokens = min(b.burst, b.tokens+now.Sub(b.last).Seconds()*budgetPerSecond)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *Budget) succeeded() {
	b.mu.Lock()
	b.tokens = min(b.burst, b.tokens+budgetPerOK)
	b.mu.Unlock()
}
