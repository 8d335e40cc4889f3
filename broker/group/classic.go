package group

import (
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
)

// newMemberJoinTimeout drops a new member whose first JoinGroup waits for so
// long: its client has given up and asked again under another id.
const newMemberJoinTimeout = 5 * time.Minute

// classicGroup is the state machine of one classic group. It is pure: methods
// take the time of the event and append their effects to out, in order.
//
// INVARIANT: awaiting is the number of members with a join waiting.
// INVARIANT: members and order hold the same members; statics maps instance id
// to member id for exactly the static ones.
// INVARIANT: pending and members are disjoint.
// INVARIANT: Empty ⇔ no members outside of PreparingRebalance.
type classicGroup struct {
	id    string
	cfg   *Config
	newID func() string // random suffix of member ids

	state State
	// previous is the state before this one: the join phase of a group that was
	// Empty follows its own clock.
	previous State
	// since is when state was entered, in ms since 1970; -1 where the record
	// that was loaded did not say.
	since        int64
	protocolType string // "" until the first member: a simple group
	protocol     string // "" = none selected
	generation   int32
	leader       string // "" = none

	members  map[string]*member
	order    []*member      // by arrival
	offered  map[string]int // members that offer a protocol
	statics  map[string]string
	pending  map[string]struct{} // ids given out with MEMBER_ID_REQUIRED
	unsynced map[string]struct{} // members of this generation that have not sent SyncGroup
	awaiting int

	// topics is what the members of a "consumer" group subscribe to; nil where
	// unknown (another type, or metadata that does not parse).
	topics map[string]struct{}

	// initial rebalance: whether a member came since the last delay began, how
	// long it was, and how much may follow.
	initial      bool
	memberAdded  bool
	delay        time.Duration
	delaysRemain time.Duration

	// reason for the last rebalance, for the log.
	reason string

	// assigning: the assignment of this generation is on its way to the log.
	assigning bool
}

// newClassicGroup returns an Empty group.
func newClassicGroup(id string, cfg *Config, newID func() string, now time.Time) *classicGroup {
	return &classicGroup{
		id: strings.Clone(id), cfg: cfg, newID: newID,
		state: Empty, previous: Dead, since: now.UnixMilli(),
		members: map[string]*member{}, statics: map[string]string{}, offered: map[string]int{},
		pending: map[string]struct{}{}, unsynced: map[string]struct{}{},
	}
}

// pristine reports whether nothing has happened to the group yet.
func (g *classicGroup) pristine() bool {
	return g.state == Empty && g.generation == 0 && g.protocolType == "" && len(g.pending) == 0
}

func (g *classicGroup) transition(to State, now time.Time) {
	g.previous, g.state, g.since = g.state, to, now.UnixMilli()
}

// add makes m a member. Its join request waits with to, where not nil.
//
// REQUIRES: no member has m's id or instance id, and the group supports one of
// m's protocols.
func (g *classicGroup) add(m *member, protocolType string, to func(JoinResponse)) {
	if len(g.members) == 0 {
		g.protocolType = protocolType
	}
	if g.leader == "" {
		g.leader = m.id
	}
	if m.isStatic() {
		g.statics[*m.instanceID] = m.id
	}
	delete(g.pending, m.id)
	g.members[m.id] = m
	g.order = append(g.order, m)
	g.count(m, 1)
	if to != nil {
		m.join = to
		g.awaiting++
	}
}

// count adds n to the tally of each protocol that m offers.
func (g *classicGroup) count(m *member, n int) {
	for i := range m.protocols {
		name := m.protocols[i].Name
		if g.offered[name] += n; g.offered[name] == 0 {
			delete(g.offered, name)
		}
	}
}

// update takes over what a present member's JoinGroup changes.
func (g *classicGroup) update(m *member, req *JoinRequest) {
	g.count(m, -1)
	m.update(req)
	g.count(m, 1)
}

// remove drops a member or a pending id; its waiting requests are answered
// UNKNOWN_MEMBER_ID, upon which a living client joins again.
func (g *classicGroup) remove(id string, out *effects) {
	delete(g.pending, id)
	delete(g.unsynced, id)
	out.add(stopTimer{timerKey{kind: timerSession, group: g.id, member: id}})
	m := g.members[id]
	if m == nil {
		return
	}
	g.answerJoin(m, joinError("", kerr.UnknownMemberID), out)
	g.answerSync(m, SyncResponse{Err: kerr.UnknownMemberID}, out)
	g.count(m, -1)
	delete(g.members, id)
	g.order = slices.DeleteFunc(g.order, func(o *member) bool { return o == m })
	if m.isStatic() {
		delete(g.statics, *m.instanceID)
	}
	if g.leader == id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0].id
		}
	}
}

// answerJoin answers the member's waiting join, if any.
func (g *classicGroup) answerJoin(m *member, resp JoinResponse, out *effects) {
	if m.join == nil {
		return
	}
	out.add(answerJoin{m.join, resp})
	m.join = nil
	g.awaiting--
}

func (g *classicGroup) answerSync(m *member, resp SyncResponse, out *effects) bool {
	if m.sync == nil {
		return false
	}
	out.add(answerSync{m.sync, resp})
	m.sync = nil
	return true
}

// awaitJoin lets the member's join wait. An earlier one, whose client has
// given up on it, is told to try again.
func (g *classicGroup) awaitJoin(m *member, to func(JoinResponse), out *effects) {
	g.answerJoin(m, joinError(m.id, kerr.RebalanceInProgress), out)
	m.join = to
	g.awaiting++
}

func (g *classicGroup) allJoined() bool {
	return g.awaiting == len(g.members) && len(g.pending) == 0
}

// rebalanceTimeout is the longest of the members'.
func (g *classicGroup) rebalanceTimeout() time.Duration {
	var d time.Duration
	for _, m := range g.order {
		d = max(d, m.rebalanceTimeout)
	}
	return d
}

// restartSession gives the member a whole session from now.
func (g *classicGroup) restartSession(m *member, now time.Time, out *effects) {
	out.add(setTimer{timerKey{kind: timerSession, group: g.id, member: m.id}, now.Add(m.sessionTimeout)})
}

// validate checks that the member exists and is not fenced by a newer one of
// its instance id.
func (g *classicGroup) validate(memberID string, instanceID *string) error {
	if instanceID != nil {
		switch current, ok := g.statics[*instanceID]; {
		case !ok:
			return kerr.UnknownMemberID
		case current != memberID:
			return kerr.FencedInstanceID
		}
	}
	if g.members[memberID] == nil {
		return kerr.UnknownMemberID
	}
	return nil
}

// supports reports whether a member with these protocols may join: all present
// members must share one of them.
func (g *classicGroup) supports(protocolType string, protocols []Protocol) bool {
	if g.state == Empty {
		return protocolType != "" && len(protocols) > 0
	}
	return protocolType == g.protocolType && slices.ContainsFunc(protocols, func(p Protocol) bool {
		return g.offeredByAll(p.Name)
	})
}

func (g *classicGroup) offeredByAll(protocol string) bool {
	return g.offered[protocol] == len(g.members)
}

// selectProtocol lets each member vote for the first of its protocols that all
// offer; the most votes win, and among equals the first voted for.
//
// REQUIRES: there are members.
func (g *classicGroup) selectProtocol() string {
	votes := map[string]int{}
	winner := ""
	for _, m := range g.order {
		for _, p := range m.protocols {
			if g.offeredByAll(p.Name) {
				votes[p.Name]++
				break
			}
		}
	}
	for _, p := range g.order[0].protocols {
		if votes[p.Name] > votes[winner] {
			winner = p.Name
		}
	}
	return winner
}

// isConsumer reports whether members speak the consumer protocol, so that
// their metadata is a subscription.
func (g *classicGroup) isConsumer() bool { return g.protocolType == "consumer" }

// learnTopics recomputes topics from the members' subscriptions.
func (g *classicGroup) learnTopics() {
	g.topics = nil
	if !g.isConsumer() || (len(g.order) > 0 && g.protocol == "") {
		return
	}
	topics := map[string]struct{}{}
	for _, m := range g.order {
		if !subscribedTopics(m.metadata(g.protocol), topics) {
			return
		}
	}
	g.topics = topics
}

// subscribes reports whether a member may consume the topic. Where the
// subscriptions of consumers are unknown, any topic may be.
func (g *classicGroup) subscribes(topic string) bool {
	if g.topics == nil {
		return g.isConsumer()
	}
	_, ok := g.topics[topic]
	return ok
}

// joinMembers is what the leader gets.
func (g *classicGroup) joinMembers() []JoinMember {
	list := make([]JoinMember, len(g.order))
	for i, m := range g.order {
		list[i] = JoinMember{ID: m.id, InstanceID: m.instanceID, Metadata: m.metadata(g.protocol)}
	}
	return list
}

// joined is the answer of the current generation for a member.
func (g *classicGroup) joined(m *member) JoinResponse {
	r := JoinResponse{
		MemberID: m.id, Generation: g.generation,
		ProtocolType: g.protocolType, Protocol: g.protocol, Leader: g.leader,
	}
	if m.id == g.leader {
		r.Members = g.joinMembers()
	}
	return r
}

func joinError(memberID string, err error) JoinResponse {
	return JoinResponse{Err: err, MemberID: memberID, Generation: -1}
}

// answerAll answers every waiting request with err: the group leaves this
// coordinator.
func (g *classicGroup) answerAll(err error, out *effects) {
	for _, m := range g.order {
		g.answerJoin(m, joinError(m.id, err), out)
		g.answerSync(m, SyncResponse{Err: err}, out)
	}
}
