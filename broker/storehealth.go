package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/tiering/objstore"
)

// storeHealth remembers how the object store answered last, and is the one who says in
// the log that it does not, and that it does again: it hears of every attempt.
type storeHealth struct {
	log *slog.Logger
	url string // without credentials

	mu    sync.Mutex
	asked bool
	err   error
	since time.Time
	// failing is since when nothing was answered, zero while the store answers; told
	// says that the log has it.
	failing time.Time
	told    bool

	attempts, failures map[string]uint64 // by operation
	bytes              map[string]uint64
}

// Nothing is answered for storePatience, or from the first attempt of a call to the last
// of storeTries or more, before the log says so: an attempt that fails now and then, and
// its retry that does not, wake nobody, nor does a caller who waits for no more retries.
const (
	storePatience = 5 * time.Second
	storeTries    = 3
)

// opProbe is the operation by which a store is tried out at start.
const opProbe = "probe"

func newStoreHealth(log *slog.Logger, url string) *storeHealth {
	return &storeHealth{log: log, url: url, attempts: map[string]uint64{}, failures: map[string]uint64{}, bytes: map[string]uint64{}}
}

// away reports whether an attempt says that the store does not serve this node at all.
func away(op string, err error) bool {
	if op == opProbe && err != nil && !errors.Is(err, objstore.ErrInvalid) {
		return true
	}
	return errors.Is(err, objstore.ErrTransient) || errors.Is(err, objstore.ErrDenied) || errors.Is(err, context.DeadlineExceeded)
}

// observe hears of every attempt. That an object is missing or present already is
// an answer, not a failure; an attempt that its caller ended says nothing.
func (h *storeHealth) observe(a objstore.Attempt) {
	err := a.Err
	if a.Op != opProbe && (errors.Is(err, objstore.ErrNotExist) || errors.Is(err, objstore.ErrExists)) {
		err = nil
	}
	tell := h.note(a, err, time.Now())
	if tell != nil {
		tell() // off the lock
	}
}

func (h *storeHealth) note(a objstore.Attempt, err error, now time.Time) (tell func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.attempts[a.Op]++
	if errors.Is(err, context.Canceled) {
		return nil
	}
	if err != nil {
		h.failures[a.Op]++
	} else {
		h.bytes[a.Op] += uint64(max(a.Bytes, 0))
	}
	if !h.asked || (err == nil) != (h.err == nil) {
		h.since = now
	}
	h.asked, h.err = true, err
	if !away(a.Op, err) {
		after, told := now.Sub(h.failing), h.told
		h.failing, h.told = time.Time{}, false
		if !told {
			return nil
		}
		return func() {
			h.log.Info("the object store answers again", "store", h.url, "after", after.Round(time.Second))
		}
	}
	if h.failing.IsZero() {
		h.failing = now
	}
	lasting := a.Op == opProbe || !a.Retrying && a.Try >= storeTries || now.Sub(h.failing) >= storePatience
	if h.told || !lasting {
		return nil
	}
	h.told = true
	if errors.Is(err, objstore.ErrDenied) {
		return func() {
			h.log.Error("the object store denies access: records stay on disk until it lets this node in; check its credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or MinIO's names) and what they may do",
				"store", h.url, "err", err)
		}
	}
	return func() {
		h.log.Warn("the object store does not answer: records stay on disk until it does", "store", h.url, "err", err)
	}
}

// outage is since when the store does not answer, and what it said last; false while it
// answers, or has not failed for long enough to say so.
func (h *storeHealth) outage() (since time.Time, last error, down bool) { //nolint:revive // last is not this call's
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failing, h.err, h.told
}

// down reports whether the log has it that the store does not answer: nobody else needs
// to say so.
func (h *storeHealth) down() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.told
}

func (h *storeHealth) status() adminapi.StoreStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := adminapi.StoreStatus{URL: h.url, State: adminapi.StoreUnknown}
	if h.asked {
		s.State, s.SinceMs = adminapi.StoreOK, ms(h.since)
		if h.err != nil {
			s.State, s.LastError = adminapi.StoreUnreachable, h.err.Error()
		}
	}
	return s
}

func (h *storeHealth) collect(s sink) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asked {
		s.gauge(descStoreUp, truth(h.err == nil))
	}
	for op, n := range h.attempts {
		s.counter(descStoreCalls, float64(n), op)
		s.counter(descStoreFails, float64(h.failures[op]), op)
		s.counter(descStoreBytes, float64(h.bytes[op]), op)
	}
}
