package membership

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Formation is the pure machine by which nodes without Raft state agree on the
// first voters of one cluster: Paxos for a single decree, the decree being the list
// of servers.
//
// Why not simply let the lowest node bootstrap: what it told the others could be
// lost with it, and those would begin a second cluster. Why not a promise that
// expires: one who was promised may be slow and not dead. With ballots nobody has
// to be waited for, and nothing expires.
//
// Acceptors are all nodes of the pool. A ballot needs the promises, and then the
// acceptances, of bootstrap.expect of them, and of a majority of the living candidates
// and of as many nodes as cluster.join names. Any two such sets have a node in common
// while the pool has fewer than twice bootstrap.expect nodes, or everybody's
// cluster.join names all of a larger one, or nobody's view of it lacks half: so at most
// one list is ever chosen. A chosen list is bootstrapped into Raft by
// each server on it, with the same first entry; that is why Raft state on disk
// means that a list was chosen, and such a node never bootstraps.
//
// Not safe for concurrent use. The owner writes the ledger whenever it changed,
// before it lets an answer or a message out.
type Formation struct {
	self   Server
	expect int
	ledger Ledger
	rand   *rand.Rand

	phase    phase
	ballot   Ballot
	asked    map[uuid.UUID]string // who is asked in this ballot, with addresses
	quorum   int
	promised map[uuid.UUID]bool
	best     Ballot // of what was accepted by those who promised
	value    []Server
	accepted map[uuid.UUID]bool
	highest  uint64 // the highest counter heard of
	clocks   formingClocks

	ready    time.Time // since when enough candidates are seen; zero: not
	deadline time.Time // of the ballot under way
	next     time.Time // no new ballot and no new question before
}

type phase byte

const (
	idle phase = iota
	preparing
	accepting
)

// The pace of the machine.
const (
	// ballotTimeout is when a ballot that found no quorum is given up.
	ballotTimeout = 2 * time.Second
	// ballotPause is between two ballots of one node, and as much again by chance.
	ballotPause = 300 * time.Millisecond
	// rankPause is how long a candidate leaves each one before it the first word.
	rankPause = 3 * time.Second
	// settle is how long candidates are awaited beyond the first few, so that all
	// nodes that start together are heard.
	settle = 300 * time.Millisecond
	// askEvery is between two questions to nodes that may know what was chosen.
	askEvery = 500 * time.Millisecond
)

// NewFormation makes the machine of one node with what it remembers.
func NewFormation(self Server, expect int, ledger Ledger, r *rand.Rand) *Formation {
	return &Formation{self: self, expect: expect, ledger: ledger, rand: r, highest: ledger.Promised.Counter}
}

// Ledger is what must be on disk by now.
func (f *Formation) Ledger() Ledger { return f.ledger }

// MessageKind says what a message asks for.
type MessageKind byte

// The kinds of messages.
const (
	Prepare MessageKind = iota + 1 // to promise Ballot
	Accept                         // to accept Value under Ballot
	Inform                         // Value was chosen
	Ask                            // what was chosen, and what time it is
)

// Message goes from one node to another. It may be lost, late and doubled.
type Message struct {
	Kind   MessageKind `json:"kind"`
	From   uuid.UUID   `json:"from"`
	Expect int         `json:"expect"`
	Ballot Ballot      `json:"ballot"`
	Value  []Server    `json:"value,omitempty"`
}

// Answer is what the receiver says to a Message.
type Answer struct {
	Kind MessageKind `json:"kind"` // of the message
	From uuid.UUID   `json:"from"`
	// Ballot is the message's; OK says that it was promised or accepted.
	Ballot Ballot `json:"ballot"`
	OK     bool   `json:"ok"`
	// Promised is the receiver's highest ballot, Accepted and Value what it accepted
	// last before that.
	Promised Ballot   `json:"promised"`
	Accepted Ballot   `json:"accepted"`
	Value    []Server `json:"value,omitempty"`
	// Chosen is the list, where it is known.
	Chosen []Server `json:"chosen,omitempty"`
	// Expect is the receiver's bootstrap.expect: with another nothing is agreed.
	Expect int `json:"expect"`
	// Formed: it has Raft state, and takes no part.
	Formed bool `json:"formed,omitempty"`
	// Time is the receiver's clock, ms since the Unix epoch. Its owner writes it, and
	// tells the asking machine by HeardClock.
	Time int64 `json:"time"`
}

// Handle is the acceptor: it answers a message. formed says that this node has
// Raft state: it promises nothing any more, but knows what was chosen.
func (f *Formation) Handle(m *Message, formed bool) Answer {
	l := &f.ledger
	f.highest = max(f.highest, m.Ballot.Counter)
	if m.Kind == Inform && l.Chosen == nil && len(m.Value) > 0 {
		l.Chosen = slices.Clone(m.Value)
	}
	a := Answer{Kind: m.Kind, From: f.self.DirectoryID, Ballot: m.Ballot, Expect: f.expect, Formed: formed}
	if l.Chosen == nil && !formed && m.Expect == f.expect {
		switch m.Kind {
		case Prepare:
			if l.Promised.Less(m.Ballot) {
				l.Promised, a.OK = m.Ballot, true
			} else {
				a.OK = l.Promised == m.Ballot // asked twice
			}
		case Accept:
			if !m.Ballot.Less(l.Promised) && len(m.Value) > 0 {
				l.Promised, l.Accepted, l.Value = m.Ballot, m.Ballot, slices.Clone(m.Value)
				a.OK = true
			}
		case Inform, Ask:
		}
	}
	a.Promised, a.Accepted, a.Value, a.Chosen = l.Promised, l.Accepted, l.Value, l.Chosen
	return a
}

// View is what a node sees at a moment.
type View struct {
	// HasState: this node has Raft state.
	HasState bool
	// Members as gossip has them, this node too.
	Members []Member
	// Named is how many nodes cluster.join names, this one included.
	Named int
	// Tried: all addresses to join were tried, so that silence means nobody.
	Tried bool
}

// electorate is how many nodes may have a say, where so many candidates are seen. One
// who was told to begin alone asks nobody.
func electorate(expect, candidates, named int) int {
	if expect > 1 {
		candidates = max(candidates, named)
	}
	return max(expect, candidates)
}

// quorum is how many nodes agree on a list.
func quorum(expect, candidates, named int) int {
	return max(expect, electorate(expect, candidates, named)/2+1)
}

// HeardClock notes how far a node's clock is ahead of this one's, less what the way of
// the question may account for.
func (f *Formation) HeardClock(id uuid.UUID, ahead time.Duration) { f.clocks.heard(id, ahead) }

// ClocksOff are the candidates whose clocks are too far from this node's.
func (f *Formation) ClocksOff(v *View) []Member {
	return f.clocks.off(f.self.DirectoryID, f.look(v).candidates)
}

// OutcomeKind says how a node goes on.
type OutcomeKind byte

// The outcomes.
const (
	Wait      OutcomeKind = iota
	Resume                // with the Raft state that it has
	Bootstrap             // Raft with Step.Servers, all voters
	Join                  // the cluster that Step.Members belong to, with empty Raft state
)

func (k OutcomeKind) String() string {
	return [...]string{"wait", "resume", "bootstrap", "join"}[min(k, Join)]
}

// Step is what the machine wants: messages to send, by address, and how to go on.
type Step struct {
	Outcome OutcomeKind
	// Refused is why this node must not run, nil if it may.
	Refused error
	Servers []Server // of Bootstrap
	Members []Member // of Join: living members of the cluster
	Send    []Outgoing
}

// Outgoing is a message with its way.
type Outgoing struct {
	To      uuid.UUID
	Address string
	Message Message
}

// sight is who is alive in a View, by what they can do for this node.
type sight struct {
	formed     []Member // know a cluster
	know       []Member // have Raft state, and perhaps no cluster yet
	candidates []Member // would begin one with us, this node among them
}

func (f *Formation) look(v *View) (s sight) {
	for _, m := range v.Members {
		other := m.DirectoryID != f.self.DirectoryID
		switch {
		case m.Status != Alive:
		case m.ClusterID != "" && other:
			s.formed = append(s.formed, m)
		case m.State == Formed && other:
			s.know = append(s.know, m)
		case m.State == Forming && m.Expect == f.expect:
			s.candidates = append(s.candidates, m)
		}
	}
	return s
}

// Step looks at the world and moves on. It is called at each change, and at least
// every 100 ms.
func (f *Formation) Step(now time.Time, v *View) Step {
	if v.HasState {
		return Step{Outcome: Resume}
	}
	seen := f.look(v)
	if len(seen.formed) > 0 {
		return Step{Outcome: Join, Members: seen.formed}
	}
	if f.ledger.Chosen != nil {
		return f.chosen()
	}
	if !v.Tried {
		return Step{}
	}
	if err := f.clocks.judge(f.self.DirectoryID, seen.candidates, electorate(f.expect, len(seen.candidates), v.Named)); err != nil {
		return Step{Refused: err}
	}
	ask := f.toAll(f.clocks.ask(now, f.self.DirectoryID, seen.candidates), Message{Kind: Ask})
	return Step{Send: append(ask, f.move(now, seen, v.Named)...)}
}

// move goes on with the ballot under way, or begins one.
func (f *Formation) move(now time.Time, seen sight, named int) []Outgoing {
	if f.phase != idle && !now.Before(f.deadline) {
		f.giveUp(now)
	}
	if f.phase != idle || now.Before(f.next) {
		return nil
	}
	if len(seen.know) > 0 {
		f.next = now.Add(askEvery)
		return f.toAll(seen.know, Message{Kind: Ask})
	}
	// A clock that is off takes no part, and counts among those who could.
	needed := quorum(f.expect, len(seen.candidates), named)
	near := f.clocks.agreeing(f.self.DirectoryID, seen.candidates)
	slices.SortFunc(near, func(a, b Member) int { return bytes.Compare(a.DirectoryID[:], b.DirectoryID[:]) })
	rank := slices.IndexFunc(near, func(m Member) bool { return m.DirectoryID == f.self.DirectoryID })
	if rank < 0 || len(near) < needed {
		f.ready = time.Time{}
		return nil
	}
	if f.ready.IsZero() {
		f.ready = now
	}
	wait := time.Duration(rank) * rankPause
	if f.expect > 1 {
		wait += settle
	}
	if now.Sub(f.ready) < wait {
		return nil
	}
	return f.propose(now, near, needed)
}

// chosen is the outcome for one who knows the list: those who are not on it wait
// for the cluster to appear.
func (f *Formation) chosen() Step {
	if !slices.ContainsFunc(f.ledger.Chosen, func(s Server) bool { return s.DirectoryID == f.self.DirectoryID }) {
		return Step{}
	}
	return Step{Outcome: Bootstrap, Servers: slices.Clone(f.ledger.Chosen)}
}

func (f *Formation) giveUp(now time.Time) {
	f.phase = idle
	f.next = now.Add(ballotPause + time.Duration(f.rand.Int64N(int64(ballotPause))))
}

func (f *Formation) toAll(members []Member, m Message) []Outgoing {
	m.From, m.Expect = f.self.DirectoryID, f.expect
	var out []Outgoing
	for _, to := range members {
		out = append(out, Outgoing{To: to.DirectoryID, Address: to.ClusterAddr, Message: m})
	}
	return out
}

// propose begins a ballot above all that were heard of. This node promises it
// first, so that the ledger keeps it from using the number again.
func (f *Formation) propose(now time.Time, candidates []Member, quorum int) []Outgoing {
	f.phase, f.deadline = preparing, now.Add(ballotTimeout)
	f.ballot = Ballot{Counter: max(f.highest, f.ledger.Promised.Counter) + 1, Proposer: f.self.DirectoryID}
	f.quorum = quorum
	f.promised, f.accepted = map[uuid.UUID]bool{}, map[uuid.UUID]bool{}
	f.best, f.value = Ballot{}, nil
	f.asked = map[uuid.UUID]string{}
	var others []Member
	for _, c := range candidates {
		f.asked[c.DirectoryID] = c.ClusterAddr
		if c.DirectoryID != f.self.DirectoryID {
			others = append(others, c)
		}
	}
	m := Message{Kind: Prepare, From: f.self.DirectoryID, Expect: f.expect, Ballot: f.ballot}
	own := f.Handle(&m, false)
	return append(f.toAll(others, m), f.Answered(now, &own)...)
}

// Answered takes an answer to a message of this node, and says what to send next.
// Late and doubled answers change nothing.
func (f *Formation) Answered(now time.Time, a *Answer) []Outgoing {
	f.highest = max(f.highest, a.Promised.Counter)
	if a.Chosen != nil {
		if f.ledger.Chosen == nil {
			f.ledger.Chosen = slices.Clone(a.Chosen)
		}
		f.phase = idle
		return nil
	}
	if f.ledger.Chosen != nil || a.Ballot != f.ballot {
		return nil
	}
	if _, mine := f.asked[a.From]; !mine {
		return nil
	}
	switch {
	case f.phase == preparing && a.Kind == Prepare:
		return f.onPromise(now, a)
	case f.phase == accepting && a.Kind == Accept:
		return f.onAccepted(now, a)
	}
	return nil
}

func (f *Formation) onPromise(now time.Time, a *Answer) []Outgoing {
	if !a.OK {
		if f.ballot.Less(a.Promised) {
			f.giveUp(now)
		}
		return nil
	}
	f.promised[a.From] = true
	if f.best.Less(a.Accepted) {
		f.best, f.value = a.Accepted, a.Value
	}
	if len(f.promised) < f.quorum {
		return nil
	}
	if f.value == nil {
		f.value = f.firstServers()
	}
	f.phase = accepting
	m := Message{Kind: Accept, From: f.self.DirectoryID, Expect: f.expect, Ballot: f.ballot, Value: f.value}
	own := f.Handle(&m, false)
	return append(f.toAsked(m), f.Answered(now, &own)...)
}

// firstServers are the lowest bootstrap.expect of those who promised.
func (f *Formation) firstServers() []Server {
	var all []Server
	for id := range f.promised {
		all = append(all, Server{DirectoryID: id, Address: f.asked[id]})
	}
	slices.SortFunc(all, func(a, b Server) int { return bytes.Compare(a.DirectoryID[:], b.DirectoryID[:]) })
	return all[:f.expect]
}

func (f *Formation) toAsked(m Message) []Outgoing {
	var out []Outgoing
	for id, address := range f.asked {
		if id != f.self.DirectoryID {
			out = append(out, Outgoing{To: id, Address: address, Message: m})
		}
	}
	slices.SortFunc(out, func(a, b Outgoing) int { return bytes.Compare(a.To[:], b.To[:]) })
	return out
}

func (f *Formation) onAccepted(now time.Time, a *Answer) []Outgoing {
	if !a.OK {
		if f.ballot.Less(a.Promised) {
			f.giveUp(now)
		}
		return nil
	}
	f.accepted[a.From] = true
	if len(f.accepted) < f.quorum {
		return nil
	}
	f.phase = idle
	f.ledger.Chosen = slices.Clone(f.value)
	return f.toAsked(Message{Kind: Inform, From: f.self.DirectoryID, Expect: f.expect, Ballot: f.ballot, Value: f.value})
}
