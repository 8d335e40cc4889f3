package metadata

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/firnlog/firn/record"
)

// Delta names what differs between two images. Look the new state up in the new
// image; what it does not have is gone. Each list is sorted and without
// repetition.
type Delta struct {
	// Topics were made, or their configs or partition count changed.
	Topics []record.TopicID
	// Deleted topics are no longer in the new image.
	Deleted []DeletedTopic
	// Partitions were made or changed in anything but their remote entries. Those
	// of deleted topics are not listed.
	Partitions []record.TopicPartition
	// Entries are the partitions whose remote entries changed (Client.Entries).
	Entries []record.TopicPartition
	// Brokers registered, changed state, or were unregistered.
	Brokers []int32
	// Configs changed.
	Configs []ConfigResource
	// Features says that a feature level or the cluster id changed.
	Features bool
	// Controller says that ControllerID changed.
	Controller bool
}

// DeletedTopic is a topic that the new image does not have.
type DeletedTopic struct {
	ID         record.TopicID
	Name       string
	Partitions int32
}

// IsEmpty reports whether nothing that readers see changed.
func (d *Delta) IsEmpty() bool {
	return len(d.Topics) == 0 && len(d.Deleted) == 0 && len(d.Partitions) == 0 && len(d.Entries) == 0 &&
		len(d.Brokers) == 0 && len(d.Configs) == 0 && !d.Features && !d.Controller
}

// Merge returns the delta of d and then next.
func (d Delta) Merge(next Delta) Delta {
	gone := make(map[record.TopicID]bool, len(next.Deleted))
	for _, t := range next.Deleted {
		gone[t.ID] = true
	}
	out := Delta{
		Topics:     append(slices.Clone(d.Topics), next.Topics...),
		Deleted:    append(slices.Clone(d.Deleted), next.Deleted...),
		Partitions: append(slices.Clone(d.Partitions), next.Partitions...),
		Entries:    append(slices.Clone(d.Entries), next.Entries...),
		Brokers:    append(slices.Clone(d.Brokers), next.Brokers...),
		Configs:    append(slices.Clone(d.Configs), next.Configs...),
		Features:   d.Features || next.Features,
		Controller: d.Controller || next.Controller,
	}
	out.drop(gone)
	out.normalize()
	return out
}

// drop removes what belongs to deleted topics from the other lists.
func (d *Delta) drop(gone map[record.TopicID]bool) {
	if len(gone) == 0 {
		return
	}
	dead := func(tp record.TopicPartition) bool { return gone[tp.Topic] }
	d.Topics = slices.DeleteFunc(d.Topics, func(id record.TopicID) bool { return gone[id] })
	d.Partitions = slices.DeleteFunc(d.Partitions, dead)
	d.Entries = slices.DeleteFunc(d.Entries, dead)
}

// normalize sorts each list and drops repetitions.
func (d *Delta) normalize() {
	topicID := func(a, b record.TopicID) int { return bytes.Compare(a[:], b[:]) }
	partition := func(a, b record.TopicPartition) int {
		return cmp.Or(topicID(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	}
	sortUnique(&d.Topics, topicID)
	sortUnique(&d.Deleted, func(a, b DeletedTopic) int { return topicID(a.ID, b.ID) })
	sortUnique(&d.Partitions, partition)
	sortUnique(&d.Entries, partition)
	sortUnique(&d.Brokers, cmp.Compare[int32])
	sortUnique(&d.Configs, func(a, b ConfigResource) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}

func sortUnique[T any](s *[]T, order func(a, b T) int) {
	if len(*s) < 2 {
		return
	}
	slices.SortFunc(*s, order)
	*s = slices.CompactFunc(*s, func(a, b T) bool { return order(a, b) == 0 })
}

// Diff names everything that can differ between two images that no log joins: all
// that next has, and the topics that only old has.
func Diff(old, next *Image) Delta {
	d := next.Everything()
	for t := range old.Topics() {
		if next.Topic(t.ID) == nil {
			d.Deleted = append(d.Deleted, DeletedTopic{ID: t.ID, Name: t.Name, Partitions: t.Partitions})
		}
	}
	for b := range old.Brokers() {
		d.Brokers = append(d.Brokers, b.ID)
	}
	for r := range old.ConfigResources() {
		d.Configs = append(d.Configs, r)
	}
	d.normalize()
	return d
}
