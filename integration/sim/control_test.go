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
	p       *proc
	term    int
	leases  *controller.Leases
	opts    controller.LeaseOptions
	fencing []bool // by broker
	busy    bool
	woken   bool
	graces  map[uuid.UUID]time.Duration
}

// lead begins a term as the metadata leader.
func (p *proc) lead(term int) {
	opts := controller.LeaseOptions{Session: p.w.plan.session, Grant: p.w.plan.session}
	c := &controlling{p: p, term: term, opts: opts, leases: controller.NewLeases(opts, p.clock(), p.image),
		fencing: make([]bool, len(p.w.nodes)), graces: map[uuid.UUID]time.Duration{}}
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
	commands := controller.Decide(c.p.clock(), c.p.image, c.leases)
	for _, cmd := range commands {
		if s, ok := cmd.(*command.SetBrokerState); ok && s.State == command.BrokerFenced {
			c.fencing[s.BrokerID] = true
		}
	}
	c.propose(commands)
}

// proposeTime bounds one proposal of a controller.
const proposeTime = 10 * time.Second

func (c *controlling) propose(commands []command.Command) {
	p := c.p
	if len(commands) == 0 {
		clear(c.fencing)
		c.busy = false
		if c.woken {
			c.run()
			return
		}
		p.after(max(c.leases.Next(p.clock()).Sub(p.clock()), time.Millisecond), c.run)
		return
	}
	data, err := command.Encode(commands[0])
	if err != nil {
		panic(err)
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
	p.w.meta.accept(p, data, func(a answer) {
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
	if !c.leases.Hear(p.clock(), p.image, hb) {
		reply(heard{stale: true})
		return
	}
	b := p.image.Broker(hb.BrokerID)
	g := controller.Grant{Fenced: b.Fenced, Clock: p.wall(), Shutdown: hb.WantShutdown && b.Fenced}
	if !b.Fenced && !c.fencing[b.ID] {
		g.Lease = (c.opts.Grant - c.opts.Grant/50).Milliseconds()
	}
	if b.Fenced && hb.Ready && !hb.WantShutdown || hb.WantShutdown && !b.Fenced {
		c.wake()
	}
	p.after(2*p.w.plan.net.base, func() {
		if p.w.meta.leads == p && p.w.meta.alive() {
			p.w.meta.catchUp()
			reply(heard{grant: g})
		} else {
			reply(heard{notLeader: true})
		}
	})
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
