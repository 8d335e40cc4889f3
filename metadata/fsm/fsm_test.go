package fsm

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

type fataler interface {
	require.TestingT
	Fatalf(string, ...any)
}

func openFSM(t fataler, fs vfs.FS, onApplied func(*metadata.Image, metadata.Delta)) *FSM {
	f, err := Open(Options{FS: fs, Dir: "state", OnApplied: onApplied, OnFatal: func(err error) { t.Fatalf("fatal: %v", err) }})
	require.NoError(t, err)
	return f
}

func encode(t require.TestingT, index uint64, cmd command.Command) Entry {
	return encodeAt(t, index, cmd, command.Version)
}

func encodeAt(t require.TestingT, index uint64, cmd command.Command, version byte) Entry {
	data, err := command.EncodeAt(cmd, version)
	require.NoError(t, err)
	return Entry{Index: index, Data: data}
}

// generator draws commands that mostly make sense in the model's state, with stale
// fences and strange ranges mixed in.
type generator struct {
	t *rapid.T
	m *model
	// requests are the ids used so far.
	requests []uuid.UUID
	serial   int
}

func (g *generator) uuid() uuid.UUID {
	g.serial++
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(fmt.Sprint(g.serial)))
}

func pick[T any](g *generator, label string, from []T) (T, bool) {
	var zero T
	if len(from) == 0 {
		return zero, false
	}
	return rapid.SampledFrom(from).Draw(g.t, label), true
}

func (g *generator) rarely(label string) bool { return rapid.IntRange(0, 9).Draw(g.t, label) == 0 }

func (g *generator) topicIDs() []record.TopicID {
	return slices.SortedFunc(maps.Keys(g.m.topics), func(a, b record.TopicID) int { return bytes.Compare(a[:], b[:]) })
}

func (g *generator) deadTopics() []record.TopicID {
	return slices.SortedFunc(maps.Keys(g.m.stones), func(a, b record.TopicID) int { return bytes.Compare(a[:], b[:]) })
}

func (g *generator) partitions() []record.TopicPartition {
	return slices.SortedFunc(maps.Keys(g.m.parts), func(a, b record.TopicPartition) int {
		if c := bytes.Compare(a.Topic[:], b.Topic[:]); c != 0 {
			return c
		}
		return int(a.Partition - b.Partition)
	})
}

func (g *generator) objects() []uuid.UUID {
	return slices.SortedFunc(maps.Keys(g.m.objects), func(a, b uuid.UUID) int { return bytes.Compare(a[:], b[:]) })
}

func (g *generator) request() command.Request {
	switch rapid.IntRange(0, 3).Draw(g.t, "request") {
	case 0:
		return command.Request{}
	case 1:
		if id, ok := pick(g, "old request", g.requests); ok {
			return command.Request{RequestID: id}
		}
	}
	id := g.uuid()
	g.requests = append(g.requests, id)
	return command.Request{RequestID: id}
}

func (g *generator) broker() (int32, int64) {
	ids := slices.Sorted(maps.Keys(g.m.brokers))
	id, _ := pick(g, "broker", ids)
	epoch := g.m.brokers[id].Epoch
	if g.rarely("stale broker") {
		epoch--
	}
	return id, epoch
}

// fence is that of a partition's leader, now and then stale.
func (g *generator) fence(tp record.TopicPartition) command.Fence {
	p := g.m.parts[tp]
	f := command.Fence{BrokerID: p.Leader, BrokerEpoch: g.m.brokers[p.Leader].Epoch, LeaderEpoch: p.LeaderEpoch}
	switch rapid.IntRange(0, 19).Draw(g.t, "fence") {
	case 0:
		f.BrokerEpoch--
	case 1:
		f.LeaderEpoch--
	case 2:
		f.BrokerID, f.BrokerEpoch = g.broker()
	}
	return f
}

func (g *generator) replicas(label string) []int32 {
	return rapid.SliceOfN(rapid.Int32Range(1, 4), 1, 3).Draw(g.t, label)
}

// config draws a setting, most often one that apply reads.
func (g *generator) config() (name, value string) {
	s := rapid.SampledFrom([][2]string{{"x", "v"}, {"y", "v"}, {"min.insync.replicas", "1"}, {"min.insync.replicas", "2"}, {"min.insync.replicas", "3"},
		{"unclean.leader.election.enable", "true"}, {"unclean.leader.election.enable", "false"}, {"durability", "replicated"}, {"log.durability", "replicated"}}).Draw(g.t, "config")
	return s[0], s[1]
}

func (g *generator) partition() record.TopicPartition {
	tp, ok := pick(g, "partition", g.partitions())
	if !ok || g.rarely("unknown partition") {
		return record.TopicPartition{Topic: record.TopicID(g.uuid()), Partition: 1}
	}
	return tp
}

func (g *generator) topic() record.TopicID {
	id, ok := pick(g, "topic", append(g.topicIDs(), g.deadTopics()...))
	if !ok {
		return record.TopicID(g.uuid())
	}
	return id
}

var ranges = map[string]metadata.VersionRange{"a": {Min: 0, Max: 3}, "b": {Min: 1, Max: 2}, command.Feature: {Min: 1, Max: 2}}

// version draws that of a command: now and then somebody has not heard yet that the
// level was raised.
func (g *generator) version() byte {
	if g.rarely("old version") {
		return command.Level1.CommandVersion()
	}
	return command.Level2.CommandVersion()
}

func (g *generator) next(index uint64) command.Command {
	now := int64(index) * 1000
	if len(g.m.brokers) < 3 {
		return &command.RegisterBroker{BrokerID: int32(len(g.m.brokers) + 1), DirectoryID: g.uuid(), Incarnation: g.uuid(), Features: ranges, Time: now}
	}
	for _, id := range []int32{1, 2, 3} {
		if b := g.m.brokers[id]; index < 12 && b.Fenced && !b.ShuttingDown {
			return &command.SetBrokerState{BrokerID: id, BrokerEpoch: b.Epoch, State: command.BrokerActive}
		}
	}
	if len(g.m.topics) == 0 && !g.rarely("no topic") {
		return &command.CreateTopics{Time: now, Topics: []command.NewTopic{{ID: record.TopicID(g.uuid()), Name: "t", Assignments: [][]int32{{1, 2, 3}, {2, 3}, {2}}}}}
	}
	switch rapid.IntRange(0, 32).Draw(g.t, "kind") {
	case 0:
		return &command.FormatCluster{ClusterID: rapid.SampledFrom([]string{"c1", "c2"}).Draw(g.t, "cluster"), Features: map[string]int16{"a": 1, command.Feature: 1},
			Configs: map[string]string{"min.insync.replicas": "2"}}
	case 1:
		return &command.UpdateFeatures{Request: g.request(), Updates: []command.FeatureUpdate{{Name: rapid.SampledFrom([]string{"a", "b", "c", command.Feature}).Draw(g.t, "feature"),
			Level: int16(rapid.IntRange(0, 3).Draw(g.t, "level")), Downgrade: rapid.Bool().Draw(g.t, "downgrade")}}}
	case 2:
		c := &command.RegisterBroker{BrokerID: rapid.Int32Range(1, 4).Draw(g.t, "id"), DirectoryID: g.uuid(), Incarnation: g.uuid(), Features: ranges, Time: now,
			ClusterAddress: "h:1", Untrusted: rapid.Bool().Draw(g.t, "untrusted"), ReplicatedByDefault: rapid.Bool().Draw(g.t, "replicated")}
		if b, ok := g.m.brokers[c.BrokerID]; ok && !g.rarely("other directory") {
			c.DirectoryID = b.DirectoryID
			if g.rarely("again") {
				c.Incarnation = b.Incarnation
			}
		}
		return c
	case 3, 4:
		id, epoch := g.broker()
		return &command.SetBrokerState{BrokerID: id, BrokerEpoch: epoch,
			State: rapid.SampledFrom([]command.BrokerState{command.BrokerActive, command.BrokerActive, command.BrokerActive, command.BrokerFenced, command.BrokerFull, command.BrokerFull, command.BrokerShuttingDown}).Draw(g.t, "state")}
	case 5:
		id, epoch := g.broker()
		return &command.AllocateProducerIDs{Request: g.request(), BrokerID: id, BrokerEpoch: epoch}
	case 6, 7:
		c := &command.CreateTopics{Request: g.request(), Time: now}
		for range rapid.IntRange(1, 2).Draw(g.t, "topics") {
			n := command.NewTopic{ID: record.TopicID(g.uuid()), Name: rapid.SampledFrom([]string{"a", "b", "c.d", "c_d", "e", "bad name"}).Draw(g.t, "name")}
			if g.rarely("id in use") {
				n.ID = g.topic()
			}
			for range rapid.IntRange(0, 3).Draw(g.t, "partitions") {
				n.Assignments = append(n.Assignments, g.replicas("replicas"))
			}
			if rapid.Bool().Draw(g.t, "configs") {
				k, v := g.config()
				n.Configs = map[string]string{k: v}
			}
			c.Topics = append(c.Topics, n)
		}
		return c
	case 8:
		if !g.rarely("delete") && len(g.m.topics) < 4 {
			break
		}
		return &command.DeleteTopics{Request: g.request(), Time: now, Topics: []record.TopicID{g.topic()}}
	case 9:
		return &command.PurgeTopic{Topic: g.topic()}
	case 10:
		id := g.topic()
		n := g.m.topics[id].Partitions
		return &command.CreatePartitions{Request: g.request(), Topics: []command.MorePartitions{{Topic: id,
			Count: n + rapid.Int32Range(0, 2).Draw(g.t, "more"), Assignments: [][]int32{g.replicas("replicas")}}}}
	case 11:
		r := metadata.ConfigResource{Kind: metadata.ResourceBroker, Name: rapid.SampledFrom([]string{"", "1"}).Draw(g.t, "resource")}
		if id, ok := pick(g, "topic", g.topicIDs()); ok && rapid.Bool().Draw(g.t, "of topic") {
			r = metadata.ConfigResource{Kind: metadata.ResourceTopic, Name: g.m.topics[id].Name}
		}
		k, v := g.config()
		ch := command.ConfigChange{Resource: r, Replace: rapid.Bool().Draw(g.t, "replace"), Set: map[string]string{k: v},
			Delete: rapid.SliceOfN(rapid.SampledFrom([]string{"x", "min.insync.replicas", "durability"}), 0, 2).Draw(g.t, "drop")}
		if g.rarely("expect") {
			k, v := g.config()
			ch.Expect = []command.ConfigExpectation{{Name: k, Value: v, Set: rapid.Bool().Draw(g.t, "set")}}
		}
		return &command.AlterConfigs{Request: g.request(), Changes: []command.ConfigChange{ch}}
	case 12, 14, 15:
		tp := g.partition()
		f, p := g.fence(tp), g.m.parts[tp]
		ch := command.ISRChange{Partition: tp, LeaderEpoch: f.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []command.ISRMember{{BrokerID: p.Leader, BrokerEpoch: -1}}}
		for _, r := range p.Replicas {
			if r != p.Leader && rapid.Bool().Draw(g.t, "member") {
				m := command.ISRMember{BrokerID: r, BrokerEpoch: g.m.brokers[r].Epoch}
				if g.rarely("no epoch") {
					m.BrokerEpoch = -1
				}
				ch.ISR = append(ch.ISR, m)
			}
		}
		for _, r := range p.Replicas {
			if rapid.Bool().Draw(g.t, "cold") {
				ch.Cold = append(ch.Cold, r)
			}
		}
		switch {
		case g.rarely("stale partition"):
			ch.PartitionEpoch++
		case g.rarely("cold nonsense"):
			ch.Cold = append(ch.Cold, rapid.Int32Range(1, 4).Draw(g.t, "any"))
		case g.rarely("nonsense"):
			ch.ISR = append(ch.ISR[rapid.IntRange(0, 1).Draw(g.t, "from"):], command.ISRMember{BrokerID: rapid.Int32Range(1, 4).Draw(g.t, "any"), BrokerEpoch: -1})
		}
		return &command.AlterPartition{BrokerID: f.BrokerID, BrokerEpoch: f.BrokerEpoch, Partitions: []command.ISRChange{ch}}
	case 13:
		tp := g.partition()
		p := g.m.parts[tp]
		e := command.Election{Partition: tp, PartitionEpoch: p.PartitionEpoch, Leader: rapid.Int32Range(-1, 3).Draw(g.t, "leader"),
			Kind: rapid.SampledFrom([]command.ElectionKind{command.ElectClean, command.ElectPreferred, command.ElectUnclean}).Draw(g.t, "election")}
		switch {
		case g.rarely("stale partition"):
			e.PartitionEpoch++
		case rapid.Bool().Draw(g.t, "any epoch"):
			e.PartitionEpoch = -1
		}
		return &command.ElectLeaders{Elections: []command.Election{e}}
	case 16, 17:
		it := command.Reassignment{Partition: g.partition()}
		switch rapid.IntRange(0, 5).Draw(g.t, "target") {
		case 0: // cancel
		case 1:
			it.Replicas = []int32{}
		default:
			it.Replicas = g.replicas("target")
		}
		return &command.AlterReassignments{Request: g.request(), Items: []command.Reassignment{it}, KeepFactor: g.rarely("keep factor")}
	case 18:
		id, epoch := g.broker()
		if rapid.Bool().Draw(g.t, "any epoch") {
			epoch = -1
		}
		return &command.UnregisterBroker{Request: g.request(), BrokerID: id, BrokerEpoch: epoch}
	}
	return g.tier(now)
}

func (g *generator) tier(now int64) command.Command {
	switch rapid.IntRange(0, 6).Draw(g.t, "tier kind") {
	case 0:
		tp := g.partition()
		f := g.fence(tp)
		to := g.m.parts[tp].LogStart + record.Offset(rapid.IntRange(-1, 25).Draw(g.t, "raise"))
		if rapid.Bool().Draw(g.t, "all remote") {
			to = g.m.parts[tp].RemoteEnd
		}
		return &command.AdvanceLogStart{BrokerID: f.BrokerID, BrokerEpoch: f.BrokerEpoch, Partitions: []command.LogStartChange{{Partition: tp,
			LeaderEpoch: f.LeaderEpoch, LogStart: to}}}
	case 1, 2:
		tp := g.partition()
		p := g.m.parts[tp]
		start := p.CopyStart()
		if g.rarely("wrong start") {
			start++
		}
		c := &command.CopyStarted{Fence: g.fence(tp), Partition: tp, Object: g.uuid(), Store: "warm", Start: start,
			End: start + record.Offset(rapid.IntRange(0, 20).Draw(g.t, "length")), Time: now}
		if o, ok := pick(g, "object", g.objects()); ok && g.rarely("object in use") {
			c.Object = o
		}
		return c
	case 3, 4:
		from := g.objects()
		if !g.rarely("any state") {
			from = slices.DeleteFunc(from, func(id uuid.UUID) bool { return g.m.objects[id].State != metadata.ObjectCopying })
		}
		id, ok := pick(g, "object", from)
		if !ok {
			id = g.uuid()
		}
		o := g.m.objects[id]
		c := &command.CopyFinished{Fence: g.fence(o.Partition), Partition: o.Partition, Object: id, Size: 100, Footer: 90, Checksum: []byte{1, 2}, Time: now,
			Entry: manifest.Entry{Start: o.Start, End: max(o.End, 1), Bytes: 10, MinTimestamp: -1, MaxTimestamp: now,
				Epochs: []manifest.EpochStart{{Epoch: max(o.LeaderEpoch, 0), Start: o.Start}}}}
		if g.rarely("wrong end") {
			c.Entry.End++
		}
		return c
	case 5:
		id, epoch := g.broker()
		object, ok := pick(g, "object", g.objects())
		if !ok || g.rarely("unknown object") {
			object = g.uuid()
		}
		if rapid.Bool().Draw(g.t, "abandon") && g.rarely("really") {
			return &command.CopyAbandoned{BrokerID: id, BrokerEpoch: epoch, Object: object, Time: now}
		}
		return &command.DeleteFinished{BrokerID: id, BrokerEpoch: epoch, Objects: []uuid.UUID{object}}
	default:
		id, epoch := g.broker()
		c := &command.DeleteStarted{BrokerID: id, BrokerEpoch: epoch, Time: now}
		for _, object := range g.objects() {
			o := g.m.objects[object]
			if o.State == metadata.ObjectFinished && rapid.Bool().Draw(g.t, "drop") {
				c.Entries = append(c.Entries, command.EntryKey{Partition: o.Partition, Start: o.Start, Object: object})
			}
		}
		return c
	}
}

// TestAgainstModel applies random commands to the state machine and to the naive
// model, compares each answer and the whole state, and then feeds the same log to
// others in other chunks, with restarts, repetitions and a snapshot between.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		g := &generator{t: t, m: m}
		fs := vfs.NewMem()
		seen := metadata.Empty()
		f := openFSM(t, fs, func(img *metadata.Image, d metadata.Delta) {
			checkDelta(t, seen, img, &d)
			require.NoError(t, metadata.Check(img))
			require.NoError(t, metadata.CheckStep(seen, img))
			seen = img
		})
		var log []Entry
		for i := range rapid.IntRange(1, 120).Draw(t, "commands") {
			index := uint64(i + 3)
			cmd := g.next(index)
			version := g.version()
			e := encodeAt(t, index, cmd, version)
			log = append(log, e)
			got := f.ApplyBatch([]Entry{e})[0]
			compareAnswer(t, cmd, m.apply(index, version, cmd), got)
			compareState(t, m, f, index)
		}
		want, err := f.Hash()
		require.NoError(t, err)
		replay(t, log, want, f)
		require.NoError(t, f.Close())
		reopened := openFSM(t, fs, nil)
		compareState(t, m, reopened, log[len(log)-1].Index)
		require.NoError(t, reopened.Close())
	})
}

// replay feeds the log to another state machine in random chunks.
func replay(t *rapid.T, log []Entry, want [32]byte, first *FSM) {
	fs := vfs.NewMem()
	f := openFSM(t, fs, nil)
	for at := 0; at < len(log); {
		n := rapid.IntRange(1, len(log)-at).Draw(t, "chunk")
		back := rapid.IntRange(0, at).Draw(t, "again")
		f.ApplyBatch(log[at-back : at+n])
		at += n
		if rapid.Bool().Draw(t, "restart") {
			require.NoError(t, f.Close())
			f = openFSM(t, fs, nil)
		}
	}
	got, err := f.Hash()
	require.NoError(t, err)
	require.Equal(t, want, got, "another chunking, another state")
	require.NoError(t, f.Close())

	snap, err := first.Snapshot()
	require.NoError(t, err)
	var stream bytes.Buffer
	_, err = snap.WriteTo(&stream)
	require.NoError(t, err)
	require.NoError(t, snap.Release())
	restored := openFSM(t, vfs.NewMem(), nil)
	restored.ApplyBatch(log[:len(log)/2])
	require.NoError(t, restored.Restore(&stream))
	got, err = restored.Hash()
	require.NoError(t, err)
	require.Equal(t, want, got, "a restored snapshot is another state")
	require.NoError(t, restored.Close())
}

func compareAnswer(t *rapid.T, cmd command.Command, want modelAnswer, got Outcome) {
	require.Equal(t, want.code, codeOf(got.Err), "%s %+v: %v", cmd.Kind(), cmd, got.Err)
	require.Equal(t, want.index, got.Result.Index)
	if want.code != 0 {
		return
	}
	require.Len(t, got.Result.Items, len(want.items))
	for i, code := range want.items {
		require.Equal(t, code, codeOf(got.Result.Items[i].Err), "%s item %d: %v", cmd.Kind(), i, got.Result.Items[i].Err)
	}
	require.Equal(t, want.epoch, got.Result.BrokerEpoch)
	require.Equal(t, want.first, got.Result.ProducerIDs.First)
	require.Equal(t, want.applied, got.Result.Applied)
	require.ElementsMatch(t, want.objects, got.Result.Objects)
}

func compareState(t *rapid.T, m *model, f *FSM, index uint64) {
	img := f.Image()
	require.Equal(t, index, img.Index())
	require.Equal(t, m.clusterID, img.ClusterID())
	require.True(t, maps.Equal(m.features, img.Features()), "%v %v", m.features, img.Features())
	require.Equal(t, m.featuresEpoch, img.FeaturesEpoch())
	require.Equal(t, m.nextProducer, f.cluster.nextProducerID)
	require.Equal(t, len(m.topics), img.TopicCount())
	require.Equal(t, len(m.parts), img.PartitionCount())
	for _, b := range m.brokers {
		require.Equal(t, &b, img.Broker(b.ID))
	}
	for id, want := range m.topics {
		got := img.Topic(id)
		require.Same(t, got, img.TopicByName(want.Name))
		require.True(t, maps.Equal(want.Configs, got.Configs))
		want.Configs = got.Configs
		require.Equal(t, &want, got)
	}
	for r, want := range m.configs {
		require.True(t, maps.Equal(want, img.Configs(r.Kind, r.Name)))
	}
	entries := 0
	for tp, want := range m.parts {
		require.Equal(t, &want, img.Partition(tp))
		require.True(t, want.Leader == -1 || want.InSync(want.Leader), "the model lost an invariant")
		man, err := f.Entries(context.Background(), tp)
		require.NoError(t, err)
		require.NoError(t, man.Validate())
		require.Len(t, man.Entries(), len(m.entries[tp]))
		for _, e := range man.Entries() {
			plain := e
			plain.State = m.entries[tp][e.Start].State
			require.Equal(t, m.entries[tp][e.Start], plain)
			found, ok, err := f.FindEntry(tp, e.Start)
			require.NoError(t, err)
			require.Equal(t, e.State == manifest.StateLive, ok)
			if ok {
				require.Equal(t, plain, found)
			}
		}
	}
	for _, es := range m.entries {
		entries += len(es)
	}
	compareObjects(t, m, f, entries)
}

func compareObjects(t *rapid.T, m *model, f *FSM, entries int) {
	objects, pending, refs := 0, 0, 0
	for o, err := range f.Objects(context.Background()) {
		require.NoError(t, err)
		require.Equal(t, m.objects[o.ID], o)
		objects++
		r, err := f.Refs(o.ID)
		require.NoError(t, err)
		require.Equal(t, o.State == metadata.ObjectFinished, len(r) > 0)
		refs += len(r)
	}
	for o, err := range f.PendingObjects(context.Background()) {
		require.NoError(t, err)
		require.NotEqual(t, metadata.ObjectFinished, o.State)
		pending++
	}
	wantPending := 0
	for _, o := range m.objects {
		if o.State != metadata.ObjectFinished {
			wantPending++
		}
	}
	require.Equal(t, len(m.objects), objects)
	require.Equal(t, wantPending, pending)
	require.Equal(t, entries, refs)
	stones, err := f.Tombstones()
	require.NoError(t, err)
	require.Len(t, stones, len(m.stones))
	for _, s := range stones {
		require.Equal(t, m.stones[s.Topic], s)
	}
}

// checkDelta holds a delta against the two images: what differs is named.
func checkDelta(t *rapid.T, old, img *metadata.Image, d *metadata.Delta) {
	for tp, p := range img.AllPartitions() {
		if old.Partition(tp) != p {
			require.Contains(t, d.Partitions, tp)
		}
	}
	for topic := range img.Topics() {
		if old.Topic(topic.ID) != topic {
			require.Contains(t, d.Topics, topic.ID)
		}
	}
	for topic := range old.Topics() {
		if img.Topic(topic.ID) == nil {
			require.Contains(t, d.Deleted, metadata.DeletedTopic{ID: topic.ID, Name: topic.Name, Partitions: topic.Partitions})
		}
	}
	for b := range img.Brokers() {
		if old.Broker(b.ID) != b {
			require.Contains(t, d.Brokers, b.ID)
		}
	}
	for b := range old.Brokers() {
		if img.Broker(b.ID) == nil {
			require.Contains(t, d.Brokers, b.ID)
		}
	}
}

// TestCrash cuts the power at random points of a log and applies the rest to what
// is left: the state is always that of some index, and ends the same.
func TestCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel()
		g := &generator{t: t, m: m}
		fs := vfs.NewCrashableMem()
		f := openFSM(t, fs, nil)
		var log []Entry
		var clones []*vfs.MemFS
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for i := range rapid.IntRange(1, 60).Draw(t, "commands") {
			index := uint64(i + 1)
			cmd := g.next(index)
			e := encode(t, index, cmd)
			log = append(log, e)
			f.ApplyBatch([]Entry{e})
			m.apply(index, command.Version, cmd)
			if g.rarely("flush") {
				require.NoError(t, f.Flush())
			}
			if g.rarely("crash") {
				clones = append(clones, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rng}))
			}
		}
		want, err := f.Hash()
		require.NoError(t, err)
		require.NoError(t, f.Close())
		for _, clone := range clones {
			f := openFSM(t, clone, nil)
			f.ApplyBatch(log)
			got, err := f.Hash()
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.NoError(t, f.Close())
		}
	})
}

// TestLogStartPassesACopy raises the log start below, to and above the end of a
// copy under way: at the end, and above, nobody will read it.
func TestLogStartPassesACopy(t *testing.T) {
	for logStart, applied := range map[record.Offset]bool{9: true, 10: false, 11: false} {
		f := openFSM(t, vfs.NewMem(), nil)
		epoch, next := begin(t, f)
		topic := newTopic("a", 1)
		tp := record.TopicPartition{Topic: topic.ID}
		fence := command.Fence{BrokerID: 1, BrokerEpoch: epoch}
		object := uuid.New()
		var last Outcome
		for i, cmd := range []command.Command{
			&command.CreateTopics{Topics: []command.NewTopic{topic}},
			&command.CopyStarted{Fence: fence, Partition: tp, Object: object, End: 10},
			&command.AdvanceLogStart{BrokerID: 1, BrokerEpoch: epoch, Partitions: []command.LogStartChange{{Partition: tp, LogStart: logStart}}},
			&command.CopyFinished{Fence: fence, Partition: tp, Object: object, Size: 1, Entry: manifest.Entry{End: 10, Epochs: []manifest.EpochStart{{}}}},
		} {
			last = f.ApplyBatch([]Entry{encode(t, next+uint64(i), cmd)})[0]
			require.NoError(t, last.Err)
		}
		require.Equal(t, applied, last.Result.Applied, "log start %d", logStart)
		m, err := f.Entries(t.Context(), tp)
		require.NoError(t, err)
		o, ok, err := f.Object(object)
		require.NoError(t, err)
		require.True(t, ok)
		if applied {
			require.Len(t, m.Live(), 1)
			require.Equal(t, metadata.ObjectFinished, o.State)
		} else {
			require.Empty(t, m.Entries())
			require.Equal(t, record.Offset(0), m.RemoteEnd())
			require.Equal(t, metadata.ObjectDeleting, o.State)
			require.Equal(t, []uuid.UUID{object}, last.Result.Objects)
		}
		require.NoError(t, f.Close())
	}
}
