package controller

import (
	"time"

	"github.com/firnlog/firn/metadata"
)

// LeaseOptions are the times of the leases.
type LeaseOptions struct {
	// Session is how long a broker may be silent before it is fenced
	// (broker.session.timeout.ms). Default 3 s; Kafka's is 9 s.
	Session time.Duration
	// Grant is how long a broker may lead on one heartbeat, by its own clock; at most
	// Session. Default min(Session, 3 s). Nothing but the certain end of a broker's
	// process fences it sooner.
	Grant time.Duration
}

func (o LeaseOptions) withDefaults() LeaseOptions {
	if o.Session <= 0 {
		o.Session = 3 * time.Second
	}
	if o.Grant <= 0 || o.Grant > o.Session {
		o.Grant = min(o.Session, 3*time.Second)
	}
	return o
}

// tickWithin is how soon Tick has to follow Tick. A longer pause means that this
// process did not run, and may have heartbeats waiting that it has not read.
func (o LeaseOptions) tickWithin() time.Duration { return o.Session / 4 }

// Status is what the controller knows of a broker from its heartbeats.
type Status struct {
	Epoch int64
	// Heard is when the last heartbeat arrived; zero if none did since this node
	// leads.
	Heard time.Time
	// Applied is the index of the broker's image, Behind how far its wall clock was
	// behind the controller's (negative: ahead) plus the way of the heartbeat.
	Applied uint64
	Behind  time.Duration
	// DiskFree and DiskTotal are bytes of the data disk; 0 if unknown.
	DiskFree, DiskTotal int64
	WantShutdown        bool
}

// Leases knows when each broker was heard last. It is pure: time comes from the
// caller. It belongs to one goroutine at a time.
//
// INVARIANT: a broker is expired at the earliest Session after it was heard, after
// this node began to lead, or after a pause of this process; or, if something hints
// at its failure, Grant after that; or at once if its process is certainly gone. Its
// own lease, counted from before it sent the heartbeat, has ended by then.
type Leases struct {
	opts     LeaseOptions
	brokers  map[int32]*lease
	lastTick time.Time
}

// lease is one registration's.
type lease struct {
	Status
	// since is when the lease began to count: the last heartbeat, or a general grant.
	since time.Time
	// ready: the broker wants to be unfenced.
	ready bool
	// suspect and gone end with the next heartbeat.
	suspect, gone bool
	// fencedAt is the index of the first image that showed the broker fenced, 0 while
	// it is not.
	fencedAt uint64
	// drainedAt is the index of the image in which the broker, shutting down, first
	// led nothing that another could lead, and drainedSince when that was.
	drainedAt    uint64
	drainedSince time.Time
}

// NewLeases grants every registered broker a full lease from now.
func NewLeases(opts LeaseOptions, now time.Time, img *metadata.Image) *Leases {
	l := &Leases{opts: opts.withDefaults(), brokers: map[int32]*lease{}, lastTick: now}
	l.sync(now, img)
	return l
}

// sync gives new registrations a lease and forgets those that are gone.
func (l *Leases) sync(now time.Time, img *metadata.Image) {
	for b := range img.Brokers() {
		if have := l.brokers[b.ID]; have == nil || have.Epoch < b.Epoch {
			l.brokers[b.ID] = &lease{Status: Status{Epoch: b.Epoch}, since: now}
		}
		switch have := l.brokers[b.ID]; {
		case !b.Fenced:
			have.fencedAt = 0
		case have.fencedAt == 0:
			have.fencedAt = img.Index()
		}
	}
	for id := range l.brokers {
		if img.Broker(id) == nil {
			delete(l.brokers, id)
		}
	}
}

// Tick brings the leases up to an image. After a pause of this process everybody
// gets a full lease anew.
func (l *Leases) Tick(now time.Time, img *metadata.Image) {
	if now.Sub(l.lastTick) > 2*l.opts.tickWithin() {
		for _, b := range l.brokers {
			b.since = now
		}
	}
	l.lastTick = now
	l.sync(now, img)
}

// Hear notes a heartbeat. It is false if the broker epoch is not the registered one.
func (l *Leases) Hear(now time.Time, img *metadata.Image, hb *Heartbeat) bool {
	b := img.Broker(hb.BrokerID)
	if b == nil || b.Epoch != hb.BrokerEpoch {
		return false
	}
	l.sync(now, img)
	have := l.brokers[b.ID]
	have.Status = Status{Epoch: b.Epoch, Heard: now, Applied: max(have.Applied, hb.Applied), Behind: now.Sub(time.UnixMilli(hb.Clock)),
		DiskFree: hb.DiskFree, DiskTotal: hb.DiskTotal, WantShutdown: have.WantShutdown || hb.WantShutdown}
	have.since, have.ready, have.suspect, have.gone = now, hb.Ready, false, false
	return true
}

// Suspect notes a hint that a broker failed since it registered under epoch. gone
// says that its process has certainly ended.
func (l *Leases) Suspect(broker int32, epoch int64, gone bool) {
	if have := l.brokers[broker]; have != nil && have.Epoch == epoch {
		have.suspect, have.gone = true, have.gone || gone
	}
}

// end is when a broker is expired unless it is heard.
func (l *Leases) end(b *lease) time.Time {
	switch {
	case b.gone:
		return b.since
	case b.suspect:
		return b.since.Add(l.opts.Grant)
	default:
		return b.since.Add(l.opts.Session)
	}
}

// Expired reports whether a broker's lease has ended. A broker without a lease is
// not expired: its registration is newer than the last Tick.
func (l *Leases) Expired(now time.Time, broker int32) bool {
	b := l.brokers[broker]
	return b != nil && !now.Before(l.end(b))
}

// Next is when Tick and a decision are due at the latest.
func (l *Leases) Next(now time.Time) time.Time {
	next := now.Add(l.opts.tickWithin())
	for _, b := range l.brokers {
		if end := l.end(b); end.After(now) && end.Before(next) {
			next = end
		}
	}
	return next
}

// Status returns what is known of a broker.
func (l *Leases) Status(broker int32) (Status, bool) {
	if b := l.brokers[broker]; b != nil {
		return b.Status, true
	}
	return Status{}, false
}
