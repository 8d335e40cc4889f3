package group

import (
	"github.com/firnlog/firn/record"
)

// offsetMap holds the offsets of a group by topic and partition; no topic is
// without a partition.
type offsetMap map[string]map[int32]committed

func (m offsetMap) get(topic string, partition int32) (committed, bool) {
	c, ok := m[topic][partition]
	return c, ok
}

func (m offsetMap) put(topic string, partition int32, c committed) {
	t := m[topic]
	if t == nil {
		t = map[int32]committed{}
		m[topic] = t
	}
	t[partition] = c
}

func (m offsetMap) remove(topic string, partition int32) {
	t := m[topic]
	delete(t, partition)
	if len(t) == 0 {
		delete(m, topic)
	}
}

// groupOffsets is what a group has committed, and what open transactions have
// written but not yet committed, by producer id.
type groupOffsets struct {
	stable offsetMap
	open   map[int64]offsetMap
}

// unstable reports whether an open transaction holds an offset of the
// partition.
func (o *groupOffsets) unstable(topic string, partition int32) bool {
	for _, m := range o.open {
		if _, ok := m.get(topic, partition); ok {
			return true
		}
	}
	return false
}

// offsetStore holds the offsets of an offsets partition. Its methods follow
// the records in the order of the log, whether read back or just appended.
//
// INVARIANT: txns lists exactly the groups whose open map has the producer.
type offsetStore struct {
	groups map[string]*groupOffsets
	txns   map[int64]map[string]struct{}
}

func newOffsetStore() *offsetStore {
	return &offsetStore{groups: map[string]*groupOffsets{}, txns: map[int64]map[string]struct{}{}}
}

// of returns the group's offsets, or an empty value to read from.
func (s *offsetStore) of(group string) *groupOffsets {
	if o := s.groups[group]; o != nil {
		return o
	}
	return &groupOffsets{}
}

func (s *offsetStore) ensure(group string) *groupOffsets {
	o := s.groups[group]
	if o == nil {
		o = &groupOffsets{stable: offsetMap{}}
		s.groups[group] = o
	}
	return o
}

// put stores a plain commit.
func (s *offsetStore) put(group, topic string, partition int32, c committed) {
	s.ensure(group).stable.put(topic, partition, c)
}

// putOpen stores a commit within the producer's open transaction.
func (s *offsetStore) putOpen(producer int64, group, topic string, partition int32, c committed) {
	o := s.ensure(group)
	if o.open == nil {
		o.open = map[int64]offsetMap{}
	}
	if o.open[producer] == nil {
		o.open[producer] = offsetMap{}
	}
	o.open[producer].put(topic, partition, c)
	if s.txns[producer] == nil {
		s.txns[producer] = map[string]struct{}{}
	}
	s.txns[producer][group] = struct{}{}
}

// remove follows a tombstone, which also ends what open transactions hold of
// the partition.
func (s *offsetStore) remove(group, topic string, partition int32) {
	o := s.groups[group]
	if o == nil {
		return
	}
	o.stable.remove(topic, partition)
	for producer, m := range o.open {
		m.remove(topic, partition)
		if len(m) == 0 {
			s.forget(producer, group)
		}
	}
	s.tidy(group)
}

// endTxn follows the marker that ends the producer's transaction. Of a plain
// commit and one in the transaction the later record wins: compaction keeps
// the plain one whichever came first.
func (s *offsetStore) endTxn(producer int64, commit bool) {
	for group := range s.txns[producer] {
		o := s.groups[group]
		if commit {
			for topic, partitions := range o.open[producer] {
				for partition, c := range partitions {
					if old, ok := o.stable.get(topic, partition); !ok || c.at > old.at {
						o.stable.put(topic, partition, c)
					}
				}
			}
		}
		s.forget(producer, group)
		s.tidy(group)
	}
}

// forget drops the producer's open transaction from the group.
func (s *offsetStore) forget(producer int64, group string) {
	delete(s.groups[group].open, producer)
	delete(s.txns[producer], group)
	if len(s.txns[producer]) == 0 {
		delete(s.txns, producer)
	}
}

// tidy drops a group that has nothing left.
func (s *offsetStore) tidy(group string) {
	if o := s.groups[group]; o != nil && len(o.stable) == 0 && len(o.open) == 0 {
		delete(s.groups, group)
	}
}

// each calls fn for every partition that has an offset, committed or open; it
// may see one twice. open tells where it comes from.
func (o *groupOffsets) each(fn func(topic string, partition int32, c committed, open bool)) {
	visit := func(m offsetMap, open bool) {
		for topic, partitions := range m {
			for partition, c := range partitions {
				fn(topic, partition, c, open)
			}
		}
	}
	visit(o.stable, false)
	for _, m := range o.open {
		visit(m, true)
	}
}

// partitionsWhere returns the partitions with an offset for which keep says
// so, each once.
func (o *groupOffsets) partitionsWhere(keep func(topic string, c committed) bool) []topicPartition {
	seen := map[topicPartition]struct{}{}
	var list []topicPartition
	o.each(func(topic string, partition int32, c committed, _ bool) {
		tp := topicPartition{topic, partition}
		if _, ok := seen[tp]; !ok && keep(topic, c) {
			seen[tp] = struct{}{}
			list = append(list, tp)
		}
	})
	return list
}

// topicPartition names a partition the way offsets are stored: by topic name.
type topicPartition struct {
	topic     string
	partition int32
}

// isOf reports whether the offset belongs to this life of the topic. Without a
// stored id the name decides.
func (c *committed) isOf(id record.TopicID) bool {
	return c.topicID.IsZero() || id.IsZero() || c.topicID == id
}
