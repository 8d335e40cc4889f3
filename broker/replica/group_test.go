package replica

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/firnlog/firn/record"
)

// entry is one record of the naive logs: the epoch that wrote it and a value that
// no other record has.
type entry struct {
	epoch record.Epoch
	value int
}

// naiveLog is a log as a list, and the epochs as a list.
type naiveLog struct {
	entries []entry
	epochs  []struct {
		epoch record.Epoch
		start record.Offset
	}
	flushed int
}

func (l *naiveLog) end() record.Offset { return record.Offset(len(l.entries)) }

func (l *naiveLog) progress() Progress {
	return Progress{LogEnd: l.end(), FlushedEnd: record.Offset(l.flushed)}
}

func (l *naiveLog) LastEpoch() record.Epoch {
	if len(l.epochs) == 0 {
		return -1
	}
	return l.epochs[len(l.epochs)-1].epoch
}

func (l *naiveLog) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	if e < 0 || e > l.LastEpoch() {
		return -1, -1
	}
	var found record.Epoch
	for i, s := range l.epochs {
		if s.epoch > e {
			if i > 0 {
				found = l.epochs[i-1].epoch
			}
			return found, s.start
		}
		found = s.epoch
	}
	return found, l.end()
}

func (l *naiveLog) assign(e record.Epoch) {
	if e > l.LastEpoch() {
		l.epochs = append(l.epochs, struct {
			epoch record.Epoch
			start record.Offset
		}{e, l.end()})
	}
}

func (l *naiveLog) append(e entry) {
	l.assign(e.epoch)
	l.entries = append(l.entries, e)
}

func (l *naiveLog) truncate(to record.Offset) {
	l.entries = l.entries[:to]
	l.flushed = min(l.flushed, int(to))
	for n := len(l.epochs); n > 0 && l.epochs[n-1].start >= to; n-- {
		l.epochs = l.epochs[:n-1]
	}
}

// node is one broker of the group.
type node struct {
	id    int32
	epoch int64
	up    bool
	log   naiveLog
	rep   *Replica
}

// fetch and answer are messages; they may be delivered late, twice or never.
type fetch struct {
	from  int32
	epoch int64
	at    Position
}

type answer struct {
	to    int32
	epoch int64
	at    Position
	reply Reply
	batch []entry
}

type proposed struct {
	by    int32
	p     *ISRProposal
	heard bool // its outcome has been told
}

// group is brokers, a network that loses, delays and doubles, and a controller
// that decides as metadata/fsm does.
type group struct {
	t     testing.TB
	seed  uint64
	rng   *rand.Rand
	now   time.Time
	cfg   Config
	nodes []*node
	a     Assignment // committed

	fetches   []fetch
	answers   []answer
	proposals []proposed

	values    int
	committed []entry // all that any leader's watermark ever covered
}

func newGroup(t testing.TB, seed uint64) *group {
	g := &group{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0)), now: t0}
	g.cfg = Config{Fsync: g.between(0, 1) == 1, MinISR: g.between(1, 2), LagMax: 3 * time.Second, Warmth: g.between(0, 3) > 0}
	g.a = Assignment{Leader: 1, LeaderEpoch: 0, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2, 3}, RemoteEpoch: -1}
	for id := range int32(3) {
		n := &node{id: id + 1, epoch: 1, up: true}
		n.rep = New(n.id, g.cfg, 0, Progress{})
		g.nodes = append(g.nodes, n)
		g.tell(n)
	}
	return g
}

func (g *group) between(least, most int) int { return least + g.rng.IntN(most-least+1) }

func pick[T any](g *group, from []T) T { return from[g.rng.IntN(len(from))] }

func (g *group) fatalf(format string, args ...any) {
	g.t.Helper()
	g.t.Fatalf("seed %d: %s", g.seed, fmt.Sprintf(format, args...))
}

func (g *group) node(id int32) *node { return g.nodes[id-1] }

func (g *group) eligible(id int32) bool { return g.node(id).up }

// tell gives a node the committed assignment, as a subscriber of the image.
func (g *group) tell(n *node) {
	eff := n.rep.Assign(g.now, g.a, n.log.progress())
	if eff.AssignEpoch {
		n.log.assign(g.a.LeaderEpoch)
	}
	g.after(n, eff)
}

func (g *group) after(n *node, eff Effects) {
	if eff.Propose != nil {
		g.proposals = append(g.proposals, proposed{by: n.id, p: eff.Propose})
	}
	if err := n.rep.Check(); err != nil {
		g.fatalf("broker %d: %v", n.id, err)
	}
	if p := eff.Propose; p != nil {
		for i, id := range p.Cold {
			if !n.rep.HasReplica(id) || i > 0 && p.Cold[i-1] >= id {
				g.fatalf("broker %d calls %v cold", n.id, p.Cold)
			}
		}
		if len(p.Cold) > 0 && !g.cfg.Warmth {
			g.fatalf("broker %d calls %v cold below the level", n.id, p.Cold)
		}
	}
	if n.rep.Role() != Leader {
		return
	}
	hw := int(n.rep.HighWatermark())
	for i := range hw {
		switch {
		case i == len(g.committed):
			g.committed = append(g.committed, n.log.entries[i])
		case g.committed[i] != n.log.entries[i]:
			g.fatalf("leader %d of epoch %d has %v at %d, where %v was committed", n.id, n.rep.LeaderEpoch(), n.log.entries[i], i, g.committed[i])
		}
	}
	if n.rep.LeaderEpoch() == g.a.LeaderEpoch && n.rep.WatermarkKnown() && hw < len(g.committed) {
		g.fatalf("the newest leader tells watermark %d after %d", hw, len(g.committed))
	}
}

// commit takes a change into the metadata.
func (g *group) commit(leader int32, isr []int32) {
	if leader != g.a.Leader || leader < 0 {
		g.a.LeaderEpoch++
	}
	g.a.Leader, g.a.ISR = leader, isr
	g.a.PartitionEpoch++
}

// elect keeps the leader where it can lead, or makes an eligible ISR member it.
func (g *group) elect(isr []int32, anew bool) {
	if g.a.Leader >= 0 && slices.Contains(isr, g.a.Leader) && g.eligible(g.a.Leader) && !anew {
		g.commit(g.a.Leader, isr)
		return
	}
	var can, warm []int32
	for _, id := range isr {
		if g.eligible(id) {
			can = append(can, id)
		}
		if g.eligible(id) && !slices.Contains(g.a.Cold, id) {
			warm = append(warm, id)
		}
	}
	if len(warm) > 0 {
		can = warm
	}
	leader := int32(-1)
	if len(can) > 0 {
		leader = pick(g, can)
	}
	g.a.Leader = -1 // every election has an epoch of its own
	g.commit(leader, isr)
}

func (g *group) crash() {
	g.crashOf(pick(g, g.nodes))
}

func (g *group) crashOf(n *node) {
	if !n.up {
		return
	}
	n.up = false
	isr := slices.DeleteFunc(slices.Clone(g.a.ISR), func(id int32) bool { return id == n.id })
	// Power is lost: what was not synced may be gone. With page cache durability it
	// takes one broker at most that others do not stand in for.
	if g.cfg.Fsync || len(isr) > 0 && g.between(0, 2) == 0 {
		n.log.truncate(record.Offset(g.between(n.log.flushed, len(n.log.entries))))
	}
	if len(isr) == 0 {
		isr = []int32{n.id}
	}
	g.elect(isr, false)
}

func (g *group) restart() {
	n := pick(g, g.nodes)
	if n.up {
		return
	}
	n.up, n.epoch = true, n.epoch+1
	n.log.flushed = len(n.log.entries)
	n.rep = New(n.id, g.cfg, 0, n.log.progress())
	if g.a.Leader < 0 {
		g.elect(g.a.ISR, true)
	}
	g.tell(n)
}

func (g *group) send() {
	n := pick(g, g.nodes)
	if at, ok := n.rep.Position(&n.log); ok && n.up {
		g.fetches = append(g.fetches, fetch{from: n.id, epoch: n.epoch, at: at})
	}
}

// take removes a message, or leaves it to come again.
func take[T any](g *group, from *[]T) (m T, ok bool) {
	if len(*from) == 0 {
		return m, false
	}
	i := g.between(0, len(*from)-1)
	m = (*from)[i]
	if g.between(0, 3) > 0 {
		*from = slices.Delete(*from, i, i+1)
	}
	return m, true
}

// serve is a leader's part in a fetch, as partition.Read has it.
func (g *group) serve() {
	f, ok := take(g, &g.fetches)
	if !ok {
		return
	}
	n := g.node(f.at.Leader)
	if !n.up || n.rep.Role() != Leader || n.rep.LeaderEpoch() != f.at.LeaderEpoch {
		return
	}
	ans := answer{to: f.from, epoch: f.epoch, at: f.at}
	epoch, end := n.log.EpochEnd(f.at.LastEpoch)
	switch {
	case f.at.LastEpoch >= 0 && (epoch < f.at.LastEpoch || end < f.at.Offset):
		ans.reply = Reply{Kind: ReplyDiverging, DivergingEpoch: epoch, DivergingEnd: end}
	case f.at.Offset > n.log.end():
		g.fatalf("position %+v is above the leader's end %d and was not found to diverge", f.at, n.log.end())
	default:
		n.rep.Holds(f.from, f.epoch, record.Offset(g.between(-1, int(f.at.Offset))), g.local(n))
		g.after(n, n.rep.Fetched(g.now, f.from, f.epoch, f.at.Offset, g.eligible(f.from)))
		upTo := g.between(int(f.at.Offset), len(n.log.entries))
		ans.batch = slices.Clone(n.log.entries[f.at.Offset:upTo])
		ans.reply = Reply{Kind: ReplyRecords, HighWatermark: n.rep.HighWatermark()}
	}
	g.answers = append(g.answers, ans)
}

func (g *group) receive() {
	ans, ok := take(g, &g.answers)
	if !ok {
		return
	}
	n := g.node(ans.to)
	if !n.up || n.epoch != ans.epoch {
		return
	}
	switch d := n.rep.OnReply(ans.at, ans.reply, &n.log); d.Step {
	case Drop:
	case Append:
		for _, e := range ans.batch {
			n.log.append(e)
		}
		g.after(n, n.rep.Appended(n.log.end()))
		g.after(n, n.rep.LearnWatermark(d.HighWatermark))
	case Truncate:
		if d.BelowWatermark {
			g.fatalf("broker %d truncates to %d, below its watermark %d", n.id, d.To, n.rep.HighWatermark())
		}
		n.log.truncate(d.To)
		n.rep.Truncated(n.log.progress())
	default:
		g.fatalf("unexpected %v", d)
	}
}

func (g *group) produce() {
	n := pick(g, g.nodes)
	if n.up && n.rep.Role() == Leader {
		g.values++
		n.log.append(entry{epoch: n.rep.LeaderEpoch(), value: g.values})
		g.after(n, n.rep.Appended(n.log.end()))
	}
}

func (g *group) flush() {
	n := pick(g, g.nodes)
	if n.up {
		n.log.flushed = g.between(n.log.flushed, len(n.log.entries))
		g.after(n, n.rep.Flushed(record.Offset(n.log.flushed)))
	}
}

// local is what of a log is still on the disk, if it was trimmed somewhere.
func (g *group) local(n *node) Local {
	end := n.log.end()
	p := pieces{start: record.Offset(g.between(0, int(end)))}
	for at := p.start + 1; at <= end; at++ {
		p.ends = append(p.ends, at)
	}
	return p
}

// copy says that some of what the newest leader knows to be committed is in the
// bucket.
func (g *group) copy() {
	if n := g.a.Leader; n >= 0 && g.node(n).up && g.node(n).rep.LeaderEpoch() == g.a.LeaderEpoch {
		g.a.RemoteEnd = max(g.a.RemoteEnd, record.Offset(g.between(0, int(g.node(n).rep.HighWatermark()))))
	}
}

// decide is the metadata log's answer to an ISR change. It may be given though
// the proposer hears nothing of it, and the command may come a second time.
func (g *group) decide() {
	if len(g.proposals) == 0 {
		return
	}
	i := g.between(0, len(g.proposals)-1)
	pr := &g.proposals[i]
	by, first := g.node(pr.by), !pr.heard
	if g.between(0, 3) == 0 {
		// A timeout: the command may still come.
		if pr.heard = true; first && by.up {
			by.rep.ProposalFailed(pr.p, false)
		}
		return
	}
	p := pr.p
	fits := g.a.Leader == pr.by && p.LeaderEpoch == g.a.LeaderEpoch && p.PartitionEpoch == g.a.PartitionEpoch
	refused := false
	for _, m := range p.Members {
		refused = refused || m.ID != pr.by && (!g.eligible(m.ID) || m.BrokerEpoch >= 0 && m.BrokerEpoch != g.node(m.ID).epoch)
	}
	g.proposals = slices.Delete(g.proposals, i, i+1)
	switch {
	case fits && !refused:
		g.a.Cold = p.Cold
		g.commit(g.a.Leader, p.IDs())
	case first && by.up:
		by.rep.ProposalFailed(p, fits)
	}
}

// round is one undisturbed turn of a follower.
func (g *group) round(n *node) {
	if !n.up {
		return
	}
	if g.between(0, 3) > 0 {
		n.log.flushed = len(n.log.entries)
		g.after(n, n.rep.Flushed(record.Offset(n.log.flushed)))
	}
	at, ok := n.rep.Position(&n.log)
	if !ok {
		return
	}
	fetches, answers := g.fetches, g.answers
	g.fetches, g.answers = []fetch{{from: n.id, epoch: n.epoch, at: at}}, nil
	for len(g.fetches) > 0 {
		g.serve()
	}
	for len(g.answers) > 0 {
		g.receive()
	}
	g.fetches, g.answers = fetches, answers
}

func (g *group) step() {
	switch n := g.between(0, 99); {
	case n < 15:
		g.produce()
	case n < 35:
		g.round(pick(g, g.nodes))
	case n < 45:
		g.send()
	case n < 55:
		g.serve()
	case n < 65:
		g.receive()
	case n < 72:
		g.flush()
	case n < 82:
		g.decide()
	case n < 90:
		if n := pick(g, g.nodes); n.up {
			g.tell(n)
		}
	case n < 91:
		g.crash()
	case n < 92:
		for _, i := range g.rng.Perm(len(g.nodes)) { // the power is gone everywhere
			g.crashOf(g.nodes[i])
		}
	case n < 95:
		g.restart()
	case n < 96:
		g.elect(g.a.ISR, true) // a preferred leader, say
	case n < 97:
		g.copy()
	case n < 99:
		g.now = g.now.Add(ColdAfter)
		for _, n := range g.nodes {
			if n.up {
				g.after(n, n.rep.Judge(g.now, g.local(n)))
			}
		}
	default:
		g.now = g.now.Add(time.Second)
		for _, n := range g.nodes {
			if n.up {
				g.after(n, n.rep.Tick(g.now, g.eligible))
				g.after(n, n.rep.Judge(g.now, g.local(n)))
			}
		}
	}
}

// heal ends all faults and lets the group work undisturbed.
func (g *group) heal() {
	g.fetches, g.answers = nil, nil
	for _, n := range g.nodes {
		if !n.up {
			n.up, n.epoch = true, n.epoch+1
			n.log.flushed = len(n.log.entries)
			n.rep = New(n.id, g.cfg, 0, n.log.progress())
		}
	}
	if g.a.Leader < 0 {
		g.elect(g.a.ISR, true)
	}
	for range 40 {
		for _, n := range g.nodes {
			g.tell(n)
		}
		for _, n := range g.nodes {
			g.round(n)
		}
		g.now = g.now.Add(time.Second)
		for _, n := range g.nodes {
			g.after(n, n.rep.Tick(g.now, g.eligible))
		}
		for len(g.proposals) > 0 {
			g.decide()
		}
	}
	l := g.node(g.a.Leader)
	for _, n := range g.nodes {
		if !slices.Equal(n.log.entries, l.log.entries) || n.rep.HighWatermark() != l.log.end() || len(g.a.ISR) != 3 {
			g.fatalf("broker %d has not caught up: %d of %d records, watermark %d, ISR %v", n.id, len(n.log.entries),
				len(l.log.entries), n.rep.HighWatermark(), g.a.ISR)
		}
	}
}

// Three replicas, a network that loses, delays and doubles, crashes and clean
// elections: what a leader's watermark covered once, every later leader has, and
// no truncation touches it. When the faults end all catch up.
func TestGroupLosesNothingThatWasCommitted(t *testing.T) {
	const groups, steps = 2000, 300
	first := rand.Uint64()
	for i := range uint64(groups) {
		g := newGroup(t, first+i)
		for range steps {
			g.step()
		}
		g.heal()
	}
}
