package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/layout"
)

// Options make an Archiver. Those without a default are required.
type Options struct {
	Partitions PartitionSource
	Builder    Builder
	Metadata   Metadata
	// Stores are the stores by the name in Led.Store. They should retry
	// (objstore.WithRetries): the archiver's own wait is for outages.
	Stores map[string]objstore.Store
	Layout layout.Layout
	// StorageClass of the objects, by store name; may be nil.
	StorageClass map[string]string
	Machine      MachineOptions // NewID and Jitter have defaults here
	// Interval between two looks at the partitions, if nothing calls Poke;
	// default 5 s. MinInterval is the least time between two; default 100 ms.
	Interval, MinInterval time.Duration
	// ProposeTimeout of one command; default 30 s.
	ProposeTimeout time.Duration
	// StoreDown reports whether somebody has told already that the object store does not
	// answer: steps that fail for that reason are then no warning. Nil: nobody has.
	StoreDown func() bool
	Logger    *slog.Logger // default slog.Default()
}

func (o *Options) fill() {
	if o.Machine.NewID == nil {
		o.Machine.NewID = uuid.New
	}
	if o.Machine.Jitter == nil {
		o.Machine.Jitter = rand.Float64
	}
	if o.Interval <= 0 {
		o.Interval = 5 * time.Second
	}
	if o.MinInterval <= 0 {
		o.MinInterval = 100 * time.Millisecond
	}
	if o.ProposeTimeout <= 0 {
		o.ProposeTimeout = 30 * time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
}

// Archiver carries out what a Machine decides. Make one with New, and Run it.
type Archiver struct {
	o       Options
	poke    chan struct{}
	results chan Event
	effects sync.WaitGroup

	mu      sync.Mutex // guards what follows
	machine *Machine
	cancels map[record.TopicPartition]context.CancelFunc // of uploads
}

// New makes an archiver. It does nothing until Run.
func New(o Options) (*Archiver, error) {
	if o.Partitions == nil || o.Builder == nil || o.Metadata == nil || len(o.Stores) == 0 || o.Layout == (layout.Layout{}) {
		return nil, errors.New("archive: options lack partitions, builder, metadata, stores or layout")
	}
	o.fill()
	return &Archiver{
		o: o, poke: make(chan struct{}, 1), results: make(chan Event),
		machine: NewMachine(o.Machine), cancels: map[record.TopicPartition]context.CancelFunc{},
	}, nil
}

// Poke says that there may be something new: a segment was sealed, the
// watermark passed one, a partition is led anew or no longer. It never blocks.
func (a *Archiver) Poke() {
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// SetPaused stops new copies from being begun, or lets them be.
func (a *Archiver) SetPaused(paused bool) {
	a.mu.Lock()
	a.machine.SetPaused(paused)
	a.mu.Unlock()
	a.Poke()
}

// Stats sums up all partitions.
func (a *Archiver) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machine.Stats()
}

// Status is the state of one partition; false if it is not led or not tiered.
func (a *Archiver) Status(tp record.TopicPartition) (Status, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.machine.Status(tp)
}

// Run copies until ctx is done, and returns when everything it began has
// ended. Copies under way are cut off; their intents are cleaned up by the
// broker's next life, which has another epoch. Run must be called once.
func (a *Archiver) Run(ctx context.Context) {
	defer a.effects.Wait()
	wake := time.NewTimer(0)
	defer wake.Stop()
	var observed time.Time
	look := true // at the partitions, when the time comes
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.poke:
			look = true
		case e := <-a.results:
			a.log(e)
			a.act(ctx, func(now time.Time) []Effect { return a.machine.Step(now, e) })
		case <-wake.C:
			look = look || time.Since(observed) >= a.o.Interval
			a.act(ctx, a.machine.Tick)
		}
		if look && time.Since(observed) >= a.o.MinInterval {
			leads := a.o.Partitions.Leads()
			observed, look = time.Now(), false
			a.act(ctx, func(now time.Time) []Effect { return a.machine.Observe(now, leads) })
		}
		wake.Reset(a.nextWake(observed, look))
	}
}

func (a *Archiver) nextWake(observed time.Time, look bool) time.Duration {
	wake := observed.Add(a.o.Interval)
	if look {
		wake = observed.Add(a.o.MinInterval)
	}
	a.mu.Lock()
	at := a.machine.NextWake()
	a.mu.Unlock()
	if !at.IsZero() && at.Before(wake) {
		wake = at
	}
	return max(0, time.Until(wake))
}

// act lets the machine decide and begins the effects, in order.
func (a *Archiver) act(ctx context.Context, decide func(now time.Time) []Effect) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range decide(time.Now()) {
		if c, ok := e.(Cancel); ok {
			if cancel := a.cancels[c.Partition]; cancel != nil {
				cancel()
			}
			continue
		}
		effectCtx, cancel := context.WithCancel(ctx)
		if u, ok := e.(Upload); ok {
			a.cancels[u.Copy.Led.Partition] = cancel
		}
		a.effects.Go(func() {
			event := a.carryOut(effectCtx, e)
			cancel()
			select {
			case a.results <- event:
			case <-ctx.Done():
			}
		})
	}
}

func (a *Archiver) carryOut(ctx context.Context, e Effect) Event {
	switch e := e.(type) {
	case Propose:
		ctx, cancel := context.WithTimeout(ctx, a.o.ProposeTimeout)
		defer cancel()
		res, err := a.o.Metadata.Propose(ctx, e.Command)
		return Proposed{e.Copy, res, err}
	case Upload:
		up, err := a.upload(ctx, e.Copy)
		a.mu.Lock()
		delete(a.cancels, e.Copy.Led.Partition)
		a.mu.Unlock()
		return Uploaded{e.Copy, up, err}
	case Verify:
		return Verified{e.Copy, a.verify(ctx, e)}
	}
	panic(fmt.Sprintf("archive: effect %T", e))
}

func (a *Archiver) store(c Copy) (objstore.Store, error) {
	s := a.o.Stores[c.Led.Store]
	if s == nil {
		return nil, fmt.Errorf("%w: no store is named %q in this broker's configuration", ErrSource, c.Led.Store)
	}
	return s, nil
}

func (a *Archiver) upload(ctx context.Context, c Copy) (up UploadedObject, err error) {
	store, err := a.store(c)
	if err != nil {
		return up, err
	}
	built, err := a.o.Builder.Build(ctx, c)
	if err != nil {
		return up, err
	}
	defer func() { err = errors.Join(err, built.Close()) }()
	_, err = store.Put(ctx, a.o.Layout.Object(c.Object), built.Body, built.Size, objstore.PutOptions{
		IfAbsent: true, Checksum: built.Checksum, StorageClass: a.o.StorageClass[c.Led.Store],
	})
	return UploadedObject{Size: built.Size, Checksum: built.Checksum, Footer: built.Footer, Entry: built.Entry}, err
}

func (a *Archiver) verify(ctx context.Context, e Verify) error {
	store, err := a.store(e.Copy)
	if err != nil {
		return err
	}
	_, err = objstore.Verify(ctx, store, a.o.Layout.Object(e.Copy.Object), e.Uploaded.Size, e.Uploaded.Checksum, false)
	return err
}

// log tells of steps that failed, and of copies that were committed.
func (a *Archiver) log(e Event) {
	c := e.of()
	attrs := []any{"topic", c.Led.Topic, "partition", c.Led.Partition.Partition, "object", c.Object, "start", c.Start, "end", c.End}
	var err error
	step := ""
	switch e := e.(type) {
	case Proposed:
		step, err = "commit", e.Err
	case Uploaded:
		step, err = "upload", e.Err
	case Verified:
		step, err = "verify", e.Err
	}
	attrs = append(attrs, "step", step)
	if err == nil {
		a.o.Logger.Debug("archive: step done", attrs...)
		return
	}
	level, why := judge(err)
	if level == slog.LevelWarn && storeAway(err) && a.o.StoreDown != nil && a.o.StoreDown() {
		level, why = slog.LevelDebug, "step failed: the object store does not answer"
	}
	a.o.Logger.Log(context.Background(), level, "archive: "+why, append(attrs, "err", err)...)
}

// judge says what a failed step means, and who needs to hear of it: races with other
// brokers, and with the end of this one, are part of the design and end by themselves.
func judge(err error) (slog.Level, string) {
	is := func(targets ...error) bool {
		return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
	}
	switch {
	case is(context.Canceled, metadata.ErrClosed, commitlog.ErrClosed):
		return slog.LevelDebug, "step was given up: the partition, or this broker, serves no more"
	case is(command.ErrStaleLeaderEpoch, command.ErrStaleBrokerEpoch, command.ErrNotLeader, command.ErrFenced):
		return slog.LevelInfo, "copy ended: another broker leads the partition now"
	case is(command.ErrRange, command.ErrNotFound):
		return slog.LevelInfo, "copy ended: it was superseded, by another copy, by retention, or by the topic's deletion"
	case is(metadata.ErrNotLeader, metadata.ErrUnknownOutcome):
		return slog.LevelInfo, "step waits for the metadata's leader, and is tried again"
	}
	return slog.LevelWarn, "step failed"
}

// storeAway reports whether a step failed because the store serves nobody here.
func storeAway(err error) bool {
	return errors.Is(err, objstore.ErrTransient) || errors.Is(err, objstore.ErrDenied) || errors.Is(err, context.DeadlineExceeded)
}
