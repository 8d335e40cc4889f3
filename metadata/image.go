package metadata

import (
	"iter"
	"maps"

	iradix "github.com/hashicorp/go-immutable-radix/v2"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// Image is the cluster's metadata at one index of its log. The methods return
// what must not be changed. The zero value is not usable: Empty makes the image
// of a cluster that has not begun.
type Image struct {
	index         uint64
	clusterID     string
	features      map[string]int16
	featuresEpoch int64
	controller    int32
	brokers       map[int32]*Broker // few: copied on change

	topics *iradix.Tree[*topicNode]        // by id
	names  *iradix.Tree[*topicNode]        // by name
	fold   *iradix.Tree[string]            // by name with '.' as '_': see Collision
	config *iradix.Tree[map[string]string] // by kind and name; topics' are in Topic

	partitions int
}

// topicNode joins a topic with its partitions: the *Topic stays the same while
// only partitions change.
type topicNode struct {
	topic *Topic
	parts partVector
}

// Empty returns the image of a cluster that has not begun.
func Empty() *Image {
	return &Image{
		controller: -1,
		topics:     iradix.New[*topicNode](),
		names:      iradix.New[*topicNode](),
		fold:       iradix.New[string](),
		config:     iradix.New[map[string]string](),
	}
}

// Index is the log index of the last command that the image has.
func (i *Image) Index() uint64 { return i.index }

// ClusterID is 22 characters of base64url, "" before the cluster began.
func (i *Image) ClusterID() string { return i.clusterID }

// Features are the finalized feature levels.
func (i *Image) Features() map[string]int16 { return i.features }

// Level is the level of what the metadata may say (command.Feature).
func (i *Image) Level() command.Level { return command.LevelOf(i.features) }

// FeaturesEpoch is the log index of the last change of a feature level. It never
// goes back and is at least 0.
func (i *Image) FeaturesEpoch() int64 { return i.featuresEpoch }

// ControllerID is the broker that leads the metadata, as this node knows it, or
// -1. It is no part of the replicated state.
func (i *Image) ControllerID() int32 { return i.controller }

// WithController returns the image with another ControllerID.
func (i *Image) WithController(id int32) *Image {
	if i.controller == id {
		return i
	}
	next := *i
	next.controller = id
	return &next
}

// Topic returns the topic with this id, or nil.
func (i *Image) Topic(id record.TopicID) *Topic {
	if n, ok := i.topics.Get(id[:]); ok {
		return n.topic
	}
	return nil
}

// TopicByName returns the topic with this name, or nil.
func (i *Image) TopicByName(name string) *Topic {
	if n, ok := i.names.Get([]byte(name)); ok {
		return n.topic
	}
	return nil
}

// Topics iterates over the topics by name.
func (i *Image) Topics() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		for it := i.names.Root().Iterator(); ; {
			_, n, ok := it.Next()
			if !ok || !yield(n.topic) {
				return
			}
		}
	}
}

// TopicCount is the number of topics.
func (i *Image) TopicCount() int { return i.topics.Len() }

// PartitionCount is the number of partitions of all topics.
func (i *Image) PartitionCount() int { return i.partitions }

// Collision returns a topic whose name differs from name but is the same once
// '.' is written '_', as metric names do; "" if there is none.
func (i *Image) Collision(name string) string {
	if other, ok := i.fold.Get(foldName(name)); ok && other != name {
		return other
	}
	return ""
}

func foldName(name string) []byte {
	b := []byte(name)
	for i, c := range b {
		if c == '.' {
			b[i] = '_'
		}
	}
	return b
}

// Partition returns the state of a partition, or nil.
func (i *Image) Partition(tp record.TopicPartition) *Partition {
	n, ok := i.topics.Get(tp.Topic[:])
	if !ok {
		return nil
	}
	return n.parts.get(tp.Partition)
}

// Partitions iterates over a topic's partitions by number.
func (i *Image) Partitions(id record.TopicID) iter.Seq2[int32, *Partition] {
	return func(yield func(int32, *Partition) bool) {
		if n, ok := i.topics.Get(id[:]); ok {
			n.parts.each(yield)
		}
	}
}

// AllPartitions iterates over every partition, by topic name and number.
func (i *Image) AllPartitions() iter.Seq2[record.TopicPartition, *Partition] {
	return func(yield func(record.TopicPartition, *Partition) bool) {
		for t := range i.Topics() {
			for p, state := range i.Partitions(t.ID) {
				if !yield(record.TopicPartition{Topic: t.ID, Partition: p}, state) {
					return
				}
			}
		}
	}
}

// Broker returns a registered broker, or nil.
func (i *Image) Broker(id int32) *Broker { return i.brokers[id] }

// Brokers iterates over the registered brokers, fenced ones too, by id.
func (i *Image) Brokers() iter.Seq[*Broker] {
	return func(yield func(*Broker) bool) {
		for _, id := range sortedKeys(i.brokers) {
			if !yield(i.brokers[id]) {
				return
			}
		}
	}
}

// Configs returns the overrides of a topic (by name), a broker (by decimal id, ""
// for the default of all) or a group; nil if there are none.
func (i *Image) Configs(kind ResourceKind, name string) map[string]string {
	if kind == ResourceTopic {
		if t := i.TopicByName(name); t != nil {
			return t.Configs
		}
		return nil
	}
	c, _ := i.config.Get(configKey(ConfigResource{Kind: kind, Name: name}))
	return c
}

// ConfigResources iterates over the brokers and groups that have overrides.
func (i *Image) ConfigResources() iter.Seq2[ConfigResource, map[string]string] {
	return func(yield func(ConfigResource, map[string]string) bool) {
		for it := i.config.Root().Iterator(); ; {
			k, v, ok := it.Next()
			if !ok || !yield(ConfigResource{Kind: ResourceKind(k[0]), Name: string(k[1:])}, v) {
				return
			}
		}
	}
}

func configKey(r ConfigResource) []byte {
	return append([]byte{byte(r.Kind)}, r.Name...)
}

// Everything is the delta from the empty image to this one.
func (i *Image) Everything() Delta {
	d := Delta{Features: i.clusterID != "" || len(i.features) > 0, Controller: i.controller >= 0}
	for t := range i.Topics() {
		d.Topics = append(d.Topics, t.ID)
		if len(t.Configs) > 0 {
			d.Configs = append(d.Configs, ConfigResource{Kind: ResourceTopic, Name: t.Name})
		}
	}
	for tp := range i.AllPartitions() {
		d.Partitions = append(d.Partitions, tp)
		d.Entries = append(d.Entries, tp)
	}
	for b := range i.Brokers() {
		d.Brokers = append(d.Brokers, b.ID)
	}
	for r := range i.ConfigResources() {
		d.Configs = append(d.Configs, r)
	}
	d.normalize()
	return d
}

// cloneFeatures is never nil.
func cloneFeatures(m map[string]int16) map[string]int16 {
	if m == nil {
		return map[string]int16{}
	}
	return maps.Clone(m)
}
