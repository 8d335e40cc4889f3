package sim

import (
	"fmt"
	"slices"
	"sort"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// truth is what the checker knows of one partition: the batches that some leader
// has declared committed, in order. Nothing may contradict it.
type truth struct {
	tp      record.TopicPartition
	index   int // in world.parts
	topic   *topicPlan
	w       *world
	batches []batch
	touched bool
	lastSeq map[int64]position
	acked   []ack

	// floor is the leader epoch of the last unclean election. What leaders of
	// earlier epochs go on to believe is of no account; before it, records may
	// have gone that were acknowledged.
	floor record.Epoch
	// forfeit: every copy that could have led was lost, by more power losses at
	// one time than the topic's durability promises to outlive. The next leader
	// decides what is left.
	forfeit bool
	lossy   bool // forfeit or unclean, ever

	// served is the newest leader epoch heard of by a reader, and the highest
	// watermark told under it or before.
	served   record.Epoch
	servedHW record.Offset
}

// position is where a producer stands: its last sequence, and the offset of its
// last batch.
type position struct {
	seq    int32
	offset record.Offset
}

// ack is an acknowledged batch.
type ack struct {
	pid  int64
	seq  int32
	base record.Offset
}

func (t *truth) end() record.Offset {
	if n := len(t.batches); n > 0 {
		return t.batches[n-1].next
	}
	return 0
}

func (t *truth) at(off record.Offset) int {
	return sort.Search(len(t.batches), func(i int) bool { return t.batches[i].next > off })
}

// chainAt is the chain at a batch's edge at or below end.
func (t *truth) chainAt(off record.Offset) (uint64, bool) {
	if off == 0 {
		return 0, true
	}
	i := t.at(off) - 1
	if i < 0 || t.batches[i].next != off {
		return 0, false
	}
	return t.batches[i].chain, true
}

// commit takes a leader's watermark: what its log has below is committed.
func (t *truth) commit(h *host, hw record.Offset) {
	t.agree(h, hw)
	if hw <= t.end() {
		return
	}
	for _, b := range h.log.read(t.end(), hw, len(h.log.batches)) {
		if b.base != t.end() {
			t.w.violate("2", "%s: broker %d commits [%d, %d), but only what is below %d was committed", t.name(), h.p.id, b.base, b.next, t.end())
		}
		last, known := t.lastSeq[b.pid]
		// A replica that began anew at the log start knows nothing of a producer whose
		// batches are all below it; nobody can read the first copy.
		forgotten := known && last.offset < t.w.meta.image().Partition(t.tp).LogStart
		if !forgotten && (known && b.seq <= last.seq || !t.lossy && b.seq != last.seq+1 && (known || b.seq != 0)) {
			t.w.violate("7", "%s: producer %d: sequence %d at offset %d comes after %d", t.name(), b.pid, b.seq, b.base, last.seq)
		}
		t.lastSeq[b.pid] = position{b.lastSeq(), b.base}
		t.batches = append(t.batches, b)
	}
	if t.end() != hw && h.log.start <= t.end() {
		t.w.violate("5", "%s: the watermark %d of leader %d is not at the edge of a batch (%d)", t.name(), hw, h.p.id, t.end())
	}
	t.everyISRHas(hw)
}

// agree holds a replica's log below its watermark against the truth.
func (t *truth) agree(h *host, hw record.Offset) {
	if hw > h.log.end() {
		t.w.violate("5", "%s: broker %d has the watermark %d above its log end %d", t.name(), h.p.id, hw, h.log.end())
	}
	to := min(hw, t.end())
	if to < h.log.start {
		return
	}
	want, ok := t.chainAt(to)
	if !ok {
		return // within a batch: what follows will tell
	}
	if have, ok := h.log.chainAt(to); !ok || have != want {
		t.w.violate("2", "%s: the log of broker %d differs from what was committed below %d", t.name(), h.p.id, to)
	}
}

// has tells whether a broker's disk, with the bucket, has everything that was
// committed.
func (t *truth) has(id int32) bool {
	l := t.w.nodes[id].disk.logs[t.index]
	state := t.w.meta.image().Partition(t.tp)
	floor := max(state.LogStart, state.RemoteEnd)
	if t.end() <= floor {
		return true
	}
	if l == nil || l.end() < t.end() || l.start > floor {
		return false
	}
	have, ok := l.chainAt(t.end())
	want, _ := t.chainAt(t.end())
	return ok && have == want
}

// everyISRHas holds each member of the ISR, and each eligible leader, to having
// everything that was committed.
func (t *truth) everyISRHas(hw record.Offset) {
	if t.forfeit {
		return
	}
	state := t.w.meta.image().Partition(t.tp)
	for _, id := range slices.Concat(state.ISR, state.ELR) {
		if t.w.nodes[id].disk.robbed[t.index] || t.has(id) {
			continue
		}
		t.w.violate("5", "%s: broker %d is in the ISR %v or may lead (%v), but has not all below the watermark %d (leader %d, epoch %d)",
			t.name(), id, state.ISR, state.ELR, hw, state.Leader, state.LeaderEpoch)
	}
}

// changed is called when the metadata of the partition changed from old to now.
func (t *truth) changed(old, now *metadata.Partition) {
	t.touched = true
	if old == nil {
		return
	}
	if now.LeaderEpoch < old.LeaderEpoch || now.PartitionEpoch < old.PartitionEpoch || now.LogStart < old.LogStart || now.RemoteEnd < old.RemoteEnd {
		t.w.violate("4", "%s: metadata went back: %+v after %+v", t.name(), *now, *old)
	}
	if now.Leader != old.Leader && now.LeaderEpoch == old.LeaderEpoch {
		t.w.violate("5", "%s: two leaders in epoch %d: %d and %d", t.name(), now.LeaderEpoch, old.Leader, now.Leader)
	}
	for _, id := range now.ISR {
		if !slices.Contains(now.Replicas, id) {
			t.w.violate("5", "%s: broker %d is in the ISR %v but no replica %v", t.name(), id, now.ISR, now.Replicas)
		}
	}
	if now.Leader >= 0 && !slices.Contains(now.ISR, now.Leader) {
		t.w.violate("5", "%s: leader %d is not in the ISR %v", t.name(), now.Leader, now.ISR)
	}
	if now.LeaderEpoch != old.LeaderEpoch {
		t.w.count.elections++
		t.elected(old, now)
		t.warmFirst(old, now)
	}
	t.everyISRHas(t.end())
}

// elected judges an election by what the new leader has. Where it lacks something
// it must not have been one of those that may lead, unless they all lost it.
func (t *truth) elected(old, now *metadata.Partition) {
	if now.Leader < 0 {
		return
	}
	mayLead := slices.Contains(old.ISR, now.Leader) || slices.Contains(old.ELR, now.Leader)
	switch {
	case !t.forfeit && (mayLead || !t.topic.unclean):
		// A clean election. What the leader lacks everyISRHas will find.
	case t.w.nodes[now.Leader].disk.robbed[t.index]:
		// It does not know yet, and leads nobody before it registers.
		t.forfeit, t.lossy = true, true
	default:
		t.unclean(now)
	}
}

// warmFirst judges who took over from a leader that is gone: a cold replica only where
// no warm one could. Nothing else depends on it.
func (t *truth) warmFirst(old, now *metadata.Partition) {
	img := t.w.meta.image()
	if now.Leader < 0 || now.Warm(now.Leader) || old.Leader < 0 || img.Broker(old.Leader).Eligible() {
		return // or somebody asked for this leader
	}
	for _, id := range now.ISR {
		if now.Warm(id) && img.Broker(id).Eligible() {
			t.w.violate("warmth", "%s: %d, which is cold, leads after %d, though %d is in the ISR %v and warm", t.name(), now.Leader, old.Leader, id, now.ISR)
		}
	}
}

// unclean takes what an unclean election left for the truth.
func (t *truth) unclean(now *metadata.Partition) {
	t.w.count.unclean++
	t.floor, t.lossy, t.forfeit = now.LeaderEpoch, true, t.forfeit && t.atRisk()
	l := t.w.nodes[now.Leader].disk.logs[t.index]
	keep := max(now.RemoteEnd, now.LogStart)
	agrees := l != nil && t.sameBelow(l, keep)
	// What the new leader's log has in common with the truth stays true.
	n := t.at(keep)
	for l != nil && n < len(t.batches) {
		b := &t.batches[n]
		if have, ok := l.chainAt(b.next); !ok || have != b.chain {
			break
		}
		n++
	}
	t.batches = slices.Clone(t.batches[:n])
	switch {
	case l != nil && keep > now.RemoteEnd && l.start <= keep && keep <= l.end() && !agrees:
		// Below the log start, where nobody reads, the leader may have gone another way.
		t.batches = nil
		if l.start > 0 {
			t.batches = append(t.batches, batch{next: l.start, id: t.w.rng.Uint64(), chain: l.startChain})
		}
		n := l.at(keep)
		if n < len(l.batches) && l.batches[n].base < keep {
			n++
		}
		t.batches = append(t.batches, l.batches[:n]...)
	case t.end() < keep: // the log start lies within a batch whose rest is gone
		filler := batch{base: t.end(), next: keep, id: t.w.rng.Uint64()}
		if l != nil && l.start == keep {
			filler.chain = l.startChain
		}
		t.batches = append(t.batches, filler)
	}
	t.lastSeq = map[int64]position{}
	for i := range t.batches {
		t.lastSeq[t.batches[i].pid] = position{t.batches[i].lastSeq(), t.batches[i].base}
	}
	t.served, t.servedHW = -1, 0
	if t.w.tracing() {
		t.w.tracef("%s: what is true ends at %d now", t.name(), t.end())
	}
}

// sameBelow says that a log is the same as the truth up to the last batch of either
// that ends at or below an offset.
func (t *truth) sameBelow(l *modelLog, off record.Offset) bool {
	if i := t.at(off); i > 0 && t.batches[i-1].next > l.start {
		if have, ok := l.chainAt(t.batches[i-1].next); !ok || have != t.batches[i-1].chain {
			return false // where the truth has an edge, another history may have none
		}
	}
	edge := l.start
	if i := l.at(off); i > 0 {
		edge = l.batches[i-1].next
	}
	have, _ := l.chainAt(edge)
	want, ok := t.chainAt(edge)
	return ok && have == want
}

// acknowledged checks an answer to acks=all.
func (t *truth) acknowledged(a ack, epoch record.Epoch) {
	if epoch < t.floor {
		return
	}
	i := t.at(a.base)
	if i < len(t.batches) && t.batches[i].base == a.base && t.batches[i].pid == a.pid && t.batches[i].seq == a.seq {
		return
	}
	if t.lossy {
		return
	}
	t.w.violate("1", "%s: producer %d was told that sequence %d is at offset %d, which was not committed (watermark %d)", t.name(), a.pid, a.seq, a.base, t.end())
}

// readBatches checks what a reader was given.
func (t *truth) readBatches(from record.Offset, got []batch, epoch record.Epoch, by int32) {
	if epoch < t.floor {
		return
	}
	for _, b := range got {
		i := t.at(b.base)
		switch {
		case i >= len(t.batches):
			t.w.violate("2", "%s: broker %d served offset %d, which was not committed", t.name(), by, b.base)
		case t.batches[i].id != b.id || t.batches[i].base != b.base:
			t.w.violate("2", "%s: broker %d served another batch at offset %d than was committed", t.name(), by, b.base)
		case b.next <= from:
			t.w.violate("3", "%s: broker %d served offset %d to a reader at %d", t.name(), by, b.base, from)
		}
		from = b.next
	}
}

// told checks a watermark that a leader told a reader.
func (t *truth) told(epoch record.Epoch, hw record.Offset) {
	if epoch < t.floor || epoch < t.served {
		return
	}
	if hw < t.servedHW {
		t.w.violate("4", "%s: the watermark went back from %d (told in epoch %d) to %d (in epoch %d)", t.name(), t.servedHW, t.served, hw, epoch)
	}
	t.served, t.servedHW = epoch, hw
}

func (t *truth) name() string { return fmt.Sprintf("%s-%d", t.topic.name, t.tp.Partition) }
