package sim

import (
	"slices"
	"time"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// faultState is what the faults under way have to undo.
type faultState struct {
	on bool
	// moving counts the reassignments that are proposed and not answered.
	moving int
}

// startFaults lets every kind of fault that the plan has come again and again.
func (w *world) startFaults() {
	w.faults.on = true
	e := &w.plan.every
	w.fault(e.kill, func(n *node) { n.kill(); n.startLater(w.upTo(w.plan.down)) })
	w.fault(e.power, w.power)
	w.fault(e.wipe, func(n *node) {
		if w.mayWipe(n) {
			n.wipe()
			n.startLater(w.upTo(w.plan.down))
		}
	})
	w.fault(e.pause, func(n *node) { n.pause(w.upTo(w.plan.paused)) })
	w.fault(e.wedge, func(n *node) { n.wedge(w.upTo(w.plan.wedged)) })
	w.fault(e.cut, func(n *node) { w.cut(n, true, true) })
	w.fault(e.cutOneWay, func(n *node) {
		in := w.chance(0.5)
		w.cut(n, in, !in)
	})
	w.fault(e.shutdown, w.shutDown)
	w.fault(e.metaMove, func(*node) {
		if w.meta.alive() {
			w.meta.elect()
		}
	})
	w.fault(e.clock, func(n *node) { n.skew = w.between(-time.Hour, time.Hour) })
	w.fault(e.reassign, w.reassign)
	w.fault(e.elect, w.electLeader)
	w.fault(e.delete, w.deleteRecords)
	w.fault(e.upgrade, w.upgrade)
	w.fault(e.fill, func(n *node) { n.fill(w.upTo(w.plan.filled)) })
}

// fault repeats fn, on any broker, at random times around every.
func (w *world) fault(every time.Duration, fn func(n *node)) {
	if every <= 0 {
		return
	}
	w.after(w.upTo(2*every), func() {
		if w.faults.on {
			fn(w.nodes[1+w.rng.IntN(w.plan.brokers)])
			w.fault(every, fn)
		}
	})
}

// power takes the power from one broker, or from all.
func (w *world) power(n *node) {
	hit := []*node{n}
	if w.chance(w.plan.allPower) {
		hit = w.nodes[1:]
	}
	for _, n := range hit {
		n.powerLoss()
		n.startLater(w.upTo(w.plan.down))
	}
}

// mayWipe says that every partition is promised to outlive the loss of a disk:
// fewer than min.insync.replicas of those that may lead have lost theirs, and what
// was committed is on another one.
func (w *world) mayWipe(n *node) bool {
	if w.faults.moving > 0 {
		return false
	}
	for _, t := range w.parts {
		was := n.disk.robbed[t.index]
		n.disk.robbed[t.index] = true
		ok := !t.forfeit && !t.atRisk(t.joining()...) && len(w.holders(t)) > 0
		n.disk.robbed[t.index] = was
		if !ok {
			return false
		}
	}
	return true
}

// atRisk says that of those that may lead, and others, all have lost records, or as
// many as min.insync.replicas: no other is sure to have what was acknowledged.
func (t *truth) atRisk(others ...int32) bool {
	state := t.w.meta.image().Partition(t.tp)
	all := slices.Concat(state.ISR, state.ELR)
	n := 0
	for id := int32(1); id <= int32(t.w.plan.brokers); id++ {
		if t.w.nodes[id].disk.robbed[t.index] && (slices.Contains(all, id) || slices.Contains(others, id)) {
			n++
		}
	}
	return n >= min(t.topic.minISR, len(all))
}

// joining are the replicas that may join the ISR although their disks are gone by now:
// what they said before may be on its way, and nobody knows of it until they are fenced
// or register.
func (t *truth) joining() []int32 {
	img := t.w.meta.image()
	var ids []int32
	for _, id := range img.Partition(t.tp).Replicas {
		if img.Broker(id).Eligible() {
			ids = append(ids, id)
		}
	}
	return ids
}

// holders are the brokers that may lead a partition and have all that was
// committed.
func (w *world) holders(t *truth) []int32 {
	state := w.meta.image().Partition(t.tp)
	var ids []int32
	for _, id := range slices.Concat(state.ISR, state.ELR) {
		if !w.nodes[id].disk.robbed[t.index] && t.has(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// forfeit notes the partitions that lost more copies to power loss than
// durability=replicated promises to outlive.
func (w *world) forfeit() {
	for _, t := range w.parts {
		if t.forfeit || t.topic.fsync || !t.atRisk(t.joining()...) {
			continue
		}
		t.forfeit, t.lossy = true, true
		if w.tracing() {
			w.tracef("%s: more copies lost what was not synced than the topic outlives", t.name())
		}
	}
}

// cut takes a broker off the network: what comes in, what goes out, or both; from
// all others, or from one.
func (w *world) cut(n *node, in, out bool) {
	w.count.cuts++
	only := int32(0)
	if w.chance(0.4) {
		only = 1 + int32(w.rng.IntN(w.plan.brokers))
	}
	if w.tracing() {
		w.tracef("--- broker %d is cut off (from %d): in %t, out %t", n.id, only, in, out)
	}
	var undo []*bool
	for id := int32(1); id <= int32(w.plan.brokers); id++ {
		if id == n.id || only != 0 && id != only {
			continue
		}
		if in && !w.net.cut[id][n.id] {
			undo = append(undo, &w.net.cut[id][n.id])
		}
		if out && !w.net.cut[n.id][id] {
			undo = append(undo, &w.net.cut[n.id][id])
		}
	}
	for _, link := range undo {
		*link = true
	}
	w.after(w.upTo(w.plan.cutFor), func() {
		for _, link := range undo {
			*link = false
		}
		if w.tracing() {
			w.tracef("--- broker %d is connected again", n.id)
		}
	})
}

// shutDown stops a broker in order, and brings it back.
func (w *world) shutDown(n *node) {
	p := n.proc
	if p == nil || p.leaving {
		return
	}
	p.leaving = true
	if w.tracing() {
		w.tracef("--- broker %d is asked to leave", n.id)
	}
	// It goes when the controller lets it, or when patience ends.
	w.after(w.between(time.Second, 5*time.Second), func() {
		if n.proc == p && !n.paused {
			n.leave()
		}
	})
}

// admin finds a process to ask for a change of the metadata.
func (w *world) admin() *proc {
	if n := w.nodes[1+w.rng.IntN(w.plan.brokers)]; n.runs() {
		return n.proc
	}
	return nil
}

// upgrade brings a newer program to one broker, or, if all have it, raises the level of
// the cluster. Some ask too early.
func (w *world) upgrade(*node) {
	i := slices.IndexFunc(w.nodes[1:], func(n *node) bool { return n.program < command.MaxLevel })
	if i >= 0 && w.chance(0.7) {
		old := w.nodes[1+i]
		old.program = command.MaxLevel // once it has left, or was killed
		w.shutDown(old)
		return
	}
	if p := w.admin(); p != nil && p.image.Level() < command.MaxLevel {
		p.propose(&command.UpdateFeatures{Request: command.Request{RequestID: w.newID()},
			Updates: []command.FeatureUpdate{{Name: command.Feature, Level: int16(command.MaxLevel)}}}, func(_ command.Result, err error) {
			if err == nil {
				w.count.raised++
			}
		})
	}
}

func (w *world) anyPart() (*truth, *metadata.Partition) {
	t := w.parts[w.rng.IntN(len(w.parts))]
	return t, w.meta.image().Partition(t.tp)
}

// reassign moves a partition to other brokers, or cancels that.
func (w *world) reassign(*node) {
	p := w.admin()
	t, state := w.anyPart()
	// Nobody knows yet of a disk that was lost: moving away from those that have all
	// would be a second loss.
	if p == nil || slices.ContainsFunc(w.nodes[1:], func(n *node) bool { return slices.Contains(n.disk.robbed, true) }) {
		return
	}
	item := command.Reassignment{Partition: t.tp}
	if len(state.Adding)+len(state.Removing) == 0 || w.chance(0.7) {
		ids := w.rng.Perm(w.plan.brokers)[:min(t.topic.factor, w.plan.brokers)]
		for _, id := range ids {
			item.Replicas = append(item.Replicas, int32(id+1))
		}
	}
	w.count.reassigned++
	w.faults.moving++
	w.after(2*w.plan.proposeTimeout, func() { w.faults.moving-- })
	p.propose(&command.AlterReassignments{Request: command.Request{RequestID: w.newID()}, Items: []command.Reassignment{item}}, func(command.Result, error) {})
}

// electLeader asks for another leader, as the balancer or a person does.
func (w *world) electLeader(*node) {
	p := w.admin()
	t, state := w.anyPart()
	if p == nil {
		return
	}
	e := command.Election{Partition: t.tp, PartitionEpoch: state.PartitionEpoch, Leader: -1}
	switch {
	case w.chance(0.5):
		e.Kind = command.ElectPreferred
	case t.topic.unclean && state.Leader < 0:
		e.Kind = command.ElectUnclean
	default:
		e.Leader = state.Replicas[w.rng.IntN(len(state.Replicas))]
	}
	p.propose(&command.ElectLeaders{Elections: []command.Election{e}}, func(command.Result, error) {})
}

// deleteRecords raises a log start, as DeleteRecords and retention do: the leader
// says so, up to its watermark.
func (w *world) deleteRecords(*node) {
	t, state := w.anyPart()
	if state.Leader < 0 {
		return
	}
	p := w.nodes[state.Leader].proc
	if p == nil || p.node.paused || p.epoch < 0 {
		return
	}
	h := p.hosts[t.index]
	if !h.leads() || h.rep.HighWatermark() <= state.LogStart || h.rep.LeaderEpoch() < t.floor {
		return
	}
	to := state.LogStart + 1 + record.Offset(w.rng.Int64N(int64(h.rep.HighWatermark()-state.LogStart)))
	if b := h.log.read(max(to-1, h.log.start), h.log.end(), 1); len(b) > 0 && w.chance(0.7) {
		to = min(b[0].next, h.rep.HighWatermark()) // the edge of a batch
	}
	p.propose(&command.AdvanceLogStart{BrokerID: p.id, BrokerEpoch: p.epoch,
		Partitions: []command.LogStartChange{{Partition: t.tp, LeaderEpoch: h.rep.LeaderEpoch(), LogStart: to}}}, func(command.Result, error) {})
}

// endFaults heals everything that is broken.
func (w *world) endFaults() {
	w.faults.on = false
	w.calm = true
	if w.tracing() {
		w.tracef("--- all faults end")
	}
	for _, from := range w.net.cut {
		clear(from)
	}
	w.net.lose, w.net.double, w.net.late = 0, 0, 0
	w.bucket.fail, w.bucket.late = 0, 0
	w.plan.slow, w.plan.putTime = 0, 50*time.Millisecond
	for _, n := range w.nodes[1:] {
		n.skew, n.full = 0, false
		if n.proc != nil {
			n.proc.wedged = false
		}
		n.resume()
		if n.proc == nil {
			n.start()
		}
	}
}
