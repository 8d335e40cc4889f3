package controller

import (
	"slices"
	"time"
)

// clockTold is from which difference on a grant names a clock that is off.
const clockTold = time.Second

// clocksApart is how far the two halves of the brokers may be apart before nobody can
// tell which is right (membership.MaxClockSkew, by which clocks are off).
const clocksApart = 10 * time.Second

// clocks compares the wall clocks of the brokers heard within a session. behind is how
// far the cluster's time is behind this node's clock: the median, so that one clock that
// is off, be it this node's own, moves it by no more than the others differ. ahead says
// which brokers' clocks are off by clockTold and more, and by how much they are ahead of
// the cluster's time (negative: behind). unsure says that there is no telling: one half
// of the brokers contradicts the other, or half of those in use are silent. A leader whose
// own clock is off must not be believed because the third broker is down.
func (l *Leases) clocks(now time.Time) (behind time.Duration, ahead map[int32]time.Duration, unsure bool) {
	heard := map[int32]time.Duration{}
	var all []time.Duration
	silent := 0
	for id, b := range l.brokers {
		if !b.Heard.IsZero() && now.Sub(b.Heard) < l.opts.Session {
			// This clock may have jumped since.
			heard[id] = b.Behind + jump(b.Heard, now)
			all = append(all, heard[id])
		} else if b.fencedAt == 0 {
			silent++
		}
	}
	if len(all) == 0 {
		return 0, nil, true
	}
	slices.Sort(all)
	behind = all[len(all)/2]
	other := all[(len(all)-1)/2]
	unsure = silent >= len(all) || behind-other > clocksApart
	if other.Abs() < behind.Abs() {
		behind = other // of an even number the one nearer to this node's
	}
	for id, d := range heard {
		if off := behind - d; off.Abs() >= clockTold {
			if ahead == nil {
				ahead = map[int32]time.Duration{}
			}
			ahead[id] = off
		}
	}
	return behind, ahead, unsure
}

// tellClocks puts the cluster's time into a grant, and whose clocks are off.
func (l *Leases) tellClocks(now time.Time, g *Grant) {
	behind, ahead, unsure := l.clocks(now)
	g.Clock, g.ClockUnsure = now.Add(-behind).UnixMilli(), unsure
	for id, d := range ahead {
		if g.ClocksAhead == nil {
			g.ClocksAhead = make(map[int32]int64, len(ahead))
		}
		g.ClocksAhead[id] = d.Milliseconds()
	}
}

// jump is by how much the wall clock moved more than the monotonic one between two
// readings.
func jump(from, to time.Time) time.Duration {
	return to.Round(0).Sub(from.Round(0)) - to.Sub(from)
}

// clockReading is what a heartbeat's answer told of this node's wall clock.
type clockReading struct {
	wall  time.Time     // of this node, without monotonic reading
	clock time.Duration // HeartbeaterOptions.Clock at that time
	// behind is how far wall was behind the cluster's time.
	behind time.Duration
	unsure bool
	// ahead are the brokers whose clocks are off.
	ahead map[int32]time.Duration
}

// readClock notes an answer.
func (h *Heartbeater) readClock(g *Grant) {
	now := time.Now()
	r := &clockReading{wall: now.Round(0), clock: h.opts.Clock(), behind: time.UnixMilli(g.Clock).Sub(now), unsure: g.ClockUnsure}
	if len(g.ClocksAhead) > 0 {
		r.ahead = make(map[int32]time.Duration, len(g.ClocksAhead))
		for id, ms := range g.ClocksAhead {
			r.ahead[id] = time.Duration(ms) * time.Millisecond
		}
	}
	h.reading.Store(r)
}

// ClockBehind is how far now, read from this node's wall clock just now, is behind the
// cluster's time; negative if ahead. It is what the last heartbeat told, give or take the
// way of its answer, and by how much the clock has jumped since. known is false before
// the first answer.
func (h *Heartbeater) ClockBehind(now time.Time) (behind time.Duration, known bool) {
	r := h.reading.Load()
	if r == nil {
		return 0, false
	}
	jumped := now.Round(0).Sub(r.wall) - (h.opts.Clock() - r.clock)
	return r.behind - jumped, true
}

// ClockUnsure reports whether what ClockBehind goes by may be the wrong half of the
// brokers' time, or nobody has told it yet.
func (h *Heartbeater) ClockUnsure() bool {
	r := h.reading.Load()
	return r == nil || r.unsure
}

// ClocksAhead are the brokers whose clocks were off by a second and more at the last
// heartbeat, and how far they are ahead of the cluster's time (negative: behind). The
// map must not be changed.
func (h *Heartbeater) ClocksAhead() map[int32]time.Duration {
	if r := h.reading.Load(); r != nil {
		return r.ahead
	}
	return nil
}
