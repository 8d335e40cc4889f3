package controller

import (
	"slices"
	"time"

	"github.com/google/uuid"

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

// grace is how long a broker may take to be heard by a new metadata leader, whatever
// is left of the lease that an earlier one gave it.
func (o LeaseOptions) grace() time.Duration { return o.Session / 3 }

// Reign is a time of leadership over the metadata.
type Reign struct {
	// Term is Raft's: nobody else leads in it, and each leadership has one of its own.
	Term uint64
	// Self is the directory of the node that leads, Voters are those of the voters.
	Self   uuid.UUID
	Voters []uuid.UUID
}

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
	// DiskFull says that its data disk takes no records.
	DiskFull     bool
	WantShutdown bool
}

// Leases knows when each broker was heard last. It is pure: time comes from the
// caller. It belongs to one goroutine at a time.
//
// INVARIANT: a broker is expired at the earliest Session after a heartbeat that gave it
// a lease, or, while this node has not heard it, after the last moment at which an
// earlier metadata leader can have done so, but not within grace after this node began
// to lead; or Session after a pause of this process. If something hints at its
// failure, it is Grant and not Session; if its process is certainly gone, it is at
// once. The broker's own lease, counted from before it sent the heartbeat, has ended by
// then.
type Leases struct {
	opts     LeaseOptions
	brokers  map[int32]*lease
	lastTick time.Time
	// began is when this node began to lead.
	began time.Time
	// reign is empty once contacts have told when earlier leases can have begun, or
	// if they must not.
	reign Reign
	// contacts are, by voter, a time after which it did not lend itself to an earlier
	// leader.
	contacts map[uuid.UUID]time.Time
}

// lease is one registration's.
type lease struct {
	Status
	// since is when the lease began to count: the last heartbeat that gave one, or a
	// general grant.
	since time.Time
	// ready: the broker wants to be unfenced.
	ready bool
	// fencing: it was decided to fence the broker, and the image does not show it yet.
	// The command may be committed at any time, so there is no way back, and no lease.
	fencing bool
	// stuckSince is when a heartbeat first told an image older than the controller's,
	// without any progress since. Zero if none did.
	stuckSince time.Time
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
	l := &Leases{opts: opts.withDefaults(), brokers: map[int32]*lease{}, lastTick: now, began: now}
	l.sync(now, img)
	return l
}

// Reign lets the full leases be shortened to what earlier leaders can have granted,
// once a majority of the voters has told in heartbeats when it was last there for one.
//
// REQUIRES: called before the first heartbeat is heard, at most once for a term by all
// the Leases of a node.
func (l *Leases) Reign(r Reign) {
	if slices.Contains(r.Voters, r.Self) {
		l.reign, l.contacts = r, map[uuid.UUID]time.Time{}
	}
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
			have.fencedAt, have.fencing = img.Index(), false
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
		l.reign = Reign{} // heartbeats wait that nobody has read
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
	l.learn(now, b.DirectoryID, hb)
	have := l.brokers[b.ID]
	progress := have.Heard.IsZero() || hb.Applied > have.Applied
	have.Status = Status{Epoch: b.Epoch, Heard: now, Applied: max(have.Applied, hb.Applied), Behind: now.Sub(time.UnixMilli(hb.Clock)),
		DiskFull: hb.DiskFull, WantShutdown: have.WantShutdown || hb.WantShutdown}
	have.ready, have.suspect, have.gone = hb.Ready, false, false
	switch {
	case progress || have.Applied >= img.Index():
		have.stuckSince = time.Time{}
	case have.stuckSince.IsZero():
		have.stuckSince = now
	}
	if !l.stuck(now, have) {
		have.since = now
	}
	return true
}

// stuck reports whether a broker is heard, and has applied nothing for a session
// although there is something to apply: it goes on with what others have taken over,
// so it gets no lease.
func (l *Leases) stuck(now time.Time, b *lease) bool {
	return !b.stuckSince.IsZero() && now.Sub(b.stuckSince) >= l.opts.Session
}

// learn takes a voter's word of when it was last there for an earlier leader. Every
// lease of one was granted after a majority had been there for it since the broker
// sent its heartbeat. Any two majorities share a voter, so those who have told are the
// witnesses of all such leases (see the package comment).
func (l *Leases) learn(now time.Time, directory uuid.UUID, hb *Heartbeat) {
	r := &l.reign
	if r.Term == 0 || hb.Term < r.Term || !slices.Contains(r.Voters, directory) {
		return
	}
	if _, told := l.contacts[directory]; told {
		return
	}
	l.contacts[directory] = now.Add(-time.Duration(hb.ContactMs) * time.Millisecond)
	if _, self := l.contacts[r.Self]; !self || len(l.contacts) <= len(r.Voters)/2 {
		return
	}
	var last time.Time
	for _, at := range l.contacts {
		if at.After(last) {
			last = at
		}
	}
	for _, b := range l.brokers {
		if b.Heard.IsZero() && b.since.Equal(l.began) && last.Before(l.began) {
			b.since = last
		}
	}
	l.reign = Reign{}
}

// Answer notes a heartbeat and works out what a metadata leader says to it; the caller
// sends it once it is sure to be one. known is false if the broker epoch is not the
// registered one. act says that Decide should be asked, and then Next.
func (l *Leases) Answer(now time.Time, img *metadata.Image, hb *Heartbeat) (g Grant, act, known bool) {
	learning := l.reign.Term != 0
	if !l.Hear(now, img, hb) {
		return Grant{}, false, false
	}
	b, have := img.Broker(hb.BrokerID), l.brokers[hb.BrokerID]
	g = Grant{Fenced: b.Fenced, Shutdown: hb.WantShutdown && b.Fenced}
	l.tellClocks(now, &g)
	if !b.Fenced && !have.fencing && !l.stuck(now, have) {
		// Two percent less, should the broker's clock be slower than this one's.
		g.Lease = (l.opts.Grant - l.opts.Grant/50).Milliseconds()
	}
	act = b.Fenced && hb.Ready && !hb.WantShutdown || hb.WantShutdown && !b.Fenced || learning && l.reign.Term == 0
	return g, act, true
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
	length := l.opts.Session
	switch {
	case b.gone:
		return b.since
	case b.suspect:
		length = l.opts.Grant
	}
	end := b.since.Add(length)
	if b.since.Before(l.began) {
		if least := l.began.Add(min(length, l.opts.grace())); least.After(end) {
			return least
		}
	}
	return end
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
