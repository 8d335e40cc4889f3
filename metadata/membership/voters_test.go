package membership

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/raftnode"
)

// voterWorld is a cluster whose Raft always elects where a majority of its voters
// is up, and whose nodes crash, come back, are wiped and leave.
type voterWorld struct {
	t         testing.TB
	rand      *rand.Rand
	now       time.Time
	nodes     []*voterNode
	servers   []raftnode.Server
	leader    uuid.UUID
	keeper    *keeper
	ledSince  time.Time
	most      int
	nextDir   uint64
	log       []string
	sinceMove int             // turns since the last change
	known     *metadata.Image // nil: to be made anew
}

type voterNode struct {
	id                int32
	dir               uuid.UUID
	up, left          bool
	unheard           bool      // gossip says that it has failed, though it is up
	quiet             time.Time // since when gossip says that it has failed or left
	port              int
	contact, caughtUp time.Time
	registered        bool
	others            []uuid.UUID   // its directories before this one
	slow              bool          // it is up, and never catches up
	answers           time.Duration // how long after an election it answers the leader
}

func (w *voterWorld) newDir() uuid.UUID {
	w.nextDir++
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:], w.rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], w.nextDir)
	return id
}

func (w *voterWorld) trace(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *voterWorld) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.log[max(0, len(w.log)-60):] {
		w.t.Log(line)
	}
	for _, n := range w.nodes {
		w.t.Logf("node %d is %s at %s: up %t, left %t", n.id, n.dir, n.addr(), n.up, n.left)
	}
	for _, s := range w.servers {
		w.t.Logf("server %s at %s: voter %t, leads %t", s.DirectoryID, s.Address, s.Voter, s.DirectoryID == w.leader)
	}
	w.t.Fatalf(format, args...)
}

func newVoterWorld(t testing.TB, seed uint64) *voterWorld {
	w := &voterWorld{t: t, rand: rand.New(rand.NewPCG(seed, 2)), now: time.Unix(1000, 0)}
	first := []int{1, 1, 3, 3, 5}[w.rand.IntN(5)]
	for i := range first + w.rand.IntN(4) {
		n := &voterNode{id: int32(i), dir: w.newDir(), up: true, registered: true, port: i}
		w.nodes = append(w.nodes, n)
		if i < first {
			w.servers = append(w.servers, raftnode.Server{DirectoryID: n.dir, Address: n.addr(), Voter: true})
		}
	}
	w.most = max(wantVoters, first)
	return w
}

func (n *voterNode) addr() string { return fmt.Sprintf("h:%d", n.port) }

func (w *voterWorld) node(dir uuid.UUID) *voterNode {
	for _, n := range w.nodes {
		if n.dir == dir {
			return n
		}
	}
	return nil
}

func (w *voterWorld) votes() (alive, all int) {
	for _, s := range w.servers {
		if s.Voter {
			all++
			if n := w.node(s.DirectoryID); n != nil && n.up {
				alive++
			}
		}
	}
	return alive, all
}

// elect keeps the leader while it can lead, else chooses one.
func (w *voterWorld) elect() bool {
	alive, all := w.votes()
	if alive < all/2+1 {
		w.leader = uuid.Nil
		return false
	}
	is := func(s raftnode.Server) bool { n := w.node(s.DirectoryID); return s.Voter && n != nil && n.up }
	if slices.ContainsFunc(w.servers, func(s raftnode.Server) bool { return s.DirectoryID == w.leader && is(s) }) {
		return true
	}
	start := w.rand.IntN(len(w.servers))
	for i := range w.servers {
		if s := w.servers[(start+i)%len(w.servers)]; is(s) {
			w.leader, w.ledSince = s.DirectoryID, w.now
			w.keeper = newKeeper(KeeperOptions{Self: w.leader, Members: w.members, Image: w.image}, w.now)
			for _, n := range w.nodes { // a new leader has heard of nobody
				n.contact, n.caughtUp = time.Time{}, time.Time{}
				n.answers = time.Duration(w.rand.IntN(3000)) * time.Millisecond
			}
			w.trace("%s leads", w.leader)
			return true
		}
	}
	return false
}

func (w *voterWorld) members() []Member {
	var all []Member
	for _, n := range w.nodes {
		m := Member{DirectoryID: n.dir, Tags: Tags{NodeID: n.id, ClusterAddr: n.addr(), State: Formed}}
		switch {
		case n.dir == w.leader: // to itself
		case n.left:
			m.Status, m.Since = Left, n.quiet
		case !n.up || n.unheard:
			m.Status, m.Since = Failed, n.quiet
		}
		all = append(all, m)
		for _, dir := range n.others {
			all = append(all, Member{DirectoryID: dir, Status: Failed, Tags: Tags{NodeID: n.id, ClusterAddr: n.addr(), State: Formed}})
		}
	}
	return all
}

func (w *voterWorld) image() *metadata.Image {
	if w.known != nil {
		return w.known
	}
	w.known = clusterImage("c", func(e *metadata.Editor) {
		for _, n := range w.nodes {
			if n.registered {
				e.PutBroker(&metadata.Broker{ID: n.id, DirectoryID: n.dir})
			}
		}
	})
	return w.known
}

func (w *voterWorld) turn() {
	if !w.elect() {
		return
	}
	q := &raftnode.Quorum{Leader: w.leader}
	for _, s := range w.servers {
		n := w.node(s.DirectoryID)
		state := raftnode.ServerState{Server: s}
		if n != nil {
			if n.up && (n.dir == w.leader || w.now.Sub(w.ledSince) >= n.answers) { // wherever: Raft's transport asks gossip for the address of a directory
				n.contact = w.now
				if !n.slow {
					n.caughtUp = w.now
				}
			}
			state.LastContact, state.CaughtUp = n.contact, n.caughtUp
		}
		q.Servers = append(q.Servers, state)
	}
	v := &VoterView{Self: w.leader, LeadsSince: w.ledSince, Servers: w.servers, Standings: w.keeper.standings(w.now, w.servers, q)}
	c := PlanVoters(w.now, v)
	w.sinceMove++
	if c.Kind == NoChange {
		return
	}
	w.sinceMove = 0
	w.trace("%s: %s %s %s: %s", w.now.Format("04:05.0"), c.Kind, c.DirectoryID, c.Address, c.Why)
	w.carryOut(c)
}

func (w *voterWorld) carryOut(c VoterChange) {
	i := slices.IndexFunc(w.servers, func(s raftnode.Server) bool { return s.DirectoryID == c.DirectoryID })
	_, votersBefore := w.votes()
	switch c.Kind {
	case AddNonvoter, AddVoter:
		if i < 0 {
			w.servers = append(w.servers, raftnode.Server{DirectoryID: c.DirectoryID})
			i = len(w.servers) - 1
		}
		w.servers[i].Address = c.Address
		w.servers[i].Voter = w.servers[i].Voter || c.Kind == AddVoter
	case RemoveServer:
		if i < 0 {
			w.fail("%s is removed and is no server", c.DirectoryID)
		}
		if c.DirectoryID == w.leader {
			w.fail("the leader removes itself")
		}
		if n := w.node(c.DirectoryID); n != nil && n.up {
			w.fail("%s is removed and is up", c.DirectoryID)
		}
		w.servers = slices.Delete(slices.Clone(w.servers), i, i+1)
	case HandLeadership:
		for _, s := range w.servers {
			if n := w.node(s.DirectoryID); s.Voter && n != nil && n.up && s.DirectoryID != w.leader {
				w.leader = uuid.Nil
			}
		}
	case NoChange:
	}
	alive, all := w.votes()
	if alive < all/2+1 {
		w.fail("%d of %d voters live after the change", alive, all)
	}
	if all > w.most+1 || all > votersBefore && all > w.most && w.most == wantVoters {
		w.fail("%d voters", all)
	}
	if all > votersBefore {
		n := w.node(c.DirectoryID)
		if n == nil || !n.up || w.now.Sub(n.caughtUp) > caughtUpWithin {
			w.fail("a vote for one that cannot use it")
		}
	}
}

// rise starts a node: not at the address of one that is up.
func (w *voterWorld) rise(n *voterNode) {
	for slices.ContainsFunc(w.nodes, func(o *voterNode) bool { return o != n && o.up && o.port == n.port }) {
		n.port = w.rand.IntN(1000)
	}
	n.up, n.left, n.unheard = true, false, false
	if !n.registered {
		n.registered, w.known = true, nil
	}
}

// fall ends a node. Gossip may have been silent about it before.
func (w *voterWorld) fall(n *voterNode) {
	if n.up && !n.unheard {
		n.quiet = w.now
	}
	n.up, n.unheard = false, false
}

// forget unregisters a node that is down, as an operator does.
func (w *voterWorld) forget(n *voterNode) {
	n.registered, w.known = false, nil
	w.trace("%s: %d is unregistered", w.now.Format("04:05.0"), n.id)
}

func (w *voterWorld) chaos(steps int) {
	for range steps {
		w.now = w.now.Add(time.Duration(w.rand.IntN(3000)) * time.Millisecond)
		n := w.nodes[w.rand.IntN(len(w.nodes))]
		switch w.rand.IntN(40) {
		case 0:
			w.fall(n)
		case 1, 2:
			w.rise(n)
		case 3: // comes back elsewhere, now and then where one that is down was
			if !n.up {
				n.port = w.rand.IntN(1000)
				if w.rand.IntN(3) == 0 {
					n.port = w.nodes[w.rand.IntN(len(w.nodes))].port
				}
				w.rise(n)
			}
		case 4: // comes back wiped
			if !n.up && w.rand.IntN(3) == 0 {
				if alive, all := w.votes(); alive >= all/2+1 { // else the cluster is gone, which is nobody's fault
					n.others = append(n.others, n.dir)
					n.dir, n.contact, n.caughtUp = w.newDir(), time.Time{}, time.Time{}
					w.rise(n)
					w.known = nil
					w.trace("%d is wiped: %s", n.id, n.dir)
				}
			}
		case 5: // leaves, where the others can go on
			if len(w.nodes) > 4 && w.rand.IntN(4) == 0 {
				w.fall(n)
				n.left = true
			}
		case 6:
			n.slow = !n.slow
		case 7: // gossip does not hear it any more, for a while
			if n.up && !n.unheard {
				n.unheard, n.quiet = true, w.now
			}
		case 8:
			if !n.up && !n.left && w.rand.IntN(3) == 0 {
				w.forget(n)
			}
		case 9: // leaders change
			if w.rand.IntN(2) == 0 {
				w.leader = uuid.Nil
			}
		default:
			w.turn()
		}
	}
}

// calm brings all back but some, and waits until nothing is left to do.
func (w *voterWorld) calm() {
	for _, n := range w.nodes {
		n.slow = false
		if !n.left {
			w.rise(n)
		}
	}
	alive, all := w.votes()
	if alive < all/2+1 {
		return // too many left or were wiped at once: a person must help
	}
	if others := alive - 1; others >= all/2+1 && len(w.nodes) > 3 { // one may stay away for ever
		n := w.nodes[w.rand.IntN(len(w.nodes))]
		w.fall(n)
		if w.rand.IntN(2) == 0 {
			w.forget(n)
		}
	}
	for range 800 {
		w.now = w.now.Add(300 * time.Millisecond)
		w.turn()
	}
	alive, all = w.votes()
	up := 0
	for _, n := range w.nodes {
		if n.up {
			up++
			if !slices.ContainsFunc(w.servers, func(s raftnode.Server) bool { return s.DirectoryID == n.dir && s.Address == n.addr() }) {
				w.fail("%d is up and no server", n.id)
			}
		}
	}
	if up >= wantVoters && all < wantVoters || up > all && alive < all {
		w.fail("%d voters, %d of them alive, with %d nodes up", all, alive, up)
	}
	for _, s := range w.servers {
		if n := w.node(s.DirectoryID); n == nil || n.left || !n.registered {
			w.fail("%s is gone for good and still a server", s.DirectoryID)
		}
	}
	if w.sinceMove < 300 {
		w.fail("it does not come to rest")
	}
}

var (
	votersSeed  = flag.Uint64("voters.seed", 0, "replay one seed of the model of the voters")
	votersSeeds = flag.Int("voters.seeds", 100, "how many seeds the model of the voters takes")
)

func TestVotersModel(t *testing.T) {
	if *votersSeed != 0 {
		*votersSeeds = 1
	}
	for range *votersSeeds {
		seed := *votersSeed
		if seed == 0 {
			seed = rand.Uint64()
		}
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newVoterWorld(t, seed)
			w.calm()
			w.chaos(1000)
			w.calm()
		})
		if !ok {
			break
		}
	}
}

// settledWorld has three voters and a follower, all well.
func settledWorld(t *testing.T) *voterWorld {
	w := &voterWorld{t: t, rand: rand.New(rand.NewPCG(1, 1)), now: time.Unix(1000, 0), most: wantVoters}
	for i := range 4 {
		n := &voterNode{id: int32(i), dir: w.newDir(), up: true, registered: true, port: i}
		w.nodes = append(w.nodes, n)
		w.servers = append(w.servers, raftnode.Server{DirectoryID: n.dir, Address: n.addr(), Voter: i < 3})
	}
	return w
}

// A voter that is silent is replaced though no leader leads for as long as it must be
// silent: how long it is known to gossip everywhere. It used to be counted anew by each.
func TestASilentVoterIsReplacedThoughLeadersChange(t *testing.T) {
	w := settledWorld(t)
	began := w.now
	w.fall(w.nodes[1])
	voter := func(i int) bool {
		return slices.ContainsFunc(w.servers, func(s raftnode.Server) bool { return s.Voter && s.DirectoryID == w.nodes[i].dir })
	}
	for turn := 1; !voter(3); turn++ {
		if turn%40 == 0 { // 12 s
			w.leader = uuid.Nil
		}
		w.now = w.now.Add(300 * time.Millisecond)
		w.turn()
		if after := w.now.Sub(began); after > time.Minute {
			w.fail("no other has its vote after %v", after)
		} else if after <= voterGone {
			require.True(t, voter(1), "removed after %v", after)
		}
	}
	require.False(t, voter(1))
}

// Where the leader saw a broker registered, and an operator has it forgotten, its vote
// goes at once.
func TestAForgottenVoterGoesAtOnce(t *testing.T) {
	w := settledWorld(t)
	turns := func(n int) {
		for range n {
			w.now = w.now.Add(500 * time.Millisecond)
			w.turn()
		}
	}
	turns(20)
	gone := slices.IndexFunc(w.nodes, func(n *voterNode) bool { return n.dir != w.leader })
	w.fall(w.nodes[gone])
	turns(20)
	require.Len(t, w.servers, 4, "it is silent for 10 s, which is not for long")
	w.forget(w.nodes[gone])
	turns(2)
	require.Len(t, w.servers, 3)
	require.Equal(t, raftnode.Server{DirectoryID: w.nodes[3].dir, Address: w.nodes[3].addr(), Voter: true}, w.servers[2])
}

// fakeRaft carries the keeper's changes out at once.
type fakeRaft struct {
	w       *voterWorld
	version uint64
	refuse  int
	done    chan VoterChange
}

func (r *fakeRaft) Servers() ([]raftnode.Server, uint64) { return slices.Clone(r.w.servers), r.version }
func (r *fakeRaft) Quorum(context.Context) (raftnode.Quorum, error) {
	q := raftnode.Quorum{Leader: r.w.leader}
	for _, s := range r.w.servers {
		r.w.node(s.DirectoryID).caughtUp = r.w.now
		q.Servers = append(q.Servers, raftnode.ServerState{Server: s, LastContact: time.Now(), CaughtUp: time.Now()})
	}
	return q, nil
}

func (r *fakeRaft) change(c VoterChange, prev uint64) error {
	if prev != r.version {
		return raftnode.ErrConflict
	}
	if r.refuse > 0 {
		r.refuse--
		return raftnode.ErrConflict
	}
	r.version++
	r.w.carryOut(c)
	r.done <- c
	return nil
}

func (r *fakeRaft) AddVoter(_ context.Context, dir uuid.UUID, addr string, prev uint64) error {
	return r.change(VoterChange{AddVoter, dir, addr, ""}, prev)
}

func (r *fakeRaft) AddNonvoter(_ context.Context, dir uuid.UUID, addr string, prev uint64) error {
	return r.change(VoterChange{AddNonvoter, dir, addr, ""}, prev)
}

func (r *fakeRaft) Remove(_ context.Context, dir uuid.UUID, prev uint64) error {
	return r.change(VoterChange{RemoveServer, dir, "", ""}, prev)
}

func (r *fakeRaft) TransferLeadership(context.Context) error { return nil }

// From one voter to three, in the order that the plan has them, each once.
func TestKeeperGoesFromOneToThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &voterWorld{t: t, rand: rand.New(rand.NewPCG(1, 1)), now: time.Now(), most: wantVoters}
		for i := range 4 {
			w.nodes = append(w.nodes, &voterNode{id: int32(i), dir: uuid.UUID{byte(i + 1)}, up: true, registered: true, port: i})
		}
		w.leader = w.nodes[0].dir
		w.servers = []raftnode.Server{{DirectoryID: w.leader, Address: w.nodes[0].addr(), Voter: true}}
		r := &fakeRaft{w: w, version: 1, refuse: 2, done: make(chan VoterChange, 100)}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			KeepVoters(ctx, KeeperOptions{Self: w.leader, Raft: r, Members: w.members, Image: w.image})
		}()
		time.Sleep(time.Minute)
		cancel()
		<-ended
		var kinds []ChangeKind
		for len(r.done) > 0 {
			kinds = append(kinds, (<-r.done).Kind)
		}
		require.Equal(t, []ChangeKind{AddNonvoter, AddNonvoter, AddNonvoter, AddVoter, AddVoter}, kinds)
	})
}
