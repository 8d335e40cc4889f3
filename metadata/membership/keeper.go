package membership

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/raftnode"
)

// Raft is what the keeper of the voters needs of the metadata's Raft: raftnode.Node.
type Raft interface {
	Servers() (servers []raftnode.Server, version uint64)
	Quorum(ctx context.Context) (raftnode.Quorum, error)
	AddVoter(ctx context.Context, dir uuid.UUID, addr string, prev uint64) error
	AddNonvoter(ctx context.Context, dir uuid.UUID, addr string, prev uint64) error
	Remove(ctx context.Context, dir uuid.UUID, prev uint64) error
	TransferLeadership(ctx context.Context) error
}

// KeeperOptions configure KeepVoters.
type KeeperOptions struct {
	// Self is this node's directory.
	Self uuid.UUID
	Raft Raft
	// Members is Membership.Members.
	Members func() []Member
	// Image is the cluster's state: who is registered.
	Image  func() *metadata.Image
	Logger *slog.Logger
}

// The pace of the keeper.
const (
	keepEvery     = 500 * time.Millisecond
	changeTimeout = 5 * time.Second
	keepBackoff   = 2 * time.Second
)

// KeepVoters carries out PlanVoters while this node leads the metadata: ctx ends when
// it does not any more. One change is in flight at a time, and each is refused where
// the servers are not those that it was decided at.
func KeepVoters(ctx context.Context, o KeeperOptions) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	k := newKeeper(o, time.Now())
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(k.turn(ctx))
	}
}

// keeper remembers what Standing needs beyond the moment.
type keeper struct {
	o KeeperOptions
	// began is when this leader began to look.
	began time.Time
	seen  map[uuid.UUID]*sighting
}

func newKeeper(o KeeperOptions, now time.Time) *keeper {
	return &keeper{o: o, began: now, seen: map[uuid.UUID]*sighting{}}
}

// sighting is since when a directory is seen in its present state, and whether it was
// that of a registered broker since this leader began.
type sighting struct {
	alive, registered  bool
	aliveSince, goneAt time.Time
}

// turn makes at most one change and says when the next look is due.
func (k *keeper) turn(ctx context.Context) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	servers, version := k.o.Raft.Servers()
	quorum, err := k.o.Raft.Quorum(ctx)
	if err != nil || quorum.Leader != k.o.Self {
		return keepBackoff // it does not lead any more, which ctx is about to say
	}
	now := time.Now()
	v := &VoterView{Self: k.o.Self, LeadsSince: k.began, Servers: servers, Standings: k.standings(now, servers, &quorum)}
	c := PlanVoters(now, v)
	if c.Kind == NoChange {
		return keepEvery
	}
	switch c.Kind {
	case AddNonvoter:
		err = k.o.Raft.AddNonvoter(ctx, c.DirectoryID, c.Address, version)
	case AddVoter:
		err = k.o.Raft.AddVoter(ctx, c.DirectoryID, c.Address, version)
	case RemoveServer:
		err = k.o.Raft.Remove(ctx, c.DirectoryID, version)
	case HandLeadership:
		err = k.o.Raft.TransferLeadership(ctx)
	case NoChange:
	}
	switch {
	case err == nil:
		k.o.Logger.Info("metadata servers: "+c.Kind.String(), "directory", c.DirectoryID, "addr", c.Address, "why", c.Why)
		return keepEvery / 10 // the next one follows
	case errors.Is(err, raftnode.ErrConflict):
		return keepEvery / 10
	default:
		if ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			k.o.Logger.Warn("metadata servers: a change failed, and is tried again", "change", c.Kind.String(), "directory", c.DirectoryID, "err", err)
		}
		return keepBackoff
	}
}

// standings joins what gossip, Raft and the cluster's state know.
func (k *keeper) standings(now time.Time, servers []raftnode.Server, quorum *raftnode.Quorum) map[uuid.UUID]Standing {
	all := map[uuid.UUID]Standing{}
	left := map[uuid.UUID]bool{}
	failed := map[uuid.UUID]time.Time{} // since when gossip does not hear it
	node := map[uuid.UUID]int32{}
	successor := map[int32]uuid.UUID{} // the living directory of a node id
	holder := map[string]uuid.UUID{}   // and of an address
	for _, m := range k.o.Members() {
		all[m.DirectoryID] = Standing{DirectoryID: m.DirectoryID, Address: m.ClusterAddr, Alive: m.Status == Alive && m.State == Formed}
		left[m.DirectoryID] = m.Status == Left
		if m.Status != Alive {
			failed[m.DirectoryID] = m.Since
		}
		node[m.DirectoryID] = m.NodeID
		if all[m.DirectoryID].Alive {
			successor[m.NodeID], holder[m.ClusterAddr] = m.DirectoryID, m.DirectoryID
		}
	}
	address := map[uuid.UUID]string{} // that Raft has of a server
	for _, s := range servers {
		address[s.DirectoryID] = s.Address
		if _, known := all[s.DirectoryID]; !known {
			all[s.DirectoryID] = Standing{DirectoryID: s.DirectoryID}
		}
	}
	img := k.o.Image()
	registered := map[uuid.UUID]bool{}
	for b := range img.Brokers() {
		registered[b.DirectoryID] = true
	}
	contact := map[uuid.UUID]raftnode.ServerState{}
	for _, s := range quorum.Servers {
		contact[s.DirectoryID] = s
	}
	for dir, s := range all {
		s.LastContact, s.CaughtUp = contact[dir].LastContact, contact[dir].CaughtUp
		was := k.sight(now, dir, failed[dir], &s)
		was.registered = was.registered || registered[dir]
		// Silence tells something once Raft has had its time to reach who is there.
		silent := !s.Alive && now.Sub(k.began) >= leaderHears && now.Sub(s.LastContact) > inContact
		id, known := node[dir]
		other := img.Broker(id)
		// A wiped node cannot register before it follows the log, so gossip's word
		// counts as the registration does.
		_, follows := successor[id]
		replaced := known && !s.Alive && (follows || other != nil && other.DirectoryID != dir)
		// Another broker at its address: it will not come back there, and where Raft has
		// both the other could not follow.
		_, held := holder[address[dir]]
		displaced := held && silent
		// One that is not registered may be about to; one that is not any more was
		// forgotten by an operator.
		unregistered := silent && len(registered) > 0 && !registered[dir] && (was.registered || now.Sub(s.GoneSince) > voterGone)
		s.Dismissed = left[dir] || replaced || displaced || unregistered
		all[dir] = s
	}
	for dir := range k.seen {
		if _, still := all[dir]; !still {
			delete(k.seen, dir)
		}
	}
	return all
}

// sight dates a standing by what this leader saw before, and by what gossip told this
// node before it led: failed is since when it does not hear the member, zero if it does,
// or never did.
func (k *keeper) sight(now time.Time, dir uuid.UUID, failed time.Time, s *Standing) *sighting {
	was := k.seen[dir]
	if was == nil {
		was = &sighting{alive: s.Alive, aliveSince: now, goneAt: now}
		if !failed.IsZero() {
			was.goneAt = failed
		}
		k.seen[dir] = was
	}
	if s.Alive && !was.alive {
		was.aliveSince = now
	}
	if was.alive = s.Alive; s.Alive {
		was.goneAt = now
	}
	if was.goneAt.Before(s.LastContact) {
		was.goneAt = s.LastContact
	}
	s.AliveSince, s.GoneSince = was.aliveSince, was.goneAt
	return was
}
