package membership

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/serf/serf"
)

// guard looks at every word of gossip about any member before memberlist does: it
// keeps other clusters out, and notes members that cannot be beside this one.
//
// memberlist calls it under its lock, so it calls nobody and blocks on nothing:
// suspicions go to a bounded queue, whose reader asks the suspect itself.
type guard struct{ m *Membership }

// NotifyMerge implements serf.MergeDelegate. An error keeps a member out, or, where
// it comes with others, nobody: each of those is asked about again by itself.
func (g guard) NotifyMerge(members []*serf.Member) error {
	for _, raw := range members {
		if err := g.judge(raw); err != nil && len(members) == 1 {
			return err
		}
	}
	return nil
}

func (g guard) judge(raw *serf.Member) error {
	them, err := fromSerf(raw)
	if err != nil {
		return err // not one of ours: Serf of something else
	}
	own := g.m.own()
	us, theirs := own.belongs(), them.belongs()
	switch {
	case them.DirectoryID == own.DirectoryID:
		if them.Incarnation != own.Incarnation && them.GossipAddr != own.GossipAddr && own.GossipAddr.IsValid() {
			g.m.contested()
			g.m.suspect(suspicion{ErrDuplicateDirectory, them})
		}
		return nil // memberlist takes no other address for this node
	case raw.Status == serf.StatusLeft: // only told of
		return nil
	case us != "" && theirs != "" && us != theirs:
		g.m.trouble(ErrForeignCluster, them.GossipAddr.String(), them, fmt.Sprintf(
			"%s belongs to cluster %s, and this node to %s: correct cluster.join or cluster.id, or give this node a data.dir of its own", them, theirs, us))
		return fmt.Errorf("%w: %s belongs to cluster %s", ErrForeignCluster, them, theirs)
	case them.NodeID == own.NodeID && own.GossipAddr.IsValid():
		g.m.suspect(suspicion{ErrDuplicateNode, them})
	}
	return nil
}

// contested notes that somebody has this node at another address, and will not take
// this one before it believes that one dead.
func (m *Membership) contested() {
	m.mu.Lock()
	m.contest = time.Now()
	m.mu.Unlock()
}

// suspicion is a member that could be our double, or the memory of a past life.
type suspicion struct {
	kind error
	them Member
}

// suspectAgain is how long a suspicion is not taken up again: gossip repeats what
// it says of a member many times, also of one that is dead.
const suspectAgain = 2 * time.Second

// suspect queues a suspicion. A full queue drops it: gossip repeats itself.
func (m *Membership) suspect(s suspicion) {
	key, now := problemKey{s.kind, s.them.GossipAddr.String()}, time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.suspected[key]) < suspectAgain {
		return
	}
	select {
	case m.suspects <- s:
		if m.suspected == nil || len(m.suspected) >= maxProblems {
			m.suspected = map[problemKey]time.Time{}
		}
		m.suspected[key] = now
		m.open++
	default:
	}
}

// suspecting reports whether a suspicion is not decided yet.
func (m *Membership) suspecting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.open > 0
}

// pings are asked of a suspect before it counts as dead.
const pings = 3

// interrogate is the goroutine that asks suspects whether they live.
func (m *Membership) interrogate(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-m.suspects:
			m.confirm(ctx, s)
			m.mu.Lock()
			m.open--
			m.mu.Unlock()
		}
	}
}

// confirm turns a suspicion into trouble if the suspect answers by its name: an
// address that another process has by now stays silent.
func (m *Membership) confirm(ctx context.Context, s suspicion) {
	if s.them.GossipAddr == m.own().GossipAddr {
		return
	}
	alive := false
	for range pings {
		if ctx.Err() != nil {
			return
		}
		if alive = m.answers(s.them); alive {
			break
		}
	}
	if !alive {
		m.outlived(s.kind, s.them.GossipAddr.String())
		return
	}
	own := m.own()
	if errors.Is(s.kind, ErrDuplicateDirectory) {
		m.trouble(s.kind, s.them.GossipAddr.String(), s.them, fmt.Sprintf(
			"a node at %s runs on a copy of this data directory (%s): stop one of them; a copied data.dir must never be started beside its original",
			s.them.GossipAddr, own.DirectoryID))
		return
	}
	m.trouble(s.kind, s.them.GossipAddr.String(), s.them, fmt.Sprintf(
		"%s is alive and has node.id %d too: give this node an id of its own", s.them, own.NodeID))
}

// answers pings a member by its name and waits up to the probe timeout.
func (m *Membership) answers(them Member) bool {
	addr := net.UDPAddrFromAddrPort(netip.AddrPortFrom(them.GossipAddr.Addr(), them.GossipAddr.Port()))
	_, err := m.serf.Memberlist().Ping(them.DirectoryID.String(), addr)
	return err == nil
}

// troubleEvery bounds how often one trouble is told again.
const troubleEvery = time.Minute

// trouble notes what is wrong, and tells it unless it did a moment ago.
func (m *Membership) trouble(kind error, peer string, them Member, text string) {
	p := &problem{kind: kind, peer: peer, text: text}
	key := problemKey{kind, peer}
	m.mu.Lock()
	if m.problems == nil {
		m.problems = map[problemKey]*noted{}
	}
	if len(m.problems) >= maxProblems && m.problems[key] == nil {
		m.mu.Unlock()
		return
	}
	now := time.Now()
	was := m.problems[key]
	tell := was == nil || was.problem.text != text || now.Sub(was.told) >= troubleEvery
	if tell {
		m.problems[key] = &noted{problem: p, told: now}
	}
	m.problems[key].seen = now
	m.mu.Unlock()
	if !tell {
		return
	}
	m.log.Warn("gossip: "+kind.Error(), "peer", peer, "why", text)
	select {
	case m.troubles <- Event{Kind: Trouble, Member: them, Err: p}:
	default: // a full queue: it is noted above, and told again
	}
}

// lived is how long an answer of a double counts, though later pings of it fail: a
// machine that has just started two nodes may be busy.
const lived = 5 * time.Second

// outlived takes back the trouble with a double that answered once, and is silent
// by now.
func (m *Membership) outlived(kind error, peer string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := problemKey{kind, peer}
	if was := m.problems[key]; was != nil && time.Since(was.seen) >= lived {
		delete(m.problems, key)
	}
}

// settle takes a trouble back.
func (m *Membership) settle(kind error, peer string) {
	m.mu.Lock()
	delete(m.problems, problemKey{kind, peer})
	m.mu.Unlock()
}

// maxProblems bounds what strangers can make this node remember.
const maxProblems = 256

type problemKey struct {
	kind error
	peer string
}

type noted struct {
	problem *problem
	told    time.Time // when it was logged last
	seen    time.Time // when it was found last
}
