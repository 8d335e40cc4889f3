package record

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
)

// Offset is the position of a record in its partition. NoOffset means none.
type Offset int64

// NoOffset stands for an absent offset, as on the wire.
const NoOffset Offset = -1

// Epoch is a leader epoch. NoEpoch means none or unknown.
type Epoch int32

// NoEpoch stands for an absent leader epoch, as on the wire.
const NoEpoch Epoch = -1

// TopicID identifies one life of a topic: a topic made again under its old
// name has another id (KIP-516). The zero value means no id.
type TopicID [16]byte

// ErrTopicID is returned for text that is not a topic id.
var ErrTopicID = errors.New("record: not a topic id")

// NewTopicID returns a random version 4 UUID. It is never zero, and its text
// never begins with a dash, so that it can be given to command line tools.
func NewTopicID() TopicID {
	for {
		var id TopicID
		rand.Read(id[:]) // never fails (crypto/rand, Go 1.24)
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		if id[0]>>2 != 62 { // 62 is '-' in base64url
			return id
		}
	}
}

// ParseTopicID reads the 22 characters that String writes.
func ParseTopicID(s string) (TopicID, error) {
	var id TopicID
	if base64.RawURLEncoding.DecodedLen(len(s)) != len(id) {
		return TopicID{}, fmt.Errorf("%w: %q has %d characters, want 22", ErrTopicID, s, len(s))
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(id[:], []byte(s)); err != nil {
		return TopicID{}, fmt.Errorf("%w: %q: %w", ErrTopicID, s, err)
	}
	return id, nil
}

// String returns the id in Kafka's spelling: 22 characters of base64url.
func (id TopicID) String() string { return base64.RawURLEncoding.EncodeToString(id[:]) }

// IsZero reports whether id is absent.
func (id TopicID) IsZero() bool { return id == TopicID{} }

// TopicPartition names one partition of one life of a topic.
type TopicPartition struct {
	Topic     TopicID
	Partition int32
}

// String returns "<topic id>-<partition>".
func (tp TopicPartition) String() string {
	return tp.Topic.String() + "-" + strconv.Itoa(int(tp.Partition))
}
