package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// offsetsTopic holds the groups' state.
const offsetsTopic = "__consumer_offsets"

// scanBytes is how much of the offsets topic is read at a time while it loads.
const scanBytes = 1 << 20

// offsetsLog is the group coordinator's view of the offsets topic.
type offsetsLog struct{ b *Broker }

func (l offsetsLog) partition(n int32) (*partition.Partition, error) {
	t := l.b.meta.Image().TopicByName(offsetsTopic)
	if t == nil {
		return nil, kerr.NotCoordinator
	}
	p := l.b.parts.Get(record.TopicPartition{Topic: t.ID, Partition: n})
	if p == nil {
		return nil, kerr.NotCoordinator
	}
	return p, nil
}

// offsetsAppend is one batch of the coordinator on its way.
type offsetsAppend struct {
	partition.Append
	done func(record.Offset, error)
}

func (a *offsetsAppend) AppendWritten(*partition.Append) {}
func (a *offsetsAppend) AppendDone(ap *partition.Append) { a.done(ap.Base, ap.Err) }

// Append implements group.Log.
func (l offsetsLog) Append(n int32, epoch record.Epoch, batch []byte, done func(record.Offset, error)) {
	p, err := l.partition(n)
	if err != nil {
		done(-1, err)
		return
	}
	a := &offsetsAppend{done: done}
	a.Append = partition.Append{Raw: batch, AcksAll: true, Internal: true, ZstdOK: true, LeaderEpoch: epoch, Owner: a}
	p.Append(&a.Append)
}

// Scan implements group.Log.
func (l offsetsLog) Scan(ctx context.Context, n int32, fn func(*record.Batch) error) error {
	p, err := l.partition(n)
	if err != nil {
		return err
	}
	if err := settled(ctx, p); err != nil {
		return fmt.Errorf("watermark of %s-%d: %w", offsetsTopic, n, err)
	}
	var buf []byte
	st := p.State()
	for at := st.LogStart; at < st.HighWatermark; {
		if err := ctx.Err(); err != nil {
			return err
		}
		res, err := p.Read(partition.Read{From: at, Current: -1, LastFetched: -1, MaxBytes: scanBytes, AtLeastOne: true})
		if err != nil {
			return fmt.Errorf("read %s-%d at %d: %w", offsetsTopic, n, at, err)
		}
		if res.Remote {
			// The topic is compacted and so never tiered; to load a part would be to
			// forget groups in silence.
			return fmt.Errorf("read %s-%d at %d: the records are in the object store alone", offsetsTopic, n, at)
		}
		buf, err = res.Slice.ReadAll(buf[:0])
		next := res.Slice.Next
		res.Slice.Release()
		if err != nil {
			return fmt.Errorf("read %s-%d at %d: %w", offsetsTopic, n, at, err)
		}
		if len(buf) == 0 {
			break // compaction has left nothing more
		}
		for batch, err := range record.Batches(buf) {
			if err != nil {
				return fmt.Errorf("read %s-%d at %d: %w", offsetsTopic, n, at, err)
			}
			if err := fn(&batch); err != nil {
				return err
			}
		}
		at = next
	}
	return nil
}

// settled waits until the watermark covers what the log held when this broker
// began to lead (KIP-207): a coordinator that loads before then misses commits
// that were acked.
func settled(ctx context.Context, p *partition.Partition) error {
	w := make(moved, 1)
	p.Watch(w)
	defer p.Unwatch(w)
	for {
		if err := p.CheckLeader(-1); err != nil {
			return err
		}
		if p.State().WatermarkKnown {
			return nil
		}
		select {
		case <-w:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// moved is a partition.Watcher that can be waited on.
type moved chan struct{}

func (m moved) Moved() {
	select {
	case m <- struct{}{}:
	default: // a wake-up is due already
	}
}

func (b *Broker) startGroups() error {
	cfg := group.DefaultConfig()
	cfg.MinSessionTimeout, cfg.MaxSessionTimeout = b.cfg.MinSessionTimeout, b.cfg.MaxSessionTimeout
	cfg.InitialRebalanceDelay, cfg.MaxSize = b.cfg.InitialRebalanceDelay, b.cfg.GroupMaxSize
	cfg.OffsetsRetention = time.Duration(b.cfg.OffsetsRetentionMinutes) * time.Minute
	cfg.OffsetsRetentionCheckInterval = b.cfg.OffsetsRetentionCheck
	cfg.OffsetMetadataMaxSize, cfg.OffsetCommitTimeout = b.cfg.OffsetMetadataMaxBytes, b.cfg.OffsetsCommitTimeout
	var err error
	b.groups, err = group.New(group.Options{Log: offsetsLog{b}, Config: cfg, Logger: b.log, Trusted: b.clockTrusted, Partitions: func() int32 {
		if t := b.meta.Image().TopicByName(offsetsTopic); t != nil {
			return t.Partitions
		}
		return 0
	}})
	if err != nil {
		return fmt.Errorf("group coordinator: %w", err)
	}
	b.undo = append(b.undo, b.groups.Close)
	b.undo = append(b.undo, b.meta.Subscribe(func(_, _ *metadata.Image, d metadata.Delta) {
		for _, t := range d.Deleted {
			b.groups.TopicDeleted(t.ID, t.Name)
		}
	}))
	return nil
}

// leadershipChanged passes leadership of offsets partitions to the coordinator,
// and wakes the archiver.
func (b *Broker) leadershipChanged(p *partition.Partition, leads bool, epoch record.Epoch) {
	if p.Topic() == offsetsTopic {
		if leads {
			b.groups.Lead(p.TP().Partition, epoch)
		} else {
			b.groups.Resign(p.TP().Partition, epoch)
		}
	}
	if b.tier != nil {
		b.tier.poke()
	}
}
