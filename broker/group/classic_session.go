package group

import (
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// heartbeat handles a Heartbeat.
func (g *classicGroup) heartbeat(req *HeartbeatRequest, now time.Time, out *effects) error {
	if err := g.validate(req.MemberID, req.InstanceID); err != nil {
		return err
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	g.restartSession(g.members[req.MemberID], now, out)
	if g.state == PreparingRebalance {
		return kerr.RebalanceInProgress
	}
	return nil
}

// leaveGroup handles a LeaveGroup; the errors are parallel to req.Members.
func (g *classicGroup) leaveGroup(req *LeaveRequest, now time.Time, out *effects) []error {
	errs := make([]error, len(req.Members))
	gone := ""
	for i, l := range req.Members {
		id := l.MemberID
		_, pending := g.pending[id]
		switch {
		case id == "" && l.InstanceID != nil: // an administrator removes a static member
			static, ok := g.statics[*l.InstanceID]
			if !ok {
				errs[i] = kerr.UnknownMemberID
				continue
			}
			id = static
		case !pending:
			if errs[i] = g.validate(id, l.InstanceID); errs[i] != nil {
				continue
			}
		}
		g.remove(id, out)
		gone = because("member "+id+" leaves", l.Reason)
	}
	if gone != "" {
		g.afterRemoval(gone, now, out)
	}
	return errs
}

// afterRemoval lets the group go on without members that are gone.
func (g *classicGroup) afterRemoval(reason string, now time.Time, out *effects) {
	switch g.state {
	case Stable, CompletingRebalance:
		g.rebalance(reason, now, out)
	case PreparingRebalance:
		if len(g.members) == 0 && len(g.pending) == 0 {
			g.completeJoin(now, out) // nobody is left to wait for
			return
		}
		g.maybeCompleteJoin(now, out)
	default: // Empty and Dead groups had no members
	}
}

// validateCommit checks whether an offset commit may be stored.
func (g *classicGroup) validateCommit(req *CommitRequest) error {
	if req.Generation < 0 && g.state == Empty {
		return nil // no member, and no group to disturb
	}
	if req.Generation < 0 && req.MemberID == "" && req.InstanceID == nil {
		return kerr.UnknownMemberID
	}
	if err := g.validate(req.MemberID, req.InstanceID); err != nil {
		return err
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	if g.state == CompletingRebalance {
		return kerr.RebalanceInProgress
	}
	return nil
}

// committed counts a valid commit as a heartbeat of its member.
func (g *classicGroup) committed(memberID string, now time.Time, out *effects) {
	if m := g.members[memberID]; m != nil {
		g.restartSession(m, now, out)
	}
}

// expire handles the passing of a deadline.
func (g *classicGroup) expire(key timerKey, now time.Time, out *effects) {
	switch key.kind {
	case timerJoin:
		g.joinTimeout(now, out)
	case timerSync:
		g.syncTimeout(now, out)
	case timerSession:
		g.sessionTimeout(key.member, now, out)
	default: // the shard's own
	}
}

func (g *classicGroup) sessionTimeout(id string, now time.Time, out *effects) {
	m := g.members[id]
	_, pending := g.pending[id]
	if m == nil && !pending {
		return
	}
	// A member that waits for us need not send heartbeats; its session begins
	// anew with the answer.
	if m != nil && !m.isNew && (m.join != nil || m.sync != nil) {
		return
	}
	g.remove(id, out)
	if m == nil && g.state != PreparingRebalance {
		return // nobody waits for a pending member
	}
	g.afterRemoval("the session of member "+id+" ended", now, out)
}

// persisted takes the outcome of a record that the group wrote.
func (g *classicGroup) persisted(note *pendingWrite, err error, now time.Time, out *effects) {
	switch note.kind {
	case pendingAssign:
		g.assignmentStored(note, err, now, out)
	case pendingReplace:
		g.replaced(note, err, now, out)
	case pendingCreate, pendingEmpty:
		// A new group that could not be stored is dropped by its shard. One that
		// became empty stays so: should the broker fail now, the generation
		// before comes back and its members' sessions end again.
	}
}
