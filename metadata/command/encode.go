package command

import (
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata/command/commandpb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// Version is the newest version of the encoding, the first byte of every command.
// A field that changes what apply does raises it, and the level with it: apply goes
// by the version of each command, so that whoever applies one at all comes to the
// same state.
//
// Version 1 was written before the first release, and by one-node clusters only. It
// is read, and applied by the rules of version 2: no other node can differ.
const Version = byte(MaxLevel) + 1

// versionCold is the version from which on commands say who is cold.
const versionCold = 3

// oldestVersion is the oldest version that Decode reads, oldestWritten the oldest
// that EncodeAt writes.
const (
	oldestVersion = 1
	oldestWritten = 2
)

// MaxSize bounds an encoded command in bytes. A command of ten thousand
// partitions with three replicas takes about 0.5 MB.
const MaxSize = 64 << 20

// Encode writes a command in the newest version.
func Encode(cmd Command) ([]byte, error) { return EncodeAt(cmd, Version) }

// EncodeAt writes a command as a log entry of a version that the cluster's level
// allows (Level.CommandVersion): the version byte and the protobuf message of
// commandpb. What the version cannot say is left out. The bytes of the same command
// are the same within one build, but not across builds: compare decoded commands.
// The error wraps ErrInvalid for a command of a type or with ids that cannot be
// encoded, and ErrUnknownVersion for a version that this build does not write.
func EncodeAt(cmd Command, version byte) ([]byte, error) {
	if version < oldestWritten || version > Version {
		return nil, fmt.Errorf("%w: command version %d, this build writes %d to %d", ErrUnknownVersion, version, oldestWritten, Version)
	}
	msg, err := toProto(cmd)
	if err != nil {
		return nil, err
	}
	if id := RequestIDOf(cmd); id != uuid.Nil {
		msg.RequestId = id[:]
	}
	if version < versionCold {
		for _, p := range msg.GetAlterPartition().GetPartitions() {
			p.Cold = nil
		}
	}
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{version}, msg)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrInvalid, cmd.Kind(), err)
	}
	if len(out) > MaxSize {
		return nil, fmt.Errorf("%w: %s takes %d bytes, at most %d are allowed", ErrInvalid, cmd.Kind(), len(out), MaxSize)
	}
	return out, nil
}

func toProto(cmd Command) (*commandpb.Command, error) {
	switch c := cmd.(type) {
	case *FormatCluster:
		return &commandpb.Command{Body: &commandpb.Command_FormatCluster{FormatCluster: &commandpb.FormatCluster{
			ClusterId: c.ClusterID, Features: levelsToProto(c.Features), Configs: c.Configs}}}, nil
	case *RegisterBroker:
		return &commandpb.Command{Body: &commandpb.Command_RegisterBroker{RegisterBroker: registerToProto(c)}}, nil
	case *UnregisterBroker:
		return &commandpb.Command{Body: &commandpb.Command_UnregisterBroker{UnregisterBroker: &commandpb.UnregisterBroker{
			BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch}}}, nil
	case *SetBrokerState:
		return &commandpb.Command{Body: &commandpb.Command_SetBrokerState{SetBrokerState: &commandpb.SetBrokerState{
			BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch, State: uint32(c.State)}}}, nil
	case *AllocateProducerIDs:
		return &commandpb.Command{Body: &commandpb.Command_AllocateProducerIds{AllocateProducerIds: &commandpb.AllocateProducerIDs{
			BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch}}}, nil
	case *UpdateFeatures:
		m := &commandpb.UpdateFeatures{}
		for _, u := range c.Updates {
			m.Updates = append(m.Updates, &commandpb.FeatureUpdate{Name: u.Name, Level: int32(u.Level), Downgrade: u.Downgrade})
		}
		return &commandpb.Command{Body: &commandpb.Command_UpdateFeatures{UpdateFeatures: m}}, nil
	case *CreateTopics:
		m := &commandpb.CreateTopics{Time: c.Time}
		for _, t := range c.Topics {
			m.Topics = append(m.Topics, &commandpb.NewTopic{Id: t.ID[:], Name: t.Name, Assignments: listsToProto(t.Assignments), Configs: t.Configs, Internal: t.Internal})
		}
		return &commandpb.Command{Body: &commandpb.Command_CreateTopics{CreateTopics: m}}, nil
	case *DeleteTopics:
		m := &commandpb.DeleteTopics{Time: c.Time}
		for _, id := range c.Topics {
			m.Topics = append(m.Topics, id[:])
		}
		return &commandpb.Command{Body: &commandpb.Command_DeleteTopics{DeleteTopics: m}}, nil
	case *PurgeTopic:
		return &commandpb.Command{Body: &commandpb.Command_PurgeTopic{PurgeTopic: &commandpb.PurgeTopic{Topic: c.Topic[:]}}}, nil
	case *CreatePartitions:
		m := &commandpb.CreatePartitions{Time: c.Time}
		for _, t := range c.Topics {
			m.Topics = append(m.Topics, &commandpb.MorePartitions{Topic: t.Topic[:], Count: t.Count, Assignments: listsToProto(t.Assignments)})
		}
		return &commandpb.Command{Body: &commandpb.Command_CreatePartitions{CreatePartitions: m}}, nil
	case *AlterConfigs:
		m := &commandpb.AlterConfigs{}
		for _, ch := range c.Changes {
			pc := &commandpb.ConfigChange{Kind: uint32(ch.Resource.Kind), Name: ch.Resource.Name, Replace: ch.Replace, Set: ch.Set, Delete: ch.Delete}
			for _, e := range ch.Expect {
				pe := &commandpb.ConfigExpectation{Name: e.Name}
				if e.Set {
					pe.Value = &e.Value
				}
				pc.Expect = append(pc.Expect, pe)
			}
			m.Changes = append(m.Changes, pc)
		}
		return &commandpb.Command{Body: &commandpb.Command_AlterConfigs{AlterConfigs: m}}, nil
	case *AlterPartition:
		return &commandpb.Command{Body: &commandpb.Command_AlterPartition{AlterPartition: alterToProto(c)}}, nil
	case *ElectLeaders:
		return &commandpb.Command{Body: &commandpb.Command_ElectLeaders{ElectLeaders: electToProto(c)}}, nil
	case *AlterReassignments:
		m := &commandpb.AlterReassignments{KeepFactor: c.KeepFactor}
		for _, it := range c.Items {
			r := &commandpb.Reassignment{Partition: partitionToProto(it.Partition)}
			if it.Replicas != nil {
				r.Replicas = &commandpb.Int32List{Values: it.Replicas}
			}
			m.Items = append(m.Items, r)
		}
		return &commandpb.Command{Body: &commandpb.Command_AlterReassignments{AlterReassignments: m}}, nil
	case *AdvanceLogStart:
		m := &commandpb.AdvanceLogStart{BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch}
		for _, p := range c.Partitions {
			m.Partitions = append(m.Partitions, &commandpb.LogStartChange{
				Partition: partitionToProto(p.Partition), LeaderEpoch: int32(p.LeaderEpoch), LogStart: int64(p.LogStart)})
		}
		return &commandpb.Command{Body: &commandpb.Command_AdvanceLogStart{AdvanceLogStart: m}}, nil
	case *CopyStarted:
		return &commandpb.Command{Body: &commandpb.Command_CopyStarted{CopyStarted: &commandpb.CopyStarted{
			Fence: fenceToProto(c.Fence), Partition: partitionToProto(c.Partition), Object: c.Object[:], Store: c.Store,
			Start: int64(c.Start), End: int64(c.End), Generation: c.Generation, Time: c.Time}}}, nil
	case *CopyFinished:
		return &commandpb.Command{Body: &commandpb.Command_CopyFinished{CopyFinished: finishedToProto(c)}}, nil
	case *CopyAbandoned:
		return &commandpb.Command{Body: &commandpb.Command_CopyAbandoned{CopyAbandoned: &commandpb.CopyAbandoned{
			BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch, Object: c.Object[:], Time: c.Time}}}, nil
	case *DeleteStarted:
		m := &commandpb.DeleteStarted{BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch, Time: c.Time}
		for i := range c.Entries {
			e := &c.Entries[i]
			m.Entries = append(m.Entries, &commandpb.EntryKey{Partition: partitionToProto(e.Partition), Start: int64(e.Start), Object: e.Object[:]})
		}
		return &commandpb.Command{Body: &commandpb.Command_DeleteStarted{DeleteStarted: m}}, nil
	case *DeleteFinished:
		m := &commandpb.DeleteFinished{BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch}
		for i := range c.Objects {
			m.Objects = append(m.Objects, c.Objects[i][:])
		}
		return &commandpb.Command{Body: &commandpb.Command_DeleteFinished{DeleteFinished: m}}, nil
	default:
		return nil, fmt.Errorf("%w: no encoding for a command of type %T", ErrInvalid, cmd)
	}
}

func registerToProto(c *RegisterBroker) *commandpb.RegisterBroker {
	m := &commandpb.RegisterBroker{BrokerId: c.BrokerID, DirectoryId: c.DirectoryID[:], Incarnation: c.Incarnation[:],
		Rack: c.Rack, Version: c.Version, Time: c.Time, ClusterAddress: c.ClusterAddress,
		Untrusted: c.Untrusted, ReplicatedByDefault: c.ReplicatedByDefault}
	for _, e := range c.Endpoints {
		m.Endpoints = append(m.Endpoints, &commandpb.Endpoint{Listener: e.Listener, Host: e.Host, Port: e.Port, Security: e.Security})
	}
	if len(c.Features) > 0 {
		m.Features = make(map[string]*commandpb.VersionRange, len(c.Features))
		for name, r := range c.Features {
			m.Features[name] = &commandpb.VersionRange{Min: int32(r.Min), Max: int32(r.Max)}
		}
	}
	return m
}

func alterToProto(c *AlterPartition) *commandpb.AlterPartition {
	m := &commandpb.AlterPartition{BrokerId: c.BrokerID, BrokerEpoch: c.BrokerEpoch}
	for _, p := range c.Partitions {
		ch := &commandpb.ISRChange{Partition: partitionToProto(p.Partition), LeaderEpoch: int32(p.LeaderEpoch), PartitionEpoch: p.PartitionEpoch, Cold: p.Cold}
		for _, r := range p.ISR {
			ch.Isr = append(ch.Isr, &commandpb.ISRMember{BrokerId: r.BrokerID, BrokerEpoch: r.BrokerEpoch})
		}
		m.Partitions = append(m.Partitions, ch)
	}
	return m
}

func electToProto(c *ElectLeaders) *commandpb.ElectLeaders {
	m := &commandpb.ElectLeaders{Elections: make([]*commandpb.Election, 0, len(c.Elections))}
	for _, e := range c.Elections {
		m.Elections = append(m.Elections, &commandpb.Election{Partition: partitionToProto(e.Partition),
			PartitionEpoch: e.PartitionEpoch, Leader: e.Leader, Kind: uint32(e.Kind)})
	}
	return m
}

func finishedToProto(c *CopyFinished) *commandpb.CopyFinished {
	m := &commandpb.CopyFinished{Fence: fenceToProto(c.Fence), Partition: partitionToProto(c.Partition), Object: c.Object[:],
		Start: int64(c.Entry.Start), End: int64(c.Entry.End), Run: c.Entry.Run, Bytes: c.Entry.Bytes,
		MinTimestamp: c.Entry.MinTimestamp, MaxTimestamp: c.Entry.MaxTimestamp,
		Size: c.Size, Footer: c.Footer, Checksum: c.Checksum, Time: c.Time}
	for _, e := range c.Entry.Epochs {
		m.Epochs = append(m.Epochs, &commandpb.EpochStart{Epoch: int32(e.Epoch), Start: int64(e.Start)})
	}
	return m
}

func levelsToProto(levels map[string]int16) map[string]int32 {
	if len(levels) == 0 {
		return nil
	}
	m := make(map[string]int32, len(levels))
	for name, level := range levels {
		m[name] = int32(level)
	}
	return m
}

func listsToProto(lists [][]int32) []*commandpb.Int32List {
	out := make([]*commandpb.Int32List, len(lists))
	for i, l := range lists {
		out[i] = &commandpb.Int32List{Values: l}
	}
	return out
}

func partitionToProto(tp record.TopicPartition) *commandpb.Partition {
	return &commandpb.Partition{Topic: tp.Topic[:], Partition: tp.Partition}
}

func fenceToProto(f Fence) *commandpb.Fence {
	return &commandpb.Fence{BrokerId: f.BrokerID, BrokerEpoch: f.BrokerEpoch, LeaderEpoch: int32(f.LeaderEpoch)}
}

func epochsFromProto(in []*commandpb.EpochStart) []manifest.EpochStart {
	out := make([]manifest.EpochStart, len(in))
	for i, e := range in {
		out[i] = manifest.EpochStart{Epoch: record.Epoch(e.GetEpoch()), Start: record.Offset(e.GetStart())}
	}
	return out
}
