package raftnode

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata"
)

// Contacts knows when a node last did anything by which a leader could have made
// sure that it leads: acknowledged one, or led itself. It is pure.
//
// INVARIANT: what a node lends to the leader of a term is noted before the node looks
// whether its own term is higher by now, and it lends nothing to a lower term than its
// own. So, once a node's term is t, Last(t) is no earlier than anything that it has
// lent, or will lend, to a leader before t.
type Contacts struct {
	// term is the newest in which there was contact, last when that was.
	term uint64
	last time.Time
	// before is the last contact in any earlier term. A process that begins cannot
	// tell what its former life acknowledged: its beginning counts for contact.
	before time.Time
}

// NewContacts begins the record of a process.
func NewContacts(now time.Time) Contacts { return Contacts{last: now, before: now} }

// Note notes contact with the leader of a term, or as it.
func (c *Contacts) Note(term uint64, now time.Time) {
	switch {
	case term > c.term:
		c.before, c.last, c.term = laterOf(c.before, c.last), now, term
	case term == c.term:
		c.last = laterOf(c.last, now)
	default:
		c.before = laterOf(c.before, now)
	}
}

// Last is when there was contact in a term before the given one, or later.
func (c *Contacts) Last(term uint64) time.Time {
	if c.term < term {
		return laterOf(c.before, c.last)
	}
	return c.before
}

func laterOf(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// contacts are a node's, for the transport.
type contacts struct {
	sync.Mutex
	record Contacts
}

func (c *contacts) note(term uint64) {
	c.Lock()
	defer c.Unlock()
	c.record.Note(term, time.Now())
}

func (c *contacts) last(term uint64) time.Time {
	c.Lock()
	defer c.Unlock()
	return c.record.Last(term)
}

// noteInbound notes that a leader is heard, before Raft looks at its term.
func (t *transport) noteInbound(rpc raft.RPC) {
	var term uint64
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		term = req.Term
	case *raft.InstallSnapshotRequest:
		term = req.Term
	default:
		return
	}
	// One of an earlier term is refused: terms do not go back.
	if term >= t.raft.term() {
		t.contacts.note(term)
	}
}

// confirms counts the servers among ids that acknowledged a heartbeat of a term that
// was sent at a time or later.
func (t *transport) confirms(ids []raft.ServerID, term uint64, since time.Time) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for _, id := range ids {
		if p := t.mu.peers[id]; p != nil && p.ackTerm == term && !p.acked.Before(since) {
			n++
		}
	}
	return n
}

// Contact returns Raft's term at this node, and how long ago at least this node
// last lent itself to the leadership of an earlier term: it acknowledged a leader, led
// itself, or its process began. It never will again.
func (n *Node) Contact() (term uint64, ago time.Duration) {
	term = n.raft.CurrentTerm() // read before the record: see Contacts
	return term, time.Since(n.transport.contacts.last(term))
}

// voters are the ids of the newest configuration's voters.
func (n *Node) voters() []raft.ServerID {
	var ids []raft.ServerID
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			ids = append(ids, s.ID)
		}
	}
	return ids
}

// Reign is the term in which this node leads, as its leader-only tasks may take it
// (OnLead), its directory, and the directories of the voters: those of its election, or
// none if it has changed them since.
func (l AsLeader) Reign() (term uint64, self uuid.UUID, voters []uuid.UUID) {
	term = l.n.reign.Load()
	for _, id := range l.n.voters() { // before the log is looked at
		voters = append(voters, parseServer(id))
	}
	if l.n.transport.raft.changedIn(term) {
		voters = nil
	}
	return term, l.n.opts.DirectoryID, voters
}

// changedIn reports whether a change of the servers may have been logged in a term,
// which is the newest that the log has.
func (l *local) changedIn(term uint64) bool {
	for index := l.end(); index > 0; index-- {
		var entry raft.Log
		if err := l.logs.GetLog(index, &entry); err != nil || entry.Type == raft.LogConfiguration && entry.Term >= term {
			return true
		}
		if entry.Term < term {
			return false
		}
	}
	return false
}

// Verify returns once a majority of the voters has acknowledged heartbeats that this
// node sent as the leader of a term after the call, while the node itself knows of no
// higher term. It writes nothing. Raft's own VerifyLeader takes an acknowledgement that
// was on its way before the call; in a process that was paused it may have lain there
// while others elected another leader.
func (l AsLeader) Verify(ctx context.Context) (term uint64, err error) {
	n := l.n
	if err := n.enter(ctx); err != nil {
		return 0, err
	}
	defer n.calls.running.Done()
	for called := time.Now(); ; {
		term := n.raft.CurrentTerm()
		if err := n.await(ctx, n.raft.VerifyLeader()); err != nil {
			if errors.Is(err, metadata.ErrUnknownOutcome) {
				err = fmt.Errorf("%w: %w", metadata.ErrNotLeader, err) // there is no outcome to be unsure of
			}
			return 0, fmt.Errorf("verify leadership: %w", err)
		}
		voters := n.voters()
		n.transport.contacts.note(term) // alone, or as the majority's last, it has sent nothing
		have := n.transport.confirms(voters, term, called)
		if slices.Contains(voters, serverID(n.opts.DirectoryID)) {
			have++
		}
		if have > len(voters)/2 && n.raft.CurrentTerm() == term {
			return term, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, fmt.Errorf("verify leadership: %w: %w", metadata.ErrNotLeader, err)
		}
	}
}
