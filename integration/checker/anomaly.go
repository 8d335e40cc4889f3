package checker

import (
	"fmt"
	"slices"
	"strings"
)

// Anomaly is the kind of something that must not happen. The names in comments
// are those of Jepsen's workload where it has one.
type Anomaly string

// The anomalies.
const (
	// LostWrite: acked, and missing where others were read, or above the end of
	// the log (lost-write, unseen).
	LostWrite Anomaly = "lost write"
	// DirtyRead: a value that nobody sent, or not yet.
	DirtyRead Anomaly = "dirty read"
	// AbortedRead: a value whose send had failed, or in read_committed one of an
	// aborted transaction (aborted-read, G1a).
	AbortedRead Anomaly = "aborted read"
	// PrecommittedRead: a value that read_committed saw before its transaction was
	// told to commit (precommitted-read).
	PrecommittedRead Anomaly = "precommitted read"
	// Duplicate: one value at two offsets (duplicate).
	Duplicate Anomaly = "duplicate"
	// InconsistentOffset: two values at one offset, or a value that was acked at
	// one offset and read at another (inconsistent-offsets).
	InconsistentOffset Anomaly = "inconsistent offset"
	// IntPoll and ExtPoll: offsets that go back, inside one poll and between two
	// (int-nonmonotonic-poll, nonmonotonic-poll).
	IntPoll Anomaly = "non-monotonic within a poll"
	ExtPoll Anomaly = "non-monotonic polls"
	// IntSkip and ExtSkip: a record that is there and was passed over
	// (int-poll-skip, poll-skip).
	IntSkip Anomaly = "skipped within a poll"
	ExtSkip Anomaly = "skipped between polls"
	// Gap: offsets that hold nothing, in a log that has no reason for holes.
	Gap Anomaly = "gap"
	// IntSend and ExtSend: a producer's records out of order in the log: those that
	// were under way together, and those where one was acked before the other was
	// sent (int-nonmonotonic-send, nonmonotonic-send).
	IntSend Anomaly = "non-monotonic among sends"
	ExtSend Anomaly = "non-monotonic sends"
	// StaleSend: the same between producers: a record that was sent after another
	// was acked lies before it.
	StaleSend Anomaly = "sent later, stored earlier"
	// EndBack: the end of a log is below what was seen or acked before.
	EndBack Anomaly = "end of log went back"
	// CommitBack: a group's position is below one that was committed before.
	CommitBack Anomaly = "committed offset went back"
)

// Finding is one anomaly.
type Finding struct {
	Anomaly Anomaly
	Log     string
	Detail  string
}

func (f Finding) String() string { return f.Anomaly.at(f.Log) + ": " + f.Detail }

func (a Anomaly) at(log string) string { return string(a) + " in " + log }

// Findings are the anomalies of a history.
type Findings []Finding

// shown bounds how many findings of a kind String writes.
const shown = 5

// String groups the findings by kind, for a person.
func (all Findings) String() string {
	byKind := make(map[Anomaly][]Finding)
	var kinds []Anomaly
	for _, f := range all {
		if byKind[f.Anomaly] == nil {
			kinds = append(kinds, f.Anomaly)
		}
		byKind[f.Anomaly] = append(byKind[f.Anomaly], f)
	}
	slices.Sort(kinds)
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, "%s: %d\n", k, len(byKind[k]))
		for _, f := range byKind[k][:min(shown, len(byKind[k]))] {
			fmt.Fprintf(&b, "  %s: %s\n", f.Log, f.Detail)
		}
	}
	return b.String()
}
