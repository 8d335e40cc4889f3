package sim

import (
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/controller"
	"github.com/firnlog/firn/metadata/raftnode"
	"github.com/firnlog/firn/record"
)

// node is one machine: a disk, and a process while it is up.
type node struct {
	id   int32
	w    *world
	disk *disk
	proc *proc
	// paused: the process is stopped (SIGSTOP). What would happen in it waits.
	paused  bool
	backlog []func()
	// program is the newest level that its program knows: what it starts next does.
	program command.Level
	// skew is how far its wall clock is off.
	skew time.Duration
	// full: its disk takes no records.
	full bool
	// starting: a start is on its way.
	starting bool
}

// runs says that there is a process that is not paused.
func (n *node) runs() bool { return n.proc != nil && !n.paused }

// disk is a data directory.
type disk struct {
	id   uuid.UUID
	logs []*modelLog // by partition
	// applied is the index of the metadata state on the disk, term Raft's.
	applied uint64
	term    int
	// booted: the machine booted since the last process, without a mark of a clean
	// shutdown.
	booted bool
	// robbed says, by partition, that power loss or a wipe may have taken records
	// that this replica acknowledged, and that it did not register since.
	robbed []bool
}

// proc is one life of a broker's process.
type proc struct {
	w           *world
	node        *node
	id          int32
	disk        *disk
	incarnation uuid.UUID
	program     command.Level
	ended       bool
	image       *metadata.Image
	hosts       []*host // by partition
	applied     []waitingIndex

	// epoch is the broker epoch, -1 until the process is registered.
	epoch       int64
	registering bool
	// opened: the partitions are hosted. That waits for the first registration, so
	// that no assignment of before the last crash is taken up again.
	opened   bool
	leaseEnd time.Duration
	leaving  bool // a controlled shutdown is under way
	ctl      *controlling
	gone     []int64 // by broker: the epoch whose process is known to have ended
	tier     *tiering
	// contacts are with the metadata's leaders.
	contacts raftnode.Contacts
	// wedged: nothing is applied, though it arrives.
	wedged bool
}

type waitingIndex struct {
	index uint64
	fn    func()
}

// zero is when the simulation begins, for what takes a time.Time.
var zero = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// clock is the process's monotonic clock: it does not jump, and counts pauses.
func (p *proc) clock() time.Time { return zero.Add(p.w.now) }

// wall is its wall clock, ms since the Unix epoch.
func (p *proc) wall() int64 { return zero.Add(p.w.now + p.node.skew).UnixMilli() }

// leased says that the broker may answer clients and followers.
func (p *proc) leased() bool { return p.epoch >= 0 && p.w.now < p.leaseEnd }

func (w *world) newDisk() *disk {
	return &disk{id: w.newID(), logs: make([]*modelLog, len(w.parts)), robbed: make([]bool, len(w.parts))}
}

// start brings a process up on the node's disk.
func (n *node) start() {
	w := n.w
	if n.proc != nil {
		return
	}
	p := &proc{w: w, gone: make([]int64, len(w.nodes)), node: n, id: n.id, disk: n.disk, program: n.program, incarnation: w.newID(), epoch: -1, hosts: make([]*host, len(w.parts))}
	n.proc, n.paused, n.backlog = p, false, nil
	p.contacts = raftnode.NewContacts(p.clock())
	p.image = w.meta.images[n.disk.applied]
	w.mix(uint64(n.id), n.disk.applied)
	if w.tracing() {
		w.tracef("broker %d: starts, with metadata %d", n.id, n.disk.applied)
	}
	p.register()
	p.every(w.plan.heartbeat, p.beat)
	p.every(time.Second, func() {
		for _, h := range p.hosts {
			if h != nil {
				h.tick()
			}
		}
	})
	p.every(100*time.Millisecond, p.stepDown)
	p.startTiering()
}

// stop ends the process.
func (n *node) stop() {
	p := n.proc
	if p == nil {
		return
	}
	p.ended = true
	n.proc, n.paused, n.backlog = nil, false, nil
	n.hint(p)
	// Some of what was applied is replayed from the log: the state is not synced.
	n.disk.applied = p.image.Index()
	if n.w.chance(0.3) {
		n.disk.applied -= min(n.disk.applied, uint64(n.w.rng.IntN(10)))
	}
}

// hint lets the others notice that a process ended: by a connection that is reset,
// where the port refuses another one, or later by gossip.
func (n *node) hint(ended *proc) {
	w := n.w
	if !w.plan.hints {
		return
	}
	for _, other := range w.nodes[1:] {
		if p := other.proc; p != nil && p != ended {
			gossip := w.between(time.Second, 3*time.Second)
			p.after(w.upTo(50*time.Millisecond), func() {
				if n.proc == nil && w.linked(p.id, n.id) {
					p.suspect(ended.disk.id, true)
				}
			})
			p.after(gossip, func() { p.suspect(ended.disk.id, false) })
		}
	}
}

// applyTo takes the metadata log up to an index, as one change.
func (p *proc) applyTo(index uint64) {
	if index <= p.image.Index() || p.wedged {
		return
	}
	old := p.image
	p.image = p.w.meta.images[index]
	for _, t := range p.w.parts {
		if p.opened && p.image.Partition(t.tp) != old.Partition(t.tp) {
			p.place(t)
		}
	}
	waiting := p.applied
	p.applied = nil
	for _, a := range waiting {
		p.whenApplied(a.index, a.fn)
	}
}

// whenApplied runs fn once the process's image has an index.
func (p *proc) whenApplied(index uint64, fn func()) {
	if p.image.Index() >= index {
		fn()
		return
	}
	p.applied = append(p.applied, waitingIndex{index, fn})
}

// register announces the process until that is heard (controller.Heartbeater).
func (p *proc) register() {
	if p.registering {
		return
	}
	p.registering, p.epoch, p.leaseEnd = true, -1, 0
	cmd := &command.RegisterBroker{BrokerID: p.id, DirectoryID: p.disk.id, Incarnation: p.incarnation, Time: p.wall(), Untrusted: p.disk.booted,
		Features: map[string]metadata.VersionRange{command.Feature: {Min: int16(command.Level1), Max: int16(p.program)}}}
	p.propose(cmd, func(res command.Result, err error) {
		p.registering = false
		if err != nil {
			p.after(p.w.between(50*time.Millisecond, 200*time.Millisecond), p.register)
			return
		}
		p.epoch = res.BrokerEpoch
		p.disk.booted = false
		if p.w.tracing() {
			p.w.tracef("broker %d: registered with epoch %d", p.id, p.epoch)
		}
		p.beat()
		for i, t := range p.w.parts {
			if !p.opened {
				p.place(t)
			} else if h := p.hosts[i]; h != nil {
				h.poll()
			}
		}
		p.opened = true
	})
}

// beat sends a heartbeat, and takes the lease that the answer gives, from before it
// was sent (controller.Heartbeater).
func (p *proc) beat() {
	w, l := p.w, p.w.meta.leader
	if p.epoch < 0 || l == 0 {
		return
	}
	sent := w.now
	hb := controller.Heartbeat{BrokerID: p.id, BrokerEpoch: p.epoch, Applied: p.image.Index(), Ready: p.opened, WantShutdown: p.leaving, DiskFull: p.node.full, Clock: p.wall(),
		Term: uint64(p.disk.term), ContactMs: p.clock().Sub(p.contacts.Last(uint64(p.disk.term))).Milliseconds()}
	call(w, p, l, w.plan.session/4, false, func(c *proc, reply func(heard)) { c.heartbeat(&hb, reply) },
		func(a heard, err error) {
			switch {
			case err != nil || a.notLeader || hb.BrokerEpoch != p.epoch:
				return
			case a.stale:
				p.register()
				return
			case a.grant.Lease > 0:
				p.leaseEnd = max(p.leaseEnd, sent+time.Duration(a.grant.Lease)*time.Millisecond)
				w.leased(p)
			case a.grant.Fenced:
				p.leaseEnd = 0
			}
			if a.grant.Shutdown && p.leaving {
				p.node.leave()
			}
		})
}

// fenced checks that no broker is fenced while it holds a lease: it could go on
// answering beside its successor.
func (w *world) fenced(old *metadata.Image, c *command.SetBrokerState) {
	p, b := w.nodes[c.BrokerID].proc, old.Broker(c.BrokerID)
	if p != nil && p.epoch == c.BrokerEpoch && p.leased() && !b.Fenced && !b.ShuttingDown {
		w.violate("5", "broker %d is fenced while it holds a lease for another %v", c.BrokerID, p.leaseEnd-w.now)
	}
}

// leased checks that who begins to serve knows of all that was decided while it had no
// lease: it would serve what others have taken over.
func (w *world) leased(p *proc) {
	if f := w.meta.fencedAt[p.id]; p.leased() && f.epoch == p.epoch && f.index > p.image.Index() {
		w.violate("5", "broker %d has a lease, its metadata are of index %d, and it was fenced at %d", p.id, p.image.Index(), f.index)
	}
}

// wedge keeps the process from applying metadata, for d.
func (n *node) wedge(d time.Duration) {
	p := n.proc
	if p == nil || p.wedged || n.w.meta.leads == p {
		return
	}
	n.w.count.wedges++
	n.w.trouble(n, "applies nothing")
	p.wedged = true
	n.w.after(d, func() { p.wedged = false })
}

// fill keeps the disk from taking records, for d.
func (n *node) fill(d time.Duration) {
	if n.full {
		return
	}
	n.w.count.filled++
	n.w.trouble(n, "has a full disk")
	n.full = true
	n.w.after(d, func() { n.full = false })
}

// kill ends the process without a word (kill -9). The page cache survives.
func (n *node) kill() {
	n.w.count.crashes++
	n.w.trouble(n, "killed")
	n.stop()
}

// leave ends the process in order: what it holds is synced.
func (n *node) leave() {
	n.w.trouble(n, "leaves")
	n.stop()
	for _, l := range n.disk.logs {
		if l != nil {
			l.flushed = l.end()
		}
	}
	n.startLater(n.w.upTo(n.w.plan.down))
}

// powerLoss takes what was not synced, or some of it.
func (n *node) powerLoss() {
	w := n.w
	w.count.powerLosses++
	w.trouble(n, "loses power")
	down := n.proc == nil
	n.stop()
	if down && !n.disk.booted && w.chance(0.5) {
		return // the mark of a clean shutdown, or no process to lose anything
	}
	n.disk.booted = true
	for i, l := range n.disk.logs {
		if l == nil {
			continue
		}
		n.disk.robbed[i] = n.disk.robbed[i] || !w.parts[i].topic.fsync
		keep := l.flushed
		if left := l.read(keep, l.end(), len(l.batches)); len(left) > 0 && w.chance(0.5) {
			keep = left[w.rng.IntN(len(left))].base // the kernel wrote back some
		}
		l.lose(keep)
	}
	w.forfeit()
}

// wipe replaces the disk by an empty one.
func (n *node) wipe() {
	w := n.w
	w.count.wipes++
	w.trouble(n, "is wiped")
	n.stop()
	n.disk = w.newDisk()
	for i := range n.disk.robbed {
		n.disk.robbed[i] = true
	}
}

// startLater starts the node's process after a while.
func (n *node) startLater(d time.Duration) {
	if n.starting {
		return
	}
	n.starting = true
	n.w.after(d, func() {
		n.starting = false
		n.start()
	})
}

// pause stops the process's world, for d.
func (n *node) pause(d time.Duration) {
	p := n.proc
	if p == nil || n.paused {
		return
	}
	n.w.count.pauses++
	n.w.trouble(n, "is paused")
	n.paused = true
	n.w.after(d, func() {
		if n.proc == p {
			n.resume()
		}
	})
}

// resume lets what waited happen, in the order in which it came.
func (n *node) resume() {
	if !n.paused {
		return
	}
	n.w.trouble(n, "goes on")
	backlog := n.backlog
	n.paused, n.backlog = false, nil
	for _, fn := range backlog {
		fn()
		n.w.checkTouched()
		if n.paused { // cannot be: only the world pauses
			panic("paused while going on")
		}
	}
}

func (w *world) trouble(n *node, what string) {
	w.mix(uint64(n.id), uint64(len(what)))
	if w.tracing() {
		w.tracef("--- broker %d %s", n.id, what)
	}
}

// registered notes which brokers registered by the last command: from then on the
// metadata must not believe in what a disk lost before.
func (w *world) registered(old *metadata.Image) {
	img := w.meta.image()
	for _, id := range w.meta.delta.Brokers {
		b, before := img.Broker(id), old.Broker(id)
		if b == nil || before != nil && before.Epoch == b.Epoch {
			continue
		}
		if p := w.nodes[id].proc; p != nil && p.incarnation == b.Incarnation {
			clear(p.disk.robbed)
		}
	}
}

// fsyncTime draws how long an fsync takes.
func (w *world) fsyncTime() time.Duration {
	d := w.plan.flush/2 + w.upTo(w.plan.flush)
	if w.chance(w.plan.slow) {
		d *= 100
	}
	return d
}

// produced is the answer to a producer.
type produced struct {
	base  record.Offset
	epoch record.Epoch
	err   error
}

// refusedBy tells a refusal of the state machine from an unknown outcome.
func refusedBy(err error) bool {
	var refusal *command.Error
	return errors.As(err, &refusal)
}
