package reclaim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// PolicyOf is the policy of a topic's configuration. The ladder of
// retention.tiers has become retention.ms and local.retention.ms there.
func PolicyOf(c *configdef.TopicConfig) Policy {
	return Policy{
		Delete:  c.CleanupDelete,
		TotalMs: c.RetentionMs, TotalBytes: c.RetentionBytes,
		Tiered:  c.RemoteStorage,
		LocalMs: c.LocalRetentionMs, LocalBytes: c.LocalRetentionBytes,
	}
}

// Replica is one partition that this broker has a replica of.
type Replica struct {
	Partition record.TopicPartition
	// Leader: this broker leads it, in LeaderEpoch. Followers only trim.
	Leader      bool
	LeaderEpoch record.Epoch
	Policy      Policy
	// State without Remote, which Retention looks up.
	State State
}

// Logs is what Retention needs of the partitions of this broker.
type Logs interface {
	// Replicas lists them all.
	Replicas() []Replica
	// Trim drops the local segments that end at or below upTo.
	Trim(tp record.TopicPartition, upTo record.Offset) (freed int64, err error)
	// Roll seals the active segment.
	Roll(tp record.TopicPartition) error
}

// EntryReader reads the remote entries of a partition; metadata.Client is one.
type EntryReader interface {
	Entries(ctx context.Context, tp record.TopicPartition) (manifest.Manifest, error)
}

// Proposer commits commands; metadata.Client is one.
type Proposer interface {
	Propose(ctx context.Context, cmd command.Command) (command.Result, error)
}

// RetentionOptions make a Retention. Those without a default are required.
type RetentionOptions struct {
	Logs     Logs
	Entries  EntryReader
	Metadata Proposer
	// Self is this broker and its present epoch.
	Self func() (brokerID int32, brokerEpoch int64)
	// Interval between two passes; default 5 min
	// (log.retention.check.interval.ms).
	Interval time.Duration
	// Trusted reports whether now, read from this node's clock just now, may be
	// deleted by: it sets State.ClockTrusted. Nil leaves that to Logs.
	Trusted func(now time.Time) bool
	Logger  *slog.Logger // default slog.Default()
}

// Retention applies Decide to the partitions of a broker. It is not safe for
// concurrent use, but for Explain.
type Retention struct{ o RetentionOptions }

// NewRetention makes the loop; Run it.
func NewRetention(o RetentionOptions) (*Retention, error) {
	if o.Logs == nil || o.Entries == nil || o.Metadata == nil || o.Self == nil {
		return nil, errors.New("reclaim: options lack logs, entries, metadata or self")
	}
	setDefault(&o.Interval, 5*time.Minute)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Retention{o}, nil
}

// RetentionPass is what one pass did.
type RetentionPass struct {
	Advanced int   // partitions whose log start rose
	Freed    int64 // bytes on disk
	Rolled   int   // active segments sealed because they are too old
}

// Run makes passes until ctx is done.
func (r *Retention) Run(ctx context.Context) {
	ticker := time.NewTicker(r.o.Interval)
	defer ticker.Stop()
	for {
		pass, err := r.Pass(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			r.o.Logger.Warn("retention: pass failed", "err", err)
		}
		if (pass != RetentionPass{}) {
			r.o.Logger.Info("retention: pass", counted([]count{{"partitions_trimmed", int64(pass.Advanced)}, {"disk_bytes_freed", pass.Freed},
				{"segments_sealed", int64(pass.Rolled)}})...)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// decided is a replica and what is to be done about it.
type decided struct {
	Replica
	Decision
}

// Pass decides about every partition once, and carries that out. One that
// fails does not keep the others from it.
func (r *Retention) Pass(ctx context.Context) (RetentionPass, error) {
	var p RetentionPass
	var errs []error
	var rising []decided
	for _, rep := range r.o.Logs.Replicas() {
		if ctx.Err() != nil {
			return p, errors.Join(append(errs, ctx.Err())...)
		}
		if err := r.load(ctx, &rep); err != nil {
			errs = append(errs, err)
			continue
		}
		now := r.now(&rep)
		d := decided{rep, Decide(now, rep.Policy, rep.State)}
		if !rep.Leader {
			d.Decision = DecideFollower(now, rep.Policy, rep.State)
		}
		if d.LogStart == rep.State.LogStart {
			errs = append(errs, r.local(&p, d))
			continue
		}
		if rising = append(rising, d); len(rising) == batch {
			errs = append(errs, r.advance(ctx, &p, rising))
			rising = nil
		}
	}
	return p, errors.Join(append(errs, r.advance(ctx, &p, rising))...)
}

// now reads the clock for a decision about a replica.
func (r *Retention) now(rep *Replica) time.Time {
	now := time.Now()
	if r.o.Trusted != nil {
		rep.State.ClockTrusted = r.o.Trusted(now)
	}
	return now
}

// load adds the remote entries.
func (r *Retention) load(ctx context.Context, rep *Replica) error {
	if rep.State.RemoteEnd <= rep.State.LogStart {
		return nil
	}
	m, err := r.o.Entries.Entries(ctx, rep.Partition)
	if err != nil {
		return fmt.Errorf("entries of %v: %w", rep.Partition, err)
	}
	// Of one moment: what was copied or cut since the replica was looked at.
	rep.State.Remote = m.Live()
	rep.State.RemoteEnd = m.RemoteEnd()
	rep.State.LogStart = max(rep.State.LogStart, m.LogStart())
	return nil
}

// advance raises log starts in one command, and then trims what that allows.
func (r *Retention) advance(ctx context.Context, p *RetentionPass, ds []decided) error {
	if len(ds) == 0 {
		return nil
	}
	id, epoch := r.o.Self()
	cmd := &command.AdvanceLogStart{BrokerID: id, BrokerEpoch: epoch}
	for _, d := range ds {
		cmd.Partitions = append(cmd.Partitions, command.LogStartChange{Partition: d.Partition, LeaderEpoch: d.LeaderEpoch, LogStart: d.LogStart})
	}
	res, err := r.o.Metadata.Propose(ctx, cmd)
	if err != nil {
		return fmt.Errorf("raise log starts: %w", err)
	}
	var errs []error
	for i, d := range ds {
		if err := res.Items[i].Err; err != nil {
			if !errors.Is(err, command.ErrFenced) { // the new leader will
				errs = append(errs, fmt.Errorf("raise the log start of %v to %d: %w", d.Partition, d.LogStart, err))
			}
			continue
		}
		p.Advanced++
		errs = append(errs, r.local(p, d))
	}
	return errors.Join(errs...)
}

// local trims and rolls the local log. The decision's log start is committed.
func (r *Retention) local(p *RetentionPass, d decided) error {
	if d.Roll {
		if err := r.o.Logs.Roll(d.Partition); err != nil {
			return fmt.Errorf("roll %v: %w", d.Partition, err)
		}
		p.Rolled++
	}
	if len(d.State.Local) == 0 || d.LocalStart <= d.State.Local[0].Base {
		return nil
	}
	freed, err := r.o.Logs.Trim(d.Partition, d.LocalStart)
	p.Freed += freed
	if err != nil {
		return fmt.Errorf("trim %v to %d: %w", d.Partition, d.LocalStart, err)
	}
	return nil
}

// Explain gives the reason for each segment of a replica that is still here.
// It may be called at any time, from any goroutine.
func (r *Retention) Explain(ctx context.Context, rep Replica) ([]Reason, error) {
	if err := r.load(ctx, &rep); err != nil {
		return nil, err
	}
	now := r.now(&rep)
	return Explain(now, rep.Policy, rep.State, nil), nil
}
