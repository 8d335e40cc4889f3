package fsm

import (
	"maps"
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
)

// maxTopicName is Kafka's longest topic name.
const maxTopicName = 249

func (t *txn) createTopics(c *command.CreateTopics) (command.Result, error) {
	return each(len(c.Topics), func(i int) (command.ItemResult, error) { return t.createTopic(&c.Topics[i], c.Time) })
}

func (t *txn) createTopic(n *command.NewTopic, now int64) (command.ItemResult, error) {
	if old := t.ed.Topic(n.ID); old != nil && old.Name == n.Name {
		return command.ItemResult{Topic: n.ID}, nil
	}
	if err := t.checkNewTopic(n); err != nil {
		return command.ItemResult{}, err
	}
	parts := make([]*metadata.Partition, len(n.Assignments))
	for i, replicas := range n.Assignments {
		p, err := t.newPartition(n.Name, int32(i), replicas)
		if err != nil {
			return command.ItemResult{}, err
		}
		parts[i] = p
	}
	topic := &metadata.Topic{ID: n.ID, Name: n.Name, Partitions: int32(len(parts)), Internal: n.Internal, Configs: nonEmpty(n.Configs), CreatedAt: now}
	if err := t.putTopic(topic); err != nil {
		return command.ItemResult{}, err
	}
	if topic.Configs != nil {
		t.ed.TouchConfigs(metadata.ConfigResource{Kind: metadata.ResourceTopic, Name: n.Name})
	}
	for i, p := range parts {
		if err := t.putPartition(record.TopicPartition{Topic: n.ID, Partition: int32(i)}, p); err != nil {
			return command.ItemResult{}, err
		}
	}
	return command.ItemResult{Topic: n.ID}, nil
}

func (t *txn) checkNewTopic(n *command.NewTopic) error {
	if err := checkTopicName(n.Name); err != nil {
		return err
	}
	if t.ed.TopicByName(n.Name) != nil {
		return refuse(command.ErrExists, "topic %s exists", n.Name)
	}
	if other := t.ed.Collision(n.Name); other != "" {
		return refuse(command.ErrInvalidName, "topic %s collides with %s: '.' and '_' are the same in metric names", n.Name, other)
	}
	if n.ID.IsZero() {
		return refuse(command.ErrInvalid, "topic %s has no id", n.Name)
	}
	taken := t.ed.Topic(n.ID) != nil
	if !taken {
		dead, err := hasKey(t.batch, tombstoneKey(n.ID))
		if err != nil {
			return err
		}
		taken = dead
	}
	if taken {
		return refuse(command.ErrExists, "topic id %s is taken", n.ID)
	}
	if len(n.Assignments) == 0 {
		return refuse(command.ErrInvalidPartitionCount, "topic %s has no partitions", n.Name)
	}
	return nil
}

func checkTopicName(name string) error {
	switch {
	case name == "":
		return refuse(command.ErrInvalidName, "topic name is empty")
	case name == "." || name == "..":
		return refuse(command.ErrInvalidName, "topic name cannot be %q", name)
	case len(name) > maxTopicName:
		return refuse(command.ErrInvalidName, "topic name has %d characters, at most %d are allowed", len(name), maxTopicName)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '_' && r != '-' {
			return refuse(command.ErrInvalidName, "topic name %q has a character other than letters, digits, '.', '_' and '-'", name)
		}
	}
	return nil
}

// newPartition makes the first state of a partition: of the eligible replicas the
// first leads, and all are in sync, since none has anything.
func (t *txn) newPartition(topic string, number int32, replicas []int32) (*metadata.Partition, error) {
	if len(replicas) == 0 {
		return nil, refuse(command.ErrInvalidAssignment, "partition %s-%d has no replicas", topic, number)
	}
	p := &metadata.Partition{Replicas: slices.Clone(replicas), Leader: -1, LastKnownLeader: -1, RemoteEpoch: record.NoEpoch}
	for i, id := range replicas {
		if slices.Contains(replicas[:i], id) {
			return nil, refuse(command.ErrInvalidAssignment, "partition %s-%d names broker %d twice", topic, number, id)
		}
		b := t.ed.Broker(id)
		if b == nil {
			return nil, refuse(command.ErrInvalidAssignment, "partition %s-%d: broker %d is not registered", topic, number, id)
		}
		if b.Eligible() {
			p.ISR = append(p.ISR, id)
		}
	}
	if len(p.ISR) == 0 {
		return nil, refuse(command.ErrInvalidAssignment, "partition %s-%d: every replica is fenced or shutting down", topic, number)
	}
	p.Leader = p.ISR[0]
	return p, nil
}

func (t *txn) putTopic(topic *metadata.Topic) error {
	if err := t.put(topicKey(topic.ID), topicToProto(topic)); err != nil {
		return err
	}
	t.ed.PutTopic(topic)
	return nil
}

func (t *txn) putPartition(tp record.TopicPartition, p *metadata.Partition) error {
	if err := t.put(partitionKey(tp), partitionToProto(p)); err != nil {
		return err
	}
	t.ed.PutPartition(tp, p)
	return nil
}

func (t *txn) createPartitions(c *command.CreatePartitions) (command.Result, error) {
	return each(len(c.Topics), func(i int) (command.ItemResult, error) { return t.morePartitions(&c.Topics[i]) })
}

func (t *txn) morePartitions(m *command.MorePartitions) (command.ItemResult, error) {
	old := t.ed.Topic(m.Topic)
	if old == nil {
		return command.ItemResult{}, refuse(command.ErrNotFound, "topic %s does not exist", m.Topic)
	}
	if len(m.Assignments) == 0 || int64(m.Count) != int64(old.Partitions)+int64(len(m.Assignments)) {
		return command.ItemResult{}, refuse(command.ErrInvalidPartitionCount, "topic %s has %d partitions: %d more do not make %d", old.Name, old.Partitions, len(m.Assignments), m.Count)
	}
	parts := make([]*metadata.Partition, len(m.Assignments))
	for i, replicas := range m.Assignments {
		p, err := t.newPartition(old.Name, old.Partitions+int32(i), replicas)
		if err != nil {
			return command.ItemResult{}, err
		}
		parts[i] = p
	}
	topic := *old
	topic.Partitions = m.Count
	if err := t.putTopic(&topic); err != nil {
		return command.ItemResult{}, err
	}
	for i, p := range parts {
		if err := t.putPartition(record.TopicPartition{Topic: m.Topic, Partition: old.Partitions + int32(i)}, p); err != nil {
			return command.ItemResult{}, err
		}
	}
	return command.ItemResult{Topic: m.Topic}, nil
}

func (t *txn) deleteTopics(c *command.DeleteTopics) (command.Result, error) {
	return each(len(c.Topics), func(i int) (command.ItemResult, error) {
		id := c.Topics[i]
		topic := t.ed.Topic(id)
		if topic == nil {
			return command.ItemResult{}, refuse(command.ErrNotFound, "topic %s does not exist", id)
		}
		if err := t.delete(topicKey(id)); err != nil {
			return command.ItemResult{}, err
		}
		from := partitionsPrefix(id)
		if err := t.batch.DeleteRange(from, prefixEnd(from), nil); err != nil {
			return command.ItemResult{}, err
		}
		stone := &statepb.Tombstone{Name: topic.Name, Partitions: topic.Partitions, DeletedAt: c.Time}
		if err := t.put(tombstoneKey(id), stone); err != nil {
			return command.ItemResult{}, err
		}
		t.ed.DeleteTopic(id)
		return command.ItemResult{Topic: id}, nil
	})
}

func (t *txn) purgeTopic(c *command.PurgeTopic) (command.Result, error) {
	if topic := t.ed.Topic(c.Topic); topic != nil {
		return command.Result{}, refuse(command.ErrNotFound, "topic %s is not deleted", topic.Name)
	}
	left, err := hasAny(t.batch, topicEntriesPrefix(c.Topic))
	if err != nil {
		return command.Result{}, err
	}
	if left {
		return command.Result{}, refuse(command.ErrNotEmpty, "topic %s still has remote entries", c.Topic)
	}
	err = scanPending(t.batch, func(o metadata.Object) error {
		if o.State == metadata.ObjectCopying && o.Partition.Topic == c.Topic {
			return refuse(command.ErrNotEmpty, "topic %s still has the copy %s under way", c.Topic, o.ID)
		}
		return nil
	})
	if err != nil {
		return command.Result{}, err
	}
	return command.Result{}, t.delete(tombstoneKey(c.Topic))
}

func (t *txn) alterConfigs(c *command.AlterConfigs) (command.Result, error) {
	return each(len(c.Changes), func(i int) (command.ItemResult, error) { return command.ItemResult{}, t.alterConfig(&c.Changes[i]) })
}

func (t *txn) alterConfig(ch *command.ConfigChange) error {
	old := t.ed.Configs(ch.Resource)
	for _, e := range ch.Expect {
		if value, ok := old[e.Name]; ok != e.Set || ok && value != e.Value {
			return refuse(command.ErrConflict, "%s was changed meanwhile", e.Name)
		}
	}
	next := map[string]string{}
	if !ch.Replace {
		maps.Copy(next, old)
	}
	for _, name := range ch.Delete {
		delete(next, name)
	}
	maps.Copy(next, ch.Set)
	switch ch.Resource.Kind {
	case metadata.ResourceTopic:
		topic := t.ed.TopicByName(ch.Resource.Name)
		if topic == nil {
			return refuse(command.ErrNotFound, "topic %s does not exist", ch.Resource.Name)
		}
		if maps.Equal(old, next) {
			return nil
		}
		changed := *topic
		changed.Configs = nonEmpty(next)
		if err := t.put(topicKey(topic.ID), topicToProto(&changed)); err != nil {
			return err
		}
	case metadata.ResourceBroker, metadata.ResourceGroup:
		if maps.Equal(old, next) {
			return nil
		}
		key := configKey(ch.Resource)
		if len(next) == 0 {
			if err := t.delete(key); err != nil {
				return err
			}
		} else if err := t.put(key, &statepb.Configs{Configs: next}); err != nil {
			return err
		}
	default:
		return refuse(command.ErrInvalid, "configs of resource kind %d", ch.Resource.Kind)
	}
	t.ed.SetConfigs(ch.Resource, next)
	return t.settleConfigs(ch.Resource, old)
}

// settleConfigs settles the partitions whose policy a change of configs changed.
func (t *txn) settleConfigs(r metadata.ConfigResource, old map[string]string) error {
	switch {
	case metadata.PolicyOf(old, nil) == metadata.PolicyOf(t.ed.Configs(r), nil):
		return nil
	case r.Kind == metadata.ResourceTopic:
		return t.settleTopic(t.ed.TopicByName(r.Name))
	case r.Kind == metadata.ResourceBroker && r.Name == "":
		return t.settleAll(func(*metadata.Partition) bool { return true }, nil)
	default:
		return nil
	}
}

func nonEmpty(m map[string]string) map[string]string {
	if len(m) == 0 {
		return nil
	}
	return m
}
