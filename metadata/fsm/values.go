package fsm

import (
	"fmt"
	"math"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// valueVersion is the newest version of a stored message, its first byte.
const valueVersion = byte(command.MaxLevel)

// versionOf is the oldest version that says what a message says. So a value is newer
// than the cluster's level never.
func versionOf(m proto.Message) byte {
	switch m := m.(type) {
	case *statepb.Partition:
		if len(m.GetCold()) > 0 {
			return 2
		}
	case *statepb.Broker:
		if m.GetFull() {
			return 2
		}
	}
	return 1
}

// encodeValue writes a stored message: version byte and protobuf.
func encodeValue(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend([]byte{versionOf(m)}, m)
	if err != nil {
		return nil, fmt.Errorf("%w: %T: %w", command.ErrInvalid, m, err)
	}
	return b, nil
}

// decodeValue reads what encodeValue wrote. The error wraps ErrUnknownVersion or
// ErrCorrupt of package command.
func decodeValue(b []byte, m proto.Message) error {
	if len(b) == 0 {
		return fmt.Errorf("%w: empty value", command.ErrCorrupt)
	}
	if b[0] < 1 || b[0] > valueVersion {
		return fmt.Errorf("%w: stored value version %d, this build knows 1 to %d", command.ErrUnknownVersion, b[0], valueVersion)
	}
	if err := proto.Unmarshal(b[1:], m); err != nil {
		return fmt.Errorf("%w: %T: %w", command.ErrCorrupt, m, err)
	}
	return nil
}

func id16(b []byte, what string) ([16]byte, error) {
	if len(b) != 16 {
		return [16]byte{}, fmt.Errorf("%w: %s has %d bytes, want 16", command.ErrCorrupt, what, len(b))
	}
	return [16]byte(b), nil
}

func topicToProto(t *metadata.Topic) *statepb.Topic {
	return &statepb.Topic{Name: t.Name, Partitions: t.Partitions, Internal: t.Internal, Configs: t.Configs, CreatedAt: t.CreatedAt}
}

func topicFromProto(id record.TopicID, m *statepb.Topic) (*metadata.Topic, error) {
	if m.GetName() == "" || m.GetPartitions() < 1 {
		return nil, fmt.Errorf("%w: topic %s has name %q and %d partitions", command.ErrCorrupt, id, m.GetName(), m.GetPartitions())
	}
	return &metadata.Topic{ID: id, Name: m.GetName(), Partitions: m.GetPartitions(), Internal: m.GetInternal(), Configs: m.GetConfigs(), CreatedAt: m.GetCreatedAt()}, nil
}

func partitionToProto(p *metadata.Partition) *statepb.Partition {
	return &statepb.Partition{Replicas: p.Replicas, Isr: p.ISR, Elr: p.ELR, Leader: p.Leader, LeaderEpoch: int32(p.LeaderEpoch),
		PartitionEpoch: p.PartitionEpoch, LogStart: int64(p.LogStart), RemoteEnd: int64(p.RemoteEnd), RemoteEpoch: int32(p.RemoteEpoch),
		LastKnownLeader: p.LastKnownLeader, Adding: p.Adding, Removing: p.Removing, Cold: p.Cold}
}

func partitionFromProto(m *statepb.Partition) *metadata.Partition {
	return &metadata.Partition{Replicas: m.GetReplicas(), ISR: m.GetIsr(), ELR: m.GetElr(), Leader: m.GetLeader(), LeaderEpoch: record.Epoch(m.GetLeaderEpoch()),
		PartitionEpoch: m.GetPartitionEpoch(), LogStart: record.Offset(m.GetLogStart()), RemoteEnd: record.Offset(m.GetRemoteEnd()),
		RemoteEpoch: record.Epoch(m.GetRemoteEpoch()), LastKnownLeader: m.GetLastKnownLeader(), Adding: m.GetAdding(), Removing: m.GetRemoving(), Cold: m.GetCold()}
}

func brokerToProto(b *metadata.Broker) *statepb.Broker {
	m := &statepb.Broker{DirectoryId: b.DirectoryID[:], Incarnation: b.Incarnation[:], Epoch: b.Epoch, Rack: b.Rack, Version: b.Version,
		Fenced: b.Fenced, ShuttingDown: b.ShuttingDown, Full: b.Full, RegisteredAt: b.RegisteredAt, ClusterAddress: b.ClusterAddress}
	for _, e := range b.Endpoints {
		m.Endpoints = append(m.Endpoints, &statepb.Endpoint{Listener: e.Listener, Host: e.Host, Port: e.Port, Security: e.Security})
	}
	if len(b.Features) > 0 {
		m.Features = make(map[string]*statepb.VersionRange, len(b.Features))
		for name, r := range b.Features {
			m.Features[name] = &statepb.VersionRange{Min: int32(r.Min), Max: int32(r.Max)}
		}
	}
	return m
}

func brokerFromProto(id int32, m *statepb.Broker) (*metadata.Broker, error) {
	dir, err := id16(m.GetDirectoryId(), "directory id")
	if err != nil {
		return nil, err
	}
	inc, err := id16(m.GetIncarnation(), "incarnation")
	if err != nil {
		return nil, err
	}
	b := &metadata.Broker{ID: id, DirectoryID: dir, Incarnation: inc, Epoch: m.GetEpoch(), Rack: m.GetRack(), Version: m.GetVersion(),
		Fenced: m.GetFenced(), ShuttingDown: m.GetShuttingDown(), Full: m.GetFull(), RegisteredAt: m.GetRegisteredAt(), ClusterAddress: m.GetClusterAddress()}
	for _, e := range m.GetEndpoints() {
		b.Endpoints = append(b.Endpoints, metadata.Endpoint{Listener: e.GetListener(), Host: e.GetHost(), Port: e.GetPort(), Security: e.GetSecurity()})
	}
	if len(m.GetFeatures()) > 0 {
		b.Features = make(map[string]metadata.VersionRange, len(m.GetFeatures()))
		for name, r := range m.GetFeatures() {
			lo, err := toInt16(r.GetMin())
			if err != nil {
				return nil, err
			}
			hi, err := toInt16(r.GetMax())
			if err != nil {
				return nil, err
			}
			b.Features[name] = metadata.VersionRange{Min: lo, Max: hi}
		}
	}
	return b, nil
}

func toInt16(v int32) (int16, error) {
	if v < math.MinInt16 || v > math.MaxInt16 {
		return 0, fmt.Errorf("%w: feature level %d", command.ErrCorrupt, v)
	}
	return int16(v), nil
}

func objectToProto(o *metadata.Object) *statepb.Object {
	return &statepb.Object{State: uint32(o.State), Store: o.Store, Topic: o.Partition.Topic[:], Partition: o.Partition.Partition,
		Start: int64(o.Start), End: int64(o.End), LeaderEpoch: int32(o.LeaderEpoch), BrokerId: o.BrokerID, BrokerEpoch: o.BrokerEpoch,
		Generation: o.Generation, Intent: o.Intent, Size: o.Size, Footer: o.Footer, Checksum: o.Checksum,
		StartedAt: o.StartedAt, FinishedAt: o.FinishedAt, DeletingSince: o.DeletingSince}
}

func objectFromProto(id uuid.UUID, m *statepb.Object) (metadata.Object, error) {
	topic, err := id16(m.GetTopic(), "topic id")
	if err != nil {
		return metadata.Object{}, err
	}
	state := metadata.ObjectState(m.GetState())
	if m.GetState() > math.MaxUint8 || state < metadata.ObjectCopying || state > metadata.ObjectDeleting {
		return metadata.Object{}, fmt.Errorf("%w: object %s has state %d", command.ErrCorrupt, id, m.GetState())
	}
	return metadata.Object{ID: id, State: state, Store: m.GetStore(),
		Partition: record.TopicPartition{Topic: topic, Partition: m.GetPartition()},
		Start:     record.Offset(m.GetStart()), End: record.Offset(m.GetEnd()), LeaderEpoch: record.Epoch(m.GetLeaderEpoch()),
		BrokerID: m.GetBrokerId(), BrokerEpoch: m.GetBrokerEpoch(), Generation: m.GetGeneration(), Intent: m.GetIntent(),
		Size: m.GetSize(), Footer: m.GetFooter(), Checksum: m.GetChecksum(),
		StartedAt: m.GetStartedAt(), FinishedAt: m.GetFinishedAt(), DeletingSince: m.GetDeletingSince()}, nil
}

func entryToProto(e *manifest.Entry) *statepb.Entry {
	m := &statepb.Entry{End: int64(e.End), Object: e.Object[:], Run: e.Run, Bytes: e.Bytes,
		MinTimestamp: e.MinTimestamp, MaxTimestamp: e.MaxTimestamp, FinishedAt: e.FinishedAt}
	for _, ep := range e.Epochs {
		m.Epochs = append(m.Epochs, &statepb.EpochStart{Epoch: int32(ep.Epoch), Start: int64(ep.Start)})
	}
	return m
}

func entryFromProto(start record.Offset, m *statepb.Entry) (manifest.Entry, error) {
	object, err := id16(m.GetObject(), "object id")
	if err != nil {
		return manifest.Entry{}, err
	}
	e := manifest.Entry{Start: start, End: record.Offset(m.GetEnd()), Object: object, Run: m.GetRun(), Bytes: m.GetBytes(),
		MinTimestamp: m.GetMinTimestamp(), MaxTimestamp: m.GetMaxTimestamp(), FinishedAt: m.GetFinishedAt(),
		Epochs: make([]manifest.EpochStart, len(m.GetEpochs()))}
	for i, ep := range m.GetEpochs() {
		e.Epochs[i] = manifest.EpochStart{Epoch: record.Epoch(ep.GetEpoch()), Start: record.Offset(ep.GetStart())}
	}
	if err := e.Validate(); err != nil {
		return manifest.Entry{}, fmt.Errorf("%w: %w", command.ErrCorrupt, err)
	}
	return e, nil
}

func tombstoneFromProto(id record.TopicID, m *statepb.Tombstone) metadata.Tombstone {
	return metadata.Tombstone{Topic: id, Name: m.GetName(), Partitions: m.GetPartitions(), DeletedAt: m.GetDeletedAt()}
}

func errorToProto(err *command.Error) *statepb.Error {
	if err == nil {
		return nil
	}
	return &statepb.Error{Code: uint32(err.Code), Message: err.Message}
}

func errorFromProto(m *statepb.Error) *command.Error {
	if m == nil {
		return nil
	}
	return &command.Error{Code: command.Code(m.GetCode()), Message: m.GetMessage()}
}

func outcomeToProto(o *Outcome) (*statepb.Request, error) {
	m := &statepb.Request{Index: o.Result.Index, BrokerEpoch: o.Result.BrokerEpoch,
		FirstProducerId: o.Result.ProducerIDs.First, ProducerIds: o.Result.ProducerIDs.Count, Applied: o.Result.Applied}
	if o.Err != nil {
		refusal, ok := asRefusal(o.Err)
		if !ok {
			return nil, o.Err
		}
		m.Error = errorToProto(refusal)
	}
	for i := range o.Result.Items {
		it := &o.Result.Items[i]
		im := &statepb.ItemResult{Topic: it.Topic[:], LeaderEpoch: int32(it.LeaderEpoch), PartitionEpoch: it.PartitionEpoch, LogStart: int64(it.LogStart)}
		if it.Err != nil {
			refusal, ok := asRefusal(it.Err)
			if !ok {
				return nil, it.Err
			}
			im.Error = errorToProto(refusal)
		}
		m.Items = append(m.Items, im)
	}
	for i := range o.Result.Objects {
		m.Objects = append(m.Objects, o.Result.Objects[i][:])
	}
	return m, nil
}

func outcomeFromProto(m *statepb.Request) (Outcome, error) {
	o := Outcome{Result: command.Result{Index: m.GetIndex(), BrokerEpoch: m.GetBrokerEpoch(), Applied: m.GetApplied(),
		ProducerIDs: command.ProducerIDBlock{First: m.GetFirstProducerId(), Count: m.GetProducerIds()}}}
	if e := errorFromProto(m.GetError()); e != nil {
		o.Err = e
	}
	for _, im := range m.GetItems() {
		topic, err := id16(im.GetTopic(), "topic id")
		if err != nil {
			return Outcome{}, err
		}
		it := command.ItemResult{Topic: topic, LeaderEpoch: record.Epoch(im.GetLeaderEpoch()), PartitionEpoch: im.GetPartitionEpoch(), LogStart: record.Offset(im.GetLogStart())}
		if e := errorFromProto(im.GetError()); e != nil {
			it.Err = e
		}
		o.Result.Items = append(o.Result.Items, it)
	}
	for _, b := range m.GetObjects() {
		id, err := id16(b, "object id")
		if err != nil {
			return Outcome{}, err
		}
		o.Result.Objects = append(o.Result.Objects, id)
	}
	return o, nil
}
