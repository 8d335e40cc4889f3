package fsm

import (
	"errors"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// model is the state machine once more, as naive as it can be: maps, copied
// values, no batches. It answers with error codes, 0 for none.
type model struct {
	clusterID     string
	features      map[string]int16
	featuresEpoch int64
	nextProducer  int64
	brokers       map[int32]metadata.Broker
	topics        map[record.TopicID]metadata.Topic
	parts         map[record.TopicPartition]metadata.Partition
	configs       map[metadata.ConfigResource]map[string]string
	objects       map[uuid.UUID]metadata.Object
	entries       map[record.TopicPartition]map[record.Offset]manifest.Entry
	stones        map[record.TopicID]metadata.Tombstone
	requests      map[uuid.UUID]modelAnswer
	// version is that of the command under way.
	version byte
}

// modelAnswer is what a command is answered with: a code for the whole, or one per
// item, and what it gave.
type modelAnswer struct {
	index   uint64
	code    command.Code
	items   []command.Code
	epoch   int64
	first   int64
	applied bool
	objects []uuid.UUID
}

func newModel() *model {
	return &model{
		features: map[string]int16{},
		brokers:  map[int32]metadata.Broker{},
		topics:   map[record.TopicID]metadata.Topic{},
		parts:    map[record.TopicPartition]metadata.Partition{},
		configs:  map[metadata.ConfigResource]map[string]string{},
		objects:  map[uuid.UUID]metadata.Object{},
		entries:  map[record.TopicPartition]map[record.Offset]manifest.Entry{},
		stones:   map[record.TopicID]metadata.Tombstone{},
		requests: map[uuid.UUID]modelAnswer{},
	}
}

func (m *model) apply(index uint64, version byte, cmd command.Command) modelAnswer {
	m.version = version
	id := command.RequestIDOf(cmd)
	if a, ok := m.requests[id]; ok && id != uuid.Nil {
		return a
	}
	a := m.run(index, cmd)
	a.index = index
	if id != uuid.Nil {
		m.requests[id] = a
	}
	return a
}

func whole(code command.Code) modelAnswer { return modelAnswer{code: code} }

func (m *model) stale(broker int32, epoch int64) bool {
	b, ok := m.brokers[broker]
	return !ok || b.Epoch != epoch
}

func (m *model) eligible(id int32) bool {
	b, ok := m.brokers[id]
	return ok && !b.Fenced && !b.ShuttingDown && !b.Full
}

func (m *model) leads(tp record.TopicPartition, broker int32, epoch record.Epoch) command.Code {
	p, ok := m.parts[tp]
	switch {
	case !ok:
		return command.CodeNotFound
	case p.LeaderEpoch != epoch:
		return command.CodeStaleLeaderEpoch
	case p.Leader != broker:
		return command.CodeNotLeader
	}
	return 0
}

func (m *model) run(index uint64, cmd command.Command) modelAnswer {
	switch c := cmd.(type) {
	case *command.FormatCluster:
		if m.clusterID != "" {
			if m.clusterID != c.ClusterID {
				return whole(command.CodeExists)
			}
			return whole(0)
		}
		m.clusterID = c.ClusterID
		for k, v := range c.Features {
			m.features[k] = v
			m.featuresEpoch = int64(index)
		}
		if len(c.Configs) > 0 {
			m.alterConfig(command.ConfigChange{Resource: metadata.ConfigResource{Kind: metadata.ResourceBroker}, Set: c.Configs})
		}
		return whole(0)
	case *command.UpdateFeatures:
		return whole(m.updateFeatures(index, c))
	case *command.RegisterBroker:
		old, ok := m.brokers[c.BrokerID]
		if ok && old.DirectoryID == c.DirectoryID && old.Incarnation == c.Incarnation {
			return modelAnswer{epoch: old.Epoch}
		}
		if ok && old.DirectoryID != c.DirectoryID && !old.Fenced {
			return whole(command.CodeDuplicateBroker)
		}
		for name, level := range m.features {
			if r, ok := c.Features[name]; !ok || level < r.Min || level > r.Max {
				return whole(command.CodeFeature)
			}
		}
		m.brokers[c.BrokerID] = metadata.Broker{ID: c.BrokerID, DirectoryID: c.DirectoryID, Incarnation: c.Incarnation,
			Epoch: int64(index), Rack: c.Rack, Features: c.Features, Fenced: true, RegisteredAt: c.Time,
			ClusterAddress: c.ClusterAddress}
		wiped := !ok || old.DirectoryID != c.DirectoryID
		m.discount(c.BrokerID, wiped, wiped, func(tp record.TopicPartition) bool {
			d := m.topicPolicy(tp.Topic).Durability
			return wiped || c.Untrusted && (d == "replicated" || d == "" && c.ReplicatedByDefault)
		})
		return modelAnswer{epoch: int64(index)}
	case *command.UnregisterBroker:
		return m.unregister(c)
	case *command.SetBrokerState:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		b := m.brokers[c.BrokerID]
		switch c.State {
		case command.BrokerFenced:
			b.Fenced = true
		case command.BrokerActive:
			if b.ShuttingDown {
				return whole(command.CodeInvalid)
			}
			b.Fenced, b.Full = false, false
		case command.BrokerFull:
			if b.ShuttingDown || m.version < 3 {
				return whole(command.CodeInvalid)
			}
			b.Fenced, b.Full = false, true
		default:
			b.ShuttingDown = true
		}
		m.brokers[c.BrokerID] = b
		m.restAll(b.ID)
		return modelAnswer{epoch: b.Epoch}
	case *command.AllocateProducerIDs:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		m.nextProducer += 1000
		return modelAnswer{first: m.nextProducer - 1000}
	case *command.CreateTopics:
		return items(c.Topics, func(n command.NewTopic) command.Code { return m.createTopic(n, c.Time) })
	case *command.DeleteTopics:
		return items(c.Topics, func(id record.TopicID) command.Code {
			t, ok := m.topics[id]
			if !ok {
				return command.CodeNotFound
			}
			delete(m.topics, id)
			for i := range t.Partitions {
				delete(m.parts, record.TopicPartition{Topic: id, Partition: i})
			}
			m.stones[id] = metadata.Tombstone{Topic: id, Name: t.Name, Partitions: t.Partitions, DeletedAt: c.Time}
			return 0
		})
	case *command.PurgeTopic:
		return whole(m.purge(c.Topic))
	case *command.CreatePartitions:
		return items(c.Topics, m.morePartitions)
	case *command.AlterConfigs:
		return items(c.Changes, m.alterConfig)
	case *command.AlterPartition:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		return items(c.Partitions, func(ch command.ISRChange) command.Code { return m.alterPartition(c.BrokerID, ch) })
	case *command.ElectLeaders:
		return items(c.Elections, m.elect)
	case *command.AlterReassignments:
		return items(c.Items, func(it command.Reassignment) command.Code { return m.reassign(it, c.KeepFactor) })
	case *command.AdvanceLogStart:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		return items(c.Partitions, func(ch command.LogStartChange) command.Code {
			if code := m.leads(ch.Partition, c.BrokerID, ch.LeaderEpoch); code != 0 {
				return code
			}
			if ch.LogStart < 0 {
				return command.CodeInvalid
			}
			p := m.parts[ch.Partition]
			p.LogStart = max(p.LogStart, ch.LogStart)
			m.parts[ch.Partition] = p
			return 0
		})
	default:
		return m.runTier(index, cmd)
	}
}

func items[T any](in []T, fn func(T) command.Code) modelAnswer {
	a := modelAnswer{items: []command.Code{}}
	for _, x := range in {
		a.items = append(a.items, fn(x))
	}
	return a
}

func (m *model) updateFeatures(index uint64, c *command.UpdateFeatures) command.Code {
	for _, u := range c.Updates {
		if u.Level < m.features[u.Name] && (!u.Downgrade || u.Name == command.Feature) {
			return command.CodeFeature
		}
		if u.Level == 0 {
			continue
		}
		for _, b := range m.brokers {
			if r, ok := b.Features[u.Name]; !ok || u.Level < r.Min || u.Level > r.Max {
				return command.CodeFeature
			}
		}
	}
	for _, u := range c.Updates {
		if m.features[u.Name] != u.Level {
			m.featuresEpoch = int64(index)
			m.features[u.Name] = u.Level
			if u.Level == 0 {
				delete(m.features, u.Name)
			}
		}
	}
	return 0
}

func (m *model) assignment(replicas []int32) (metadata.Partition, command.Code) {
	p := metadata.Partition{Replicas: replicas, Leader: -1, LastKnownLeader: -1, RemoteEpoch: -1}
	seen := map[int32]bool{}
	for _, r := range replicas {
		if _, ok := m.brokers[r]; !ok || seen[r] {
			return p, command.CodeInvalidAssignment
		}
		seen[r] = true
		if m.eligible(r) {
			p.ISR = append(p.ISR, r)
		}
	}
	if len(p.ISR) == 0 {
		return p, command.CodeInvalidAssignment
	}
	p.Leader = p.ISR[0]
	return p, 0
}

func (m *model) createTopic(n command.NewTopic, now int64) command.Code {
	if t, ok := m.topics[n.ID]; ok && t.Name == n.Name {
		return 0
	}
	if n.Name == "bad name" {
		return command.CodeInvalidName
	}
	for _, t := range m.topics {
		if t.Name == n.Name {
			return command.CodeExists
		}
	}
	for _, t := range m.topics {
		if slices.Equal(foldModel(t.Name), foldModel(n.Name)) {
			return command.CodeInvalidName
		}
	}
	_, alive := m.topics[n.ID]
	_, dead := m.stones[n.ID]
	if alive || dead {
		return command.CodeExists
	}
	if len(n.Assignments) == 0 {
		return command.CodeInvalidPartitionCount
	}
	var parts []metadata.Partition
	for _, a := range n.Assignments {
		p, code := m.assignment(a)
		if code != 0 {
			return code
		}
		parts = append(parts, p)
	}
	m.topics[n.ID] = metadata.Topic{ID: n.ID, Name: n.Name, Partitions: int32(len(parts)), Configs: n.Configs, CreatedAt: now}
	for i, p := range parts {
		m.parts[record.TopicPartition{Topic: n.ID, Partition: int32(i)}] = p
	}
	return 0
}

func foldModel(name string) []byte {
	b := []byte(name)
	for i := range b {
		if b[i] == '.' {
			b[i] = '_'
		}
	}
	return b
}

func (m *model) purge(id record.TopicID) command.Code {
	if _, ok := m.topics[id]; ok {
		return command.CodeNotFound
	}
	for tp, es := range m.entries {
		if tp.Topic == id && len(es) > 0 {
			return command.CodeNotEmpty
		}
	}
	for _, o := range m.objects {
		if o.Partition.Topic == id && o.State == metadata.ObjectCopying {
			return command.CodeNotEmpty
		}
	}
	delete(m.stones, id)
	return 0
}

func (m *model) morePartitions(n command.MorePartitions) command.Code {
	t, ok := m.topics[n.Topic]
	if !ok {
		return command.CodeNotFound
	}
	if len(n.Assignments) == 0 || int(n.Count) != int(t.Partitions)+len(n.Assignments) {
		return command.CodeInvalidPartitionCount
	}
	var parts []metadata.Partition
	for _, a := range n.Assignments {
		p, code := m.assignment(a)
		if code != 0 {
			return code
		}
		parts = append(parts, p)
	}
	for i, p := range parts {
		m.parts[record.TopicPartition{Topic: n.Topic, Partition: t.Partitions + int32(i)}] = p
	}
	t.Partitions = n.Count
	m.topics[n.Topic] = t
	return 0
}

func (m *model) alterConfig(ch command.ConfigChange) command.Code {
	old := m.configs[ch.Resource]
	topic := record.TopicID{}
	if ch.Resource.Kind == metadata.ResourceTopic {
		for id, t := range m.topics {
			if t.Name == ch.Resource.Name {
				topic, old = id, t.Configs
			}
		}
		if topic.IsZero() {
			return command.CodeNotFound
		}
	}
	for _, e := range ch.Expect {
		if v, ok := old[e.Name]; ok != e.Set || ok && v != e.Value {
			return command.CodeConflict
		}
	}
	if topic.IsZero() {
		m.configs[ch.Resource] = edited(old, ch)
	} else {
		t := m.topics[topic]
		t.Configs = edited(old, ch)
		m.topics[topic] = t
	}
	m.restAll(-1)
	return 0
}

func edited(old map[string]string, ch command.ConfigChange) map[string]string {
	next := map[string]string{}
	if !ch.Replace {
		maps.Copy(next, old)
	}
	for _, d := range ch.Delete {
		delete(next, d)
	}
	maps.Copy(next, ch.Set)
	return next
}

func (m *model) runTier(index uint64, cmd command.Command) modelAnswer {
	switch c := cmd.(type) {
	case *command.CopyStarted:
		return whole(m.copyStarted(index, c))
	case *command.CopyFinished:
		return m.copyFinished(c)
	case *command.CopyAbandoned:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		o, ok := m.objects[c.Object]
		switch {
		case !ok || o.State == metadata.ObjectDeleting:
			return whole(0)
		case o.State == metadata.ObjectFinished:
			return whole(command.CodeInvalid)
		}
		o.State, o.DeletingSince = metadata.ObjectDeleting, c.Time
		m.objects[c.Object] = o
		return modelAnswer{objects: []uuid.UUID{c.Object}}
	case *command.DeleteStarted:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		var dropped []uuid.UUID
		a := items(c.Entries, func(k command.EntryKey) command.Code {
			e, ok := m.entries[k.Partition][k.Start]
			if !ok || e.Object != k.Object {
				return 0
			}
			if p, ok := m.parts[k.Partition]; ok && e.End > p.LogStart {
				return command.CodeRange
			}
			delete(m.entries[k.Partition], k.Start)
			o := m.objects[k.Object]
			o.State, o.DeletingSince = metadata.ObjectDeleting, c.Time
			m.objects[k.Object] = o
			dropped = append(dropped, k.Object)
			return 0
		})
		a.objects = dropped
		return a
	case *command.DeleteFinished:
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		return items(c.Objects, func(id uuid.UUID) command.Code {
			if o, ok := m.objects[id]; ok && o.State != metadata.ObjectDeleting {
				return command.CodeInvalid
			}
			delete(m.objects, id)
			return 0
		})
	}
	panic("unknown command")
}

func (m *model) copyStarted(index uint64, c *command.CopyStarted) command.Code {
	if o, ok := m.objects[c.Object]; ok {
		if o.State == metadata.ObjectCopying && o.Partition == c.Partition && o.Start == c.Start && o.End == c.End &&
			o.BrokerID == c.BrokerID && o.BrokerEpoch == c.BrokerEpoch && o.LeaderEpoch == c.LeaderEpoch {
			return 0
		}
		return command.CodeExists
	}
	if m.stale(c.BrokerID, c.BrokerEpoch) {
		return command.CodeStaleBrokerEpoch
	}
	if code := m.leads(c.Partition, c.BrokerID, c.LeaderEpoch); code != 0 {
		return code
	}
	p := m.parts[c.Partition]
	if c.Start != max(p.RemoteEnd, p.LogStart) || c.End <= c.Start {
		return command.CodeRange
	}
	m.objects[c.Object] = metadata.Object{ID: c.Object, State: metadata.ObjectCopying, Store: c.Store, Partition: c.Partition, Start: c.Start,
		End: c.End, LeaderEpoch: c.LeaderEpoch, BrokerID: c.BrokerID, BrokerEpoch: c.BrokerEpoch, Intent: index, StartedAt: c.Time}
	return 0
}

func (m *model) copyFinished(c *command.CopyFinished) modelAnswer {
	o, ok := m.objects[c.Object]
	if !ok {
		return whole(command.CodeNotFound)
	}
	if o.Partition != c.Partition || o.Start != c.Entry.Start || o.End != c.Entry.End {
		return whole(command.CodeRange)
	}
	if o.State == metadata.ObjectFinished {
		return modelAnswer{applied: true}
	}
	if o.State == metadata.ObjectDeleting {
		return modelAnswer{objects: []uuid.UUID{c.Object}}
	}
	o.Size, o.Footer, o.Checksum, o.FinishedAt = c.Size, c.Footer, c.Checksum, c.Time
	p, ok := m.parts[c.Partition]
	if ok {
		if m.stale(c.BrokerID, c.BrokerEpoch) {
			return whole(command.CodeStaleBrokerEpoch)
		}
		if code := m.leads(c.Partition, c.BrokerID, c.LeaderEpoch); code != 0 {
			return whole(code)
		}
		if last := c.Entry.Epochs[len(c.Entry.Epochs)-1].Epoch; last > p.LeaderEpoch || last < p.RemoteEpoch {
			return whole(command.CodeInvalid)
		}
		if c.Entry.Start < p.RemoteEnd || c.Entry.Start > max(p.RemoteEnd, p.LogStart) {
			return whole(command.CodeRange)
		}
	}
	if !ok || c.Entry.End <= p.LogStart {
		o.State, o.DeletingSince = metadata.ObjectDeleting, c.Time
		m.objects[c.Object] = o
		return modelAnswer{objects: []uuid.UUID{c.Object}}
	}
	o.State = metadata.ObjectFinished
	m.objects[c.Object] = o
	if m.entries[c.Partition] == nil {
		m.entries[c.Partition] = map[record.Offset]manifest.Entry{}
	}
	e := c.Entry
	e.Object, e.FinishedAt = c.Object, c.Time
	m.entries[c.Partition][e.Start] = e
	p.RemoteEnd, p.RemoteEpoch = e.End, e.Epochs[len(e.Epochs)-1].Epoch
	m.parts[c.Partition] = p
	return modelAnswer{applied: true}
}

// codeOf is the code of a refusal, 0 for none.
func codeOf(err error) command.Code {
	var refusal *command.Error
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return 0
}
