package membership

import (
	"bytes"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata/raftnode"
)

// Voters wanted once there are three servers to choose from; more are kept where
// the cluster began with more, and never made.
const wantVoters = 3

// The planner's patience.
const (
	// voterGone is how long a voter must be silent, to gossip and to Raft, before
	// another takes its place.
	voterGone = 30 * time.Second
	// voterSteady is how long a server must have been alive before it gets a vote.
	// While there are two voters it does not count: they bear no loss, and with a third
	// that fails at once they bear none either.
	voterSteady = 5 * time.Second
	// caughtUpWithin bounds how long ago a server must have had all of the log.
	caughtUpWithin = 5 * time.Second
	// inContact bounds how long ago a server that counts as living answered Raft.
	inContact = 2 * time.Second
	// leaderHears is how long a leader must lead before that a server did not answer its
	// Raft says something: it begins without having heard anybody.
	leaderHears = 5 * time.Second
)

// Standing is what the leader knows of one server or member.
type Standing struct {
	DirectoryID uuid.UUID
	// Address is HOST:PORT of its cluster port as it says itself, "" if it is unknown.
	Address string
	// Alive: gossip says that it runs, and has found that it may.
	Alive bool
	// AliveSince is when that began, as far as this leader saw; GoneSince when gossip,
	// before this leader led too, or Raft last heard of it. Where gossip never did, it
	// is when this leader began to lead.
	AliveSince, GoneSince time.Time
	// Dismissed: it left for good, was unregistered, or its node id or its address has
	// another directory by now. It must not stay a server.
	Dismissed bool
	// LastContact and CaughtUp are Raft's: zero if never.
	LastContact, CaughtUp time.Time
}

// VoterView is what the metadata leader sees at a moment.
type VoterView struct {
	// Self is the leader's directory, LeadsSince when it began to lead.
	Self       uuid.UUID
	LeadsSince time.Time
	Servers    []raftnode.Server
	// Standings by directory, of servers and of members that are none.
	Standings map[uuid.UUID]Standing
}

// ChangeKind says what to do to a server.
type ChangeKind byte

// The kinds of changes.
const (
	NoChange       ChangeKind = iota
	AddNonvoter               // let it follow the log, or note its new address
	AddVoter                  // give it a vote, or note its new address
	RemoveServer              // it is no server any more
	HandLeadership            // the leader itself must go
)

func (k ChangeKind) String() string {
	return [...]string{"nothing", "add as follower", "give a vote", "remove", "hand over the leadership"}[min(k, HandLeadership)]
}

// VoterChange is the one change to make next.
type VoterChange struct {
	Kind        ChangeKind
	DirectoryID uuid.UUID
	Address     string
	Why         string
}

// voterPlan is one look at a view.
type voterPlan struct {
	now     time.Time
	v       *VoterView
	voters  []raftnode.Server
	servers map[uuid.UUID]raftnode.Server
}

// PlanVoters decides the next change of Raft's servers, if any. It is pure. What
// always holds, as far as the view is true: a change leaves a majority of the
// voters alive; the voters go from one to three only where two that are caught up
// wait; nobody loses a vote for being silent unless another can take it.
func PlanVoters(now time.Time, v *VoterView) VoterChange {
	p := &voterPlan{now: now, v: v, servers: map[uuid.UUID]raftnode.Server{}}
	for _, s := range v.Servers {
		p.servers[s.DirectoryID] = s
		if s.Voter {
			p.voters = append(p.voters, s)
		}
	}
	// Those who are gone for good go first: a wiped node comes back at their address,
	// and Raft takes no address twice.
	for _, step := range []func() VoterChange{p.dismissFollower, p.dismissVoter, p.follow, p.readdress, p.promote, p.replace} {
		if c := step(); c.Kind != NoChange {
			return c
		}
	}
	return VoterChange{}
}

// ordered are the standings by directory, so that equal views make equal plans.
func (p *voterPlan) ordered() []Standing {
	all := make([]Standing, 0, len(p.v.Standings))
	for _, s := range p.v.Standings {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b Standing) int { return bytes.Compare(a.DirectoryID[:], b.DirectoryID[:]) })
	return all
}

func (p *voterPlan) follow() VoterChange {
	for _, s := range p.ordered() {
		if _, is := p.servers[s.DirectoryID]; !is && s.Alive && !s.Dismissed && s.Address != "" && !p.taken(s) {
			return VoterChange{AddNonvoter, s.DirectoryID, s.Address, "it is alive, and no server yet"}
		}
	}
	return VoterChange{}
}

// taken reports whether another server has the address, which Raft takes but once. To
// try would keep all other changes from being made.
func (p *voterPlan) taken(s Standing) bool {
	return slices.ContainsFunc(p.v.Servers, func(o raftnode.Server) bool { return o.Address == s.Address && o.DirectoryID != s.DirectoryID })
}

func (p *voterPlan) readdress() VoterChange {
	for _, server := range p.v.Servers {
		s := p.v.Standings[server.DirectoryID]
		if !s.Alive || s.Dismissed || s.Address == "" || s.Address == server.Address || p.taken(s) {
			continue
		}
		kind := AddNonvoter
		if server.Voter {
			kind = AddVoter
		}
		return VoterChange{kind, server.DirectoryID, s.Address, "its address was " + server.Address}
	}
	return VoterChange{}
}

func (p *voterPlan) dismissFollower() VoterChange {
	for _, server := range p.v.Servers {
		if !server.Voter && p.v.Standings[server.DirectoryID].Dismissed {
			return VoterChange{RemoveServer, server.DirectoryID, "", "it is gone for good"}
		}
	}
	return VoterChange{}
}

// living reports whether a voter would vote now: the leader itself would.
func (p *voterPlan) living(dir uuid.UUID) bool {
	return dir == p.v.Self || p.now.Sub(p.v.Standings[dir].LastContact) <= inContact
}

// quorate reports whether the voters, with one more or one less, have a majority
// alive.
func (p *voterPlan) quorate(more, less uuid.UUID) bool {
	n, alive := 0, 0
	for _, voter := range p.voters {
		if voter.DirectoryID == less {
			continue
		}
		n++
		if p.living(voter.DirectoryID) {
			alive++
		}
	}
	if more != uuid.Nil {
		n++
		if p.living(more) {
			alive++
		}
	}
	return n > 0 && alive >= n/2+1
}

// candidates are the followers that may get a vote, in order.
func (p *voterPlan) candidates() []raftnode.Server {
	var fit []raftnode.Server
	steady := voterSteady
	if n := len(p.voters); n > 1 && n < wantVoters {
		steady = 0
	}
	for _, server := range p.v.Servers {
		s := p.v.Standings[server.DirectoryID]
		if !server.Voter && s.Alive && !s.Dismissed && p.living(server.DirectoryID) &&
			p.now.Sub(s.AliveSince) >= steady && p.now.Sub(s.CaughtUp) <= caughtUpWithin {
			fit = append(fit, server)
		}
	}
	slices.SortFunc(fit, func(a, b raftnode.Server) int { return bytes.Compare(a.DirectoryID[:], b.DirectoryID[:]) })
	return fit
}

// dismissVoter takes the vote of one that is gone for good. The leader hands over
// first, if it is the one.
func (p *voterPlan) dismissVoter() VoterChange {
	for _, voter := range p.voters {
		if !p.v.Standings[voter.DirectoryID].Dismissed || !p.quorate(uuid.Nil, voter.DirectoryID) {
			continue
		}
		if voter.DirectoryID == p.v.Self {
			return VoterChange{HandLeadership, p.v.Self, "", "this node leaves"}
		}
		return VoterChange{RemoveServer, voter.DirectoryID, "", "it is gone for good"}
	}
	return VoterChange{}
}

// promote gives votes while there are fewer than three: from one only where two
// wait, since two voters bear less than one.
func (p *voterPlan) promote() VoterChange {
	if len(p.voters) >= wantVoters {
		return VoterChange{}
	}
	fit := p.candidates()
	if len(fit) == 0 || len(p.voters)+len(fit) < wantVoters || !p.quorate(fit[0].DirectoryID, uuid.Nil) {
		return VoterChange{}
	}
	return VoterChange{AddVoter, fit[0].DirectoryID, fit[0].Address, "there are too few voters"}
}

// replace takes the vote of a voter that is silent for long, where another waits for
// it: promote then gives it to that one.
func (p *voterPlan) replace() VoterChange {
	if len(p.candidates()) == 0 || p.now.Sub(p.v.LeadsSince) < leaderHears {
		return VoterChange{}
	}
	for _, voter := range p.voters {
		s, known := p.v.Standings[voter.DirectoryID]
		silent := !s.Alive && !p.living(voter.DirectoryID) && p.now.Sub(s.GoneSince) > voterGone
		if !known || !silent || !p.quorate(uuid.Nil, voter.DirectoryID) {
			continue
		}
		if len(p.voters) > wantVoters { // a larger cluster: the vote is given first, so that it stays as large
			fit := p.candidates()[0]
			if len(p.voters)%2 == 1 && p.quorate(fit.DirectoryID, uuid.Nil) {
				return VoterChange{AddVoter, fit.DirectoryID, fit.Address, "it takes the place of a voter that is silent"}
			}
		}
		return VoterChange{RemoveServer, voter.DirectoryID, "", "it is silent, and another takes its place"}
	}
	return VoterChange{}
}
