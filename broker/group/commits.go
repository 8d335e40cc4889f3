package group

import (
	"slices"
	"strings"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kerr"
)

// stored is one offset of a commit on its way to the log.
type stored struct {
	topic     string
	partition int32
	committed committed
}

func (s *shard) commit(req *CommitRequest, done func(CommitResponse), t *turn) {
	fail := func(err error) { t.answer(func() { done(CommitResponse{Err: err}) }) }
	if err := s.readyLocked(); err != nil {
		fail(err)
		return
	}
	g := s.groups[req.Group]
	switch {
	case g != nil:
		if err := g.classic.validateCommit(req); err != nil {
			fail(err)
			return
		}
		var out effects
		g.classic.committed(req.MemberID, t.now, &out)
		s.apply(g, &out, t)
	case req.Generation >= 0 && req.GroupMustExist:
		fail(kerr.GroupIDNotFound)
		return
	case req.Generation >= 0:
		fail(kerr.IllegalGeneration)
		return
	}

	resp := CommitResponse{Partitions: make([]error, len(req.Offsets))}
	list := make([]stored, 0, len(req.Offsets))
	now, expireAt, topic := t.now.UnixMilli(), int64(-1), ""
	if req.Retention >= 0 {
		expireAt = now + req.Retention.Milliseconds()
	}
	for i := range req.Offsets {
		o := &req.Offsets[i]
		if len(o.Metadata) > s.c.cfg.OffsetMetadataMaxSize && utf16Len(o.Metadata) > s.c.cfg.OffsetMetadataMaxSize {
			resp.Partitions[i] = kerr.OffsetMetadataTooLarge
			continue
		}
		if o.Topic != topic {
			topic = strings.Clone(o.Topic)
		}
		list = append(list, stored{topic, o.Partition, committed{
			offset: o.Offset, leaderEpoch: o.LeaderEpoch, metadata: strings.Clone(o.Metadata),
			commitAt: now, expireAt: expireAt, topicID: o.TopicID,
		}})
	}
	if len(list) == 0 {
		t.answer(func() { done(resp) })
		return
	}
	if g == nil {
		g = s.create(req.Group, t) // a simple group
	}
	w := &write{group: g, records: make([]Record, len(list))}
	for i := range list {
		w.records[i] = offsetRecord(g.id, list[i].topic, list[i].partition, &list[i].committed)
	}
	w.late = func(t *turn) {
		t.answer(func() { done(CommitResponse{Err: kerr.CoordinatorNotAvailable}) })
	}
	w.done = func(base record.Offset, err error, t *turn) {
		for i := range list {
			if list[i].committed.at = base + record.Offset(i); err == nil {
				s.offsets.put(g.id, list[i].topic, list[i].partition, list[i].committed)
			}
		}
		if w.late == nil {
			return // answered
		}
		w.late = nil
		if err != nil {
			resp = CommitResponse{Err: commitError(err)}
		}
		t.answer(func() { done(resp) })
	}
	s.enqueue(w, t)
}

func (s *shard) fetch(req *FetchRequest, done func(FetchResponse), t *turn) {
	if err := s.readyLocked(); err != nil {
		t.answer(func() { done(FetchResponse{Err: err}) })
		return
	}
	o := s.offsets.of(req.Group)
	var resp FetchResponse
	if req.All {
		resp.Topics = o.all(req.RequireStable)
	} else {
		resp.Topics = make([]FetchedTopic, len(req.Topics))
		for i := range req.Topics {
			ask := &req.Topics[i]
			got := FetchedTopic{Topic: ask.Topic, ID: ask.ID, Partitions: make([]FetchedOffset, len(ask.Partitions))}
			for j, p := range ask.Partitions {
				got.Partitions[j] = o.fetched(ask, p, req.RequireStable)
			}
			resp.Topics[i] = got
		}
	}
	t.answer(func() { done(resp) })
}

// fetched answers for one partition.
func (o *groupOffsets) fetched(ask *FetchTopic, partition int32, requireStable bool) FetchedOffset {
	none := FetchedOffset{Partition: partition, Offset: -1, LeaderEpoch: -1}
	if requireStable && o.unstable(ask.Topic, partition) {
		none.Err = kerr.UnstableOffsetCommit
		return none
	}
	c, ok := o.stable.get(ask.Topic, partition)
	if !ok || !c.isOf(ask.ID) {
		return none
	}
	return FetchedOffset{Partition: partition, Offset: c.offset, LeaderEpoch: c.leaderEpoch, Metadata: c.metadata}
}

// all answers for every partition with a committed offset.
func (o *groupOffsets) all(requireStable bool) []FetchedTopic {
	topics := make([]FetchedTopic, 0, len(o.stable))
	for name, partitions := range o.stable {
		got := FetchedTopic{Topic: name, Partitions: make([]FetchedOffset, 0, len(partitions))}
		ask := FetchTopic{Topic: name}
		for p, c := range partitions {
			if got.ID.IsZero() {
				got.ID = c.topicID
			}
			got.Partitions = append(got.Partitions, o.fetched(&ask, p, requireStable))
		}
		slices.SortFunc(got.Partitions, func(a, b FetchedOffset) int { return int(a.Partition) - int(b.Partition) })
		topics = append(topics, got)
	}
	slices.SortFunc(topics, func(a, b FetchedTopic) int { return strings.Compare(a.Topic, b.Topic) })
	return topics
}
