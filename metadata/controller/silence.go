package controller

import (
	"log/slog"
	"time"
)

// sayEvery is how often a silence that lasts is told again.
const sayEvery = time.Minute

// silence tells in the log that heartbeats are not answered, without a line for each. It
// is for one goroutine.
type silence struct {
	log   *slog.Logger
	lease *Lease
	clock func() time.Duration

	// since is when the first of a row of heartbeats failed, told when the log last had
	// it; both count only while broken.
	broken      bool
	since, told time.Duration
	// leased: there was a lease when the last heartbeat was answered, and its end was
	// not told.
	leased bool
}

// failed takes a heartbeat that failed: its beginning is told, the end of the lease,
// and from then on every sayEvery that it lasts.
func (s *silence) failed(err error) {
	now := s.clock()
	if !s.broken {
		s.broken, s.since, s.told = true, now, now
		s.log.Warn("heartbeat failed, and is tried again", "error", err, "lease", s.lease.Left())
		return
	}
	silent := now - s.since
	switch {
	case s.leased && !s.lease.Valid():
		s.leased, s.told = false, now
		s.log.Warn("this broker serves no client: its lease has ended, since no broker that leads the metadata has answered for "+
			silent.Round(100*time.Millisecond).String(), "error", err)
	case now-s.told >= sayEvery:
		s.told = now
		s.log.Warn("heartbeats are still not answered", "error", err, "for", silent.Round(time.Second), "lease", s.lease.Left())
	}
}

// answered takes a heartbeat that was answered.
func (s *silence) answered() {
	s.leased = s.lease.Valid()
	if s.broken {
		s.broken = false
		s.log.Info("heartbeats are answered again", "after", (s.clock() - s.since).Round(time.Millisecond), "lease", s.lease.Left())
	}
}
