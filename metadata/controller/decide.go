package controller

import (
	"slices"
	"time"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// drainWait is how long a broker that leads nothing any more waits for the others
// to have heard of it, before its shutdown is granted.
const drainWait = 2 * time.Second

// Decide returns the changes of brokers' states that leases and image call for, each
// at most once; what follows from them for partitions, the state machine does. It
// depends on its arguments alone. It notes in the leases which brokers are drained, and
// which are being fenced: what was decided once is repeated until the image shows it.
//
//   - A broker whose lease ended is fenced.
//   - A fenced broker becomes active once it is heard, ready, and has applied its own
//     registration and what it was fenced by: else one that comes back from a cut would
//     have a lease to serve what it led before, and does no more.
//   - A broker whose disk is full hands over to those that have room, until it has some.
//   - A broker that wants to shut down is announced to be shutting down. It is fenced,
//     which grants the shutdown, once it leads nothing that an active replica could
//     lead now or after catching up, and the active brokers know.
func Decide(now time.Time, img *metadata.Image, l *Leases) []command.Command {
	l.Tick(now, img)
	var out []command.Command
	set := func(b *metadata.Broker, state command.BrokerState) {
		out = append(out, &command.SetBrokerState{BrokerID: b.ID, BrokerEpoch: b.Epoch, State: state})
	}
	for b := range img.Brokers() {
		have := l.brokers[b.ID]
		expired := l.Expired(now, b.ID)
		full, state := l.handsOver(img, b.ID), command.BrokerActive
		if full {
			state = command.BrokerFull
		}
		switch {
		case !b.Fenced && (expired || have.fencing):
			have.fencing = true
			set(b, command.BrokerFenced)
		case b.Fenced:
			if !expired && !b.ShuttingDown && have.ready && !have.WantShutdown && !have.Heard.IsZero() && have.Applied >= max(uint64(b.Epoch), have.fencedAt) {
				set(b, state)
			}
		case have.WantShutdown && !b.ShuttingDown:
			set(b, command.BrokerShuttingDown)
		case b.ShuttingDown && l.drained(now, img, b.ID):
			have.fencing = true
			set(b, command.BrokerFenced)
		case !b.ShuttingDown && !have.Heard.IsZero() && full != b.Full:
			set(b, state)
		}
	}
	return out
}

// handsOver reports whether a broker is to lead nothing that another can, and to hold
// up no ISR, since its disk takes no records. The last one with room, or the last to
// say that it has none, goes on as it is. While only brokers that this metadata leader
// has not heard yet could have room, all stays as it was: else each new one moved
// leaderships away and back where nobody has any.
func (l *Leases) handsOver(img *metadata.Image, broker int32) bool {
	if !l.brokers[broker].DiskFull || img.Level() < command.Level2 {
		return false
	}
	unheard := false
	for id, other := range l.brokers {
		switch {
		case id == broker || !img.Broker(id).Eligible():
		case other.Heard.IsZero():
			unheard = true
		case !other.DiskFull:
			return true
		}
	}
	return unheard && img.Broker(broker).Full
}

// askedToStop is why a broker is fenced that nobody needs to look after.
const askedToStop = "it asked to stop"

// whyFenced says to a person why Decide fences a broker.
func (l *Leases) whyFenced(now time.Time, img *metadata.Image, broker int32) string {
	switch b := l.brokers[broker]; {
	case img.Broker(broker).ShuttingDown:
		return askedToStop
	case b.gone:
		return "its process has ended"
	case l.stuck(now, b):
		return "it applies no metadata"
	default:
		return "its heartbeats stay away"
	}
}

// drained reports whether a broker that is shutting down may go.
func (l *Leases) drained(now time.Time, img *metadata.Image, broker int32) bool {
	b := l.brokers[broker]
	if b.drainedAt == 0 {
		if needed(img, broker) {
			return false
		}
		b.drainedAt, b.drainedSince = img.Index(), now
	}
	if now.Sub(b.drainedSince) >= drainWait {
		return true
	}
	for id, other := range l.brokers {
		if id != broker && img.Broker(id).Eligible() && other.Applied < b.drainedAt {
			return false
		}
	}
	return true
}

// needed reports whether a broker leads a partition that another active replica
// does not lead only because it has not caught up yet.
func needed(img *metadata.Image, broker int32) bool {
	for _, p := range img.AllPartitions() {
		if p.Leader == broker && slices.ContainsFunc(p.Replicas, func(id int32) bool { return img.Broker(id).Eligible() }) {
			return true
		}
	}
	return false
}
