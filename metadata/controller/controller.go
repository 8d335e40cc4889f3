package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/link"
)

// Calls are calls between nodes; *link.Link has them.
type Calls interface {
	Call(ctx context.Context, addr, name string, body []byte) ([]byte, error)
	HandleCall(name string, fn func(ctx context.Context, p link.Peer, body []byte) ([]byte, error))
}

// Proposer is what the controller needs of the metadata client.
type Proposer interface {
	Image() *metadata.Image
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
}

// Options configure a Controller.
type Options struct {
	// Meta proposes as the metadata leader, and only as it: what a deposed one decided
	// must not reach the next (raftnode.AsLeader). Required.
	Meta Proposer
	// Calls serves the heartbeats. Required.
	Calls Calls
	// Verify returns the term in which this node led the metadata, acknowledged by a
	// majority of the voters, at some time after the call; it writes nothing
	// (raftnode.AsLeader). A node that was paused may believe that it leads, and must
	// not grant leases. Required.
	Verify func(context.Context) (term uint64, err error)
	// Reign is Raft's term, this node's directory and those of the voters
	// (raftnode.AsLeader). Nil: a new leader always waits for a whole session.
	Reign  func() (term uint64, self uuid.UUID, voters []uuid.UUID)
	Leases LeaseOptions
	Upkeep UpkeepOptions
	Logger *slog.Logger
}

// Controller is the metadata leader's own work: it holds the brokers' leases, fences
// and unfences, and looks after placement now and then. Every node has one, which
// answers heartbeats with CodeNotLeader until Run. It holds nothing that a new leader
// would miss.
type Controller struct {
	opts Options
	// poke wakes Run.
	poke chan struct{}

	mu struct {
		sync.Mutex
		// leases is nil while this node does not lead.
		leases *Leases
		// term is that of leases; 0 without Options.Reign.
		term uint64
		// gone are processes that ended, remembered for when this node begins to
		// lead: the one that ended may have led.
		gone map[uuid.UUID]ended
	}
}

// ended is a process that ended: the epoch that it had registered, and when that was
// noticed.
type ended struct {
	epoch int64
	at    time.Time
}

// goneFor is how long the end of a process is remembered.
const goneFor = 30 * time.Second

// retryAfter is the pause after a change that could not be committed.
const retryAfter = 100 * time.Millisecond

// proposeTime bounds one proposal. It is long: leadership ends it sooner.
const proposeTime = 10 * time.Second

// New makes the node's controller and begins to answer heartbeats.
func New(opts Options) *Controller {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	opts.Leases = opts.Leases.withDefaults()
	opts.Upkeep = opts.Upkeep.withDefaults()
	c := &Controller{opts: opts, poke: make(chan struct{}, 1)}
	c.mu.gone = map[uuid.UUID]ended{}
	opts.Calls.HandleCall(callHeartbeat, c.heartbeat)
	opts.Calls.HandleCall(callStatus, c.status)
	return c
}

// Run does the leader's work until ctx ends. It is for raftnode's OnLead: the image
// has everything that was committed before this node began to lead.
func (c *Controller) Run(ctx context.Context) {
	c.begin(time.Now())
	defer c.end()
	upkeep := newUpkeep(c.opts.Upkeep, time.Now())
	for ctx.Err() == nil {
		failed := c.settleBrokers(ctx)
		if !failed {
			failed = c.propose(ctx, upkeep.plan(time.Now(), c.opts.Meta.Image()), nil)
		}
		now := time.Now()
		c.mu.Lock()
		wake := c.mu.leases.Next(now)
		c.mu.Unlock()
		if due := upkeep.next(); due.Before(wake) {
			wake = due
		}
		if failed {
			wake = now.Add(retryAfter)
		}
		timer := time.NewTimer(max(wake.Sub(now), time.Millisecond))
		select {
		case <-ctx.Done():
		case <-c.poke:
		case <-timer.C:
		}
		timer.Stop()
	}
}

func (c *Controller) begin(now time.Time) {
	img := c.opts.Meta.Image()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.leases = NewLeases(c.opts.Leases, now, img)
	if c.opts.Reign != nil {
		term, self, voters := c.opts.Reign()
		if term != c.mu.term { // else there were other leases of this term
			c.mu.leases.Reign(Reign{Term: term, Self: self, Voters: voters})
		}
		c.mu.term = term
	}
	for dir, e := range c.mu.gone {
		if b := brokerIn(img, dir); b != nil && now.Sub(e.at) < goneFor {
			c.mu.leases.Suspect(b.ID, e.epoch, true)
		}
	}
}

func (c *Controller) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.leases = nil
}

// settleBrokers carries out one round of decisions; failed says that it has to be
// repeated soon.
func (c *Controller) settleBrokers(ctx context.Context) (failed bool) {
	img := c.opts.Meta.Image()
	c.mu.Lock()
	now := time.Now()
	commands := Decide(now, img, c.mu.leases)
	because := map[int32]string{}
	for _, cmd := range commands {
		if s, ok := cmd.(*command.SetBrokerState); ok && s.State == command.BrokerFenced {
			because[s.BrokerID] = c.mu.leases.whyFenced(now, img, s.BrokerID)
		}
	}
	c.mu.Unlock()
	return c.propose(ctx, commands, because)
}

// propose commits commands in order. What is refused because the world moved on is
// passed over: whoever moved it knew better. because are the reasons to fence brokers.
func (c *Controller) propose(ctx context.Context, commands []command.Command, because map[int32]string) (failed bool) {
	for _, cmd := range commands {
		if ctx.Err() != nil {
			return true
		}
		bounded, cancel := context.WithTimeout(ctx, proposeTime)
		start := time.Now()
		res, err := c.opts.Meta.Propose(bounded, cmd)
		cancel()
		var refused *command.Error
		switch {
		case err == nil:
			c.tell(cmd, res, time.Since(start), because)
		case errors.As(err, &refused):
			c.opts.Logger.Info("controller: change refused", "command", cmd.Kind(), "reason", err)
		default:
			if ctx.Err() == nil {
				c.opts.Logger.Warn("controller: change not committed", "command", cmd.Kind(), "error", err)
			}
			return true
		}
	}
	return false
}

// tell logs what was done. That a broker was lost is a warning: nothing else says so.
func (c *Controller) tell(cmd command.Command, res command.Result, took time.Duration, because map[int32]string) {
	var state string
	switch cmd := cmd.(type) {
	case *command.SetBrokerState:
		attrs := []any{"broker", cmd.BrokerID, "epoch", cmd.BrokerEpoch, "index", res.Index, "took", took}
		level := slog.LevelInfo
		switch cmd.State {
		case command.BrokerFenced:
			state = "fenced"
			why := because[cmd.BrokerID]
			attrs = append(attrs, "because", why)
			if why != askedToStop {
				level = slog.LevelWarn
			}
		case command.BrokerActive:
			state = "active"
		case command.BrokerFull:
			state = "out of disk"
		case command.BrokerShuttingDown:
			state = "shutting down"
		}
		c.opts.Logger.Log(context.Background(), level, "controller: broker is "+state, attrs...)
	default:
		done, refused := 0, 0
		for _, it := range res.Items {
			if it.Err != nil {
				refused++
			} else {
				done++
			}
		}
		c.opts.Logger.Info("controller: "+string(cmd.Kind()), "done", done, "refused", refused, "took", took)
	}
}

func (c *Controller) wake() {
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

var errNotLeader = &link.CallError{Code: CodeNotLeader, Message: "this node does not lead the metadata"}

// heartbeat answers a broker.
func (c *Controller) heartbeat(ctx context.Context, _ link.Peer, body []byte) ([]byte, error) {
	var hb Heartbeat
	if err := decodeJSON(body, &hb); err != nil {
		return nil, err
	}
	grant, term, err := c.hear(&hb)
	if err != nil {
		return nil, err
	}
	switch verified, err := c.opts.Verify(ctx); {
	case err != nil:
		return nil, &link.CallError{Code: CodeNotLeader, Message: fmt.Sprintf("cannot tell whether this node leads: %v", err)}
	case verified != term:
		return nil, errNotLeader // it does again, and this leadership knows nothing of the lease
	}
	return encodeJSON(grant), nil
}

// hear notes a heartbeat and works its answer out, for the leader of a term.
func (c *Controller) hear(hb *Heartbeat) (_ Grant, term uint64, _ error) {
	now := time.Now()
	img := c.opts.Meta.Image()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.leases == nil {
		return Grant{}, 0, errNotLeader
	}
	grant, act, known := c.mu.leases.Answer(now, img, hb)
	if !known {
		return Grant{}, 0, &link.CallError{Code: CodeStaleEpoch, Message: fmt.Sprintf("broker %d is not registered under epoch %d", hb.BrokerID, hb.BrokerEpoch)}
	}
	if act {
		c.wake()
	}
	return grant, c.mu.term, nil
}

// Suspect takes a hint that the process in a data directory failed. gone says that it
// has certainly ended (its port refuses connections): then it is fenced at once, else
// as soon as its lease allows. For link.Options.OnGone (gone) and failures that Serf
// sees (not gone). A hint about a process that has registered again since is void, and
// so is one that a heartbeat follows.
func (c *Controller) Suspect(directory uuid.UUID, gone bool) {
	b := brokerIn(c.opts.Meta.Image(), directory)
	if b == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for dir, e := range c.mu.gone {
		if now.Sub(e.at) >= goneFor {
			delete(c.mu.gone, dir)
		}
	}
	if gone {
		c.mu.gone[directory] = ended{epoch: b.Epoch, at: now}
	}
	if c.mu.leases != nil {
		c.mu.leases.Suspect(b.ID, b.Epoch, gone)
		c.wake()
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
