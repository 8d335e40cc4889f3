package group

import (
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/record"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Record types of __consumer_offsets: the int16 that begins a key. Others
// belong to group types that come later, and are left alone.
const (
	keyOffsetCommitV0 = 0
	keyOffsetCommit   = 1
	keyGroupMetadata  = 2
)

// Versions of the values as Kafka 4.4 writes them. An offset with an explicit
// expiry (OffsetCommit v2-4) uses the one version that has the field.
const (
	offsetValueVersion       = 4
	offsetValueExpireVersion = 1
	groupValueVersion        = 3
)

// ErrCorrupt is returned for a key or value that does not parse.
var ErrCorrupt = errors.New("group: corrupt record")

// Record is a key and a value of __consumer_offsets; a nil value is a
// tombstone.
type Record struct{ Key, Value []byte }

// size is what the record adds to a batch, at most.
func (r *Record) size() int { return len(r.Key) + len(r.Value) + 32 }

// groupValue is the content of a GroupMetadata value.
type groupValue struct {
	protocolType string
	generation   int32
	protocol     string // "" = null
	leader       string // "" = null
	since        int64  // ms, -1 = unknown
	members      []memberValue
}

type memberValue struct {
	id, clientID, clientHost         string
	instanceID                       *string
	rebalanceTimeout, sessionTimeout time.Duration
	subscription, assignment         []byte
}

func groupKey(group string) []byte {
	k := kmsg.NewGroupMetadataKey()
	k.Version, k.Group = keyGroupMetadata, group
	return k.AppendTo(nil)
}

func offsetKey(group, topic string, partition int32) []byte {
	k := kmsg.NewOffsetCommitKey()
	k.Version, k.Group, k.Topic, k.Partition = keyOffsetCommit, group, topic, partition
	return k.AppendTo(nil)
}

// record encodes the group as it stands.
func (g *classicGroup) record() Record { return g.recordWith(nil) }

// recordWith encodes the group, with these assignments in place of the
// members' own where not nil.
func (g *classicGroup) recordWith(assignments map[string][]byte) Record {
	v := kmsg.NewGroupMetadataValue()
	v.Version = groupValueVersion
	v.ProtocolType = g.protocolType
	v.Generation = g.generation
	v.Protocol = nullable(g.protocol)
	v.Leader = nullable(g.leader)
	v.CurrentStateTimestamp = g.since
	for _, m := range g.order {
		e := kmsg.NewGroupMetadataValueMember()
		e.MemberID, e.InstanceID, e.ClientID, e.ClientHost = m.id, m.instanceID, m.clientID, m.clientHost
		e.RebalanceTimeoutMillis = int32(m.rebalanceTimeout.Milliseconds())
		e.SessionTimeoutMillis = int32(m.sessionTimeout.Milliseconds())
		e.Subscription = m.metadata(g.protocol)
		e.Assignment = m.assignment
		if assignments != nil {
			e.Assignment = assignments[m.id]
		}
		v.Members = append(v.Members, e)
	}
	return Record{groupKey(g.id), v.AppendTo(nil)}
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// offsetRecord encodes a committed offset.
func offsetRecord(group, topic string, partition int32, c *committed) Record {
	v := kmsg.NewOffsetCommitValue()
	v.Version = offsetValueVersion
	v.Offset, v.LeaderEpoch, v.Metadata = c.offset, c.leaderEpoch, c.metadata
	v.CommitTimestamp, v.ExpireTimestamp = c.commitAt, c.expireAt
	v.TopicID = c.topicID
	if c.expireAt >= 0 {
		v.Version = offsetValueExpireVersion
	}
	return Record{offsetKey(group, topic, partition), v.AppendTo(nil)}
}

// key is a decoded key. kind is -1 for types that are not ours.
type key struct {
	kind      int16
	group     string
	topic     string
	partition int32
}

// decodeKey reads a record's key. Strings are copies.
func decodeKey(b []byte) (key, error) {
	r := newReader(b)
	k := key{kind: r.Int16()}
	switch k.kind {
	case keyOffsetCommitV0, keyOffsetCommit:
		k.kind = keyOffsetCommit
		k.group, k.topic, k.partition = r.string(), r.string(), r.Int32()
	case keyGroupMetadata:
		k.group = r.string()
	default:
		k.kind = -1
		if !r.Ok() {
			return k, fmt.Errorf("%w: key of %d bytes", ErrCorrupt, len(b))
		}
		return k, nil
	}
	if err := r.end(); err != nil {
		return k, fmt.Errorf("key of type %d: %w", k.kind, err)
	}
	return k, nil
}

// decodeOffset reads an OffsetCommit value of versions 0 to 4.
func decodeOffset(b []byte) (committed, error) {
	r := newReader(b)
	version := r.Int16()
	if version < 0 || version > 4 {
		return committed{}, fmt.Errorf("%w: offset commit value version %d", ErrCorrupt, version)
	}
	r.flexible = version >= 4
	c := committed{leaderEpoch: -1, expireAt: -1, offset: r.Int64()}
	if version >= 3 {
		c.leaderEpoch = r.Int32()
	}
	c.metadata = r.string()
	c.commitAt = r.Int64()
	if version == 1 {
		c.expireAt = r.Int64()
	}
	r.tags(func(tag uint32, field []byte) bool {
		if tag == 0 {
			copy(c.topicID[:], field)
			return len(field) == len(c.topicID)
		}
		return true
	})
	if err := r.end(); err != nil {
		return committed{}, fmt.Errorf("offset commit value version %d: %w", version, err)
	}
	return c, nil
}

// decodeGroup reads a GroupMetadata value of versions 0 to 4. Strings and
// bytes are copies.
func decodeGroup(b []byte) (*groupValue, error) {
	r := newReader(b)
	version := r.Int16()
	if version < 0 || version > 4 {
		return nil, fmt.Errorf("%w: group metadata value version %d", ErrCorrupt, version)
	}
	r.flexible = version >= 4
	v := &groupValue{since: -1, protocolType: r.string(), generation: r.Int32()}
	for _, text := range []*string{&v.protocol, &v.leader} {
		if got := r.nullString(); got != nil {
			*text = *got
		}
	}
	if version >= 2 {
		v.since = r.Int64()
	}
	for range r.count() {
		m := memberValue{id: r.string()}
		if version >= 3 {
			m.instanceID = r.nullString()
		}
		m.clientID, m.clientHost = r.string(), r.string()
		rebalance := int32(-1)
		if version >= 1 {
			rebalance = r.Int32()
		}
		m.sessionTimeout = time.Duration(r.Int32()) * time.Millisecond
		m.rebalanceTimeout = time.Duration(rebalance) * time.Millisecond
		if rebalance < 0 {
			m.rebalanceTimeout = m.sessionTimeout
		}
		m.subscription, m.assignment = r.bytes(), r.bytes()
		r.tags(skipTag)
		if !r.Ok() {
			break
		}
		v.members = append(v.members, m)
	}
	r.tags(skipTag)
	if err := r.end(); err != nil {
		return nil, fmt.Errorf("group metadata value version %d: %w", version, err)
	}
	return v, nil
}

// subscribedTopics adds the topics of a "consumer" subscription of any version
// to topics: all begin with version and topics. It reports whether b parses.
func subscribedTopics(b []byte, topics map[string]struct{}) bool {
	r := newReader(b)
	r.Int16()
	n := r.Int32()
	for range n {
		topic := r.string()
		if !r.Ok() {
			return false
		}
		topics[topic] = struct{}{}
	}
	return r.Ok() && n >= 0
}

// committed is a committed offset.
type committed struct {
	offset      int64
	leaderEpoch int32
	metadata    string
	commitAt    int64          // ms
	expireAt    int64          // ms, -1 = by the group's retention
	topicID     record.TopicID // zero = unknown
	at          record.Offset  // of the record in the offsets partition
}
