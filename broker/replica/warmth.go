package replica

import (
	"slices"
	"time"

	"github.com/firnlog/firn/record"
)

// Warmth. A replica that was made anew begins where the bucket ends, so it is soon in
// sync and has but the tail on its disk. If it led, consumers of what is still inside
// local retention would read from the object store. So the leader says which replicas
// are cold, the metadata log keeps it with the partition (from level 2 of firn.version
// on), and an election takes a warm one first. Nothing else depends on it: who is in
// sync, the watermark, and whether there is a leader at all do not.
//
// A follower tells its local start with each fetch (log_start_offset in Kafka's
// Fetch). What it lacks is what the leader holds below that:
//
//	warm → cold   it lacks two whole segments or more, and more than 10 % of the bytes
//	cold → warm   it lacks no whole segment, or less than 5 % of the bytes
//
// Who joins the ISR is judged with that, in the same proposal, since a reassignment may
// end with it. A member that was warm gets cold only after ColdAfter: replicas roll at
// different offsets and trim at different times, so a warm one may for a while lack what
// its leader has yet to trim. Between the two rules all stays as it is, so that nothing
// flaps. Nobody stays cold for ever: as the leader trims by local.retention its own
// start comes up to the others'. Where nothing is in the bucket above the log start
// nobody is cold: who is in sync has copied everything.
//
// A leader that is cold itself, because no warm one could lead, stays so while a warm
// follower in sync holds clearly more, and is compared with that one, by offsets, since
// what the bytes are it cannot know. Without such a follower it is as warm as anybody.

// WarmthPace is how often at most a leader proposes another judgement of who is cold.
const WarmthPace = 5 * time.Second

// ColdAfter is how long a warm member of the ISR must lack too much before it is cold:
// twice the default pace of trimming (log.retention.check.interval.ms).
const ColdAfter = 10 * time.Minute

// The shares of what the leader holds, in percent, that a follower may lack.
const (
	coldFrom   = 10 // more makes it cold
	warmAgain  = 5  // less makes it warm
	coldPieces = 2  // whole segments that a cold one lacks at least
)

// Local is what the judgement needs to know of a leader's log.
type Local interface {
	// Start is where the local log begins.
	Start() record.Offset
	// Below tells how many whole segments end at or below the offset, their bytes, and
	// the bytes of the whole log.
	Below(record.Offset) (segments int, bytes, of int64)
}

// Holds takes where a follower's local log begins, as it told with a fetch. log is this
// leader's; it is looked at if the fetch leads to a proposal.
//
// REQUIRES: as Fetched, and before it.
func (r *Replica) Holds(id int32, brokerEpoch int64, start record.Offset, log Local) {
	f := r.followers[id]
	if r.role != Leader || f == nil || brokerEpoch < f.brokerEpoch || start < 0 {
		return
	}
	f.localStart, f.log = start, log
}

// Judge looks at how much the members of the ISR hold locally, and proposes who is cold
// if that is no longer what the metadata log says, but not more often than WarmthPace.
func (r *Replica) Judge(now time.Time, log Local) Effects {
	if r.role != Leader || !r.cfg.Warmth {
		return Effects{}
	}
	cold := r.judgement(now, log)
	if slices.Equal(cold, r.cold) || !r.mayPropose() || now.Sub(r.judged) < WarmthPace {
		return Effects{}
	}
	r.judged = now
	return Effects{Propose: r.propose(slices.Clone(r.isr), cold)}
}

// judgement is who is cold, by id. Of those who are not in sync it stays as it is.
func (r *Replica) judgement(now time.Time, log Local) []int32 {
	if !r.tiered() {
		return nil
	}
	own := log.Start()
	ref, known := r.warmest(own)
	if !known {
		return r.cold
	}
	var cold []int32
	for _, id := range r.replicas {
		is, f := slices.Contains(r.cold, id), r.followers[id]
		switch {
		case f == nil:
			is = is && r.lacks(log, true, own, ref, own)
		case f.localStart >= 0 && slices.Contains(r.isr, id):
			is = f.judge(now, is, r.lacks(log, is, f.localStart, ref, own))
		}
		if is {
			cold = append(cold, id)
		}
	}
	slices.Sort(cold)
	return cold
}

// judge says whether a member of the ISR is cold that was or was not, and lacks too much
// or does not.
func (f *follower) judge(now time.Time, was, lacks bool) bool {
	f.judged = true
	switch {
	case !lacks || was:
		f.lacksSince = time.Time{}
		return lacks
	case f.lacksSince.IsZero():
		f.lacksSince = now
	}
	return now.Sub(f.lacksSince) >= ColdAfter
}

// tiered says that there is something to be read in the bucket.
func (r *Replica) tiered() bool { return r.remoteEnd > r.logStart }

// warmest is the local start that the others are compared with: this leader's own, or,
// if it is cold, the least of a warm follower in sync. known is false while one of
// those was not heard of.
func (r *Replica) warmest(own record.Offset) (start record.Offset, known bool) {
	start, known = own, true
	if !slices.Contains(r.cold, r.id) {
		return start, known
	}
	for _, id := range r.isr {
		if f := r.followers[id]; f != nil && !slices.Contains(r.cold, id) {
			known = known && f.localStart >= 0
			start = min(start, f.localStart)
		}
	}
	return start, known
}

// lacks says whether a replica whose local log begins at start is cold, compared with
// one that begins at ref.
func (r *Replica) lacks(log Local, was bool, start, ref, own record.Offset) bool {
	if start <= ref {
		return false
	}
	if ref < own {
		return share(int64(start-ref), int64(r.logEnd-ref), was)
	}
	segments, bytes, of := log.Below(start)
	if segments == 0 || !was && segments < coldPieces {
		return false
	}
	return share(bytes, of, was)
}

// share says whether so much of the whole is too much to lack for one that was cold, or
// was not.
func share(lacking, of int64, was bool) bool {
	if was {
		return lacking*100 >= of*warmAgain
	}
	return lacking*100 > of*coldFrom
}

// coldWith is the cold set after a follower joined the ISR.
func (r *Replica) coldWith(id int32) []int32 {
	f, was := r.followers[id], slices.Contains(r.cold, id)
	if f.localStart < 0 || !r.cfg.Warmth {
		return r.cold
	}
	own := f.log.Start()
	// One that was warm as a member, in this epoch, only was away.
	is := r.tiered() && (was || !f.judged) && r.lacks(f.log, was, f.localStart, own, own)
	switch {
	case is == was:
		return r.cold
	case was:
		return slices.DeleteFunc(slices.Clone(r.cold), func(other int32) bool { return other == id })
	}
	cold := append(slices.Clone(r.cold), id)
	slices.Sort(cold)
	return cold
}
