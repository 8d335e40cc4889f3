package sim

import (
	"errors"
	"slices"
	"time"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// host carries out what the replica machine of one partition decides, as
// broker/partition and broker/peer do with files and connections.
type host struct {
	p   *proc
	t   *truth
	log *modelLog
	rep *replica.Replica

	acks    []waitingAck
	waiters []waitingFetch

	// asking: the position that a fetch under way is at.
	asking bool
	asked  replica.Position
	// flushing: an fsync is under way; generation tells one of before a truncation.
	flushing   bool
	generation int

	told record.Offset // the watermark that the truth was told last
	// restoring: the log waits for the bucket; until then nothing is served.
	restoring bool
}

type waitingAck struct {
	end   record.Offset
	reply func(produced)
	res   produced
}

type waitingFetch struct {
	from  record.Offset
	hw    record.Offset
	reply func()
}

var (
	errNotLeading  = errors.New("sim: not leader")
	errNotEnough   = errors.New("sim: not enough replicas")
	errFull        = errors.New("sim: the disk is full")
	errUnavailable = errors.New("sim: offset not available")
	errOutOfRange  = errors.New("sim: offset out of range")
)

// LastEpoch implements replica.Epochs.
func (l *modelLog) LastEpoch() record.Epoch { return l.epochs.Last() }

// EpochEnd implements replica.Epochs.
func (l *modelLog) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	return l.epochs.EndOf(e, l.end())
}

func (h *host) progress() replica.Progress {
	return replica.Progress{LogEnd: h.log.end(), FlushedEnd: h.log.flushed}
}

func (h *host) config(state *metadata.Partition) replica.Config {
	img := h.p.image
	return replica.Config{Fsync: h.t.topic.fsync, MinISR: metadata.MinISR(img, img.Topic(h.t.tp.Topic), state.Factor()), LagMax: h.p.w.plan.lagMax,
		Warmth: img.Level() >= command.Level2}
}

// place makes a partition fit the process's image: here or not here, leader or
// follower (partition.Set.place).
func (p *proc) place(t *truth) {
	state := p.image.Partition(t.tp)
	h := p.hosts[t.index]
	if state == nil || !state.HasReplica(p.id) {
		if h != nil {
			h.fail(errNotLeading)
			p.hosts[t.index] = nil
			h.generation++
		}
		return
	}
	if h == nil {
		h = p.open(t, state)
		p.hosts[t.index] = h
	}
	h.assign(state)
}

func assignment(s *metadata.Partition) replica.Assignment {
	return replica.Assignment{Leader: s.Leader, LeaderEpoch: s.LeaderEpoch, PartitionEpoch: s.PartitionEpoch, Replicas: s.Replicas,
		ISR: s.ISR, RemoteEnd: s.RemoteEnd, RemoteEpoch: s.RemoteEpoch, LogStart: s.LogStart, Cold: s.Cold}
}

// open opens or makes a partition's log (partition.Set.open).
func (p *proc) open(t *truth, state *metadata.Partition) *host {
	h := &host{p: p, t: t}
	if h.log = p.disk.logs[t.index]; h.log == nil {
		at := max(state.LogStart, state.RemoteEnd)
		chain, _ := t.chainAt(at)
		h.log = newLog(at, chain, nil, nil, t.topic.perSeal)
		p.disk.logs[t.index] = h.log
	}
	if t.topic.fsync {
		h.log.flushed = h.log.end() // what kill -9 left in the page cache is synced before it counts
	}
	h.rep = replica.New(p.id, h.config(state), state.LogStart, h.progress())
	h.told = h.rep.HighWatermark()
	h.flush()
	return h
}

// begin makes the log fit to take the assignment; false while the bucket must be
// asked (partition.Partition.begin).
func (h *host) begin(a *replica.Assignment) bool {
	h.restoring = false
	at, fromBucket, wins := a.BucketWins(h.log.end(), h.log)
	leads := a.Leader == h.p.id
	empty := h.log.LastEpoch() < 0 && len(h.log.batches) == 0
	switch {
	case !wins || !leads && h.log.end() >= at && !empty:
		return true
	case !fromBucket:
		if h.log.end() < at {
			h.restart(a, at, false)
		}
		return true
	case leads:
		if h.restart(a, at, true) {
			return true
		}
		h.restoring = true
		h.fail(errNotLeading)
		h.p.after(100*time.Millisecond, func() { h.p.place(h.t) })
		return false
	case empty && !h.restart(a, at, true):
		h.restoring = true
		h.p.after(100*time.Millisecond, func() { h.p.place(h.t) })
	}
	return true
}

// restart makes the log begin anew at an offset; false if the bucket does not
// answer.
func (h *host) restart(a *replica.Assignment, at record.Offset, fromBucket bool) bool {
	w := h.p.w
	w.count.resets++
	if !fromBucket {
		chain, _ := h.t.chainAt(at)
		h.log.resetTo(at, chain, nil, nil)
		h.restarted(at)
		return true
	}
	m := w.meta.entries(h.t.index, h.p.image.Index())
	live := m.Entries()
	if len(live) == 0 {
		w.violate("8", "%s: remote end %d without an entry", h.t.name(), a.RemoteEnd)
	}
	o := w.bucket.get(live[len(live)-1].Object)
	if o == nil {
		return false
	}
	var epochs []commitlog.EpochStart
	for _, e := range live {
		for _, s := range e.Epochs {
			epochs = append(epochs, commitlog.EpochStart{Epoch: s.Epoch, Start: s.Start})
		}
	}
	h.log.resetTo(at, o.batches[len(o.batches)-1].chain, epochs, o.producers)
	h.restarted(at)
	if w.tracing() {
		w.tracef("broker %d %s: the log begins anew at %d, from the bucket", h.p.id, h.t.name(), at)
	}
	return true
}

func (h *host) restarted(at record.Offset) {
	h.generation++
	h.rep.Restarted(at)
	h.told = at
}

// assign takes the partition's assignment (partition.Partition.take).
func (h *host) assign(state *metadata.Partition) {
	a := assignment(state)
	h.effects(h.rep.SetConfig(h.config(state)))
	if !h.begin(&a) {
		return
	}
	eff := h.rep.Assign(h.p.clock(), a, h.progress())
	if eff.AssignEpoch {
		h.log.epochs.Assign(a.LeaderEpoch, h.log.end())
	}
	if eff.RoleChanged {
		h.asking = false
		switch {
		case h.rep.Role() == replica.Leader:
			h.told = min(h.told, h.t.end()) // an unclean election may have taken some back
		case h.t.lossy:
			h.told = h.rep.HighWatermark() // of an earlier epoch, perhaps overruled
		}
		h.fail(errNotLeading)
		if h.p.w.tracing() {
			h.p.w.tracef("broker %d %s: %v in epoch %d, log [%d, %d), watermark %d", h.p.id, h.t.name(), h.rep.Role(), a.LeaderEpoch,
				h.log.start, h.log.end(), h.rep.HighWatermark())
		}
	}
	h.watermark()
	h.effects(eff)
	h.poll()
}

// fail answers everyone who waits.
func (h *host) fail(err error) {
	acks, waiters := h.acks, h.waiters
	h.acks, h.waiters = nil, nil
	for _, a := range acks {
		a.reply(produced{err: err})
	}
	for _, f := range waiters {
		f.reply()
	}
}

// effects carries out what an event caused.
func (h *host) effects(eff replica.Effects) {
	h.t.touched = true
	if eff.WatermarkMoved {
		h.watermark()
		n := 0
		for n < len(h.acks) && h.acks[n].end <= eff.HighWatermark {
			n++
		}
		done := h.acks[:n]
		h.acks = h.acks[n:]
		for _, a := range done {
			a.reply(a.res)
		}
	}
	if eff.Propose != nil {
		h.propose(eff.Propose)
	}
	h.wake()
}

// watermark tells the truth of a watermark that moved.
func (h *host) watermark() {
	hw := h.rep.HighWatermark()
	if h.rep.LeaderEpoch() < h.t.floor || hw <= h.told {
		return
	}
	h.told = hw
	if h.rep.Role() == replica.Leader {
		h.t.commit(h, hw)
		return
	}
	if hw > h.t.end() {
		h.p.w.violate("5", "%s: follower %d has the watermark %d, no leader committed more than %d", h.t.name(), h.p.id, hw, h.t.end())
	}
	h.t.agree(h, hw)
}

// wake answers fetches that wait for records or for the watermark.
func (h *host) wake() {
	kept := h.waiters[:0]
	var woken []waitingFetch
	for _, f := range h.waiters {
		if h.log.end() > f.from || h.rep.HighWatermark() > f.hw {
			woken = append(woken, f)
		} else {
			kept = append(kept, f)
		}
	}
	h.waiters = kept
	for _, f := range woken {
		f.reply()
	}
}

// propose sends an ISR change to the metadata log (partition.Set.propose).
func (h *host) propose(pr *replica.ISRProposal) {
	h.p.w.count.isrChanges++
	change := command.ISRChange{Partition: h.t.tp, LeaderEpoch: pr.LeaderEpoch, PartitionEpoch: pr.PartitionEpoch, Cold: pr.Cold}
	if len(pr.Cold) > 0 {
		h.p.w.count.cold++
	}
	if h.p.w.chance(h.p.w.plan.warmthLies) {
		change.Cold = h.someReplicas()
	}
	for _, m := range pr.Members {
		change.ISR = append(change.ISR, command.ISRMember{BrokerID: m.ID, BrokerEpoch: m.BrokerEpoch})
	}
	cmd := &command.AlterPartition{BrokerID: h.p.id, BrokerEpoch: h.p.image.Broker(h.p.id).Epoch, Partitions: []command.ISRChange{change}}
	h.wipeJoiners(pr)
	h.p.propose(cmd, func(res command.Result, err error) {
		if err == nil {
			err = res.Items[0].Err
		}
		if err == nil {
			return
		}
		h.rep.ProposalFailed(pr, refusedBy(err) && !errors.Is(err, command.ErrFenced))
	})
}

// wipeJoiners takes the disks of those that are to join the ISR, now and then, while that
// is being decided.
func (h *host) wipeJoiners(pr *replica.ISRProposal) {
	w := h.p.w
	if !w.faults.on || !w.chance(w.plan.wipeJoiners) {
		return
	}
	for _, m := range pr.Members {
		if slices.Contains(h.rep.ISR(), m.ID) {
			continue
		}
		n := w.nodes[m.ID]
		w.after(w.upTo(20*time.Millisecond), func() {
			if w.faults.on && w.mayWipe(n) {
				n.wipe()
				n.startLater(w.upTo(w.plan.down))
			}
		})
	}
}

// someReplicas draws some of the partition's replicas.
func (h *host) someReplicas() []int32 {
	var ids []int32
	for _, id := range h.p.image.Partition(h.t.tp).Replicas {
		if h.p.w.chance(0.5) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// append takes a producer's batch (partition.Partition.Append).
func (h *host) append(b batch, reply func(produced)) {
	switch {
	case !h.leads() || !h.p.leased():
		reply(produced{err: errNotLeading})
		return
	case !h.rep.EnoughInSync():
		reply(produced{err: errNotEnough})
		return
	case h.p.node.full:
		reply(produced{err: errFull})
		return
	}
	n := b.next
	b.base = h.log.end()
	b.next, b.epoch = b.base+n, h.rep.LeaderEpoch()
	hdr := b.header()
	verdict, err := h.log.producers.Check(&hdr)
	switch {
	case err != nil:
		reply(produced{err: err})
		return
	case verdict.Duplicate:
		res := produced{base: verdict.Base, epoch: h.rep.LeaderEpoch()}
		if verdict.Next <= h.rep.HighWatermark() {
			reply(res)
			return
		}
		h.wait(waitingAck{end: verdict.Next, reply: reply, res: res})
		return
	}
	w := h.p.w
	b.id = w.rng.Uint64()
	b.chain = chained(h.log.endChain(), b.id)
	h.log.append(b)
	w.count.appended++
	if w.tracing() {
		w.tracef("broker %d %s: append [%d, %d) of producer %d sequence %d in epoch %d", h.p.id, h.t.name(), b.base, b.next, b.pid, b.seq, b.epoch)
	}
	h.wait(waitingAck{end: b.next, reply: reply, res: produced{base: b.base, epoch: b.epoch}})
	h.effects(h.rep.Appended(h.log.end()))
	h.flush()
}

// wait keeps acks in the order of their ends.
func (h *host) wait(a waitingAck) {
	i := len(h.acks)
	for i > 0 && h.acks[i-1].end > a.end {
		i--
	}
	h.acks = append(h.acks, waitingAck{})
	copy(h.acks[i+1:], h.acks[i:])
	h.acks[i] = a
}

// flush begins an fsync unless one is under way or all is durable. On a topic that
// does not wait for it the kernel writes back when it likes.
func (h *host) flush() {
	if h.flushing || h.log.flushed >= h.log.end() {
		return
	}
	h.flushing = true
	w := h.p.w
	d := w.fsyncTime()
	if !h.t.topic.fsync {
		d = w.upTo(3 * time.Second)
	}
	end, generation := h.log.end(), h.generation
	h.p.after(d, func() {
		if h.p.hosts[h.t.index] != h {
			return // closed meanwhile
		}
		h.flushing = false
		if h.generation == generation {
			h.log.flushed = max(h.log.flushed, end)
			h.effects(h.rep.Flushed(h.log.flushed))
			h.poll()
		}
		h.flush()
	})
}

// fetched is a leader's answer to a follower.
type fetched struct {
	reply   replica.Reply
	batches []batch
}

// poll sends the next fetch, unless one is under way or there is nothing to ask
// (broker/peer).
func (h *host) poll() {
	pos, ok := h.rep.Position(h.log)
	if h.asking || !ok || h.restoring || h.p.ended || h.p.hosts[h.t.index] != h || h.p.epoch < 0 {
		return
	}
	h.asking, h.asked = true, pos
	w, p, epoch, start := h.p.w, h.p, h.p.epoch, h.log.start
	if w.chance(w.plan.warmthLies) {
		start = record.Offset(w.rng.Int64N(int64(h.log.end()) + 1))
	}
	call(w, p, pos.Leader, w.plan.fetchWait+2*time.Second, false,
		func(l *proc, reply func(fetched)) { l.serveFetch(h.t, p.id, epoch, pos, start, reply) },
		func(f fetched, err error) {
			if p.hosts[h.t.index] != h {
				return
			}
			current := h.asking && h.asked == pos
			if err != nil {
				f.reply.Kind = replica.ReplyRefused
			}
			again := h.onReply(pos, f)
			if !current {
				return
			}
			h.asking = false
			if again {
				h.poll()
			} else {
				p.after(w.between(20*time.Millisecond, 120*time.Millisecond), h.poll)
			}
		})
}

// onReply carries out what a reply means; false asks for a pause.
func (h *host) onReply(pos replica.Position, f fetched) bool {
	w := h.p.w
	if h.restoring {
		return false
	}
	d := h.rep.OnReply(pos, f.reply, h.log)
	h.t.touched = true
	switch d.Step {
	case replica.Append:
		if len(f.batches) > 0 && h.p.node.full {
			return false
		}
		for i, b := range f.batches {
			if i == 0 && b.base < h.log.end() && h.log.start == h.log.end() {
				// The log begins anew within a batch, which comes whole.
				chain, _ := h.t.chainAt(b.base)
				h.log.resetTo(b.base, chain, nil, nil)
				h.restarted(b.base)
			}
			if b.base != h.log.end() {
				w.violate("3", "%s: follower %d at %d was to append [%d, %d)", h.t.name(), h.p.id, h.log.end(), b.base, b.next)
			}
			if chained(h.log.endChain(), b.id) != b.chain {
				w.violate("2", "%s: follower %d appends offset %d of epoch %d of leader %d to a log that differs from the leader's below it",
					h.t.name(), h.p.id, b.base, b.epoch, pos.Leader)
			}
			h.log.append(b)
		}
		if len(f.batches) > 0 {
			h.effects(h.rep.Appended(h.log.end()))
			h.flush()
		}
		h.effects(h.rep.LearnWatermark(d.HighWatermark))
	case replica.Truncate:
		h.truncate(d)
	case replica.Reset:
		a := assignment(h.p.image.Partition(h.t.tp))
		h.restart(&a, d.To, false)
	case replica.ResetToRemote:
		a := assignment(h.p.image.Partition(h.t.tp))
		if a.RemoteEnd < d.To || !h.restart(&a, a.RemoteEnd, true) {
			return false
		}
	case replica.Wait:
		return false
	case replica.Drop:
	}
	return true
}

// truncate cuts the log, and checks that nothing committed goes. What is below the log
// start is gone for everybody: a leader need not know the epochs that end there.
func (h *host) truncate(d replica.Decision) {
	w := h.p.w
	w.count.truncations++
	start := w.meta.image().Partition(h.t.tp).LogStart
	kept := h.log.at(d.To)
	for kept < len(h.log.batches) && h.log.batches[kept].next <= start {
		kept++
	}
	if kept < len(h.log.batches) && h.rep.LeaderEpoch() >= h.t.floor {
		if b := h.log.batches[kept]; b.next <= h.t.end() {
			if i := h.t.at(b.base); h.t.batches[i].id == b.id {
				w.violate("6", "%s: follower %d truncates to %d and loses offset %d, which was committed (watermark %d)",
					h.t.name(), h.p.id, d.To, b.base, h.t.end())
			}
		}
	}
	if w.tracing() {
		w.tracef("broker %d %s: truncate from %d to %d", h.p.id, h.t.name(), h.log.end(), d.To)
	}
	chain, _ := h.t.chainAt(d.To)
	h.log.truncateTo(d.To, chain)
	h.generation++
	h.rep.Truncated(h.progress())
	h.told = min(h.told, h.rep.HighWatermark())
}

// maxBatches is how many batches one answer to a reader has.
const maxBatches = 4

// serveFetch answers a follower (partition.Partition.Read for a replica).
func (p *proc) serveFetch(t *truth, id int32, brokerEpoch int64, pos replica.Position, start record.Offset, reply func(fetched)) {
	h := p.hosts[t.index]
	refuse := func() { reply(fetched{reply: replica.Reply{Kind: replica.ReplyRefused}}) }
	// Followers are served without a lease: what they take under this leader's epoch
	// is right whoever leads by now.
	if !h.leads() || h.rep.LeaderEpoch() != pos.LeaderEpoch || !h.rep.HasReplica(id) {
		refuse()
		return
	}
	b := p.image.Broker(id)
	if b != nil && b.Epoch > brokerEpoch {
		refuse()
		return
	}
	logStart := p.image.Partition(t.tp).LogStart
	tell := replica.Reply{HighWatermark: h.rep.HighWatermark(), LogStart: logStart}
	if epoch, end, diverges := h.diverges(pos); diverges {
		tell.Kind, tell.DivergingEpoch, tell.DivergingEnd = replica.ReplyDiverging, epoch, end
		reply(fetched{reply: tell})
		return
	}
	h.rep.Holds(id, brokerEpoch, start, h.log)
	h.effects(h.rep.Fetched(p.clock(), id, brokerEpoch, pos.Offset, b.Eligible() && b.Epoch == brokerEpoch))
	switch {
	case pos.Offset < logStart:
		tell.Kind = replica.ReplyOutOfRange
		reply(fetched{reply: tell})
		return
	case pos.Offset < h.log.start:
		tell.Kind = replica.ReplyTiered
		reply(fetched{reply: tell})
		return
	}
	answer := func() {
		if p.hosts[t.index] != h || !h.leads() || h.rep.LeaderEpoch() != pos.LeaderEpoch || pos.Offset < h.log.start {
			refuse()
			return
		}
		reply(fetched{reply: replica.Reply{Kind: replica.ReplyRecords, HighWatermark: h.rep.HighWatermark(), LogStart: logStart},
			batches: h.log.read(pos.Offset, h.log.end(), p.w.plan.fetchBatches)})
	}
	if pos.Offset < h.log.end() {
		answer()
		return
	}
	done := false
	once := func() {
		if !done {
			done = true
			answer()
		}
	}
	h.waiters = append(h.waiters, waitingFetch{from: pos.Offset, hw: h.rep.HighWatermark(), reply: once})
	p.after(p.w.plan.fetchWait, once)
}

// diverges finds out a follower whose log went another way
// (partition.Partition.diverges).
func (h *host) diverges(pos replica.Position) (record.Epoch, record.Offset, bool) {
	if pos.LastEpoch >= 0 {
		epoch, end := h.log.EpochEnd(pos.LastEpoch)
		switch {
		case epoch < 0 && pos.LastEpoch > h.rep.LeaderEpoch():
			return h.rep.LeaderEpoch(), h.log.end(), true
		case epoch >= 0 && (epoch < pos.LastEpoch || end < pos.Offset):
			return epoch, end, true
		}
	}
	return h.rep.LeaderEpoch(), h.log.end(), pos.Offset > h.log.end()
}

// leads says that the partition is led here, as far as this process knows, lease or
// not.
func (h *host) leads() bool { return h != nil && !h.restoring && h.rep.Role() == replica.Leader }

// tick lets time pass for the replica machine.
func (h *host) tick() {
	img := h.p.image
	h.effects(h.rep.Tick(h.p.clock(), func(id int32) bool { return img.Broker(id).Eligible() }))
	h.effects(h.rep.Judge(h.p.clock(), h.log))
	h.poll()
}
