package broker

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/commitlog"
)

// cleaner compacts the local logs of compacted topics that are not tiered; the
// log itself decides whether a pass pays (min.cleanable.dirty.ratio).
type cleaner struct {
	passes, records, bytes atomic.Int64 // done; dropped records; freed bytes
	failures               atomic.Int64
}

func (b *Broker) startCleaner() {
	b.cleaner = &cleaner{}
	if b.cfg.CleanerEnable {
		b.every(max(b.cfg.CleanerBackoff, time.Second), b.clean)
	}
}

// clean makes one pass. While the clock is off it waits: tombstones would go too soon.
func (b *Broker) clean(ctx context.Context) {
	if !b.clockTrusted(time.Now()) {
		return
	}
	var g errgroup.Group
	g.SetLimit(max(b.cfg.CleanerThreads, 1))
	for p := range b.parts.All() {
		if cfg := p.Config(); !cfg.CleanupCompact || cfg.RemoteStorage {
			continue
		}
		g.Go(func() error {
			b.cleaner.clean(ctx, b, p)
			return nil
		})
	}
	_ = g.Wait() // the functions report by themselves
}

func (c *cleaner) clean(ctx context.Context, b *Broker, p *partition.Partition) {
	st := p.State()
	if st.Role == replica.Offline {
		return
	}
	stats, err := p.Log().Compact(ctx, commitlog.CompactOptions{Now: time.Now(), UpTo: st.LastStable})
	switch {
	case err == nil && stats.Cleaned:
		c.passes.Add(1)
		c.records.Add(stats.RecordsIn - stats.RecordsOut)
		c.bytes.Add(stats.BytesIn - stats.BytesOut)
	case err != nil && ctx.Err() == nil && !errors.Is(err, commitlog.ErrClosed) && !errors.Is(err, commitlog.ErrStale):
		c.failures.Add(1)
		b.log.Error("compaction failed", "topic", p.Topic(), "partition", p.TP().Partition, "err", err)
	}
}
