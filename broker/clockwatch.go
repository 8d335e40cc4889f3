package broker

import (
	"context"
	"log/slog"
	"time"

	"github.com/firnlog/firn/metadata/membership"
)

const (
	// clockLook is the pace at which a node looks at how far its clock is off.
	clockLook = time.Second
	// clockCalm is by how much a clock must be nearer than the limit before the log
	// takes it for set again: one that is just at the limit is one line, not hundreds.
	clockCalm = time.Second
)

// clockWatch says in the log when this node's clock goes off, and when it is set. It is
// for one goroutine.
type clockWatch struct {
	log *slog.Logger
	off bool
}

// look takes how far the clock is behind the cluster's time, negative if ahead.
func (w *clockWatch) look(behind time.Duration) {
	switch {
	case !w.off && behind.Abs() > membership.MaxClockSkew:
		w.off = true
		side := "behind"
		if behind < 0 {
			side = "ahead of"
		}
		w.log.Warn("the clock of this node is "+behind.Abs().Round(time.Second).String()+" "+side+
			" the cluster's: it deletes nothing by time until its clock is set, and judges records by the cluster's time", "limit", membership.MaxClockSkew)
	case w.off && behind.Abs() <= membership.MaxClockSkew-clockCalm:
		w.off = false
		w.log.Info("the clock of this node agrees with the cluster's again", "behind", behind.Round(time.Millisecond))
	}
}

// watchClock looks now and then at what the heartbeats tell of this node's clock.
func (b *Broker) watchClock() {
	watch := clockWatch{log: b.log}
	b.every(clockLook, func(context.Context) {
		if behind, known := b.cluster.beats.ClockBehind(time.Now()); known {
			watch.look(behind)
		}
	})
}
