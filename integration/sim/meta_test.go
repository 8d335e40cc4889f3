package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/controller"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// maxVoters is how many brokers vote on the metadata.
const maxVoters = 3

// metaLog is the metadata log as Raft would have it: commands in one order, of
// which each broker has a prefix. Apply is the production state machine, once;
// the brokers have its images, which never change. Raft itself is not simulated:
// a committed command is never lost, and there is a leader whenever a majority
// of the voters is up and connected.
type metaLog struct {
	w      *world
	fsm    *fsm.FSM
	images []*metadata.Image // by index
	log    [][]byte          // by index, from 1: the commands
	remote [][]remoteAt      // by partition, in the order of indexes
	leader int32             // 0 for none
	leads  *proc             // its process
	term   int
	delta  metadata.Delta // of the last command
	// lostAt is when the leader was first seen without a majority, -1 if it has one.
	lostAt time.Duration
	// fencedAt is, by broker, when it was fenced last.
	fencedAt []fencing
	// left are commands that a leader had written when it lost its majority.
	left [][]byte
}

// fencing is the command that fenced a registration.
type fencing struct {
	epoch int64
	index uint64
}

// remoteAt is a partition's remote entries from an index on.
type remoteAt struct {
	index uint64
	m     manifest.Manifest
}

func newMetaLog(w *world) *metaLog {
	m := &metaLog{w: w, lostAt: -1, fencedAt: make([]fencing, w.plan.brokers+1)}
	state, err := fsm.Open(fsm.Options{FS: vfs.NewMem(), Dir: "state", OnFatal: func(err error) { panic(err) },
		OnApplied: func(_ *metadata.Image, d metadata.Delta) { m.delta = d }})
	if err != nil {
		panic(err)
	}
	m.fsm = state
	m.images, m.log = []*metadata.Image{state.Image()}, [][]byte{nil}
	return m
}

func (m *metaLog) close() error { return m.fsm.Close() }

// image is the newest one.
func (m *metaLog) image() *metadata.Image { return m.images[len(m.images)-1] }

func (m *metaLog) index() uint64 { return uint64(len(m.images) - 1) }

// entries are the remote entries of a partition as of an index.
func (m *metaLog) entries(part int, index uint64) manifest.Manifest {
	all := m.remote[part]
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].index <= index {
			return all[i].m
		}
	}
	return manifest.Manifest{}
}

// commit applies a command, and checks what it changed.
func (m *metaLog) commit(data []byte) (command.Result, error) {
	m.delta = metadata.Delta{}
	old := m.image()
	index := m.index() + 1
	out := m.fsm.ApplyBatch([]fsm.Entry{{Index: index, Data: data}})[0]
	m.images, m.log = append(m.images, m.fsm.Image()), append(m.log, data)
	m.w.mix(index, uint64(len(data)))
	cmd, err := command.Decode(data)
	if err != nil {
		panic(err)
	}
	m.w.legible(old, data)
	if m.w.tracing() {
		m.w.tracef("metadata %d: %s %+v → %s", index, cmd.Kind(), cmd, outcome(out))
	}
	if out.Err != nil {
		m.w.count.refused++
	}
	for _, tp := range m.delta.Entries {
		m.noteEntries(tp, index)
	}
	m.w.registered(old)
	if c, ok := cmd.(*command.SetBrokerState); ok && c.State == command.BrokerFull && out.Err == nil {
		m.w.count.handed++
	}
	if c, ok := cmd.(*command.SetBrokerState); ok && c.State == command.BrokerFenced && out.Err == nil {
		m.w.fenced(old, c)
		if !old.Broker(c.BrokerID).ShuttingDown { // one that leaves comes back in another life
			m.fencedAt[c.BrokerID] = fencing{epoch: c.BrokerEpoch, index: index}
		}
	}
	for _, tp := range m.delta.Partitions {
		if t := m.w.truthOf(tp); t != nil {
			now := m.image().Partition(tp)
			if m.w.tracing() {
				m.w.tracef("  %s: leader %d epoch %d/%d ISR %v ELR %v replicas %v remote end %d log start %d", t.name(), now.Leader,
					now.LeaderEpoch, now.PartitionEpoch, now.ISR, now.ELR, now.Replicas, now.RemoteEnd, now.LogStart)
			}
			t.changed(old.Partition(tp), now)
		}
	}
	if m.leader != 0 {
		m.replicate()
	}
	return out.Result, out.Err
}

// legible checks that every broker that is registered knows the version of a command.
func (w *world) legible(old *metadata.Image, data []byte) {
	for b := range old.Brokers() {
		if of := command.VersionOf(data); of > command.Level(b.Features[command.Feature].Max).CommandVersion() {
			w.violate("11", "a command of version %d, and broker %d knows the levels up to %d", of, b.ID, b.Features[command.Feature].Max)
		}
	}
}

func outcome(o fsm.Outcome) string {
	if o.Err != nil {
		return o.Err.Error()
	}
	for _, it := range o.Result.Items {
		if it.Err != nil {
			return it.Err.Error()
		}
	}
	return "done"
}

// noteEntries reads a partition's entries after they changed.
func (m *metaLog) noteEntries(tp record.TopicPartition, index uint64) {
	t := m.w.truthOf(tp)
	entries, err := m.fsm.Entries(ctx, tp)
	if err != nil {
		m.w.violate("8", "%s: %v", t.name(), err)
	}
	m.remote[t.index] = append(m.remote[t.index], remoteAt{index: index, m: entries})
	m.w.checkEntries(t, entries)
}

// voter says that a broker has a vote.
func (m *metaLog) voter(id int32) bool { return int(id) <= min(maxVoters, m.w.plan.brokers) }

// quorum says that a broker is up and reaches a majority of the voters.
func (m *metaLog) quorum(id int32) bool {
	n, need := 0, min(maxVoters, m.w.plan.brokers)/2+1
	for v := int32(1); m.voter(v); v++ {
		if m.w.nodes[v].runs() && m.w.linked(id, v) {
			n++
		}
	}
	return n >= need && m.w.nodes[id].runs()
}

// majority draws a majority of the voters that run and reach the leader, the leader
// among them; it is alive.
func (m *metaLog) majority(leader int32) []*proc {
	all := []*proc{m.w.nodes[leader].proc}
	var others []*proc
	for v := int32(1); m.voter(v); v++ {
		if v != leader && m.w.nodes[v].runs() && m.w.linked(leader, v) {
			others = append(others, m.w.nodes[v].proc)
		}
	}
	m.w.rng.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	return append(all, others[:min(maxVoters, m.w.plan.brokers)/2]...)
}

// confirm has a majority tell a leader that it leads (raftnode.AsLeader.Verify).
func (m *metaLog) confirm(p *proc) {
	for _, v := range m.majority(p.id) {
		v.learnTerm(m.term)
		v.contacts.Note(uint64(m.term), v.clock())
	}
}

// reign is the present one, as its leader sees it.
func (m *metaLog) reign(p *proc) controller.Reign {
	r := controller.Reign{Term: uint64(m.term), Self: p.disk.id}
	for v := int32(1); m.voter(v); v++ {
		r.Voters = append(r.Voters, m.w.nodes[v].disk.id)
	}
	return r
}

// learnTerm takes note of a term of the metadata's leadership.
func (p *proc) learnTerm(term int) { p.disk.term = max(p.disk.term, term) }

// alive says that the leader's process runs and reaches a majority.
func (m *metaLog) alive() bool { return m.leader != 0 && !m.leads.ended && m.quorum(m.leader) }

// catchUp commits what the leader wrote while it had no majority: before all that
// comes after.
func (m *metaLog) catchUp() {
	left := m.left
	m.left = nil
	for _, data := range left {
		_, _ = m.commit(data) // nobody waits for it any more: the outcome is in the state
	}
}

// tick is Raft's clock: a leader without a majority is followed by one with.
func (m *metaLog) tick() {
	if m.alive() {
		m.lostAt = -1
		m.catchUp()
		m.replicate()
		return
	}
	if m.lostAt < 0 {
		m.lostAt = m.w.now
	}
	if m.w.now-m.lostAt >= m.w.plan.election {
		m.elect()
	}
}

// elect makes a voter the metadata leader that has a majority, another than the
// present one if there is one.
func (m *metaLog) elect() {
	var able []int32
	for v := int32(1); m.voter(v); v++ {
		if m.quorum(v) && v != m.leader {
			able = append(able, v)
		}
	}
	old := m.leader
	m.leader = 0
	if len(able) == 0 {
		return
	}
	m.leader = able[m.w.rng.IntN(len(able))]
	m.term++
	m.lostAt = -1
	m.w.count.metaElections++
	m.w.mix(uint64(m.leader), uint64(m.term))
	if m.w.tracing() {
		m.w.tracef("metadata: %d leads in term %d, after %d", m.leader, m.term, old)
	}
	p := m.w.nodes[m.leader].proc
	m.leads = p
	for _, v := range m.majority(m.leader) { // they vote
		v.learnTerm(m.term)
	}
	p.wedged = false              // an image that gets no further would not lead
	for _, data := range m.left { // what a former leader left behind is there, or lost
		if m.w.chance(0.5) {
			_, _ = m.commit(data) // nobody waits for it: the outcome is in the state
		}
	}
	m.left = nil
	p.applyTo(m.index()) // the barrier
	p.lead(m.term)
	m.replicate()
}

// replicate tells the brokers how far the log is.
func (m *metaLog) replicate() {
	from, index, term := m.leader, m.index(), m.term
	for _, n := range m.w.nodes[1:] {
		if p := n.proc; p != nil && p.image.Index() < index {
			m.w.send(from, n.id, func() { at(m.w, p, func() { p.learnTerm(term); p.applyTo(index) }) })
		}
	}
}

// errNotLeader says that the broker does not lead the metadata: nothing was done.
var errNotLeader = errors.New("sim: not the metadata leader")

// answer is what the metadata leader says to a proposal.
type answer struct {
	res command.Result
	err error
}

// propose has a command committed and calls done when the process's own image has
// it, as raftnode.Node.Propose does. A refusal is a *command.Error; after any
// other error the command may have been committed, or may be later.
func (p *proc) propose(cmd command.Command, done func(command.Result, error)) {
	p.proposeUntil(p.encode(cmd), p.w.now+p.w.plan.proposeTimeout, done)
}

// encode writes a command in the version that the cluster's level allows, as far as
// the process has heard (raftnode.Node.encode).
func (p *proc) encode(cmd command.Command) []byte {
	data, err := command.EncodeAt(cmd, p.image.Level().CommandVersion())
	if err != nil {
		panic(err)
	}
	return data
}

func (p *proc) proposeUntil(data []byte, deadline time.Duration, done func(command.Result, error)) {
	m := p.w.meta
	again := func() {
		if p.w.now >= deadline {
			done(command.Result{}, errTimeout)
			return
		}
		p.after(p.w.between(20*time.Millisecond, 100*time.Millisecond), func() { p.proposeUntil(data, deadline, done) })
	}
	if m.leader == 0 {
		again()
		return
	}
	call(p.w, p, m.leader, max(deadline-p.w.now, 0), true, func(l *proc, reply func(answer)) { m.accept(l, data, reply) },
		func(a answer, err error) {
			switch {
			case errors.Is(a.err, errNotLeader) || errors.Is(err, errRefused):
				again()
			case err != nil:
				done(command.Result{}, err)
			default:
				// Who cannot apply does not learn what came of it.
				waits := true
				end := func(err error) {
					if waits {
						waits = false
						done(a.res, err)
					}
				}
				p.whenApplied(a.res.Index, func() { end(a.err) })
				p.after(max(deadline-p.w.now, 0), func() { end(errTimeout) })
			}
		})
}

// accept takes a proposal at the process that was thought to lead. What it has
// written but cannot replicate may be committed later, or never.
func (m *metaLog) accept(l *proc, data []byte, reply func(answer)) {
	if m.leads != l || !m.alive() {
		reply(answer{err: errNotLeader})
		return
	}
	term := m.term
	m.w.after(m.w.plan.net.base*2+m.w.fsyncTime(), func() {
		if m.term == term && m.alive() {
			m.catchUp()
			res, err := m.commit(data)
			at(m.w, l, func() { l.applyTo(res.Index); reply(answer{res, err}) })
			return
		}
		if m.term == term {
			m.left = append(m.left, data)
		}
	})
}

// replays checks that the state is a function of the log alone (invariant 11).
func (m *metaLog) replays() {
	again, err := fsm.Open(fsm.Options{FS: vfs.NewMem(), Dir: "state"})
	if err != nil {
		panic(err)
	}
	var entries []fsm.Entry
	for i, data := range m.log[1:] {
		entries = append(entries, fsm.Entry{Index: uint64(i + 1), Data: data})
	}
	for len(entries) > 0 {
		n := 1 + m.w.rng.IntN(min(len(entries), 20))
		again.ApplyBatch(entries[:n])
		entries = entries[n:]
	}
	one, err1 := m.fsm.Hash()
	two, err2 := again.Hash()
	if err := errors.Join(err1, err2, again.Close()); err != nil {
		panic(err)
	}
	if !slices.Equal(one[:], two[:]) {
		m.w.violate("11", "the same %d commands, applied in other batches, gave another state", m.index())
	}
}
