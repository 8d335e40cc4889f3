package group

import (
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// syncGroup handles a SyncGroup; to is called once, by an effect, now or when
// the leader's assignment is in the log.
func (g *classicGroup) syncGroup(req *SyncRequest, to func(SyncResponse), out *effects) {
	if err := g.validateSync(req); err != nil {
		out.add(answerSync{to, SyncResponse{Err: err}})
		return
	}
	m := g.members[req.MemberID]
	switch g.state {
	case PreparingRebalance:
		out.add(answerSync{to, SyncResponse{Err: kerr.RebalanceInProgress}})
	case CompletingRebalance:
		// An earlier SyncGroup of this member, whose client has given up on it.
		g.answerSync(m, SyncResponse{Err: kerr.RebalanceInProgress}, out)
		m.sync = to
		g.synced(m.id, out)
		// Of two assignments for a generation the first one counts: it may be
		// in the log already.
		if m.id == g.leader && !g.assigning {
			g.assign(req, out)
		}
	case Stable:
		g.synced(m.id, out)
		out.add(answerSync{to, g.assigned(m)})
	default: // validateSync has refused
	}
}

func (g *classicGroup) validateSync(req *SyncRequest) error {
	if g.state == Empty {
		return kerr.UnknownMemberID
	}
	if err := g.validate(req.MemberID, req.InstanceID); err != nil {
		return err
	}
	if req.Generation != g.generation {
		return kerr.IllegalGeneration
	}
	if (req.ProtocolType != nil && *req.ProtocolType != g.protocolType) ||
		(req.Protocol != nil && *req.Protocol != g.protocol) {
		return kerr.InconsistentGroupProtocol
	}
	return nil
}

// assign sends the leader's assignment on its way to the log. Members that it
// does not name get nothing.
func (g *classicGroup) assign(req *SyncRequest, out *effects) {
	given := make(map[string][]byte, len(g.members))
	for _, m := range g.order {
		given[m.id] = []byte{}
	}
	for _, a := range req.Assignments {
		if _, ok := given[a.MemberID]; ok {
			given[strings.Clone(a.MemberID)] = append([]byte{}, a.Data...)
		}
	}
	g.assigning = true
	note := pendingWrite{kind: pendingAssign, generation: g.generation, assignments: given}
	out.add(persist{g.recordWith(given), note})
}

// assignmentStored is the outcome of the assignment's record.
func (g *classicGroup) assignmentStored(note *pendingWrite, err error, now time.Time, out *effects) {
	// Otherwise a rebalance has begun meanwhile and answered all.
	if g.state != CompletingRebalance || g.generation != note.generation {
		return
	}
	g.assigning = false
	if err != nil {
		g.resetAssignments(appendError(err), now, out)
		g.rebalance("the assignment could not be stored", now, out)
		return
	}
	g.transition(Stable, now)
	for _, m := range g.order {
		m.assignment = note.assignments[m.id]
		if g.answerSync(m, g.assigned(m), out) {
			g.restartSession(m, now, out)
		}
	}
}

// assigned is the answer to a member's SyncGroup in a Stable group.
func (g *classicGroup) assigned(m *member) SyncResponse {
	return SyncResponse{ProtocolType: g.protocolType, Protocol: g.protocol, Assignment: m.assignment}
}

// resetAssignments takes the assignments back and answers all that wait for
// one with err. Their sessions begin anew: a deadline that passed while they
// waited has been let go.
func (g *classicGroup) resetAssignments(err error, now time.Time, out *effects) {
	for _, m := range g.order {
		m.assignment = []byte{}
		if g.answerSync(m, SyncResponse{Err: err}, out) {
			g.restartSession(m, now, out)
		}
	}
}

// synced notes that the member has sent its SyncGroup.
func (g *classicGroup) synced(id string, out *effects) {
	delete(g.unsynced, id)
	if len(g.unsynced) == 0 {
		g.endSyncPhase(out)
	}
}

func (g *classicGroup) endSyncPhase(out *effects) {
	clear(g.unsynced)
	out.add(stopTimer{timerKey{kind: timerSync, group: g.id}})
}

// syncTimeout removes the members that have not sent their SyncGroup since the
// generation began.
func (g *classicGroup) syncTimeout(now time.Time, out *effects) {
	if (g.state != CompletingRebalance && g.state != Stable) || len(g.unsynced) == 0 {
		return
	}
	for i := len(g.order) - 1; i >= 0; i-- {
		if id := g.order[i].id; g.isUnsynced(id) {
			g.remove(id, out)
		}
	}
	g.rebalance("members sent no SyncGroup in time", now, out)
}

func (g *classicGroup) isUnsynced(id string) bool {
	_, ok := g.unsynced[id]
	return ok
}
