package sim

import (
	"errors"
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
}

type waitingAck struct {
	end   record.Offset
	reply func(produced)
	res   produced
}

type waitingFetch struct {
	from  record.Offset
	hw    record.Offset
	until time.Duration
	reply func()
}

var (
	errNotLeading   = errors.New("sim: not leader")
	errNotEnough    = errors.New("sim: not enough replicas")
	errUnavailable  = errors.New("sim: offset not available")
	errOutOfRange   = errors.New("sim: offset out of range")
	errRemoteRead   = errors.New("sim: the bucket does not answer")
	errLogFull      = errors.New("sim: log is full")
	errStaleReplica = errors.New("sim: stale broker epoch")
)

// Position and what is known of epochs: replica.Epochs.

// LastEpoch implements replica.Epochs.
func (l *modelLog) LastEpoch() record.Epoch { return l.epochs.Last() }

// EpochEnd implements replica.Epochs.
func (l *modelLog) EpochEnd(e record.Epoch) (record.Epoch, record.Offset) {
	return l.epochs.EndOf(e, l.end())
}

func (h *host) progress() replica.Progress {
	return replica.Progress{LogEnd: h.log.end(), FlushedEnd: h.log.flushed}
}

func (h *host) config(img *metadata.Image) replica.Config {
	return replica.Config{Fsync: h.t.topic.fsync, MinISR: h.t.topic.minISR, LagMax: h.p.w.plan.lagMax}
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
		if h = p.open(t, state); h == nil {
			p.after(100*time.Millisecond, func() { p.place(t) })
			return
		}
		p.hosts[t.index] = h
	}
	h.assign(state)
}

func assignment(s *metadata.Partition) replica.Assignment {
	return replica.Assignment{Leader: s.Leader, LeaderEpoch: s.LeaderEpoch, PartitionEpoch: s.PartitionEpoch, Replicas: s.Replicas,
		ISR: s.ISR, RemoteEnd: s.RemoteEnd, RemoteEpoch: s.RemoteEpoch, LogStart: s.LogStart}
}

// open opens or makes a partition's log; nil if that needs the bucket, which does
// not answer.
func (p *proc) open(t *truth, state *metadata.Partition) *host {
	h := &host{p: p, t: t}
	if h.log = p.disk.logs[t.index]; h.log == nil {
		h.log = newLog(0, 0, nil, nil, t.topic.perSeal)
		a := assignment(state)
		if at := max(a.LogStart, a.RemoteEnd); at > 0 && !h.restart(&a, at, a.RemoteEnd == at && a.RemoteEpoch >= 0) {
			return nil
		}
		p.disk.logs[t.index] = h.log
	}
	h.log.flushed = h.log.end() // a recovered tail is synced before it counts
	h.rep = replica.New(p.id, h.config(p.image), max(state.LogStart, state.RemoteEnd), h.progress())
	h.told = h.rep.HighWatermark()
	return h
}

// restart makes the log begin anew at an offset; false if the bucket does not
// answer.
func (h *host) restart(a *replica.Assignment, at record.Offset, fromBucket bool) bool {
	w := h.p.w
	w.count.resets++
	if !fromBucket {
		chain, _ := h.t.chainAt(at)
		h.log.resetTo(at, chain, nil, nil)
		h.generation++
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
	h.generation++
	if w.tracing() {
		w.tracef("broker %d %s: the log begins anew at %d, from the bucket", h.p.id, h.t.name(), at)
	}
	return true
}

// assign takes the partition's assignment (partition.Partition.assign).
func (h *host) assign(state *metadata.Partition) {
	a := assignment(state)
	if a.Leader == h.p.id && a.LeaderEpoch > h.rep.LeaderEpoch() {
		if at, fromBucket, wins := a.BucketWins(h.log.end(), h.log); wins {
			if !h.restart(&a, at, fromBucket) {
				h.p.after(100*time.Millisecond, func() { h.p.place(h.t) })
				return
			}
			h.rep.Restarted(at)
		}
	}
	eff := h.rep.Assign(h.p.clock(), a, h.progress())
	if eff.AssignEpoch {
		h.log.epochs.Assign(a.LeaderEpoch, h.log.end())
	}
	if eff.RoleChanged {
		h.asking = false
		h.fail(errNotLeading)
		if h.p.w.tracing() {
			h.p.w.tracef("broker %d %s: %v in epoch %d, log [%d, %d), watermark %d", h.p.id, h.t.name(), h.rep.Role(), a.LeaderEpoch,
				h.log.start, h.log.end(), h.rep.HighWatermark())
		}
	}
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
	change := command.ISRChange{Partition: h.t.tp, LeaderEpoch: pr.LeaderEpoch, PartitionEpoch: pr.PartitionEpoch}
	for _, m := range pr.Members {
		change.ISR = append(change.ISR, command.ISRMember{BrokerID: m.ID, BrokerEpoch: m.BrokerEpoch})
	}
	cmd := &command.AlterPartition{BrokerID: h.p.id, BrokerEpoch: h.p.epoch, Partitions: []command.ISRChange{change}}
	h.p.propose(cmd, func(res command.Result, err error) {
		if err == nil {
			err = res.Items[0].Err
		}
		if err == nil {
			return
		}
		var refusal *command.Error
		certain := errors.As(err, &refusal) && !errors.Is(err, command.ErrStalePartitionEpoch)
		h.rep.ProposalFailed(pr, certain)
	})
}

// append takes a producer's batch (partition.Partition.Append).
func (h *host) append(b batch, reply func(produced)) {
	switch {
	case h.rep.Role() != replica.Leader || !h.p.leased():
		reply(produced{err: errNotLeading})
		return
	case !h.rep.EnoughInSync():
		reply(produced{err: errNotEnough})
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
	if h.asking || !ok || h.p.ended || h.p.hosts[h.t.index] != h || h.p.epoch < 0 {
		return
	}
	h.asking, h.asked = true, pos
	w, p, epoch := h.p.w, h.p, h.p.epoch
	call(w, p, pos.Leader, w.plan.fetchWait+2*time.Second, false,
		func(l *proc, reply func(fetched)) { l.serveFetch(h.t, p.id, epoch, pos, reply) },
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
	d := h.rep.OnReply(pos, f.reply, h.log)
	h.t.touched = true
	switch d.Step {
	case replica.Append:
		for _, b := range f.batches {
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
		h.rep.Restarted(d.To)
		h.told = d.To
	case replica.ResetToRemote:
		a := assignment(h.p.image.Partition(h.t.tp))
		if a.RemoteEnd < d.To || !h.restart(&a, a.RemoteEnd, true) {
			return false
		}
		h.rep.Restarted(a.RemoteEnd)
		h.told = a.RemoteEnd
	case replica.Wait:
		return false
	case replica.Drop:
	}
	return true
}

// truncate cuts the log, and checks that nothing committed goes.
func (h *host) truncate(d replica.Decision) {
	w := h.p.w
	w.count.truncations++
	kept := h.log.at(d.To)
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
	h.log.truncateTo(d.To)
	h.generation++
	h.rep.Truncated(h.progress())
	h.told = min(h.told, h.rep.HighWatermark())
}

// maxBatches is how many batches one answer has.
const maxBatches = 4

// serveFetch answers a follower (partition.Partition.Read for a replica).
func (p *proc) serveFetch(t *truth, id int32, brokerEpoch int64, pos replica.Position, reply func(fetched)) {
	h := p.hosts[t.index]
	refuse := func() { reply(fetched{reply: replica.Reply{Kind: replica.ReplyRefused}}) }
	if h == nil || !p.leased() || h.rep.Role() != replica.Leader || h.rep.LeaderEpoch() != pos.LeaderEpoch || !h.rep.HasReplica(id) {
		refuse()
		return
	}
	b := p.image.Broker(id)
	if b == nil || b.Epoch > brokerEpoch {
		refuse()
		return
	}
	logStart := p.image.Partition(t.tp).LogStart
	tell := replica.Reply{HighWatermark: h.rep.HighWatermark(), LogStart: logStart}
	if pos.LastEpoch >= 0 {
		epoch, end := h.log.EpochEnd(pos.LastEpoch)
		if epoch >= 0 && (epoch < pos.LastEpoch || end < pos.Offset) {
			tell.Kind, tell.DivergingEpoch, tell.DivergingEnd = replica.ReplyDiverging, epoch, end
			reply(fetched{reply: tell})
			return
		}
	}
	switch {
	case pos.Offset < logStart:
		tell.Kind = replica.ReplyOutOfRange
		reply(fetched{reply: tell})
		return
	case pos.Offset > h.log.end():
		refuse()
		return
	case pos.Offset < h.log.start:
		tell.Kind = replica.ReplyTiered
		reply(fetched{reply: tell})
		return
	}
	h.effects(h.rep.Fetched(p.clock(), id, brokerEpoch, pos.Offset, b.Eligible()))
	answer := func() {
		if p.hosts[t.index] != h || h.rep.Role() != replica.Leader || h.rep.LeaderEpoch() != pos.LeaderEpoch || !p.leased() ||
			pos.Offset < h.log.start {
			refuse()
			return
		}
		reply(fetched{reply: replica.Reply{Kind: replica.ReplyRecords, HighWatermark: h.rep.HighWatermark(), LogStart: logStart},
			batches: h.log.read(pos.Offset, h.log.end(), maxBatches)})
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

// tick lets time pass for the replica machine.
func (h *host) tick() {
	img := h.p.image
	h.effects(h.rep.Tick(h.p.clock(), func(id int32) bool { return img.Broker(id).Eligible() }))
	h.poll()
}
