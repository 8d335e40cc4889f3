package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/link"
)

// HeartbeaterOptions configure a Heartbeater.
type HeartbeaterOptions struct {
	// Registration is what the broker registers as. Incarnation is drawn if it is
	// nil, Time is set.
	Registration command.RegisterBroker
	// Meta registers, and shows the broker's state. Required.
	Meta Registry
	// Calls reaches the controller. Required.
	Calls Calls
	// Leader is the cluster address of the metadata leader, false if none is known.
	// Required.
	Leader func() (addr string, ok bool)
	// Ready says that the logs are open: the broker wants to be unfenced. Nil is
	// always. Call Poke when it turns true.
	Ready func() bool
	// Contact tells when this node last lent itself to an earlier metadata leader
	// (raftnode.Node). Nil is unknown.
	Contact func() (term uint64, ago time.Duration)
	// DiskFull says that the data disk takes no records. Nil is never.
	DiskFull func() bool
	// Interval is between heartbeats (broker.heartbeat.interval.ms), default 500 ms.
	Interval time.Duration
	// Session is how long the broker may be silent (broker.session.timeout.ms),
	// default 3 s. It bounds the wait for a former life of this broker id to be
	// fenced; leases are as long as the controller says.
	Session time.Duration
	// Clock counts from an arbitrary start, and on while the machine sleeps. Nil is
	// the machine's.
	Clock  func() time.Duration
	Logger *slog.Logger
}

// Registry is what the Heartbeater needs of the metadata client.
type Registry interface {
	Proposer
	Subscribe(fn func(old, new *metadata.Image, delta metadata.Delta)) (cancel func())
}

// Heartbeater keeps a broker registered and its lease alive. Run is its only
// goroutine; the caller starts and stops it.
type Heartbeater struct {
	opts  HeartbeaterOptions
	lease Lease
	epoch atomic.Int64
	// reading is what the last answer told of the clocks, nil before the first.
	reading atomic.Pointer[clockReading]
	// poke wakes Run.
	poke chan struct{}

	mu struct {
		sync.Mutex
		wantShutdown bool
		// shutdown is closed when it is granted.
		shutdown chan struct{}
		granted  bool
		// hangUp ends the last heartbeat, nil before the first.
		hangUp context.CancelFunc
		// leased is closed, and made anew, when a lease begins.
		leased chan struct{}
	}
}

// NewHeartbeater makes a Heartbeater. It does nothing before Register.
func NewHeartbeater(opts HeartbeaterOptions) *Heartbeater {
	if opts.Interval <= 0 {
		opts.Interval = 500 * time.Millisecond
	}
	if opts.Session <= 0 {
		opts.Session = 3 * time.Second
	}
	if opts.Clock == nil {
		opts.Clock = boottime
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	if opts.Registration.Incarnation == uuid.Nil {
		opts.Registration.Incarnation = uuid.New()
	}
	h := &Heartbeater{opts: opts, poke: make(chan struct{}, 1)}
	h.lease.clock = opts.Clock
	h.epoch.Store(-1)
	h.mu.shutdown, h.mu.leased = make(chan struct{}), make(chan struct{})
	return h
}

// Lease is the broker's lease. It is valid while the broker is active.
func (h *Heartbeater) Lease() *Lease { return &h.lease }

// Epoch is the broker epoch, -1 before Register.
func (h *Heartbeater) Epoch() int64 { return h.epoch.Load() }

// Register announces this process. While a former life of the broker id, in another
// directory, is not fenced yet, it waits: that takes no longer than its session.
func (h *Heartbeater) Register(ctx context.Context) (epoch int64, err error) {
	patience := time.NewTimer(h.opts.Session + 2*h.opts.Interval)
	defer patience.Stop()
	for waited := false; ; {
		epoch, err := h.register(ctx)
		switch {
		case errors.Is(err, metadata.ErrUnknownOutcome) || errors.Is(err, metadata.ErrNotLeader):
			// The same process registers the same way as often as it takes.
			if ctx.Err() != nil {
				return epoch, err
			}
			h.opts.Logger.Warn("registration is tried again", "broker", h.opts.Registration.BrokerID, "error", err)
		case !errors.Is(err, command.ErrDuplicateBroker) || waited:
			return epoch, err
		default:
			h.opts.Logger.Info("another directory holds this broker id; waiting until it is fenced", "broker", h.opts.Registration.BrokerID)
		}
		select {
		case <-ctx.Done():
			return -1, err
		case <-patience.C:
			waited = true
		case <-time.After(h.opts.Interval):
		}
	}
}

func (h *Heartbeater) register(ctx context.Context) (int64, error) {
	cmd := h.opts.Registration
	cmd.Time = time.Now().UnixMilli()
	res, err := h.opts.Meta.Propose(ctx, &cmd)
	if err != nil {
		return -1, fmt.Errorf("register broker %d: %w", cmd.BrokerID, err)
	}
	if old := h.epoch.Swap(res.BrokerEpoch); old != res.BrokerEpoch {
		h.lease.end()
		h.opts.Logger.Info("broker registered", "broker", cmd.BrokerID, "epoch", res.BrokerEpoch)
	}
	return res.BrokerEpoch, nil
}

// Run sends heartbeats until ctx ends.
//
// REQUIRES: Register succeeded.
func (h *Heartbeater) Run(ctx context.Context) {
	defer h.opts.Meta.Subscribe(func(_, img *metadata.Image, delta metadata.Delta) {
		// Fenced or forgotten: say that we are here, without delay. A new metadata
		// leader wants to hear from us too, and one that shuts down another broker
		// waits until we know.
		if delta.Controller {
			h.hangUp()
		}
		if b := img.Broker(h.opts.Registration.BrokerID); delta.Controller || len(delta.Brokers) > 0 || b == nil || b.Fenced {
			h.Poke()
		}
	})()
	quiet := silence{log: h.opts.Logger, lease: &h.lease, clock: h.opts.Clock}
	for ctx.Err() == nil {
		pause := h.opts.Interval
		if err := h.beat(ctx); err != nil {
			if ctx.Err() != nil {
				return
			}
			if !errors.Is(err, context.Canceled) { // else another leads, and waits to hear from us
				quiet.failed(err)
			}
			pause /= 5
		} else {
			quiet.answered()
			if h.shuttingDown() {
				pause /= 10
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-h.poke:
			// Not more than one a hundredth of the interval, whoever pokes.
			select {
			case <-ctx.Done():
			case <-time.After(h.opts.Interval / 100):
			}
		case <-timer.C:
		}
		timer.Stop()
	}
}

// Poke has a heartbeat sent now.
func (h *Heartbeater) Poke() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// hangUp ends the heartbeat that is under way: another node leads the metadata, and
// the one that led may never answer.
func (h *Heartbeater) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.hangUp != nil {
		h.mu.hangUp()
	}
}

// beat sends one heartbeat and takes its answer in.
func (h *Heartbeater) beat(ctx context.Context) error {
	addr, ok := h.opts.Leader()
	if !ok {
		return metadata.ErrNotLeader
	}
	hb := Heartbeat{BrokerID: h.opts.Registration.BrokerID, BrokerEpoch: h.Epoch(), Applied: h.opts.Meta.Image().Index(),
		Ready: h.opts.Ready == nil || h.opts.Ready(), WantShutdown: h.shuttingDown(), Clock: time.Now().UnixMilli()}
	if h.opts.Contact != nil {
		term, ago := h.opts.Contact()
		hb.Term, hb.ContactMs = term, ago.Milliseconds()
	}
	hb.DiskFull = h.opts.DiskFull != nil && h.opts.DiskFull()
	bounded, cancel := context.WithTimeout(ctx, h.opts.Session/4)
	defer cancel()
	h.mu.Lock()
	h.mu.hangUp = cancel
	h.mu.Unlock()
	sent := h.opts.Clock()
	answer, err := h.opts.Calls.Call(bounded, addr, callHeartbeat, encodeJSON(&hb))
	if err != nil {
		var refused *link.CallError
		if errors.As(err, &refused) && refused.Code == CodeStaleEpoch {
			return h.stale(ctx, err)
		}
		return err
	}
	var g Grant
	if err := decodeJSON(answer, &g); err != nil {
		return err
	}
	h.readClock(&g)
	switch {
	case g.Lease > 0:
		h.extend(sent, time.Duration(g.Lease)*time.Millisecond)
	case g.Fenced:
		h.lease.end()
	}
	if g.Shutdown {
		h.grantShutdown()
	}
	return nil
}

// extend extends the lease, and tells those who wait for one.
func (h *Heartbeater) extend(sent, d time.Duration) {
	begins := !h.lease.Valid()
	h.lease.extend(sent, d)
	if !begins {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.mu.leased)
	h.mu.leased = make(chan struct{})
}

// stale registers again when the controller does not know this registration: the
// broker was unregistered, or the metadata recovered from before it.
func (h *Heartbeater) stale(ctx context.Context, cause error) error {
	h.lease.end()
	if h.shuttingDown() {
		h.grantShutdown() // nobody expects anything of this broker
		return nil
	}
	h.opts.Logger.Warn("broker is not registered any more; registering again", "cause", cause)
	bounded, cancel := context.WithTimeout(ctx, h.opts.Session)
	defer cancel()
	_, err := h.register(bounded)
	return err
}

func (h *Heartbeater) shuttingDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.wantShutdown
}

func (h *Heartbeater) grantShutdown() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mu.granted {
		h.mu.granted = true
		close(h.mu.shutdown)
	}
}

// Shutdown asks for a controlled shutdown and waits for it: until then the broker
// goes on serving what it still leads. It cannot be taken back, only cut short by ctx;
// then the error is the context's. Run must be running.
func (h *Heartbeater) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.mu.wantShutdown = true
	h.mu.Unlock()
	h.Poke()
	select {
	case <-h.mu.shutdown:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("controlled shutdown of broker %d: %w", h.opts.Registration.BrokerID, ctx.Err())
	}
}

// Active waits until the metadata has this process as active, or as one whose disk is
// full, and its lease has begun:
// from then on it may lead. Run must be running.
func (h *Heartbeater) Active(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	cancel := h.opts.Meta.Subscribe(func(_, _ *metadata.Image, delta metadata.Delta) {
		if len(delta.Brokers) > 0 {
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	defer cancel()
	for {
		h.mu.Lock()
		leased := h.mu.leased
		h.mu.Unlock()
		if b := h.opts.Meta.Image().Broker(h.opts.Registration.BrokerID); b.Staying() && b.Epoch == h.Epoch() && h.lease.Valid() {
			return nil
		}
		select {
		case <-changed:
		case <-leased:
		case <-ctx.Done():
			return fmt.Errorf("broker %d is not active: %w", h.opts.Registration.BrokerID, ctx.Err())
		}
	}
}
