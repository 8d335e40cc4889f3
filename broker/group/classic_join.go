package group

import (
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// joinGroup handles a JoinGroup; to is called once, by an effect, now or when
// the join phase ends.
func (g *classicGroup) joinGroup(req *JoinRequest, to func(JoinResponse), now time.Time, out *effects) {
	fail := func(memberID string, err error) { out.add(answerJoin{to, joinError(memberID, err)}) }
	if !g.accepts(req.MemberID) {
		g.remove(req.MemberID, out)
		fail("", kerr.GroupMaxSizeReached)
		g.maybeCompleteJoin(now, out)
		return
	}
	if !g.supports(req.ProtocolType, req.Protocols) {
		fail(req.MemberID, kerr.InconsistentGroupProtocol)
		return
	}
	if req.MemberID == "" {
		g.joinNew(req, to, now, out)
		return
	}
	if _, ok := g.pending[req.MemberID]; ok && req.InstanceID == nil {
		g.addMember(req, req.MemberID, to, now, out)
		return
	}
	if err := g.validate(req.MemberID, req.InstanceID); err != nil {
		fail(req.MemberID, err)
		return
	}
	m := g.members[req.MemberID]
	switch g.state {
	case CompletingRebalance:
		// The answer was lost: the same one again. (A changed member needs
		// another generation.)
		if m.matches(req.Protocols) {
			out.add(answerJoin{to, g.joined(m)})
			return
		}
	case Stable:
		// A follower may have missed the last generation. A leader that joins
		// asks for a new one: something it assigns by has changed.
		if m.id != g.leader && m.matches(req.Protocols) {
			out.add(answerJoin{to, g.joined(m)})
			return
		}
	default: // members join, and this one joins them
	}
	g.update(m, req)
	g.awaitJoin(m, to, out)
	g.rebalanceOrComplete(because("member "+m.id+" joins again", req.Reason), now, out)
}

// because adds a client's reason (KIP-800) to ours.
func because(what, reason string) string {
	const most = 255 // bytes; about what Java's client sends at most
	if reason == "" {
		return what
	}
	return what + ": " + strings.ToValidUTF8(reason[:min(len(reason), most)], "")
}

// accepts reports whether the group has room for the member. While members
// join, those that have joined count: the last to come are turned away.
func (g *classicGroup) accepts(memberID string) bool {
	m := g.members[memberID]
	switch g.state {
	case PreparingRebalance:
		return (m != nil && m.join != nil) || g.awaiting < g.cfg.MaxSize
	case CompletingRebalance, Stable:
		return m != nil || len(g.members) < g.cfg.MaxSize
	default: // nobody is in it
		return true
	}
}

// joinNew handles a JoinGroup without member id.
func (g *classicGroup) joinNew(req *JoinRequest, to func(JoinResponse), now time.Time, out *effects) {
	if req.InstanceID != nil {
		id := *req.InstanceID + "-" + g.newID()
		if old, ok := g.statics[*req.InstanceID]; ok {
			g.joinReturning(req, old, id, to, now, out)
		} else {
			g.addMember(req, id, to, now, out)
		}
		return
	}
	id := req.ClientID + "-" + g.newID()
	if !req.RequireMemberID {
		g.addMember(req, id, to, now, out)
		return
	}
	// Known before it waits, the member can be found again when the answer to
	// its join gets lost (KIP-394).
	g.pending[id] = struct{}{}
	out.add(setTimer{timerKey{kind: timerSession, group: g.id, member: id}, now.Add(req.SessionTimeout)})
	out.add(answerJoin{to, joinError(id, kerr.MemberIDRequired)})
}

// addMember makes a new member of the request.
func (g *classicGroup) addMember(req *JoinRequest, id string, to func(JoinResponse), now time.Time, out *effects) {
	m := &member{
		id:         strings.Clone(id),
		instanceID: cloneString(req.InstanceID),
		clientID:   strings.Clone(req.ClientID),
		clientHost: strings.Clone(req.ClientHost),
		assignment: []byte{},
		isNew:      true,
	}
	m.update(req)
	if g.state == PreparingRebalance && g.previous == Empty {
		g.memberAdded = true
	}
	g.add(m, strings.Clone(req.ProtocolType), to)
	out.add(setTimer{timerKey{kind: timerSession, group: g.id, member: m.id}, now.Add(newMemberJoinTimeout)})
	g.rebalanceOrComplete(because("member "+m.id+" joins", req.Reason), now, out)
}

// joinReturning handles a static member that comes without the member id it
// had: it gets a new one, and whoever still uses the old one is fenced.
func (g *classicGroup) joinReturning(req *JoinRequest, oldID, newID string, to func(JoinResponse), now time.Time, out *effects) {
	leaderBefore := g.leader
	m := g.members[oldID]
	g.answerJoin(m, joinError(oldID, kerr.FencedInstanceID), out)
	g.answerSync(m, SyncResponse{Err: kerr.FencedInstanceID}, out)
	undo := &replacedMember{
		id: oldID, protocols: m.protocols,
		sessionTimeout: m.sessionTimeout, rebalanceTimeout: m.rebalanceTimeout,
	}
	g.rename(m, newID, out)
	g.update(m, req)
	g.restartSession(m, now, out)
	g.awaitJoin(m, to, out)

	if g.state == Stable && g.selectProtocol() == g.protocol {
		g.learnTopics()
		out.add(persist{g.record(), pendingWrite{
			kind: pendingReplace, memberID: newID, undo: undo,
			skip: req.CanSkipAssignment, leaderBefore: leaderBefore,
		}})
		return
	}
	// While CompletingRebalance, the leader may have been told of the old id
	// already, and its assignment would miss the new one: all join again.
	g.rebalanceOrComplete(because("static member "+m.id+" returns", req.Reason), now, out)
}

// rename gives a static member another id.
func (g *classicGroup) rename(m *member, id string, out *effects) {
	out.add(stopTimer{timerKey{kind: timerSession, group: g.id, member: m.id}})
	if _, ok := g.unsynced[m.id]; ok {
		delete(g.unsynced, m.id)
		g.unsynced[id] = struct{}{}
	}
	delete(g.members, m.id)
	if g.leader == m.id {
		g.leader = id
	}
	m.id = id
	g.members[id] = m
	g.statics[*m.instanceID] = id
}

// replaced is the outcome of a returning static member's record.
func (g *classicGroup) replaced(note *pendingWrite, err error, now time.Time, out *effects) {
	m := g.members[note.memberID]
	if m == nil {
		return // has left meanwhile, and was answered
	}
	if err == nil {
		// A rebalance that began meanwhile answers the join itself.
		if g.state != Stable || m.join == nil {
			return
		}
		resp := g.joined(m)
		switch {
		case note.skip:
			resp.SkipAssignment = m.id == g.leader
		default:
			// An old client that leads must not compute an assignment which
			// nobody waits for: name its former self as the leader (KIP-345).
			resp.Leader, resp.Members = note.leaderBefore, nil
		}
		g.answerJoin(m, resp, out)
		return
	}
	g.answerJoin(m, joinError("", appendError(err)), out)
	g.count(m, -1)
	m.protocols = note.undo.protocols
	g.count(m, 1)
	m.sessionTimeout, m.rebalanceTimeout = note.undo.sessionTimeout, note.undo.rebalanceTimeout
	g.rename(m, note.undo.id, out)
	g.learnTopics()
	g.restartSession(m, now, out)
}

// rebalanceOrComplete starts a rebalance, or ends the join phase that is on if
// this was the last member it waited for.
func (g *classicGroup) rebalanceOrComplete(reason string, now time.Time, out *effects) {
	if g.state == PreparingRebalance {
		g.maybeCompleteJoin(now, out)
		return
	}
	g.rebalance(reason, now, out)
}

// maybeCompleteJoin ends the join phase if all have joined, unless it is a
// group's first one, which waits out its delay.
func (g *classicGroup) maybeCompleteJoin(now time.Time, out *effects) {
	if g.state == PreparingRebalance && g.previous != Empty && g.allJoined() {
		g.completeJoin(now, out)
	}
}

// rebalance begins a join phase.
//
// REQUIRES: state is not PreparingRebalance.
func (g *classicGroup) rebalance(reason string, now time.Time, out *effects) {
	g.reason = reason
	if g.state == CompletingRebalance {
		g.resetAssignments(kerr.RebalanceInProgress, now, out)
	}
	g.endSyncPhase(out)
	g.assigning = false
	first := g.state == Empty
	g.transition(PreparingRebalance, now)
	g.initial, g.memberAdded = first, false
	switch {
	case first:
		g.delay = g.cfg.InitialRebalanceDelay
		g.delaysRemain = max(g.rebalanceTimeout()-g.delay, 0)
		out.add(setTimer{timerKey{kind: timerJoin, group: g.id}, now.Add(g.delay)})
	case g.allJoined():
		g.completeJoin(now, out)
	default:
		out.add(setTimer{timerKey{kind: timerJoin, group: g.id}, now.Add(g.rebalanceTimeout())})
	}
}

// joinTimeout ends the join phase, or extends a group's first one while
// members keep coming.
func (g *classicGroup) joinTimeout(now time.Time, out *effects) {
	if g.state != PreparingRebalance {
		return
	}
	if g.initial && g.memberAdded && g.delaysRemain > 0 {
		g.memberAdded = false
		g.delay = min(g.cfg.InitialRebalanceDelay, g.delaysRemain)
		g.delaysRemain -= g.delay
		out.add(setTimer{timerKey{kind: timerJoin, group: g.id}, now.Add(g.delay)})
		return
	}
	g.completeJoin(now, out)
}

// completeJoin begins the next generation with those that have joined, and the
// static members, who may be away.
func (g *classicGroup) completeJoin(now time.Time, out *effects) {
	out.add(stopTimer{timerKey{kind: timerJoin, group: g.id}})
	g.initial = false
	for i := len(g.order) - 1; i >= 0; i-- {
		if m := g.order[i]; m.join == nil && !m.isStatic() {
			g.remove(m.id, out)
		}
	}
	if len(g.members) > 0 && !g.electJoinedLeader() {
		// Only static members, all away: until their sessions end.
		out.add(setTimer{timerKey{kind: timerJoin, group: g.id}, now.Add(g.rebalanceTimeout())})
		return
	}
	g.generation = max(g.generation+1, 1)
	clear(g.unsynced)
	if len(g.members) == 0 {
		g.protocol = ""
		g.learnTopics()
		g.transition(Empty, now)
		out.add(persist{g.record(), pendingWrite{kind: pendingEmpty}})
		return
	}
	g.protocol = g.selectProtocol()
	g.learnTopics()
	g.transition(CompletingRebalance, now)
	for _, m := range g.order {
		g.answerJoin(m, g.joined(m), out)
		g.restartSession(m, now, out)
		m.isNew = false
		g.unsynced[m.id] = struct{}{}
	}
	out.add(setTimer{timerKey{kind: timerSync, group: g.id}, now.Add(g.rebalanceTimeout())})
}

// electJoinedLeader makes sure that the leader is one that has joined.
func (g *classicGroup) electJoinedLeader() bool {
	if m := g.members[g.leader]; m != nil && m.join != nil {
		return true
	}
	for _, m := range g.order {
		if m.join != nil {
			g.leader = m.id
			return true
		}
	}
	return false
}
