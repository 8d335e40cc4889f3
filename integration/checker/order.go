package checker

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// checkPolls follows each consumer through the log.
func (v *logView) checkPolls() {
	for client, ops := range v.clients {
		next := int64(None) // the offset that is due, if the position is known
		for _, op := range inOrder(ops) {
			if op.Kind == Assign {
				next = op.Offset
				continue
			}
			back, skip := ExtPoll, ExtSkip
			for _, r := range op.Records {
				switch {
				case next == None || r.Offset == next:
				case r.Offset < next:
					v.report(back, "%s read offset %d where %d was due: %s", client, r.Offset, next, op)
				default:
					v.checkHole(op, skip, next, r.Offset)
				}
				next = r.Offset + 1
				back, skip = IntPoll, IntSkip
			}
		}
	}
}

// checkHole judges that a consumer passed over offsets.
func (v *logView) checkHole(p *Op, skip Anomaly, from, to int64) {
	from = max(from, v.start)
	if from >= to {
		return
	}
	// Holes are short, or the history has little to look through: a hole of
	// thousands is searched by what is held.
	if to-from <= int64(len(v.held)) {
		for o := from; o < to; o++ {
			if v.reportSkipped(p, skip, o) {
				return
			}
		}
	} else {
		for o := range v.held {
			if o >= from && o < to && v.reportSkipped(p, skip, o) {
				return
			}
		}
	}
	if v.opts.Dense {
		v.report(Gap, "nobody knows what offsets [%d, %d) hold: %s", from, to, p)
	}
}

// reportSkipped reports if the offset holds what the consumer should have seen.
func (v *logView) reportSkipped(p *Op, skip Anomaly, offset int64) bool {
	for _, value := range v.held[offset] {
		s := v.values[value]
		if s != nil && s.op.Txn != "" && p.ReadCommitted {
			if end := v.txns[s.op.Txn]; end == nil || end.Outcome != OK {
				continue
			}
		}
		v.report(skip, "%s passed over offset %d, which holds %q: %s", p.Client, offset, value, p)
		return true
	}
	return false
}

// checkSendOrder holds the log against the order in which records were sent.
func (v *logView) checkSendOrder() {
	type placed struct {
		*sent
		at int64
	}
	byClient := make(map[string][]placed)
	var all []placed
	for _, s := range v.sends {
		if at, ok := s.place(); ok {
			p := placed{s, at}
			byClient[s.op.Client] = append(byClient[s.op.Client], p)
			all = append(all, p)
		}
	}
	for client, sends := range byClient {
		slices.SortStableFunc(sends, func(a, b placed) int { return cmp.Compare(a.op.Begin, b.op.Begin) })
		top := sends[0]
		for _, s := range sends[1:] {
			if s.at > top.at {
				top = s
				continue
			}
			kind := IntSend
			if top.op.before(s.op) {
				kind = ExtSend
			}
			v.report(kind, "%s sent %q (now at %d) before %q (now at %d)", client, top.op.Value, top.at, s.op.Value, s.at)
		}
	}
	// Between clients: going up the log, no record may have ended before one below
	// it began.
	slices.SortStableFunc(all, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	latest := placed{at: None} // of those below, the one that began last
	for _, s := range all {
		if latest.sent != nil && s.op.Outcome == OK && s.op.before(latest.op) && s.op.Client != latest.op.Client {
			v.report(StaleSend, "%q lies at %d, and %q at %d was acked before that was sent", latest.op.Value, latest.at, s.op.Value, s.at)
		}
		if latest.sent == nil || s.op.Begin > latest.op.Begin {
			latest = s
		}
	}
}

// floor is a fact that later answers may not fall below.
type floor struct {
	since int64 // ns
	at    int64
}

// floors answers what the highest fact before a time is.
type floors []floor

// raise sorts the facts, and makes each the highest so far.
func (f floors) raise() {
	slices.SortFunc(f, func(a, b floor) int { return cmp.Compare(a.since, b.since) })
	top := int64(math.MinInt64)
	for i := range f {
		top = max(top, f[i].at)
		f[i].at = top
	}
}

// before is the highest fact that was known before a time.
func (f floors) before(now int64) int64 {
	i := sort.Search(len(f), func(i int) bool { return f[i].since >= now })
	if i == 0 {
		return math.MinInt64
	}
	return f[i-1].at
}

// checkEnds holds the ends that clients were told against what was visible before.
func (v *logView) checkEnds() {
	var known floors
	for _, s := range v.sends {
		if v.visible(s) && s.op.Txn == "" {
			known = append(known, floor{s.op.Finish, s.op.Offset + 1})
		}
	}
	for _, p := range v.polls {
		for _, r := range p.Records {
			known = append(known, floor{p.Finish, r.Offset + 1})
		}
	}
	for _, e := range v.ends {
		known = append(known, floor{e.Finish, e.Offset})
	}
	known.raise()
	for _, e := range v.ends {
		if least := known.before(e.Begin); e.Offset < least {
			v.report(EndBack, "%d was visible before: %s", least, e)
		}
	}
}

// checkCommits holds the positions that groups were told against those that were
// committed before. A commit whose outcome is unknown may be done at any time after it
// began, also after later ones: nothing in the protocol orders two connections.
func (v *logView) checkCommits() {
	known := make(map[string]floors)
	type position struct {
		group  string
		offset int64
	}
	late := make(map[position]int64) // when the first of them began
	for _, c := range v.commits {
		at := position{c.Group, c.Offset}
		switch began, again := late[at]; {
		case c.Outcome == OK:
			known[c.Group] = append(known[c.Group], floor{c.Finish, c.Offset})
		case c.Outcome == Unknown && c.Kind == Commit && (!again || c.Begin < began):
			late[at] = c.Begin
		}
	}
	for _, f := range known {
		f.raise()
	}
	for _, c := range v.commits {
		if c.Kind != Committed || c.Outcome != OK {
			continue
		}
		began, may := late[position{c.Group, c.Offset}]
		if least := known[c.Group].before(c.Begin); c.Offset < least && (!may || c.Finish < began) {
			v.report(CommitBack, "%d was committed before: %s", least, c)
		}
	}
}
