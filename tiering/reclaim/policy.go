package reclaim

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// Unlimited is the value of a bound that does not bind.
const Unlimited int64 = -1

// Policy is what a topic's configuration says of keeping and deleting. Times
// are ms, sizes bytes.
type Policy struct {
	// Delete: cleanup.policy has "delete". Without it nothing is deleted by age
	// or size.
	Delete bool
	// TotalMs and TotalBytes are retention.ms and retention.bytes: over all
	// tiers. Unlimited is -1.
	TotalMs, TotalBytes int64
	// Tiered: sealed segments are copied (remote.storage.enable).
	Tiered bool
	// LocalMs and LocalBytes are local.retention.ms and local.retention.bytes,
	// with -2 replaced by the total. They matter only where Tiered.
	LocalMs, LocalBytes int64
}

// Segment is one segment of the local log.
type Segment struct {
	Base, End    record.Offset
	Bytes        int64
	MaxTimestamp int64 // of its records, ms since the epoch; -1 when there are none
	Sealed       bool
}

// State is one partition on its leader.
//
// INVARIANT: LogStart ≤ Stable; remote entries are live and end at RemoteEnd.
type State struct {
	LogStart  record.Offset
	RemoteEnd record.Offset // 0 if nothing was ever copied
	// Stable is min(lastStable, highWatermark): nothing above it is deleted.
	Stable record.Offset
	// Remote are the live entries of finished copies, oldest first.
	Remote []manifest.Entry
	// Local are the segments on disk, oldest first, the active one last.
	Local []Segment
	// ClockTrusted is false on a node whose clock is far from the controller's:
	// then nothing is deleted by age.
	ClockTrusted bool
}

// Code says why a segment is still here, or that it goes.
type Code string

// The codes.
const (
	Active        Code = "active"          // local: the segment that is written
	Uncommitted   Code = "uncommitted"     // local: above the high watermark or an open transaction
	NotCopied     Code = "not-copied"      // local: its copy is not committed yet
	Kept          Code = "kept"            // cleanup.policy does not delete, or no bound is set
	WithinAge     Code = "within-age"      // until Until
	WithinSize    Code = "within-size"     // until that many more bytes are written
	ClockInDoubt  Code = "clock-in-doubt"  // would be too old, by a clock that is not trusted
	BehindOthers  Code = "behind-others"   // an older segment is kept, so this one is
	Due           Code = "due"             // goes with the next pass
	BelowLogStart Code = "below-log-start" // nobody reads it; deletion is under way
	GracePeriod   Code = "grace-period"    // remote: deleted already, its bytes go after the grace
)

// Reason is why one segment is still here.
type Reason struct {
	Remote     bool
	Start, End record.Offset
	Bytes      int64
	Object     uuid.UUID // of a remote one
	Code       Code
	// Until is when age will take it; zero where age has no part.
	Until time.Time
	Text  string // for people
}

// Decision is what retention wants of a partition now.
type Decision struct {
	// LogStart is where the log shall begin; State.LogStart if nothing changes.
	LogStart record.Offset
	// LocalStart is up to where local segments shall go: it is the end of the
	// last of them, or at most State's first base if none does.
	// INVARIANT: LocalStart ≤ max(LogStart, RemoteEnd) where the topic is tiered,
	// and ≤ LogStart where not.
	LocalStart record.Offset
	// Roll: the active segment is too old as well. Once it is sealed the next
	// pass can take it.
	Roll bool
}

// unit is a step in which the log start can rise: a remote entry, or a local
// segment that is in no entry yet.
type unit struct {
	end          record.Offset
	bytes        int64
	maxTimestamp int64
	sealed       bool
}

// units are the steps above the log start, oldest first. The part of a local
// segment that is remote, too, counts once, as remote.
func units(s *State) []unit {
	var us []unit
	for _, e := range s.Remote {
		if e.End > s.LogStart {
			us = append(us, unit{e.End, e.Bytes, e.MaxTimestamp, true})
		}
	}
	from := max(s.RemoteEnd, s.LogStart)
	for _, l := range s.Local {
		if l.End > from || !l.Sealed {
			us = append(us, unit{l.End, l.Bytes, l.MaxTimestamp, l.Sealed})
		}
	}
	return us
}

// tooOld follows Kafka: a segment goes when its newest record is older than
// the bound. A segment without a timestamp is never too old by itself.
func tooOld(now time.Time, maxTimestamp, boundMs int64) bool {
	return boundMs >= 0 && maxTimestamp >= 0 && now.UnixMilli()-maxTimestamp > boundMs
}

// Decide is retention's decision about one partition at now. It is pure.
//
// The log start rises by whole units from the oldest on, while the unit is too
// old, or while what remains without it still has retention.bytes; never above
// Stable, and never past the active segment. Local segments go while they lie
// below the log start, or, of a tiered topic, are committed to the bucket and
// beyond the local bounds.
func Decide(now time.Time, p Policy, s State) Decision {
	d := Decision{LogStart: s.LogStart}
	if p.Delete {
		d.LogStart, d.Roll = totalRetention(now, p, &s)
	}
	if len(s.Local) > 0 {
		d.LocalStart = localRetention(now, p, &s, d.LogStart)
	}
	return d
}

// DecideFollower is the part of a replica that does not lead: it trims its
// local segments by the committed ends, and raises nothing.
func DecideFollower(now time.Time, p Policy, s State) Decision {
	d := Decision{LogStart: s.LogStart}
	if len(s.Local) > 0 {
		d.LocalStart = localRetention(now, p, &s, s.LogStart)
	}
	return d
}

func totalRetention(now time.Time, p Policy, s *State) (logStart record.Offset, roll bool) {
	us := units(s)
	size := int64(0)
	for _, u := range us {
		size += u.bytes
	}
	logStart = s.LogStart
	for _, u := range us {
		old := s.ClockTrusted && tooOld(now, u.maxTimestamp, p.TotalMs)
		large := p.TotalBytes >= 0 && size-u.bytes >= p.TotalBytes
		if !old && !large || u.end > s.Stable {
			return logStart, false
		}
		if !u.sealed {
			return logStart, old && u.bytes > 0
		}
		logStart = max(logStart, u.end)
		size -= u.bytes
	}
	return logStart, false
}

func localRetention(now time.Time, p Policy, s *State, logStart record.Offset) record.Offset {
	size := int64(0)
	for _, l := range s.Local {
		size += l.Bytes
	}
	start := s.Local[0].Base
	for _, l := range s.Local {
		if !l.Sealed || !localGoes(now, p, s, l, logStart, size) {
			break
		}
		start = l.End
		size -= l.Bytes
	}
	return start
}

// localGoes says whether the oldest local segment l goes, of size bytes that
// are on disk with it.
func localGoes(now time.Time, p Policy, s *State, l Segment, logStart record.Offset, size int64) bool {
	if l.End <= logStart {
		return true
	}
	if !p.Tiered || !p.Delete || l.End > s.RemoteEnd {
		return false
	}
	return s.ClockTrusted && tooOld(now, l.MaxTimestamp, p.LocalMs) || p.LocalBytes >= 0 && size-l.Bytes >= p.LocalBytes
}

// Explain gives the reason for each segment that is still here: the remote
// entries, oldest first, and then the local segments. Deleting are objects of
// the partition in their grace period. It is pure.
func Explain(now time.Time, p Policy, s State, deleting []uuid.UUID) []Reason {
	var reasons []Reason
	for _, id := range deleting {
		reasons = append(reasons, Reason{Remote: true, Object: id, Code: GracePeriod,
			Text: "deleted; its bytes go when the grace period is over, for readers may still be at them"})
	}
	d := Decide(now, p, s)
	total, local := int64(0), int64(0)
	for _, u := range units(&s) {
		total += u.bytes
	}
	for _, l := range s.Local {
		local += l.Bytes
	}
	for _, e := range s.Remote {
		r := Reason{Remote: true, Start: e.Start, End: e.End, Bytes: e.Bytes, Object: e.Object}
		bounded(&r, now, p.TotalMs, p.TotalBytes, e.MaxTimestamp, total-e.Bytes, "retention")
		switch {
		case e.End <= s.LogStart:
			r.Code, r.Text = BelowLogStart, "below the log start; deletion begins with the next pass"
		case !p.Delete:
			r.Code, r.Text, r.Until = Kept, "cleanup.policy has no delete", time.Time{}
		case e.End <= d.LogStart:
			r.Code, r.Text = Due, "beyond retention.ms or retention.bytes; goes with the next pass"
		default:
			doubt(&r, s.ClockTrusted)
		}
		total -= e.Bytes
		reasons = append(reasons, r)
	}
	for _, l := range s.Local {
		reasons = append(reasons, explainLocal(now, p, &s, d, l, total, local))
		local -= l.Bytes
		if l.End > max(s.RemoteEnd, s.LogStart) {
			total -= l.Bytes
		}
	}
	return reasons
}

// explainLocal explains a segment on disk; total and local are the bytes from
// it on, in all tiers and on disk.
func explainLocal(now time.Time, p Policy, s *State, d Decision, l Segment, total, local int64) Reason {
	r := Reason{Start: l.Base, End: l.End, Bytes: l.Bytes}
	switch {
	case !l.Sealed:
		r.Code, r.Text = Active, "it is the active segment; it is sealed at segment.bytes or segment.ms"
	case l.End <= d.LocalStart:
		r.Code, r.Text = Due, "beyond its bounds; goes with the next pass"
	case l.End > s.Stable:
		r.Code, r.Text = Uncommitted, "it reaches above the high watermark, or into an open transaction"
	case p.Tiered && l.End > s.RemoteEnd:
		r.Code, r.Text = NotCopied, "its copy to the object store is not committed yet"
	case !p.Delete:
		r.Code, r.Text = Kept, "cleanup.policy has no delete"
	case p.Tiered:
		bounded(&r, now, p.LocalMs, p.LocalBytes, l.MaxTimestamp, local-l.Bytes, "local.retention")
		doubt(&r, s.ClockTrusted)
	default:
		bounded(&r, now, p.TotalMs, p.TotalBytes, l.MaxTimestamp, total-l.Bytes, "retention")
		doubt(&r, s.ClockTrusted)
	}
	return r
}

// bounded explains a segment by its bounds; rest is the bytes that would
// remain without it.
func bounded(r *Reason, now time.Time, ms, bytes, maxTimestamp, rest int64, name string) {
	switch {
	case ms >= 0 && maxTimestamp >= 0 && !tooOld(now, maxTimestamp, ms):
		r.Code, r.Until = WithinAge, deadline(maxTimestamp, ms)
		r.Text = fmt.Sprintf("its newest record is younger than %s.ms=%d until %s", name, ms, r.Until.UTC().Format(time.RFC3339))
	case ms >= 0 && maxTimestamp >= 0:
		r.Code, r.Text = BehindOthers, "old enough, but segments go from the oldest on, and an older one is kept"
	case bytes >= 0 && rest < bytes:
		r.Code = WithinSize
		r.Text = fmt.Sprintf("without it less than %s.bytes=%d would remain; it goes after %d more bytes", name, bytes, bytes-rest)
	case bytes >= 0:
		r.Code, r.Text = BehindOthers, "segments go from the oldest on, and an older one is kept"
	default:
		r.Code, r.Text = Kept, fmt.Sprintf("neither %s.ms nor %s.bytes bounds it", name, name)
	}
}

// deadline is when a segment gets too old, without overflow.
func deadline(maxTimestamp, ms int64) time.Time {
	const far = 1 << 52 // ms; some 140,000 years
	return time.UnixMilli(min(maxTimestamp, far) + min(ms, far))
}

// doubt corrects the explanation where only the clock keeps a segment.
func doubt(r *Reason, trusted bool) {
	if r.Code == BehindOthers && !trusted {
		r.Code, r.Text = ClockInDoubt, "nothing is deleted by age: this node's clock is too far from the controller's"
	}
}
