package group

import (
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
)

// erase writes tombstones for the partitions' offsets and, with whole, for the
// group. Memory follows piece by piece; done gets the first error.
//
// REQUIRES: runs alone (see within), and g has no write in flight.
func (s *shard) erase(g *group, partitions []topicPartition, whole bool, t *turn, done func(err error, t *turn)) {
	id := g.id
	g.alone = true
	var failed error
	finish := func(err error) {
		if failed == nil {
			failed = err
		}
	}
	w := &write{group: g}
	var part []topicPartition
	// push sends what has been gathered; a group with more offsets than fit a
	// batch takes several, the group's own tombstone in the last.
	push := func(last bool) {
		gone := part
		part = nil
		w.done = func(_ record.Offset, err error, t *turn) {
			finish(err)
			if err == nil {
				for _, tp := range gone {
					s.offsets.remove(id, tp.topic, tp.partition)
				}
			}
			if !last {
				return
			}
			g.alone = false
			if whole && failed == nil && s.phase == active {
				s.drop(g, t)
			}
			done(failed, t)
		}
		s.enqueue(w, t)
		w = &write{group: g}
	}
	size := record.HeaderSize
	add := func(r Record) {
		if size+r.size() > s.c.cfg.MaxBatchBytes && len(w.records) > 0 {
			push(false)
			size = record.HeaderSize
		}
		size += r.size()
		w.records = append(w.records, r)
	}
	for _, tp := range partitions {
		add(Record{Key: offsetKey(id, tp.topic, tp.partition)})
		part = append(part, tp)
	}
	if whole {
		add(Record{Key: groupKey(id)})
	}
	push(true)
}

// deleteGroup handles one group of a DeleteGroups. It runs alone.
func (s *shard) deleteGroup(id string, done func(error), t *turn) {
	err := s.readyLocked()
	g := s.groups[id]
	switch {
	case err != nil:
	case g == nil:
		err = kerr.GroupIDNotFound
	case g.classic.state != Empty:
		err = kerr.NonEmptyGroup
	}
	if err != nil {
		t.answer(func() { done(err) })
		return
	}
	every := s.offsets.of(id).partitionsWhere(func(string, committed) bool { return true })
	s.erase(g, every, true, t, func(err error, t *turn) {
		if err != nil {
			err = appendError(err)
		}
		t.answer(func() { done(err) })
	})
}

// deleteOffsets handles an OffsetDelete. It runs alone.
func (s *shard) deleteOffsets(req *DeleteOffsetsRequest, done func(DeleteOffsetsResponse), t *turn) {
	err := s.readyLocked()
	g := s.groups[req.Group]
	switch {
	case err != nil:
	case g == nil:
		err = kerr.GroupIDNotFound
	case g.classic.state != Empty && !g.classic.isConsumer():
		err = kerr.NonEmptyGroup // what it consumes cannot be known
	}
	if err != nil {
		t.answer(func() { done(DeleteOffsetsResponse{Err: err}) })
		return
	}
	resp := DeleteOffsetsResponse{Topics: make([][]error, len(req.Topics))}
	asked := map[topicPartition]struct{}{}
	for i, topic := range req.Topics {
		resp.Topics[i] = make([]error, len(topic.Partitions))
		subscribed := g.classic.subscribes(topic.Topic)
		for j, p := range topic.Partitions {
			if subscribed {
				resp.Topics[i][j] = kerr.GroupSubscribedToTopic
			} else {
				asked[topicPartition{topic.Topic, p}] = struct{}{}
			}
		}
	}
	var gone []topicPartition
	s.offsets.of(req.Group).each(func(topic string, partition int32, _ committed, _ bool) {
		tp := topicPartition{topic, partition}
		if _, ok := asked[tp]; ok {
			delete(asked, tp)
			gone = append(gone, tp)
		}
	})
	if len(gone) == 0 {
		t.answer(func() { done(resp) })
		return
	}
	s.erase(g, gone, false, t, func(err error, t *turn) {
		if err != nil {
			resp = DeleteOffsetsResponse{Err: appendError(err)}
		}
		t.answer(func() { done(resp) })
	})
}

// deletedTopic is a topic that is gone: its name, and the id it had.
type deletedTopic struct {
	id   record.TopicID
	name string
}

// topicDeleted removes the topic's offsets from all groups.
func (s *shard) topicDeleted(d deletedTopic, t *turn) {
	if s.phase == loading {
		s.deletedTopics = append(s.deletedTopics, d)
		return
	}
	for id := range s.groups {
		s.within(id, true, t, func(t *turn) {
			g := s.groups[id]
			gone := s.offsets.of(id).partitionsWhere(func(topic string, c committed) bool {
				return topic == d.name && c.isOf(d.id)
			})
			if g != nil && len(gone) > 0 && s.phase == active {
				s.erase(g, gone, false, t, s.logErased("deleted topic's", id, len(gone)))
			}
		})
	}
}

// expireOffsets removes offsets past their retention, and groups that are
// empty and have none left. Groups with writes in flight wait for the next
// time, and all of them while the clock is off.
func (s *shard) expireOffsets(t *turn) {
	s.timers.set(timerKey{kind: timerRetention}, t.now.Add(s.c.cfg.OffsetsRetentionCheckInterval))
	if !s.c.trusted(t.now) {
		return
	}
	for id, g := range s.groups {
		if g.alone || g.writes > 0 || len(g.waiting) > 0 {
			continue
		}
		o := s.offsets.of(id)
		expired := o.partitionsWhere(func(topic string, c committed) bool {
			return g.classic.expired(topic, &c, t.now, s.c.cfg.OffsetsRetention)
		})
		kept := expired[:0]
		for _, tp := range expired {
			if !o.unstable(tp.topic, tp.partition) {
				kept = append(kept, tp)
			}
		}
		left := -len(kept)
		for _, partitions := range o.stable {
			left += len(partitions)
		}
		whole := left == 0 && len(o.open) == 0 && g.classic.state == Empty && len(g.classic.pending) == 0
		if whole || len(kept) > 0 {
			s.erase(g, kept, whole, t, s.logErased("expired", id, len(kept)))
		}
	}
}

func (s *shard) logErased(what, id string, n int) func(error, *turn) {
	return func(err error, _ *turn) {
		if err != nil {
			s.c.logger.Warn("group: could not remove "+what+" offsets", "group", id, "err", err)
			return
		}
		s.c.logger.Info("group: removed "+what+" offsets", "group", id, "offsets", n)
	}
}

// expired reports whether a committed offset is past its retention: an
// explicit one, or the configured one counted from when the group became
// empty, or from the commit for offsets that no member is responsible for.
func (g *classicGroup) expired(topic string, c *committed, now time.Time, retention time.Duration) bool {
	if g.subscribes(topic) {
		return false
	}
	from := c.commitAt
	switch {
	case g.protocolType == "": // simple group
	case g.state == Empty:
		if g.since >= 0 {
			from = g.since
		}
	case g.isConsumer() && g.topics != nil && g.state == Stable:
	default:
		return false
	}
	if c.expireAt >= 0 {
		return now.UnixMilli() >= c.expireAt
	}
	return now.UnixMilli()-from >= retention.Milliseconds()
}
