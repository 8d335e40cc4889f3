package metadata

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// Editor makes the next image from the last one, and the delta between them. It
// reads its own edits. It belongs to one goroutine.
type Editor struct {
	img   Image
	delta Delta
	// deleted topics drop out of the other lists of the delta at Commit.
	deleted map[record.TopicID]bool

	// The transactions are nil until a first edit needs them.
	topics *iradix.Txn[*topicNode]
	names  *iradix.Txn[*topicNode]
	fold   *iradix.Txn[string]
	config *iradix.Txn[map[string]string]

	brokersOwned, featuresOwned bool
	// owned are the topics whose partition vector was copied by this editor, so
	// that a batch of changes to one topic copies its chunks once.
	owned map[record.TopicID]*vectorEdit
}

// Edit begins an edit of the image.
func (i *Image) Edit() *Editor {
	return &Editor{img: *i, deleted: map[record.TopicID]bool{}, owned: map[record.TopicID]*vectorEdit{}}
}

// SetClusterID names the cluster.
func (e *Editor) SetClusterID(id string) {
	e.img.clusterID = id
	e.delta.Features = true
}

// ClusterID is the name so far.
func (e *Editor) ClusterID() string { return e.img.clusterID }

// SetFeature sets a feature's level, 0 removes it; epoch is the log index of the
// change.
func (e *Editor) SetFeature(name string, level int16, epoch int64) {
	if !e.featuresOwned {
		e.img.features, e.featuresOwned = cloneFeatures(e.img.features), true
	}
	if level == 0 {
		delete(e.img.features, name)
	} else {
		e.img.features[name] = level
	}
	e.img.featuresEpoch = max(e.img.featuresEpoch, epoch)
	e.delta.Features = true
}

// Feature is a feature's level so far.
func (e *Editor) Feature(name string) int16 { return e.img.features[name] }

// FeaturesEpoch is the epoch so far.
func (e *Editor) FeaturesEpoch() int64 { return e.img.featuresEpoch }

// Features are the levels so far; the map must not be changed.
func (e *Editor) Features() map[string]int16 { return e.img.features }

// PutBroker adds or replaces a broker.
func (e *Editor) PutBroker(b *Broker) {
	e.ownBrokers()
	e.img.brokers[b.ID] = b
	e.delta.Brokers = append(e.delta.Brokers, b.ID)
}

// DeleteBroker forgets a broker.
func (e *Editor) DeleteBroker(id int32) {
	e.ownBrokers()
	delete(e.img.brokers, id)
	e.delta.Brokers = append(e.delta.Brokers, id)
}

func (e *Editor) ownBrokers() {
	if e.brokersOwned {
		return
	}
	next := maps.Clone(e.img.brokers)
	if next == nil {
		next = map[int32]*Broker{}
	}
	e.img.brokers, e.brokersOwned = next, true
}

// Broker returns a broker so far, or nil.
func (e *Editor) Broker(id int32) *Broker { return e.img.brokers[id] }

// Brokers are the ids of the brokers so far, sorted.
func (e *Editor) Brokers() []int32 { return sortedKeys(e.img.brokers) }

// Topic returns a topic so far, or nil.
func (e *Editor) Topic(id record.TopicID) *Topic {
	if n := e.node(id); n != nil {
		return n.topic
	}
	return nil
}

func (e *Editor) node(id record.TopicID) *topicNode {
	var n *topicNode
	if e.topics != nil {
		n, _ = e.topics.Get(id[:])
	} else {
		n, _ = e.img.topics.Get(id[:])
	}
	return n
}

// TopicByName returns a topic so far, or nil.
func (e *Editor) TopicByName(name string) *Topic {
	var n *topicNode
	if e.names != nil {
		n, _ = e.names.Get([]byte(name))
	} else {
		n, _ = e.img.names.Get([]byte(name))
	}
	if n == nil {
		return nil
	}
	return n.topic
}

// Collision is Image.Collision so far.
func (e *Editor) Collision(name string) string {
	var other string
	var ok bool
	if e.fold != nil {
		other, ok = e.fold.Get(foldName(name))
	} else {
		other, ok = e.img.fold.Get(foldName(name))
	}
	if ok && other != name {
		return other
	}
	return ""
}

// Partition returns a partition so far, or nil.
func (e *Editor) Partition(tp record.TopicPartition) *Partition {
	if v, ok := e.owned[tp.Topic]; ok {
		return v.vec.get(tp.Partition)
	}
	if n := e.node(tp.Topic); n != nil {
		return n.parts.get(tp.Partition)
	}
	return nil
}

func (e *Editor) open() {
	if e.topics == nil {
		e.topics, e.names, e.fold = e.img.topics.Txn(), e.img.names.Txn(), e.img.fold.Txn()
	}
}

// EachPartition calls fn for every partition so far, by topic id and number. fn may
// put the partition that it is called with, and nothing else.
func (e *Editor) EachPartition(fn func(t *Topic, number int32, p *Partition) error) error {
	var err error
	e.eachTopic(func(t *Topic) bool {
		err = e.EachPartitionOf(t, fn)
		return err == nil
	})
	return err
}

// EachPartitionOf is EachPartition of one topic.
func (e *Editor) EachPartitionOf(t *Topic, fn func(t *Topic, number int32, p *Partition) error) error {
	for i := range e.partitionCount(t.ID) {
		if err := fn(t, i, e.Partition(record.TopicPartition{Topic: t.ID, Partition: i})); err != nil {
			return err
		}
	}
	return nil
}

// PutTopic adds or replaces a topic; its partitions stay. A topic keeps its name.
func (e *Editor) PutTopic(t *Topic) {
	e.open()
	n := &topicNode{topic: t}
	if old := e.node(t.ID); old != nil {
		n.parts = old.parts
	}
	e.put(n)
	e.fold.Insert(foldName(t.Name), t.Name)
	e.delta.Topics = append(e.delta.Topics, t.ID)
}

func (e *Editor) put(n *topicNode) {
	e.topics.Insert(slices.Clone(n.topic.ID[:]), n)
	e.names.Insert([]byte(n.topic.Name), n)
}

// PutPartition adds or replaces a partition.
//
// REQUIRES: the topic exists; a new partition's number is that of the last plus
// one.
func (e *Editor) PutPartition(tp record.TopicPartition, p *Partition) {
	v, ok := e.owned[tp.Topic]
	if !ok {
		v = e.node(tp.Topic).parts.edit()
		e.owned[tp.Topic] = v
	}
	if tp.Partition == v.vec.len() {
		e.img.partitions++
	}
	v.set(tp.Partition, p)
	e.delta.Partitions = append(e.delta.Partitions, tp)
}

// TouchEntries notes that a partition's remote entries changed.
func (e *Editor) TouchEntries(tp record.TopicPartition) {
	e.delta.Entries = append(e.delta.Entries, tp)
}

// TouchConfigs notes that a resource's configs changed with the resource itself.
func (e *Editor) TouchConfigs(r ConfigResource) {
	e.delta.Configs = append(e.delta.Configs, r)
}

// DeleteTopic removes a topic with its partitions and configs.
func (e *Editor) DeleteTopic(id record.TopicID) {
	n := e.node(id)
	if n == nil {
		return
	}
	e.open()
	count := n.parts.len()
	if v, ok := e.owned[id]; ok {
		count = v.vec.len()
		delete(e.owned, id)
	}
	e.topics.Delete(id[:])
	e.names.Delete([]byte(n.topic.Name))
	e.fold.Delete(foldName(n.topic.Name))
	e.img.partitions -= int(count)
	e.deleted[id] = true
	e.delta.Deleted = append(e.delta.Deleted, DeletedTopic{ID: id, Name: n.topic.Name, Partitions: count})
}

// SetConfigs replaces the overrides of a resource. The map belongs to the image
// afterwards; empty removes them.
//
// REQUIRES: the topic exists, if it is one.
func (e *Editor) SetConfigs(r ConfigResource, configs map[string]string) {
	if len(configs) == 0 {
		configs = nil
	}
	e.delta.Configs = append(e.delta.Configs, r)
	if r.Kind == ResourceTopic {
		t := *e.TopicByName(r.Name)
		t.Configs = configs
		e.PutTopic(&t)
		return
	}
	if e.config == nil {
		e.config = e.img.config.Txn()
	}
	if configs == nil {
		e.config.Delete(configKey(r))
		return
	}
	e.config.Insert(configKey(r), configs)
}

// Configs returns the overrides of a resource so far.
func (e *Editor) Configs(r ConfigResource) map[string]string {
	if r.Kind == ResourceTopic {
		if t := e.TopicByName(r.Name); t != nil {
			return t.Configs
		}
		return nil
	}
	var c map[string]string
	if e.config != nil {
		c, _ = e.config.Get(configKey(r))
	} else {
		c, _ = e.img.config.Get(configKey(r))
	}
	return c
}

// Commit ends the edit: the image at index, and what changed. The editor is not
// used afterwards.
func (e *Editor) Commit(index uint64) (*Image, Delta) {
	if len(e.owned) > 0 {
		e.open()
		for id, v := range e.owned {
			e.put(&topicNode{topic: e.node(id).topic, parts: v.vec})
		}
	}
	if e.topics != nil {
		e.img.topics, e.img.names, e.img.fold = e.topics.Commit(), e.names.Commit(), e.fold.Commit()
	}
	if e.config != nil {
		e.img.config = e.config.Commit()
	}
	e.img.index = index
	e.delta.drop(e.deleted)
	e.delta.normalize()
	img := e.img
	return &img, e.delta
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}

// SetFeaturesEpoch raises the epoch without a change of levels (a removed feature
// leaves only its epoch).
func (e *Editor) SetFeaturesEpoch(epoch int64) {
	e.img.featuresEpoch = max(e.img.featuresEpoch, epoch)
}

// CheckPartitions returns an error if a topic has not as many partitions as it
// says.
func (e *Editor) CheckPartitions() error {
	var err error
	e.eachTopic(func(t *Topic) bool {
		have := e.partitionCount(t.ID)
		if have != t.Partitions {
			err = fmt.Errorf("%w: topic %s has %d of %d partitions", command.ErrCorrupt, t.Name, have, t.Partitions)
		}
		return err == nil
	})
	return err
}

func (e *Editor) partitionCount(id record.TopicID) int32 {
	if v, ok := e.owned[id]; ok {
		return v.vec.len()
	}
	return e.node(id).parts.len()
}

func (e *Editor) eachTopic(fn func(*Topic) bool) {
	e.open()
	for it := e.topics.Root().Iterator(); ; {
		_, n, ok := it.Next()
		if !ok || !fn(n.topic) {
			return
		}
	}
}
