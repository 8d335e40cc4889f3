package sim

import (
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/controller"
)

// heard is the answer to a heartbeat.
type heard struct {
	notLeader, stale bool
	grant            controller.Grant
}

// controlling is the work of a process that leads the metadata, or believes so
// (controller.Controller): the leases and the decisions are production code.
type controlling struct {
	p      *proc
	term   int
	leases *controller.Leases
	still  []motionless // by broker
	busy   bool
	woken  bool
	graces map[uuid.UUID]time.Duration
}

// motionless is a broker that a controller hears: the index that it has applied, and
// when it was first heard to be behind with that.
type motionless struct {
	applied uint64
	behind  time.Duration // 0 while it is not
}

// lead begins a term as the metadata leader.
func (p *proc) lead(term int) {
	opts := controller.LeaseOptions{Session: p.w.plan.session, Grant: p.w.plan.session}
	c := &controlling{p: p, term: term, leases: controller.NewLeases(opts, p.clock(), p.image), still: make([]motionless, len(p.w.nodes)),
		graces: map[uuid.UUID]time.Duration{}}
	c.leases.Reign(p.w.meta.reign(p))
	p.ctl = c
	for b := range p.image.Brokers() {
		if p.gone[b.ID] == b.Epoch {
			c.leases.Suspect(b.ID, b.Epoch, true)
		}
	}
	c.run()
}

// stepDown ends the leadership that another has.
func (p *proc) stepDown() {
	if p.ctl != nil && (p.w.meta.leads != p || p.w.meta.term != p.ctl.term) {
		p.ctl = nil
	}
}

// run makes one round of decisions, and another when it is due.
func (c *controlling) run() {
	if c.p.ctl != c || c.busy {
		return
	}
	c.busy, c.woken = true, false
	c.propose(controller.Decide(c.p.clock(), c.p.image, c.leases))
}

// proposeTime bounds one proposal of a controller.
const proposeTime = 10 * time.Second

func (c *controlling) propose(commands []command.Command) {
	p := c.p
	if len(commands) == 0 {
		c.busy = false
		if c.woken {
			c.run()
			return
		}
		p.after(max(c.leases.Next(p.clock()).Sub(p.clock()), time.Millisecond), c.run)
		return
	}
	// What a controller decides is committed by its own node or not at all: passed
	// on to the next leader it would overrule what that one has granted.
	answered := false
	end := func(rest []command.Command, pause time.Duration) {
		if !answered {
			answered = true
			p.after(pause, func() { c.propose(rest) })
		}
	}
	p.w.meta.accept(p, p.encode(commands[0]), func(a answer) {
		if a.err != nil && !refusedBy(a.err) {
			end(nil, 100*time.Millisecond)
			return
		}
		end(commands[1:], 0)
	})
	p.after(proposeTime, func() { end(nil, 0) })
}

func (c *controlling) wake() {
	c.woken = true
	c.run()
}

// heartbeat answers a broker (controller.Controller.hear), once it is sure that this
// process still leads.
func (p *proc) heartbeat(hb *controller.Heartbeat, reply func(heard)) {
	c := p.ctl
	if c == nil {
		reply(heard{notLeader: true})
		return
	}
	g, act, known := c.leases.Answer(p.clock(), p.image, hb)
	if !known {
		reply(heard{stale: true})
		return
	}
	c.noteProgress(hb, &g)
	if act {
		c.wake()
	}
	p.after(2*p.w.plan.net.base, func() {
		if p.w.meta.leads == p && p.w.meta.term == c.term && p.w.meta.alive() {
			p.w.meta.catchUp()
			p.w.meta.confirm(p)
			reply(heard{grant: g})
		} else {
			reply(heard{notLeader: true})
		}
	})
}

// noteProgress checks that a broker which was heard to stand still for a session, with
// something to apply, gets no lease.
func (c *controlling) noteProgress(hb *controller.Heartbeat, g *controller.Grant) {
	w, s := c.p.w, &c.still[hb.BrokerID]
	switch {
	case hb.Applied > s.applied || max(hb.Applied, s.applied) >= c.p.image.Index():
		s.applied, s.behind = max(hb.Applied, s.applied), 0
	case s.behind == 0:
		s.behind = w.now
	case w.now-s.behind >= w.plan.session && g.Lease > 0:
		w.violate("5", "broker %d gets a lease, and has applied nothing above %d for %v", hb.BrokerID, s.applied, w.now-s.behind)
	case w.now-s.behind >= w.plan.session:
		w.count.stuck++
	}
}

// suspect takes a hint that the process in a directory failed
// (controller.Controller.Suspect).
func (p *proc) suspect(directory uuid.UUID, gone bool) {
	b := brokerIn(p.image, directory)
	if b == nil {
		return
	}
	if gone {
		p.gone[b.ID] = b.Epoch
	}
	if p.ctl != nil {
		p.ctl.leases.Suspect(b.ID, b.Epoch, gone)
		p.ctl.wake()
	}
}

func brokerIn(img *metadata.Image, directory uuid.UUID) *metadata.Broker {
	for b := range img.Brokers() {
		if b.DirectoryID == directory {
			return b
		}
	}
	return nil
}
