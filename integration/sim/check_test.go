package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// newWorld makes a cluster that has not begun.
func newWorld(seed uint64, trace interface{ Write([]byte) (int, error) }) *world {
	w := &world{rng: rand.New(rand.NewPCG(seed, 0x6669726e)), hash: 0xcbf29ce484222325}
	if trace != nil {
		w.trace = trace
	}
	w.plan = drawPlan(w.rng)
	w.net = w.plan.net
	w.net.cut = make([][]bool, w.plan.brokers+1)
	for i := range w.net.cut {
		w.net.cut[i] = make([]bool, w.plan.brokers+1)
	}
	w.bucket = &bucket{w: w, objects: map[uuid.UUID]*object{}, fail: w.plan.bucketFail, late: w.plan.bucketLate}
	w.meta = newMetaLog(w)
	for i := range w.plan.topics {
		topic := &w.plan.topics[i]
		id := record.TopicID(w.newID())
		for n := range topic.partitions {
			w.parts = append(w.parts, &truth{w: w, tp: record.TopicPartition{Topic: id, Partition: int32(n)}, index: len(w.parts),
				topic: topic, lastSeq: map[int64]position{}, served: -1})
		}
	}
	w.meta.remote = make([][]remoteAt, len(w.parts))
	w.nodes = []*node{nil}
	for id := range w.plan.brokers {
		w.nodes = append(w.nodes, &node{id: int32(id + 1), w: w, disk: w.newDisk(), program: w.plan.program})
	}
	if w.tracing() {
		w.tracef("seed %d: %v", seed, &w.plan)
	}
	return w
}

func (w *world) truthOf(tp record.TopicPartition) *truth {
	for _, t := range w.parts {
		if t.tp == tp {
			return t
		}
	}
	return nil
}

// form brings the brokers up and makes the topics; then load and faults begin.
func (w *world) form() {
	for _, n := range w.nodes[1:] {
		n.start()
	}
	w.meta.elect()
	w.every(100*time.Millisecond, w.meta.tick)
	w.commit(&command.FormatCluster{ClusterID: "sim", Features: map[string]int16{command.Feature: int16(w.plan.level)}})
	for end := w.now + time.Minute; ; {
		w.runUntil(w.now + 100*time.Millisecond)
		active := 0
		for b := range w.meta.image().Brokers() {
			if b.Eligible() {
				active++
			}
		}
		if active == w.plan.brokers {
			break
		}
		if w.now > end {
			w.violate("12", "only %d of %d brokers became active", active, w.plan.brokers)
		}
	}
	create := &command.CreateTopics{}
	for i := range w.parts {
		t := w.parts[i]
		if t.tp.Partition == 0 {
			create.Topics = append(create.Topics, command.NewTopic{ID: t.tp.Topic, Name: t.topic.name, Configs: t.topic.configs()})
		}
		var replicas []int32
		for _, id := range w.rng.Perm(w.plan.brokers)[:t.topic.factor] {
			replicas = append(replicas, int32(id+1))
		}
		last := &create.Topics[len(create.Topics)-1]
		last.Assignments = append(last.Assignments, replicas)
	}
	w.commit(create)
	w.plan.work += w.now
	w.startProducers()
	w.startReaders()
	w.startFaults()
}

func (w *world) commit(cmd command.Command) {
	data, err := command.EncodeAt(cmd, w.meta.image().Level().CommandVersion())
	if err != nil {
		panic(err)
	}
	res, err := w.meta.commit(data)
	if err != nil {
		panic(err)
	}
	for _, it := range res.Items {
		if it.Err != nil {
			panic(it.Err)
		}
	}
}

// checkTouched holds what the last event touched against the invariants.
func (w *world) checkTouched() {
	for _, t := range w.parts {
		if !t.touched {
			continue
		}
		t.touched = false
		for _, n := range w.nodes[1:] {
			if n.proc != nil {
				if h := n.proc.hosts[t.index]; h != nil {
					h.check()
				}
			}
		}
	}
}

// check holds one replica against what must be true of it at any time.
func (h *host) check() {
	w := h.p.w
	if err := h.rep.Check(); err != nil {
		w.violate("5", "%s: broker %d: %v", h.t.name(), h.p.id, err)
	}
	hw, end := h.rep.HighWatermark(), h.log.end()
	if h.log.flushed > end || hw > end {
		w.violate("5", "%s: broker %d: watermark %d, flushed %d, log end %d", h.t.name(), h.p.id, hw, h.log.flushed, end)
	}
	if h.rep.Role() == replica.Leader && h.t.topic.fsync && !h.t.lossy && hw > h.log.flushed {
		w.violate("1", "%s: leader %d has the watermark %d above what it has synced, %d", h.t.name(), h.p.id, hw, h.log.flushed)
	}
	w.mix(uint64(hw), uint64(end), uint64(h.rep.LeaderEpoch()))
}

// healTime bounds how long a cluster without faults may take to become whole.
const healTime = 60 * time.Second

// settle waits until the cluster is whole, and examines it.
func (w *world) settle() {
	for end := w.now + healTime; ; {
		w.runUntil(w.now + 250*time.Millisecond)
		if w.health = w.sick(); w.health == "" {
			break
		}
		if w.now > end-healTime/2 {
			w.rescue()
		}
		if w.now > end {
			w.violate("12", "%v after the faults have ended: %s", healTime, w.health)
		}
	}
	for _, t := range w.parts {
		t.examine()
	}
	if w.rng.IntN(16) == 0 {
		w.meta.replays()
	}
}

// rescue is what an operator does where every copy that could lead was lost: an
// unclean election.
func (w *world) rescue() {
	for _, t := range w.parts {
		p := w.nodes[1].proc
		if s := w.meta.image().Partition(t.tp); t.forfeit && s.Leader < 0 && p != nil {
			p.propose(&command.ElectLeaders{Elections: []command.Election{{Partition: t.tp, PartitionEpoch: s.PartitionEpoch, Leader: -1,
				Kind: command.ElectUnclean}}}, func(command.Result, error) {})
		}
	}
}

// sick says what is not whole.
func (w *world) sick() string {
	img := w.meta.image()
	for _, n := range w.nodes[1:] {
		b := img.Broker(n.id)
		switch {
		case n.proc == nil:
			return fmt.Sprintf("broker %d is down", n.id)
		case !b.Eligible():
			return fmt.Sprintf("broker %d is fenced, shutting down or full", n.id)
		case n.proc.image.Index() != w.meta.index():
			return fmt.Sprintf("broker %d is behind in the metadata", n.id)
		}
	}
	for _, c := range w.users {
		if !c.done {
			return fmt.Sprintf("producer %d of %s waits for sequence %d", c.pid, c.t.name(), c.seq)
		}
	}
	for _, t := range w.parts {
		if s := t.sick(); s != "" {
			return t.name() + " " + s
		}
	}
	return ""
}

func (t *truth) sick() string {
	state := t.w.meta.image().Partition(t.tp)
	isr := slices.Clone(state.ISR)
	all := slices.Clone(state.Replicas)
	slices.Sort(isr)
	slices.Sort(all)
	switch {
	case state.Leader < 0:
		return "has no leader"
	case !slices.Equal(isr, all):
		return fmt.Sprintf("has the ISR %v of %v", state.ISR, state.Replicas)
	case len(state.Adding)+len(state.Removing) > 0:
		return "is being reassigned"
	}
	for _, id := range state.Replicas {
		h := t.w.nodes[id].proc.hosts[t.index]
		switch {
		case h == nil:
			return fmt.Sprintf("is not on broker %d", id)
		case h.log.end() != t.end():
			return fmt.Sprintf("on broker %d ends at %d and not at %d", id, h.log.end(), t.end())
		case h.rep.HighWatermark() != t.end():
			return fmt.Sprintf("on broker %d has the watermark %d and not %d", id, h.rep.HighWatermark(), t.end())
		}
	}
	if !t.topic.tiered {
		return ""
	}
	seals := t.w.nodes[state.Leader].proc.hosts[t.index].log.seals
	if n := len(seals); n > 0 && seals[n-1] > max(state.RemoteEnd, state.LogStart) {
		return fmt.Sprintf("is in the bucket up to %d and not %d", state.RemoteEnd, seals[n-1])
	}
	return ""
}

// examine reads the whole partition from each replica and the bucket, and holds it
// against what was committed and acknowledged.
func (t *truth) examine() {
	state := t.w.meta.image().Partition(t.tp)
	for _, id := range state.Replicas {
		h := t.w.nodes[id].proc.hosts[t.index]
		for _, b := range h.log.batches {
			if b.next <= state.LogStart {
				continue // nobody reads it
			}
			if have := t.batches[t.at(b.base)]; have.id != b.id || have.base != b.base {
				t.w.violate("2", "%s: broker %d has another batch at offset %d than was committed", t.name(), id, b.base)
			}
		}
		for at := state.LogStart; at < t.end(); {
			got, err := h.p.readAny(t, at)
			if err != nil || len(got) == 0 {
				t.w.violate("8", "%s: broker %d cannot read offset %d: %v", t.name(), id, at, err)
			}
			t.readBatches(at, got, h.rep.LeaderEpoch(), id)
			at = got[len(got)-1].next
		}
	}
	if t.lossy {
		return
	}
	for _, a := range t.acked {
		t.acknowledged(a, state.LeaderEpoch)
	}
}

// readAny reads from the local log or the bucket.
func (p *proc) readAny(t *truth, from record.Offset) ([]batch, error) {
	h := p.hosts[t.index]
	if from < h.log.start {
		return p.readRemote(t, from)
	}
	return h.log.read(from, h.log.end(), maxBatches), nil
}

// dump tells the state of everything, after a violation.
func (w *world) dump() {
	img := w.meta.image()
	for _, t := range w.parts {
		if s := img.Partition(t.tp); s != nil {
			w.tracef("%s: committed up to %d; leader %d epoch %d/%d ISR %v ELR %v replicas %v adding %v removing %v remote end %d log start %d last known leader %d",
				t.name(), t.end(), s.Leader, s.LeaderEpoch, s.PartitionEpoch, s.ISR, s.ELR, s.Replicas, s.Adding, s.Removing, s.RemoteEnd, s.LogStart, s.LastKnownLeader)
		}
	}
	for _, n := range w.nodes[1:] {
		state := "down"
		if n.proc != nil {
			state = fmt.Sprintf("epoch %d, metadata %d, leased %t, paused %t", n.proc.epoch, n.proc.image.Index(), n.proc.leased(), n.paused)
		}
		w.tracef("broker %d: %s", n.id, state)
		for i, l := range n.disk.logs {
			if l == nil {
				continue
			}
			role := ""
			if n.proc != nil && n.proc.hosts[i] != nil {
				h := n.proc.hosts[i]
				role = fmt.Sprintf("%v of %d in epoch %d, watermark %d", h.rep.Role(), h.rep.Leader(), h.rep.LeaderEpoch(), h.rep.HighWatermark())
			}
			w.tracef("  %s: log [%d, %d) flushed %d epochs %v robbed %t; %s", w.parts[i].name(), l.start, l.end(), l.flushed, l.epochs, n.disk.robbed[i], role)
		}
	}
	for i := range w.parts {
		w.tracef("%s: remote %v", w.parts[i].name(), w.meta.entries(i, w.meta.index()).Entries())
	}
}
