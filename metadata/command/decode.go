package command

import (
	"fmt"
	"math"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata/command/commandpb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// Decode reads what Encode and EncodeAt wrote. The command shares no memory with b.
// The error wraps ErrUnknownVersion for a version, or kind of command, that this
// build does not know, and ErrCorrupt for bytes that are no command.
func Decode(b []byte) (Command, error) {
	version := VersionOf(b)
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("%w: empty command", ErrCorrupt)
	case version < oldestVersion || version > Version:
		return nil, fmt.Errorf("%w: command version %d, this build knows %d to %d", ErrUnknownVersion, version, oldestVersion, Version)
	}
	var msg commandpb.Command
	if err := proto.Unmarshal(b[1:], &msg); err != nil {
		return nil, fmt.Errorf("%w: command: %w", ErrCorrupt, err)
	}
	d := decoder{version: version}
	cmd := d.command(&msg)
	if d.err != nil {
		return nil, d.err
	}
	return cmd, nil
}

// VersionOf is the version that an encoded command is of, 0 for no bytes. Apply goes
// by it.
func VersionOf(b []byte) byte {
	if len(b) == 0 {
		return 0
	}
	return b[0]
}

// decoder turns messages into commands and keeps the first error.
type decoder struct {
	version byte
	err     error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: command: "+format, append([]any{ErrCorrupt}, args...)...)
	}
}

// id reads 16 bytes.
func (d *decoder) id(b []byte, what string) [16]byte {
	var id [16]byte
	if len(b) != len(id) {
		d.fail("%s has %d bytes, want 16", what, len(b))
		return id
	}
	copy(id[:], b)
	return id
}

// level is the level of a feature.
func (d *decoder) level(v int32) int16 {
	if v < math.MinInt16 || v > math.MaxInt16 {
		d.fail("feature level %d", v)
	}
	return int16(v)
}

func (d *decoder) uint8(v uint32, what string) uint8 {
	if v > math.MaxUint8 {
		d.fail("%s %d", what, v)
	}
	return uint8(v)
}

func (d *decoder) partition(p *commandpb.Partition) record.TopicPartition {
	return record.TopicPartition{Topic: d.id(p.GetTopic(), "topic id"), Partition: p.GetPartition()}
}

func (d *decoder) fence(f *commandpb.Fence) Fence {
	return Fence{BrokerID: f.GetBrokerId(), BrokerEpoch: f.GetBrokerEpoch(), LeaderEpoch: record.Epoch(f.GetLeaderEpoch())}
}

func (d *decoder) command(msg *commandpb.Command) Command {
	var req Request
	if len(msg.GetRequestId()) > 0 {
		req.RequestID = d.id(msg.GetRequestId(), "request id")
	}
	switch b := msg.GetBody().(type) {
	case *commandpb.Command_FormatCluster:
		return &FormatCluster{ClusterID: b.FormatCluster.GetClusterId(), Features: d.levels(b.FormatCluster.GetFeatures()), Configs: b.FormatCluster.GetConfigs()}
	case *commandpb.Command_RegisterBroker:
		return d.register(b.RegisterBroker)
	case *commandpb.Command_UnregisterBroker:
		return &UnregisterBroker{Request: req, BrokerID: b.UnregisterBroker.GetBrokerId(), BrokerEpoch: b.UnregisterBroker.GetBrokerEpoch()}
	case *commandpb.Command_SetBrokerState:
		m := b.SetBrokerState
		return &SetBrokerState{BrokerID: m.GetBrokerId(), BrokerEpoch: m.GetBrokerEpoch(), State: BrokerState(d.uint8(m.GetState(), "broker state"))}
	case *commandpb.Command_AllocateProducerIds:
		m := b.AllocateProducerIds
		return &AllocateProducerIDs{Request: req, BrokerID: m.GetBrokerId(), BrokerEpoch: m.GetBrokerEpoch()}
	case *commandpb.Command_UpdateFeatures:
		c := &UpdateFeatures{Request: req}
		for _, u := range b.UpdateFeatures.GetUpdates() {
			c.Updates = append(c.Updates, FeatureUpdate{Name: u.GetName(), Level: d.level(u.GetLevel()), Downgrade: u.GetDowngrade()})
		}
		return c
	case *commandpb.Command_CreateTopics:
		c := &CreateTopics{Request: req, Time: b.CreateTopics.GetTime()}
		for _, t := range b.CreateTopics.GetTopics() {
			c.Topics = append(c.Topics, NewTopic{ID: d.id(t.GetId(), "topic id"), Name: t.GetName(),
				Assignments: lists(t.GetAssignments()), Configs: t.GetConfigs(), Internal: t.GetInternal()})
		}
		return c
	case *commandpb.Command_DeleteTopics:
		c := &DeleteTopics{Request: req, Time: b.DeleteTopics.GetTime()}
		for _, id := range b.DeleteTopics.GetTopics() {
			c.Topics = append(c.Topics, d.id(id, "topic id"))
		}
		return c
	case *commandpb.Command_PurgeTopic:
		return &PurgeTopic{Topic: d.id(b.PurgeTopic.GetTopic(), "topic id")}
	case *commandpb.Command_CreatePartitions:
		c := &CreatePartitions{Request: req, Time: b.CreatePartitions.GetTime()}
		for _, t := range b.CreatePartitions.GetTopics() {
			c.Topics = append(c.Topics, MorePartitions{Topic: d.id(t.GetTopic(), "topic id"), Count: t.GetCount(), Assignments: lists(t.GetAssignments())})
		}
		return c
	case *commandpb.Command_AlterConfigs:
		return d.configs(req, b.AlterConfigs)
	case *commandpb.Command_AlterPartition:
		return d.alter(b.AlterPartition)
	case *commandpb.Command_ElectLeaders:
		return d.elect(b.ElectLeaders)
	case *commandpb.Command_AlterReassignments:
		c := &AlterReassignments{Request: req, KeepFactor: b.AlterReassignments.GetKeepFactor()}
		for _, r := range b.AlterReassignments.GetItems() {
			it := Reassignment{Partition: d.partition(r.GetPartition())}
			if r.GetReplicas() != nil {
				it.Replicas = append([]int32{}, r.GetReplicas().GetValues()...)
			}
			c.Items = append(c.Items, it)
		}
		return c
	case *commandpb.Command_AdvanceLogStart:
		c := &AdvanceLogStart{BrokerID: b.AdvanceLogStart.GetBrokerId(), BrokerEpoch: b.AdvanceLogStart.GetBrokerEpoch()}
		for _, p := range b.AdvanceLogStart.GetPartitions() {
			c.Partitions = append(c.Partitions, LogStartChange{Partition: d.partition(p.GetPartition()),
				LeaderEpoch: record.Epoch(p.GetLeaderEpoch()), LogStart: record.Offset(p.GetLogStart())})
		}
		return c
	case *commandpb.Command_CopyStarted:
		m := b.CopyStarted
		return &CopyStarted{Fence: d.fence(m.GetFence()), Partition: d.partition(m.GetPartition()), Object: d.id(m.GetObject(), "object id"),
			Store: m.GetStore(), Start: record.Offset(m.GetStart()), End: record.Offset(m.GetEnd()), Generation: m.GetGeneration(), Time: m.GetTime()}
	case *commandpb.Command_CopyFinished:
		return d.finished(b.CopyFinished)
	case *commandpb.Command_CopyAbandoned:
		m := b.CopyAbandoned
		return &CopyAbandoned{BrokerID: m.GetBrokerId(), BrokerEpoch: m.GetBrokerEpoch(), Object: d.id(m.GetObject(), "object id"), Time: m.GetTime()}
	case *commandpb.Command_DeleteStarted:
		c := &DeleteStarted{BrokerID: b.DeleteStarted.GetBrokerId(), BrokerEpoch: b.DeleteStarted.GetBrokerEpoch(), Time: b.DeleteStarted.GetTime()}
		for _, e := range b.DeleteStarted.GetEntries() {
			c.Entries = append(c.Entries, EntryKey{Partition: d.partition(e.GetPartition()), Start: record.Offset(e.GetStart()), Object: d.id(e.GetObject(), "object id")})
		}
		return c
	case *commandpb.Command_DeleteFinished:
		c := &DeleteFinished{BrokerID: b.DeleteFinished.GetBrokerId(), BrokerEpoch: b.DeleteFinished.GetBrokerEpoch()}
		for _, id := range b.DeleteFinished.GetObjects() {
			c.Objects = append(c.Objects, d.id(id, "object id"))
		}
		return c
	default:
		if d.err == nil {
			d.err = fmt.Errorf("%w: a kind of command that this build does not know", ErrUnknownVersion)
		}
		return nil
	}
}

func (d *decoder) register(m *commandpb.RegisterBroker) *RegisterBroker {
	c := &RegisterBroker{BrokerID: m.GetBrokerId(), DirectoryID: d.id(m.GetDirectoryId(), "directory id"),
		Incarnation: d.id(m.GetIncarnation(), "incarnation"), Rack: m.GetRack(), Version: m.GetVersion(), Time: m.GetTime(),
		ClusterAddress: m.GetClusterAddress(), Untrusted: m.GetUntrusted(), ReplicatedByDefault: m.GetReplicatedByDefault()}
	for _, e := range m.GetEndpoints() {
		c.Endpoints = append(c.Endpoints, Endpoint{Listener: e.GetListener(), Host: e.GetHost(), Port: e.GetPort(), Security: e.GetSecurity()})
	}
	if len(m.GetFeatures()) > 0 {
		c.Features = make(map[string]VersionRange, len(m.GetFeatures()))
		for name, r := range m.GetFeatures() {
			c.Features[name] = VersionRange{Min: d.level(r.GetMin()), Max: d.level(r.GetMax())}
		}
	}
	return c
}

func (d *decoder) configs(req Request, m *commandpb.AlterConfigs) *AlterConfigs {
	c := &AlterConfigs{Request: req}
	for _, ch := range m.GetChanges() {
		change := ConfigChange{
			Resource: ConfigResource{Kind: ResourceKind(d.uint8(ch.GetKind(), "resource kind")), Name: ch.GetName()},
			Replace:  ch.GetReplace(), Set: ch.GetSet(), Delete: ch.GetDelete()}
		for _, e := range ch.GetExpect() {
			change.Expect = append(change.Expect, ConfigExpectation{Name: e.GetName(), Value: e.GetValue(), Set: e.Value != nil})
		}
		c.Changes = append(c.Changes, change)
	}
	return c
}

func (d *decoder) alter(m *commandpb.AlterPartition) *AlterPartition {
	c := &AlterPartition{BrokerID: m.GetBrokerId(), BrokerEpoch: m.GetBrokerEpoch()}
	for _, p := range m.GetPartitions() {
		ch := ISRChange{Partition: d.partition(p.GetPartition()), LeaderEpoch: record.Epoch(p.GetLeaderEpoch()), PartitionEpoch: p.GetPartitionEpoch()}
		for _, r := range p.GetIsr() {
			ch.ISR = append(ch.ISR, ISRMember{BrokerID: r.GetBrokerId(), BrokerEpoch: r.GetBrokerEpoch()})
		}
		if d.version >= versionCold {
			ch.Cold = p.GetCold()
		}
		c.Partitions = append(c.Partitions, ch)
	}
	return c
}

func (d *decoder) elect(m *commandpb.ElectLeaders) *ElectLeaders {
	c := &ElectLeaders{}
	for _, e := range m.GetElections() {
		c.Elections = append(c.Elections, Election{Partition: d.partition(e.GetPartition()), PartitionEpoch: e.GetPartitionEpoch(),
			Leader: e.GetLeader(), Kind: ElectionKind(d.uint8(e.GetKind(), "election kind"))})
	}
	return c
}

func (d *decoder) finished(m *commandpb.CopyFinished) *CopyFinished {
	object := uuid.UUID(d.id(m.GetObject(), "object id"))
	return &CopyFinished{Fence: d.fence(m.GetFence()), Partition: d.partition(m.GetPartition()), Object: object,
		Entry: manifest.Entry{Start: record.Offset(m.GetStart()), End: record.Offset(m.GetEnd()), Object: object, Run: m.GetRun(),
			Epochs: epochsFromProto(m.GetEpochs()), Bytes: m.GetBytes(), MinTimestamp: m.GetMinTimestamp(), MaxTimestamp: m.GetMaxTimestamp(),
			FinishedAt: m.GetTime()},
		Size: m.GetSize(), Footer: m.GetFooter(), Checksum: m.GetChecksum(), Time: m.GetTime()}
}

func (d *decoder) levels(m map[string]int32) map[string]int16 {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]int16, len(m))
	for name, level := range m {
		out[name] = d.level(level)
	}
	return out
}

func lists(in []*commandpb.Int32List) [][]int32 {
	if len(in) == 0 {
		return nil
	}
	out := make([][]int32, len(in))
	for i, l := range in {
		out[i] = l.GetValues()
	}
	return out
}
