package reclaim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
)

// batch bounds what one command or one round of deletes carries.
const batch = 256

// Pass is what one pass of the Sweeper did.
type Pass struct {
	Abandoned     int // intents given up whose owner is gone
	Started       int // entries whose deletion began
	Deleted       int // objects that the store confirmed as gone
	DeletedBytes  int64
	Waiting       int // objects in their grace period
	Purged        int // topics
	Orphans       int // deleted ones
	OrphansListed int // objects looked at
	Foreign       int // keys below our prefix that are not ours; left alone
}

// attrs are what happened, for the log.
func (p Pass) attrs() []any {
	return counted([]count{{"intents_given_up", int64(p.Abandoned)}, {"deletions_begun", int64(p.Started)}, {"objects_deleted", int64(p.Deleted)},
		{"bytes_deleted", p.DeletedBytes}, {"in_grace", int64(p.Waiting)}, {"topics_purged", int64(p.Purged)},
		{"orphans_deleted", int64(p.Orphans)}, {"foreign_keys", int64(p.Foreign)}})
}

type count struct {
	name string
	n    int64
}

// counted leaves out what did not happen.
func counted(counts []count) []any {
	var attrs []any
	for _, c := range counts {
		if c.n != 0 {
			attrs = append(attrs, c.name, c.n)
		}
	}
	return attrs
}

// Sweeper takes deletions to their end. It is not safe for concurrent use: the
// metadata leader has one, and makes a new one each time it is elected.
type Sweeper struct {
	o SweepOptions
	// logStarts are as of the last visit to each partition.
	logStarts map[record.TopicPartition]record.Offset
	// deleting is when this process first saw each object as deleting.
	deleting    map[uuid.UUID]time.Time
	orphansNext time.Time
}

// NewSweeper makes a sweeper.
func NewSweeper(o SweepOptions) (*Sweeper, error) {
	if o.Metadata == nil || len(o.Stores) == 0 || o.Owner == nil || o.Self == nil {
		return nil, errors.New("reclaim: options lack metadata, stores, owner or self")
	}
	o.fill()
	return &Sweeper{o: o, logStarts: map[record.TopicPartition]record.Offset{}, deleting: map[uuid.UUID]time.Time{}}, nil
}

// Run makes passes until ctx is done. A pass that fails is logged, and the
// next one goes on where it ended.
func (s *Sweeper) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		pass, err := s.Pass(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && s.storeDown(err):
			s.o.Logger.Debug("reclaim: pass failed: the object store does not answer", "err", err)
		case err != nil:
			s.o.Logger.Warn("reclaim: pass failed", "err", err)
		case pass != Pass{Waiting: pass.Waiting, OrphansListed: pass.OrphansListed}:
			s.o.Logger.Info("reclaim: pass", pass.attrs()...)
		}
		timer.Reset(s.o.Interval)
	}
}

// storeDown reports whether err is of an object store that is known not to answer.
func (s *Sweeper) storeDown(err error) bool {
	return s.o.StoreDown != nil && s.o.StoreDown() &&
		(errors.Is(err, objstore.ErrTransient) || errors.Is(err, objstore.ErrDenied) || errors.Is(err, context.DeadlineExceeded))
}

// Pass makes one pass over all that is to be deleted. What one part cannot do
// does not keep the others from their work; the errors come back joined.
func (s *Sweeper) Pass(ctx context.Context) (Pass, error) {
	var p Pass
	err := errors.Join(s.abandonStale(ctx, &p), s.startExpired(ctx, &p), s.tombstones(ctx, &p))
	if ctx.Err() != nil {
		return p, err
	}
	if ownErr := s.o.Owner.Check(ctx); ownErr != nil {
		return p, errors.Join(err, fmt.Errorf("nothing is deleted in the bucket: %w", ownErr))
	}
	err = errors.Join(err, s.deleteRipe(ctx, &p))
	if !time.Now().Before(s.orphansNext) && ctx.Err() == nil {
		orphanErr := s.orphans(ctx, &p)
		if orphanErr == nil {
			s.orphansNext = time.Now().Add(s.o.OrphanInterval)
		}
		err = errors.Join(err, orphanErr)
	}
	return p, err
}

// abandonStale gives up the intents whose owner can no longer commit: its
// broker has registered anew or is gone, another leads, or the topic is.
func (s *Sweeper) abandonStale(ctx context.Context, p *Pass) error {
	var stale []metadata.Object
	for o, err := range s.o.Metadata.PendingObjects(ctx) {
		if err != nil {
			return fmt.Errorf("list pending objects: %w", err)
		}
		if o.State == metadata.ObjectCopying && s.isStale(&o) {
			stale = append(stale, o)
		}
	}
	for _, o := range stale {
		id, epoch := s.o.Self()
		_, err := s.o.Metadata.Propose(ctx, &command.CopyAbandoned{BrokerID: id, BrokerEpoch: epoch, Object: o.ID, Time: time.Now().UnixMilli()})
		if errors.Is(err, command.ErrInvalid) {
			continue // it was committed just now
		}
		if err != nil {
			return fmt.Errorf("give up the copy %v of %v: %w", o.ID, o.Partition, err)
		}
		p.Abandoned++
	}
	return nil
}

func (s *Sweeper) isStale(o *metadata.Object) bool {
	if epoch, ok := s.o.Metadata.BrokerEpoch(o.BrokerID); !ok || epoch != o.BrokerEpoch {
		return true
	}
	epoch, ok := s.o.Metadata.LeaderEpoch(o.Partition)
	return !ok || epoch > o.LeaderEpoch
}

// startExpired begins the deletion of the entries below the log starts.
// Partitions whose log start has not moved since the last visit are skipped.
func (s *Sweeper) startExpired(ctx context.Context, p *Pass) error {
	seen := make(map[record.TopicPartition]struct{}, len(s.logStarts))
	for tp, logStart := range s.o.Metadata.LogStarts() {
		seen[tp] = struct{}{}
		if last, ok := s.logStarts[tp]; ok && last == logStart {
			continue
		}
		m, err := s.o.Metadata.Entries(ctx, tp)
		if err != nil {
			return fmt.Errorf("entries of %v: %w", tp, err)
		}
		if err := s.startDeletes(ctx, p, tp, m.Expired()); err != nil {
			return err
		}
		s.logStarts[tp] = min(logStart, m.LogStart())
	}
	for tp := range s.logStarts {
		if _, ok := seen[tp]; !ok {
			delete(s.logStarts, tp)
		}
	}
	return nil
}

func (s *Sweeper) startDeletes(ctx context.Context, p *Pass, tp record.TopicPartition, entries []manifest.Entry) error {
	for len(entries) > 0 {
		now := entries[:min(len(entries), batch)]
		entries = entries[len(now):]
		id, epoch := s.o.Self()
		cmd := &command.DeleteStarted{BrokerID: id, BrokerEpoch: epoch, Time: time.Now().UnixMilli()}
		for _, e := range now {
			cmd.Entries = append(cmd.Entries, command.EntryKey{Partition: tp, Start: e.Start, Object: e.Object})
		}
		res, err := s.o.Metadata.Propose(ctx, cmd)
		if err != nil {
			return fmt.Errorf("begin to delete entries of %v: %w", tp, err)
		}
		for i, item := range res.Items {
			if item.Err != nil {
				return fmt.Errorf("begin to delete %v [%d, %d): %w", tp, now[i].Start, now[i].End, item.Err)
			}
			p.Started++
		}
	}
	return nil
}

// tombstones takes the entries of deleted topics away, and forgets the topics
// that have none left and no object on its way.
func (s *Sweeper) tombstones(ctx context.Context, p *Pass) error {
	tombs, err := s.o.Metadata.Tombstones(ctx)
	if err != nil {
		return fmt.Errorf("list deleted topics: %w", err)
	}
	if len(tombs) == 0 {
		return nil
	}
	busy := map[record.TopicID]bool{} // topics with objects that are not gone yet
	for _, t := range tombs {
		for i := range t.Partitions {
			tp := record.TopicPartition{Topic: t.Topic, Partition: i}
			m, err := s.o.Metadata.Entries(ctx, tp)
			if err != nil {
				return fmt.Errorf("entries of %v: %w", tp, err)
			}
			if err := s.startDeletes(ctx, p, tp, m.Entries()); err != nil {
				return err
			}
		}
	}
	for o, err := range s.o.Metadata.PendingObjects(ctx) {
		if err != nil {
			return fmt.Errorf("list pending objects: %w", err)
		}
		busy[o.Partition.Topic] = true
	}
	for _, t := range tombs {
		if busy[t.Topic] {
			continue
		}
		_, err := s.o.Metadata.Propose(ctx, &command.PurgeTopic{Topic: t.Topic})
		switch {
		case err == nil:
			p.Purged++
		case errors.Is(err, command.ErrNotEmpty): // an intent came in between
		default:
			return fmt.Errorf("forget the deleted topic %v: %w", t.Topic, err)
		}
	}
	return nil
}

// deleteRipe deletes the objects whose grace is over.
func (s *Sweeper) deleteRipe(ctx context.Context, p *Pass) error {
	now := time.Now()
	ripe := map[string][]metadata.Object{} // by store
	seen := make(map[uuid.UUID]struct{}, len(s.deleting))
	for o, err := range s.o.Metadata.PendingObjects(ctx) {
		if err != nil {
			return fmt.Errorf("list pending objects: %w", err)
		}
		if o.State != metadata.ObjectDeleting {
			continue
		}
		seen[o.ID] = struct{}{}
		since, known := s.deleting[o.ID]
		if !known {
			since = now
			s.deleting[o.ID] = now
		}
		if now.Sub(since) < s.o.Grace {
			p.Waiting++
			continue
		}
		ripe[o.Store] = append(ripe[o.Store], o)
	}
	for id := range s.deleting {
		if _, ok := seen[id]; !ok {
			delete(s.deleting, id)
		}
	}
	var errs []error
	for store, objects := range ripe {
		for len(objects) > 0 && ctx.Err() == nil {
			n := min(len(objects), batch)
			errs = append(errs, s.deleteObjects(ctx, p, store, objects[:n]))
			objects = objects[n:]
		}
	}
	return errors.Join(errs...)
}

// deleteObjects deletes objects in one store and forgets those that the store
// confirms as gone.
func (s *Sweeper) deleteObjects(ctx context.Context, p *Pass, name string, objects []metadata.Object) error {
	store := s.o.Stores[name]
	if store == nil {
		return fmt.Errorf("%d objects to delete are in the store %q, which this broker's configuration does not name", len(objects), name)
	}
	keys := make([]string, len(objects))
	for i, o := range objects {
		keys[i] = s.o.Layout.Object(o.ID)
	}
	var failed error
	id, epoch := s.o.Self()
	cmd := &command.DeleteFinished{BrokerID: id, BrokerEpoch: epoch}
	bytes := int64(0)
	for i, err := range store.Delete(ctx, keys...) {
		if err != nil {
			failed = err // one stands for all; they come again with the next pass
			continue
		}
		cmd.Objects = append(cmd.Objects, objects[i].ID)
		bytes += objects[i].Size
	}
	if len(cmd.Objects) == 0 {
		return failed
	}
	res, err := s.o.Metadata.Propose(ctx, cmd)
	if err != nil {
		return errors.Join(failed, fmt.Errorf("forget deleted objects: %w", err))
	}
	for _, item := range res.Items {
		failed = errors.Join(failed, item.Err)
	}
	p.Deleted += len(cmd.Objects)
	p.DeletedBytes += bytes
	return failed
}
