package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm/statepb"
)

// messages are the stored messages by key prefix; families without one hold raw
// bytes.
var messages = []struct {
	prefix string
	make   func() proto.Message
}{
	{keyCluster, func() proto.Message { return new(statepb.Cluster) }},
	{prefixBroker, func() proto.Message { return new(statepb.Broker) }},
	{prefixTopic, func() proto.Message { return new(statepb.Topic) }},
	{prefixPartition, func() proto.Message { return new(statepb.Partition) }},
	{prefixConfig, func() proto.Message { return new(statepb.Configs) }},
	{prefixObject, func() proto.Message { return new(statepb.Object) }},
	{prefixEntry, func() proto.Message { return new(statepb.Entry) }},
	{prefixTombstone, func() proto.Message { return new(statepb.Tombstone) }},
	{prefixRequest, func() proto.Message { return new(statepb.Request) }},
}

// Hash is a hash over the decoded state at the applied index: equal on every node
// at the same index, whatever the build's encoding of the same values.
func (f *FSM) Hash() (sum [32]byte, err error) {
	h := sha256.New()
	snap := f.db.NewSnapshot()
	defer func() { err = errors.Join(err, snap.Close()) }()
	err = scanRange(snap, []byte{0}, []byte{0xff}, func(key, value []byte) error {
		if string(key) == keyRestoring {
			return nil
		}
		canonical, err := canonicalValue(string(key), value)
		if err != nil {
			return fmt.Errorf("key %q: %w", key, err)
		}
		for _, b := range [][]byte{key, canonical} {
			h.Write(binary.AppendUvarint(nil, uint64(len(b))))
			h.Write(b)
		}
		return nil
	})
	if err != nil {
		return [32]byte{}, fmt.Errorf("hash metadata state: %w", err)
	}
	return [32]byte(h.Sum(nil)), nil
}

// canonicalValue decodes a value and encodes it in this build's deterministic
// way.
func canonicalValue(key string, value []byte) ([]byte, error) {
	for _, m := range messages {
		if strings.HasPrefix(key, m.prefix) {
			msg := m.make()
			if err := decodeValue(value, msg); err != nil {
				return nil, err
			}
			return encodeValue(msg)
		}
	}
	for _, raw := range []string{prefixMeta, prefixPending, prefixRef, prefixReqOrder} {
		if strings.HasPrefix(key, raw) {
			return value, nil
		}
	}
	return nil, fmt.Errorf("%w: unknown key family", command.ErrCorrupt)
}
