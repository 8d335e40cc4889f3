package membership

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
)

var (
	seedFlag  = flag.Uint64("formation.seed", 0, "replay one seed of the model of formation")
	seedsFlag = flag.Int("formation.seeds", 3000, "how many seeds of the model of formation to run")
)

// simNode is a node of the model: ledger, state and cluster survive a crash.
type simNode struct {
	self    Server
	ledger  Ledger
	f       *Formation // nil while down
	began   []Server   // what Raft was bootstrapped with
	joined  bool       // by the cluster's own word
	cluster bool       // knows the cluster's id
	ahead   time.Duration
}

func (n *simNode) hasState() bool { return n.began != nil || n.joined && n.cluster }

type simPacket struct {
	from    int // of an answer
	to      int
	message *Message
	answer  *Answer
}

// simWorld is a pool of nodes with an unkind network between them.
type simWorld struct {
	t      testing.TB
	rand   *rand.Rand
	now    time.Time
	expect int
	nodes  []*simNode
	net    []simPacket
	cut    [][]bool // calls do not pass; gossip may say otherwise
	blind  [][]bool // gossip of the second has not reached the first
	log    []string
	named  int  // how many nodes everybody's cluster.join names
	apart  bool // two halves do not hear of each other before the calm
	haste  int  // the most ms between two steps: with many of them all propose at once
}

func newSimWorld(t testing.TB, seed uint64) *simWorld {
	w := &simWorld{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1, 0)}
	w.haste = []int{100, 400, 4000}[w.rand.IntN(3)]
	w.expect = []int{1, 2, 2, 3, 3, 3, 3, 5}[w.rand.IntN(8)]
	n := w.expect + w.rand.IntN(w.expect) // below twice that
	if w.expect > 1 && w.rand.IntN(3) == 0 {
		// A larger pool whose nodes are all named.
		n = w.expect * (2 + w.rand.IntN(2))
		w.named, w.apart = n, true
	}
	for i := range n {
		var id uuid.UUID
		binary.BigEndian.PutUint64(id[:], uint64(w.rand.IntN(1000)*100+i+1))
		w.nodes = append(w.nodes, &simNode{self: Server{DirectoryID: id, Address: fmt.Sprint(i)}})
		w.cut, w.blind = append(w.cut, make([]bool, n)), append(w.blind, make([]bool, n))
	}
	if n > w.expect && w.expect > 2 && w.rand.IntN(2) == 0 {
		w.nodes[w.rand.IntN(n)].ahead = time.Duration(w.rand.IntN(2)*2-1) * time.Hour
	}
	for i := range n {
		for j := range n {
			w.cut[i][j] = w.separate(i, j)
			w.blind[i][j] = w.cut[i][j]
		}
	}
	return w
}

// separate reports whether two nodes are in different halves of a pool that is apart.
func (w *simWorld) separate(i, j int) bool {
	half := len(w.nodes) / 2
	return w.apart && (i < half) != (j < half)
}

func (w *simWorld) trace(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *simWorld) fail(format string, args ...any) {
	w.t.Helper()
	for _, line := range w.log[max(0, len(w.log)-200):] {
		w.t.Log(line)
	}
	w.t.Fatalf(format, args...)
}

func (w *simWorld) start(i int) {
	n := w.nodes[i]
	n.f = NewFormation(n.self, w.expect, n.ledger, w.rand)
	w.trace("%d starts", i)
}

// save is the write before anything goes out. A crash in it loses what would have
// gone out, and keeps the old ledger or the new.
func (w *simWorld) save(i int, mayCrash bool) bool {
	n := w.nodes[i]
	now := n.f.Ledger()
	if !now.equal(&n.ledger) {
		if now.Promised.Less(n.ledger.Promised) || n.ledger.Chosen != nil && !slices.Equal(n.ledger.Chosen, now.Chosen) {
			w.fail("the ledger of %d went back: %+v after %+v", i, now, n.ledger)
		}
		if mayCrash && w.rand.IntN(30) == 0 {
			if w.rand.IntN(2) == 0 {
				n.ledger = copied(w.t, now)
			}
			n.f = nil
			w.trace("%d crashes while it writes", i)
			return false
		}
		n.ledger = copied(w.t, now)
	}
	return true
}

// copied goes through the file's form.
func copied(t testing.TB, l Ledger) Ledger {
	b, err := json.Marshal(ledgerFile{Format: ledgerFormat, Version: ledgerV1, Ledger: l})
	require.NoError(t, err)
	back, err := parseLedger(b)
	require.NoError(t, err)
	return back
}

func (w *simWorld) view(i int) *View {
	v := &View{HasState: w.nodes[i].hasState(), Named: w.named, Tried: true}
	for j, n := range w.nodes {
		if j != i && (w.blind[i][j] || n.f == nil && w.rand.IntN(4) != 0) { // gossip knows late of a death
			continue
		}
		m := Member{DirectoryID: n.self.DirectoryID, Tags: Tags{ClusterAddr: n.self.Address, Expect: w.expect, State: Forming}}
		if n.hasState() {
			m.State = Formed
		}
		if n.cluster {
			m.ClusterID = "the cluster"
		}
		v.Members = append(v.Members, m)
	}
	w.rand.Shuffle(len(v.Members), func(a, b int) { v.Members[a], v.Members[b] = v.Members[b], v.Members[a] })
	return v
}

func (w *simWorld) index(address string) int {
	var i int
	_, err := fmt.Sscan(address, &i)
	require.NoError(w.t, err)
	return i
}

func (w *simWorld) send(out []Outgoing) {
	for _, o := range out {
		m := o.Message
		w.net = append(w.net, simPacket{to: w.index(o.Address), message: &m})
	}
}

func (w *simWorld) step(i int, mayCrash bool) {
	n := w.nodes[i]
	if n.f == nil {
		return
	}
	s := n.f.Step(w.now, w.view(i))
	if s.Refused != nil {
		if n.ahead == 0 {
			w.fail("%d, whose clock is right, is refused: %v", i, s.Refused)
		}
		w.trace("%d is refused", i)
		n.f = nil
		return
	}
	if !w.save(i, mayCrash) {
		return
	}
	w.send(s.Send)
	switch s.Outcome {
	case Bootstrap:
		w.trace("%d bootstraps %v", i, s.Servers)
		if n.hasState() {
			w.fail("%d bootstraps though it has state", i)
		}
		if len(s.Servers) != w.expect {
			w.fail("%d bootstraps %d servers", i, len(s.Servers))
		}
		for j, other := range w.nodes {
			if other.ahead != 0 && slices.Contains(s.Servers, other.self) {
				w.fail("%d begins with %d, whose clock is off", i, j)
			}
			if other.began != nil && !slices.Equal(other.began, s.Servers) {
				w.fail("two clusters: %d began %v, %d begins %v", j, other.began, i, s.Servers)
			}
		}
		n.began = s.Servers
	case Join:
		if !slices.ContainsFunc(w.nodes, func(o *simNode) bool { return o.cluster }) {
			w.fail("%d joins what does not exist", i)
		}
		if n.ahead != 0 {
			n.f = nil // the cluster refuses it
			return
		}
		if !n.joined {
			w.trace("%d joins", i)
		}
		n.joined = true
	case Wait, Resume:
	}
}

// deliver takes one packet, not always the oldest, and may lose or double it.
func (w *simWorld) deliver(kind bool) {
	if len(w.net) == 0 {
		return
	}
	k := 0
	if !kind {
		k = w.rand.IntN(len(w.net))
	}
	p := w.net[k]
	switch chance := w.rand.IntN(10); {
	case !kind && chance == 0: // doubled: it stays
	default:
		w.net = slices.Delete(w.net, k, k+1)
		if !kind && chance == 1 {
			return // lost
		}
	}
	n := w.nodes[p.to]
	if n.f == nil {
		return
	}
	if p.answer != nil {
		n.f.HeardClock(p.answer.From, w.nodes[p.from].ahead-n.ahead)
		out := n.f.Answered(w.now, p.answer)
		if w.save(p.to, !kind) {
			w.send(out)
		}
		return
	}
	from := slices.IndexFunc(w.nodes, func(o *simNode) bool { return o.self.DirectoryID == p.message.From })
	if w.cut[from][p.to] {
		return
	}
	a := n.f.Handle(p.message, n.hasState())
	if w.save(p.to, !kind) {
		w.net = append(w.net, simPacket{from: p.to, to: from, answer: &a})
	}
}

// raft lets those who began become a cluster once a quorum of them is up.
func (w *simWorld) raft() {
	var servers []Server
	up, formed := 0, false
	for _, n := range w.nodes {
		formed = formed || n.cluster
		if n.began != nil {
			servers = n.began
			if n.f != nil {
				up++
			}
		}
	}
	if !formed && (servers == nil || up < len(servers)/2+1) {
		return
	}
	for _, n := range w.nodes {
		if n.f != nil && (n.began != nil || n.joined) {
			n.cluster = true
		}
	}
}

func (w *simWorld) chaos(steps int) {
	n := len(w.nodes)
	for range steps {
		w.now = w.now.Add(time.Duration(w.rand.IntN(w.haste)) * time.Millisecond)
		i, j := w.rand.IntN(n), w.rand.IntN(n)
		switch w.rand.IntN(24) {
		case 0, 1:
			if w.nodes[i].f == nil {
				w.start(i)
			}
		case 2:
			if w.rand.IntN(3) == 0 {
				w.nodes[i].f = nil
				w.trace("%d crashes", i)
			}
		case 3:
			w.cut[i][j] = !w.cut[i][j] || w.separate(i, j)
		case 4:
			w.blind[i][j] = !w.blind[i][j] || w.separate(i, j)
		case 5:
			if w.rand.IntN(8) == 0 {
				w.raft()
			}
		case 6, 7, 8, 9, 10, 11:
			w.step(i, true)
		default:
			w.deliver(false)
		}
	}
}

// calm lets all nodes but one run and see each other, or all with one whose clock is off. With fewer than expect +
// (expect-1)/2 nodes none can be missing for ever.
func (w *simWorld) calm() {
	n := len(w.nodes)
	w.apart = false
	down := -1
	if wrong := slices.ContainsFunc(w.nodes, func(n *simNode) bool { return n.ahead != 0 }); !wrong && n > w.expect && w.expect > 2 {
		down = w.rand.IntN(n)
	}
	for i := range w.nodes {
		for j := range w.nodes {
			w.cut[i][j], w.blind[i][j] = false, false
		}
		if i == down {
			w.nodes[i].f = nil
			w.trace("%d is down for good", i)
		} else if w.nodes[i].f == nil {
			w.start(i)
		}
	}
	whole := func() bool {
		return !slices.ContainsFunc(w.nodes, func(n *simNode) bool { return n.f != nil && !n.cluster })
	}
	for range 2000 {
		if whole() {
			return
		}
		w.now = w.now.Add(20 * time.Millisecond)
		for i := range w.nodes {
			w.step(i, false)
		}
		for range 4 * n {
			w.deliver(true)
		}
		w.raft()
	}
	w.fail("no cluster of %d (expect %d) after %v of calm", n, w.expect, 2000*20*time.Millisecond)
}

// Whatever is lost, late, doubled or down: at most one cluster begins, nothing is
// bootstrapped twice, and once enough nodes see each other it does begin.
func TestOneClusterBegins(t *testing.T) {
	seeds := make([]uint64, 0, *seedsFlag)
	for range *seedsFlag {
		seeds = append(seeds, rand.Uint64())
	}
	if *seedFlag != 0 {
		seeds = []uint64{*seedFlag}
	}
	for _, seed := range seeds {
		ok := t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			w := newSimWorld(t, seed)
			w.chaos(w.rand.IntN(600))
			w.calm()
			w.chaos(200)
		})
		if !ok {
			t.Fatalf("replay with -formation.seed=%d", seed)
		}
	}
}
