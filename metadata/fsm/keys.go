package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/google/uuid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// The key families: a text prefix, then binary fields of fixed length in big
// endian, so that keys sort by them (docs/format/metadata-state.md).
const (
	keyFormat    = "meta/format"
	keyApplied   = "meta/applied"
	keyCluster   = "meta/cluster"
	keyRestoring = "meta/restoring" // local: never in a snapshot

	prefixMeta      = "meta/"
	prefixBroker    = "broker/"    // id
	prefixTopic     = "topic/"     // topic id
	prefixPartition = "partition/" // topic id, number
	prefixConfig    = "config/"    // kind, name
	prefixObject    = "object/"    // object id
	prefixPending   = "pending/"   // object id: copying or deleting
	prefixEntry     = "entry/"     // topic id, partition, start
	prefixRef       = "ref/"       // object id, topic id, partition, start
	prefixTombstone = "tombstone/" // topic id
	prefixRequest   = "request/"   // request id
	prefixReqOrder  = "reqorder/"  // log index
)

func brokerKey(id int32) []byte {
	return binary.BigEndian.AppendUint32([]byte(prefixBroker), uint32(id))
}

func topicKey(id record.TopicID) []byte { return append([]byte(prefixTopic), id[:]...) }

func tombstoneKey(id record.TopicID) []byte { return append([]byte(prefixTombstone), id[:]...) }

func partitionsPrefix(id record.TopicID) []byte { return append([]byte(prefixPartition), id[:]...) }

func partitionKey(tp record.TopicPartition) []byte {
	return binary.BigEndian.AppendUint32(partitionsPrefix(tp.Topic), uint32(tp.Partition))
}

func configKey(r metadata.ConfigResource) []byte {
	return append(append([]byte(prefixConfig), byte(r.Kind)), r.Name...)
}

func objectKey(id uuid.UUID) []byte { return append([]byte(prefixObject), id[:]...) }

func pendingKey(id uuid.UUID) []byte { return append([]byte(prefixPending), id[:]...) }

func topicEntriesPrefix(id record.TopicID) []byte { return append([]byte(prefixEntry), id[:]...) }

func entriesPrefix(tp record.TopicPartition) []byte {
	return binary.BigEndian.AppendUint32(topicEntriesPrefix(tp.Topic), uint32(tp.Partition))
}

func entryKey(tp record.TopicPartition, start record.Offset) []byte {
	return binary.BigEndian.AppendUint64(entriesPrefix(tp), uint64(start))
}

func refsPrefix(object uuid.UUID) []byte { return append([]byte(prefixRef), object[:]...) }

func refKey(object uuid.UUID, tp record.TopicPartition, start record.Offset) []byte {
	k := append(refsPrefix(object), tp.Topic[:]...)
	k = binary.BigEndian.AppendUint32(k, uint32(tp.Partition))
	return binary.BigEndian.AppendUint64(k, uint64(start))
}

func requestKey(id uuid.UUID) []byte { return append([]byte(prefixRequest), id[:]...) }

func reqOrderKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(prefixReqOrder), index)
}

// prefixEnd is the first key after all that begin with prefix, which ends in a
// byte below 0xff somewhere: every prefix here begins with text.
func prefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; ; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
}

// keyTail cuts the prefix off and checks the length of what is left.
func keyTail(key []byte, prefix string, length int) ([]byte, error) {
	if len(key) != len(prefix)+length || string(key[:len(prefix)]) != prefix {
		return nil, fmt.Errorf("%w: key %q, want %s and %d bytes", command.ErrCorrupt, key, prefix, length)
	}
	return key[len(prefix):], nil
}

func parsePartitionKey(key []byte) (record.TopicPartition, error) {
	t, err := keyTail(key, prefixPartition, 20)
	if err != nil {
		return record.TopicPartition{}, err
	}
	return partitionAt(t), nil
}

// partitionAt reads a topic id and a partition number.
func partitionAt(b []byte) record.TopicPartition {
	return record.TopicPartition{Topic: record.TopicID(b[:16]), Partition: int32(binary.BigEndian.Uint32(b[16:20]))}
}

func parseEntryKey(key []byte) (record.TopicPartition, record.Offset, error) {
	t, err := keyTail(key, prefixEntry, 28)
	if err != nil {
		return record.TopicPartition{}, 0, err
	}
	return partitionAt(t), record.Offset(binary.BigEndian.Uint64(t[20:])), nil
}

func parseRefKey(key []byte) (uuid.UUID, record.TopicPartition, record.Offset, error) {
	t, err := keyTail(key, prefixRef, 44)
	if err != nil {
		return uuid.Nil, record.TopicPartition{}, 0, err
	}
	return uuid.UUID(t[:16]), partitionAt(t[16:36]), record.Offset(binary.BigEndian.Uint64(t[36:])), nil
}
