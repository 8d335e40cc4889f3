package checker

import (
	"cmp"
	"fmt"
	"slices"
)

// Options say what the history's logs are like.
type Options struct {
	// Dense logs have a record at every offset: no transactions, no compaction, no
	// records but those of the history.
	Dense bool
}

// Check returns the anomalies of a history, in no particular order.
func Check(ops []Op, o Options) Findings {
	logs := make(map[string]*logView)
	txns := make(map[string]*Op)
	var names []string
	for i := range ops {
		op := &ops[i]
		if op.Kind == EndTxn {
			txns[op.Txn] = op
			continue
		}
		v := logs[op.Log]
		if v == nil {
			v = newLogView(op.Log, o, txns)
			logs[op.Log] = v
			names = append(names, op.Log)
		}
		v.add(op)
	}
	slices.Sort(names)
	var all Findings
	for _, name := range names {
		all = append(all, logs[name].check()...)
	}
	return all
}

// sent is a value of a log: how it was sent and where it was seen.
type sent struct {
	op    *Op
	reads []int64 // distinct offsets
}

// place is where the value lies, as far as anybody knows.
func (s *sent) place() (offset int64, ok bool) {
	if len(s.reads) > 0 {
		return s.reads[0], true
	}
	if s.op.Outcome == OK {
		return s.op.Offset, true
	}
	return None, false
}

// logView is all that a history says about one log.
type logView struct {
	name string
	opts Options
	txns map[string]*Op

	values  map[string]*sent
	sends   []*sent            // in the order of the history
	clients map[string][]*Op   // polls, assigns and drains
	held    map[int64][]string // distinct values by offset, of acks and polls
	polls   []*Op
	drains  []*Op
	ends    []*Op
	commits []*Op // and committed
	start   int64 // the highest log start that was seen
	highest int64 // offset read

	found Findings
}

func newLogView(name string, o Options, txns map[string]*Op) *logView {
	return &logView{name: name, opts: o, txns: txns, values: make(map[string]*sent), clients: make(map[string][]*Op),
		held: make(map[int64][]string), highest: None}
}

func (v *logView) add(op *Op) {
	switch op.Kind {
	case Send:
		s := &sent{op: op}
		v.values[op.Value] = s
		v.sends = append(v.sends, s)
	case Poll:
		v.polls = append(v.polls, op)
		v.clients[op.Client] = append(v.clients[op.Client], op)
	case Assign:
		v.clients[op.Client] = append(v.clients[op.Client], op)
	case Drain:
		v.drains = append(v.drains, op)
	case End:
		v.ends = append(v.ends, op)
	case Start:
		v.start = max(v.start, op.Offset)
	case Commit, Committed:
		v.commits = append(v.commits, op)
	case EndTxn: // not of a log
	default:
		v.report(DirtyRead, "no such kind of operation: %s", op)
	}
}

func (v *logView) report(a Anomaly, format string, args ...any) {
	v.found = append(v.found, Finding{Anomaly: a, Log: v.name, Detail: fmt.Sprintf(format, args...)})
}

func (v *logView) check() Findings {
	for _, s := range v.sends {
		if s.op.Outcome == OK {
			v.hold(s.op.Offset, s.op.Value)
		}
	}
	for _, p := range v.polls {
		for _, r := range p.Records {
			v.hold(r.Offset, r.Value)
			v.highest = max(v.highest, r.Offset)
			v.read(p, r)
		}
	}
	v.checkOffsets()
	v.checkPlaces()
	v.checkLost()
	v.checkPolls()
	v.checkSendOrder()
	v.checkEnds()
	v.checkCommits()
	return v.found
}

// hold notes that an offset holds a value.
func (v *logView) hold(offset int64, value string) {
	if !slices.Contains(v.held[offset], value) {
		v.held[offset] = append(v.held[offset], value)
	}
}

// read judges one record of a poll by how it was sent.
func (v *logView) read(p *Op, r Record) {
	s := v.values[r.Value]
	if s == nil {
		v.report(DirtyRead, "nobody sent %q, which %s read at %d", r.Value, p.Client, r.Offset)
		return
	}
	if !slices.Contains(s.reads, r.Offset) {
		s.reads = append(s.reads, r.Offset)
	}
	if p.before(s.op) {
		v.report(DirtyRead, "%s read %q at %d before it was sent: %s", p.Client, r.Value, r.Offset, s.op)
	}
	if s.op.Outcome == Failed {
		v.report(AbortedRead, "%s read at %d what could not be sent: %s", p.Client, r.Offset, s.op)
	}
	if s.op.Txn == "" || !p.ReadCommitted {
		return
	}
	end := v.txns[s.op.Txn]
	switch {
	case end == nil || p.before(end):
		v.report(PrecommittedRead, "%s read %q at %d before transaction %s ended", p.Client, r.Value, r.Offset, s.op.Txn)
	case end.Outcome == Failed:
		v.report(AbortedRead, "%s read %q at %d of transaction %s, which was aborted", p.Client, r.Value, r.Offset, s.op.Txn)
	}
}

// checkOffsets finds offsets with two values.
func (v *logView) checkOffsets() {
	for offset, values := range v.held {
		if len(values) > 1 {
			v.report(InconsistentOffset, "offset %d holds %q", offset, values)
		}
	}
}

// checkPlaces finds values with two offsets.
func (v *logView) checkPlaces() {
	for _, s := range v.sends {
		switch {
		case len(s.reads) > 1:
			v.report(Duplicate, "%q is at offsets %v", s.op.Value, s.reads)
		case len(s.reads) == 1 && s.op.Outcome == OK && s.op.Offset != s.reads[0]:
			v.report(InconsistentOffset, "%q was acked at offset %d and read at %d", s.op.Value, s.op.Offset, s.reads[0])
		}
	}
}

// visible tells whether an acked send must be seen by everyone.
func (v *logView) visible(s *sent) bool {
	if s.op.Outcome != OK || s.op.Offset < v.start {
		return false
	}
	if s.op.Txn == "" {
		return true
	}
	end := v.txns[s.op.Txn]
	return end != nil && end.Outcome == OK
}

// checkLost finds acked sends that are gone.
func (v *logView) checkLost() {
	drained := make(map[*Op]map[string]bool) // values that the client of the drain read
	for _, d := range v.drains {
		got := make(map[string]bool)
		for _, p := range v.clients[d.Client] {
			for _, r := range p.Records {
				got[r.Value] = true
			}
		}
		drained[d] = got
	}
	for _, s := range v.sends {
		if !v.visible(s) {
			continue
		}
		if len(s.reads) == 0 && s.op.Offset < v.highest {
			v.report(LostWrite, "nobody read it, though offset %d was read: %s", v.highest, s.op)
			continue
		}
		for _, d := range v.drains {
			if !s.op.before(d) || s.op.Offset < d.Offset {
				continue
			}
			if s.op.Offset >= d.Until {
				v.report(LostWrite, "the log ends at %d for %s, below what was acked before: %s", d.Until, d.Client, s.op)
				break
			}
			if !drained[d][s.op.Value] {
				v.report(LostWrite, "%s read [%d, %d) without it: %s", d.Client, d.Offset, d.Until, s.op)
				break
			}
		}
	}
}

// inOrder sorts a consumer's operations as they ended: while a poll waits, the
// consumer may be moved, and what it returns is from where it was moved to.
func inOrder(ops []*Op) []*Op {
	sorted := slices.Clone(ops)
	slices.SortStableFunc(sorted, func(a, b *Op) int { return cmp.Compare(a.Finish, b.Finish) })
	return sorted
}
