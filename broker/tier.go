package broker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/metadata/membership"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/layout"
	"github.com/firnlog/firn/tiering/objstore/location"
	"github.com/firnlog/firn/tiering/reclaim"
	"github.com/firnlog/firn/tiering/remote"
)

// storeName is what the one object store is called in the metadata, and in
// retention.tiers unless tier.stores names others.
const storeName = "warm"

// generation is the recovery generation of a cluster that was never recovered.
const generation = 1

// tier is the node's side of the object store: copying, reading, deleting.
type tier struct {
	location location.Location
	driver   objstore.Store // without retries
	store    *objstore.Retrying
	layout   layout.Layout
	cache    *cache.Cache
	reader   *remote.Reader
	archiver *archive.Archiver
	owner    *reclaim.Owner
	sweeper  *reclaim.Sweeper
	health   *storeHealth
}

func (b *Broker) startTier() error {
	if !b.cfg.RemoteEnable {
		return nil
	}
	t := &tier{}
	var err error
	if t.location, err = location.Parse(b.cfg.StoreURL); err != nil {
		return fmt.Errorf("object.store.url: %w", err)
	}
	store, err := t.location.Open(context.Background(), location.Options{})
	if err != nil {
		return fmt.Errorf("object.store.url: %w", err)
	}
	if t.location.Driver == "mem" {
		b.log.Warn("object.store.url is mem: what is moved there is lost when this process ends")
	}
	t.health = newStoreHealth(b.log, t.location.String())
	t.driver = store
	store = objstore.WithRates(store, b.cfg.UploadBytesPerSecond, b.cfg.ReadBytesPerSecond)
	t.store = objstore.WithRetries(store, objstore.RetryOptions{PutTimeout: b.cfg.UploadTimeout, Observe: t.health.observe})
	b.undo = append(b.undo, func() {
		if err := t.store.Close(); err != nil {
			b.log.Warn("close object store", "err", err)
		}
	})
	if t.layout, err = layout.New(t.location.Prefix, b.meta.Image().ClusterID()); err != nil {
		return fmt.Errorf("object layout: %w", err)
	}
	if t.cache, err = cache.Open(cache.Options{MemoryBytes: b.cfg.CacheMemoryBytes, DiskBytes: b.cfg.CacheDiskBytes,
		Dir: b.cfg.CacheDir, Logger: b.log}); err != nil {
		return fmt.Errorf("cache %s: %w", b.cfg.CacheDir, err)
	}
	b.undo = append(b.undo, func() {
		if err := t.cache.Close(); err != nil {
			b.log.Warn("close cache", "err", err)
		}
	})
	if t.reader, err = remote.New(remote.Options{Entries: b.meta, Locate: func(ctx context.Context, id uuid.UUID) (remote.Location, error) {
		return t.locate(ctx, b, id)
	}, Cache: t.cache, Logger: b.log, ParallelGets: b.cfg.ReaderConcurrency,
		// What is read ahead is pinned in memory: it must not push out what is read.
		ReadAheadBytes: max(b.cfg.CacheMemoryBytes/2, 1), ReadAheadWindow: max(b.cfg.CacheMemoryBytes/4, 1)}); err != nil {
		return fmt.Errorf("remote reader: %w", err)
	}
	b.undo = append(b.undo, func() {
		if err := t.reader.Close(); err != nil {
			b.log.Warn("close remote reader", "err", err)
		}
	})
	b.tier = t
	return b.startArchive()
}

// locate finds an object by the metadata.
func (t *tier) locate(ctx context.Context, b *Broker, id uuid.UUID) (remote.Location, error) {
	o, ok, err := b.meta.Object(ctx, id)
	if err != nil {
		return remote.Location{}, fmt.Errorf("object %s: %w", id, err)
	}
	if !ok {
		return remote.Location{}, remote.ErrNotFound
	}
	return remote.Location{Store: t.store, Key: t.layout.Object(id), Size: o.Size, Footer: o.Footer}, nil
}

// emptySpool makes the directory for objects that are put together before their
// upload (compressed ones). What an earlier life left there nobody will upload.
func emptySpool(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, 0o750)
}

func (b *Broker) startArchive() error {
	t := b.tier
	codec := object.CodecNone
	if b.cfg.ObjectCompression == "zstd" {
		codec = object.CodecZstd
	}
	stores := map[string]objstore.Store{storeName: t.store}
	spool := filepath.Join(b.cfg.DataDir, "spool")
	err := emptySpool(spool)
	if err != nil {
		return fmt.Errorf("spool of objects: %w", err)
	}
	t.archiver, err = archive.New(archive.Options{
		Partitions: tierSource{b}, Metadata: b.meta, Stores: stores, Layout: t.layout, Logger: b.log,
		Builder: &archive.ObjectBuilder{Ranges: tierSource{b}, Now: func() int64 { return time.Now().UnixMilli() },
			Meta: object.Meta{Codec: codec, SpoolDir: spool,
				Provenance: object.Provenance{ClusterID: b.meta.Image().ClusterID(), NodeID: b.cfg.ID}}},
		Machine:  archive.MachineOptions{Concurrency: b.cfg.UploadConcurrency},
		Interval: b.cfg.TaskInterval, StoreDown: t.health.down,
	})
	if err != nil {
		return fmt.Errorf("archiver: %w", err)
	}
	if t.owner, err = reclaim.NewOwner(t.store, t.layout, generation, b.meta.Image().ClusterID()); err != nil {
		return fmt.Errorf("owner of the bucket: %w", err)
	}
	t.sweeper, err = reclaim.NewSweeper(reclaim.SweepOptions{
		Metadata: reclaim.FromClient(b.meta), Stores: stores, Layout: t.layout, Owner: t.owner,
		Self: func() (int32, int64) { return b.cfg.ID, b.epoch() }, Grace: b.cfg.DeleteGrace,
		Interval: b.cfg.TaskInterval, StoreDown: t.health.down, Logger: b.log,
	})
	if err != nil {
		return fmt.Errorf("sweeper: %w", err)
	}
	return nil
}

// epoch is this process's broker epoch.
func (b *Broker) epoch() int64 {
	if self := b.meta.Image().Broker(b.cfg.ID); self != nil {
		return self.Epoch
	}
	return -1
}

// run starts the loops, once the partitions are open.
func (t *tier) run(b *Broker) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	// Nothing is copied to a store that has not proved itself, or deleted. The
	// archiver runs all the same, since it is who knows what waits.
	t.archiver.SetPaused(true)
	wg.Go(func() { t.archiver.Run(ctx) })
	wg.Go(func() {
		if t.prove(ctx, b) {
			t.archiver.SetPaused(false)
			close(b.cluster.swept)
		}
	})
	b.undo = append(b.undo, func() { cancel(); wg.Wait() })
}

const (
	// proveEvery is the pace of attempts to reach a store that does not answer yet.
	proveEvery = 5 * time.Second
	// proveTimeout ends an attempt at a store that hangs.
	proveTimeout = 30 * time.Second
)

// prove tries the store out until it answers. A bucket that is missing is made.
// False means that ctx ended, or that the store cannot be trusted: it overwrites
// in spite of a condition, which would let a late upload replace an object.
func (t *tier) prove(ctx context.Context, b *Broker) bool {
	for {
		attempt, cancel := context.WithTimeout(ctx, proveTimeout)
		_, err := objstore.Probe(attempt, t.driver, t.layout.Probe(uuid.New()))
		cancel()
		if errors.Is(err, objstore.ErrNotExist) {
			if maker, ok := t.driver.(objstore.BucketCreator); ok {
				if err = maker.CreateBucket(ctx); err == nil {
					b.log.Info("bucket made", "store", t.location.String())
					continue
				}
			}
		}
		t.health.observe(objstore.Attempt{Op: opProbe, Err: err})
		switch {
		case err == nil:
			return true
		case ctx.Err() != nil:
			return false
		case errors.Is(err, objstore.ErrInvalid):
			b.log.Error("the object store cannot be used: nothing is copied to it", "store", t.location.String(), "err", err)
			return false
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(proveEvery):
		}
	}
}

// lastRemoteState asks the bucket where a partition's history ends; nil without one.
func (b *Broker) lastRemoteState() partition.RemoteState {
	if b.tier == nil {
		return nil
	}
	return b.tier.reader.LastState
}

// poke says that there may be something to copy.
func (t *tier) poke() { t.archiver.Poke() }

// tierSource shows the archiver the partitions that this broker leads.
type tierSource struct{ b *Broker }

// Leads implements archive.PartitionSource.
func (s tierSource) Leads() []archive.Led {
	var all []archive.Led
	epoch := s.b.epoch()
	for p := range s.b.parts.All() {
		cfg := p.Config()
		if !cfg.RemoteStorage || cfg.RemoteCopyDisable {
			continue
		}
		st := p.State()
		if st.Role != replica.Leader {
			continue
		}
		led := archive.Led{Partition: p.TP(), Topic: p.Topic(), Store: storeName, Generation: generation, Start: st.RemoteEnd,
			Fence: command.Fence{BrokerID: s.b.cfg.ID, BrokerEpoch: epoch, LeaderEpoch: st.LeaderEpoch}}
		led.Sealed = sealedDue(p, cfg, led.Start, st.LastStable)
		all = append(all, led)
	}
	return all
}

// sealedDue are the sealed segments above start that are committed and due to be
// copied (remote.copy.lag.*), oldest first.
func sealedDue(p *partition.Partition, cfg *configdef.TopicConfig, start, stable record.Offset) []archive.Sealed {
	segments := p.Log().Segments()
	var newer int64 // bytes behind the segment
	for i := range segments {
		newer += segments[i].Bytes
	}
	var due []archive.Sealed
	now := time.Now().UnixMilli()
	for _, seg := range segments {
		newer -= seg.Bytes
		if seg.End <= start {
			continue
		}
		if !seg.Sealed || seg.End > stable || !cfg.CopyDue(now-seg.MaxTimestamp, newer) {
			break
		}
		due = append(due, archive.Sealed{End: seg.End, Bytes: seg.Bytes, At: seg.LastAppend})
	}
	return due
}

// rangePiece is how much of a log one read of OpenRange selects.
const rangePiece = 1 << 30

// OpenRange implements archive.Ranges: it holds the files of a range open until
// its object is uploaded.
func (s tierSource) OpenRange(ctx context.Context, c archive.Copy) (archive.Range, error) {
	p := s.b.parts.Get(c.Led.Partition)
	if p == nil {
		return archive.Range{}, fmt.Errorf("%w: %s is not here any more", archive.ErrSource, c.Led.Partition)
	}
	log := p.Log()
	var slices []commitlog.Slice
	release := func() error {
		for i := range slices {
			slices[i].Release()
		}
		return nil
	}
	run := object.RunSource{Run: object.Run{TopicPartition: p.TP(), TopicName: p.Topic(), Start: c.Start, End: c.End,
		LogStart: p.LogStart(), Epochs: epochsIn(log.Epochs(), c.Start, c.End),
		Config: s.b.meta.Image().Configs(command.ResourceTopic, p.Topic())}}
	for at := c.Start; at < c.End; {
		slice, err := log.Read(at, c.End, rangePiece, true)
		if err == nil && slice.Bytes == 0 {
			break // compaction has left nothing up to the end
		}
		if err != nil {
			return archive.Range{}, errors.Join(fmt.Errorf("%w: read %s at %d: %w", archive.ErrSource, p.TP(), at, err), release())
		}
		slices = append(slices, slice)
		for _, x := range slice.Extents {
			run.Extents = append(run.Extents, object.Extent{File: x.File, Pos: x.Pos, Len: x.Len})
		}
		at = slice.Next
	}
	var err error
	if run.Producers, err = log.ProducerSnapshotAt(c.End); err != nil {
		return archive.Range{}, errors.Join(fmt.Errorf("%w: producers of %s at %d: %w", archive.ErrSource, p.TP(), c.End, err), release())
	}
	aborted, err := log.AbortedTxns(c.Start, c.End)
	if err != nil {
		return archive.Range{}, errors.Join(fmt.Errorf("%w: aborted transactions of %s: %w", archive.ErrSource, p.TP(), err), release())
	}
	for _, a := range aborted {
		run.Aborted = append(run.Aborted, object.AbortedTxn{ProducerID: a.ProducerID, First: a.First, Last: a.Last, LastStable: a.LastStable})
	}
	if prev, ok, err := s.b.meta.FindEntry(ctx, p.TP(), c.Start-1); err == nil && ok {
		run.Predecessor = prev.Object
	} else if err != nil {
		return archive.Range{}, errors.Join(fmt.Errorf("entry before %s at %d: %w", p.TP(), c.Start, err), release())
	}
	return archive.Range{Source: run, Release: release}, nil
}

// epochsIn are the leader epochs of [start, end) that have records, the first
// beginning at or below start. The log keeps the empty ones too (a start without
// a record after it makes one), which begin where the next one does.
func epochsIn(all []commitlog.EpochStart, start, end record.Offset) []object.EpochStart {
	var out []object.EpochStart
	for i, e := range all {
		last := i+1 == len(all) || all[i+1].Start > max(start, e.Start)
		if e.Start < end && last {
			out = append(out, object.EpochStart{Epoch: e.Epoch, Start: e.Start})
		}
	}
	return out
}

// tierLogs shows retention the partitions of this broker, and trims them.
type tierLogs struct{ b *Broker }

// Replicas implements reclaim.Logs.
func (l tierLogs) Replicas() []reclaim.Replica {
	all := make([]reclaim.Replica, 0, l.b.parts.Len())
	for p := range l.b.parts.All() {
		all = append(all, l.replica(p))
	}
	return all
}

func (l tierLogs) replica(p *partition.Partition) reclaim.Replica {
	st := p.State()
	rep := reclaim.Replica{Partition: p.TP(), Leader: st.Role == replica.Leader, LeaderEpoch: st.LeaderEpoch,
		Policy: reclaim.PolicyOf(p.Config()),
		State:  reclaim.State{LogStart: st.LogStart, RemoteEnd: st.RemoteEnd, Stable: st.LastStable}}
	for _, seg := range p.Log().Segments() {
		rep.State.Local = append(rep.State.Local, reclaim.Segment{Base: seg.Base, End: seg.End, Bytes: seg.Bytes,
			MaxTimestamp: seg.MaxTimestamp, Sealed: seg.Sealed})
	}
	return rep
}

// clockTrusted reports whether now, read from this node's clock just now, is near the
// cluster's time: a node whose clock is off deletes nothing by time, and none does while
// nobody can tell whose is.
func (b *Broker) clockTrusted(now time.Time) bool {
	behind, known := b.cluster.beats.ClockBehind(now)
	return known && !b.cluster.beats.ClockUnsure() && behind.Abs() <= membership.MaxClockSkew
}

// now is the time that records are judged and stamped by: what this node's clock says,
// or, while that is off for sure, what it would say if it were set.
func (b *Broker) now() time.Time {
	now := time.Now()
	if behind, known := b.cluster.beats.ClockBehind(now); known && !b.cluster.beats.ClockUnsure() && behind.Abs() > membership.MaxClockSkew {
		return now.Add(behind).Round(0)
	}
	return now
}

// deliverTimeout bounds the wait for metadata that is committed already.
const deliverTimeout = 5 * time.Second

// Trim implements reclaim.Logs.
func (l tierLogs) Trim(tp record.TopicPartition, upTo record.Offset) (int64, error) {
	p := l.b.parts.Get(tp)
	if p == nil {
		return 0, nil // gone meanwhile, with its log
	}
	// What was decided by must have come to the partition: it trims no further
	// than it knows.
	ctx, cancel := context.WithTimeout(context.Background(), deliverTimeout)
	defer cancel()
	if err := l.b.meta.Delivered(ctx, l.b.meta.Image().Index()); err != nil {
		return 0, fmt.Errorf("wait for the metadata: %w", err)
	}
	freed, err := p.Trim(upTo)
	if errors.Is(err, commitlog.ErrClosed) {
		err = nil // gone meanwhile, as above
	}
	return freed, err
}

// Roll implements reclaim.Logs.
func (l tierLogs) Roll(tp record.TopicPartition) error {
	p := l.b.parts.Get(tp)
	if p == nil {
		return nil
	}
	_, err := p.Log().Roll()
	return err
}

// startRetention keeps the topics within their bounds, tiered or not.
func (b *Broker) startRetention() error {
	var err error
	b.retention, err = reclaim.NewRetention(reclaim.RetentionOptions{Logs: tierLogs{b}, Entries: b.meta, Metadata: b.meta,
		Self: func() (int32, int64) { return b.cfg.ID, b.epoch() }, Interval: b.cfg.RetentionCheck, Trusted: b.clockTrusted, Logger: b.log})
	if err != nil {
		return fmt.Errorf("retention: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.retention.Run(ctx) })
	b.undo = append(b.undo, func() { cancel(); wg.Wait() })
	b.every(max(b.cfg.RetentionCheck, time.Second), b.dropDisabled)
	return nil
}

// dropDisabled raises the log start to what is on disk for topics whose tiering
// was switched off together with its data (remote.log.delete.on.disable). What
// the bucket holds below goes the way of everything below the log start.
func (b *Broker) dropDisabled(ctx context.Context) {
	cmd := &command.AdvanceLogStart{BrokerID: b.cfg.ID, BrokerEpoch: b.epoch()}
	for p := range b.parts.All() {
		cfg, st := p.Config(), p.State()
		if !cfg.RemoteStorage && cfg.RemoteDeleteOnDisable && st.Role == replica.Leader && st.LocalStart > st.LogStart {
			cmd.Partitions = append(cmd.Partitions, command.LogStartChange{Partition: p.TP(), LeaderEpoch: st.LeaderEpoch, LogStart: st.LocalStart})
		}
	}
	if len(cmd.Partitions) == 0 {
		return
	}
	res, err := b.meta.Propose(ctx, cmd)
	if err != nil {
		b.log.Warn("dropping the remote data of topics that are tiered no longer failed; it is tried again", "err", err)
		return
	}
	for i, item := range res.Items {
		if item.Err != nil && !errors.Is(item.Err, command.ErrFenced) {
			b.log.Warn("remote data was not dropped", "partition", cmd.Partitions[i].Partition, "err", item.Err)
		}
	}
}
