package group

import (
	"context"
	"errors"
	"log/slog"
	"runtime/pprof"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/record"
)

// Waits between attempts to load a partition whose log cannot be read; loadRetryLease is
// that of a leader without a lease, which a broker that starts has in a moment.
const (
	loadRetryLease = 50 * time.Millisecond
	loadRetryMin   = 500 * time.Millisecond
	loadRetryMax   = 30 * time.Second
)

// load reads the shard's partition until it succeeds or the shard ends. It is
// the shard's one goroutine.
func (c *Coordinator) load(ctx context.Context, s *shard) {
	labels := pprof.Labels("group", "load", "partition", strconv.Itoa(int(s.partition)))
	pprof.Do(ctx, labels, func(ctx context.Context) {
		for wait := loadRetryMin; ; {
			select {
			case c.loads <- struct{}{}:
			case <-ctx.Done():
				return
			}
			begin := c.now()
			r := newReplay()
			err := c.log.Scan(ctx, s.partition, r.batch)
			<-c.loads
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				s.install(r)
				level := slog.LevelInfo
				if r.records == 0 {
					level = slog.LevelDebug // most of the 50 partitions
				}
				c.logger.Log(ctx, level, "offsets partition: loaded", "partition", s.partition, "epoch", s.epoch,
					"groups", len(r.groups), "records", r.records, "took", c.now().Sub(begin))
				if r.bad > 0 {
					c.logger.Error("offsets partition: skipped records that do not parse", "partition", s.partition,
						"records", r.bad, "first", r.firstBad)
				}
				return
			}
			pause, level := wait, slog.LevelError
			if errors.Is(err, kerr.NotLeaderForPartition) {
				pause, level = loadRetryLease, slog.LevelDebug
			} else {
				wait = min(2*wait, loadRetryMax)
			}
			c.logger.Log(ctx, level, "offsets partition: cannot load, will try again", "partition", s.partition,
				"epoch", s.epoch, "in", pause, "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return
			}
		}
	})
}

// install makes the loaded state the shard's and begins to serve.
func (s *shard) install(r *replay) {
	s.run(func(t *turn) {
		if s.phase != loading {
			return
		}
		s.phase = active
		s.offsets = r.offsets
		for id, v := range r.groups {
			s.revive(restoreGroup(id, v, &s.c.cfg, s.c.newID, t.now), t)
		}
		for id := range r.offsets.groups {
			if s.groups[id] == nil {
				s.revive(newClassicGroup(id, &s.c.cfg, s.c.newID, t.now), t)
			}
		}
		for _, d := range s.deletedTopics {
			s.topicDeleted(d, t)
		}
		s.deletedTopics = nil
		s.timers.set(timerKey{kind: timerRetention}, t.now.Add(s.c.cfg.OffsetsRetentionCheckInterval))
	})
}

// revive takes over a loaded group: its members' sessions begin anew.
func (s *shard) revive(c *classicGroup, t *turn) {
	g := &group{id: c.id, classic: c, known: true}
	g.logged.state, g.logged.generation = c.state, c.generation
	s.groups[c.id] = g
	var out effects
	for _, m := range c.order {
		c.restartSession(m, t.now, &out)
	}
	if len(c.members) > c.cfg.MaxSize {
		// The limit has come down: the last to join leave.
		c.rebalance("loaded with more members than group.max.size", t.now, &out)
	}
	s.apply(g, &out, t)
}

// replay is the state that the records of a partition add up to. Of each key
// only the last record counts, so a compacted log gives the same.
type replay struct {
	groups  map[string]*groupValue
	offsets *offsetStore

	records  int64
	bad      int // records and batches that do not parse, skipped
	firstBad error
}

func newReplay() *replay {
	return &replay{groups: map[string]*groupValue{}, offsets: newOffsetStore()}
}

// batch follows one batch. It never fails: what does not parse is counted and
// left out, so that one bad record does not take all groups with it.
func (r *replay) batch(b *record.Batch) error {
	if b.IsControl() {
		switch m, ok, err := b.EndTxnMarker(); {
		case err != nil:
			r.skip(err)
		case ok:
			r.offsets.endTxn(b.ProducerID, m.Commit)
		}
		return nil
	}
	err := b.Records(func(rec *record.Record) error {
		r.records++
		if err := r.record(b, rec); err != nil {
			r.skip(err)
		}
		return nil
	})
	if err != nil {
		r.skip(err)
	}
	return nil
}

func (r *replay) skip(err error) {
	if r.bad++; r.firstBad == nil {
		r.firstBad = err
	}
}

func (r *replay) record(b *record.Batch, rec *record.Record) error {
	k, err := decodeKey(rec.Key)
	if err != nil {
		return err
	}
	switch k.kind {
	case keyGroupMetadata:
		if rec.Value == nil {
			delete(r.groups, k.group)
			return nil
		}
		v, err := decodeGroup(rec.Value)
		if err != nil {
			return err
		}
		r.groups[k.group] = v
	case keyOffsetCommit:
		if rec.Value == nil {
			r.offsets.remove(k.group, k.topic, k.partition)
			return nil
		}
		c, err := decodeOffset(rec.Value)
		if err != nil {
			return err
		}
		c.at = rec.Offset
		if b.IsTransactional() {
			r.offsets.putOpen(b.ProducerID, k.group, k.topic, k.partition, c)
		} else {
			r.offsets.put(k.group, k.topic, k.partition, c)
		}
	}
	return nil
}

// restoreGroup returns a loaded group: Stable with its members, or Empty.
// Members that are there twice, which no coordinator writes, count once.
func restoreGroup(id string, v *groupValue, cfg *Config, newID func() string, now time.Time) *classicGroup {
	g := newClassicGroup(id, cfg, newID, now)
	g.protocolType, g.protocol, g.generation, g.since = v.protocolType, v.protocol, v.generation, v.since
	for i := range v.members {
		mv := &v.members[i]
		if g.members[mv.id] != nil {
			continue
		}
		if mv.instanceID != nil {
			if _, twice := g.statics[*mv.instanceID]; twice {
				continue
			}
		}
		g.add(&member{
			id: mv.id, instanceID: mv.instanceID, clientID: mv.clientID, clientHost: mv.clientHost,
			sessionTimeout: mv.sessionTimeout, rebalanceTimeout: mv.rebalanceTimeout,
			protocols:  []Protocol{{Name: v.protocol, Metadata: mv.subscription}},
			assignment: mv.assignment,
		}, v.protocolType, nil)
		g.state = Stable
	}
	if g.members[v.leader] != nil {
		g.leader = v.leader
	}
	g.learnTopics()
	return g
}
