package peer

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/firnlog/firn/record"
)

// fetchVersion is the version of Fetch that brokers speak with each other: topic
// ids, the follower's broker epoch, diverging epochs.
const fetchVersion = 17

// errBadReply is wrapped by every error about a reply's form. The connection is
// not to be used any more.
var errBadReply = errors.New("peer: malformed reply to a fetch")

// replyHead is what a reply says as a whole.
type replyHead struct {
	Throttle  int32 // ms
	Err       int16
	SessionID int32
}

// partReply is the part of one partition. Records aliases the frame.
type partReply struct {
	Topic         record.TopicID
	Partition     int32
	Err           int16
	HighWatermark record.Offset
	LogStart      record.Offset
	// Diverges says that the two logs went different ways.
	Diverges       bool
	DivergingEpoch record.Epoch
	DivergingEnd   record.Offset
	Records        []byte
}

// walkReply reads the body of a reply, from behind the correlation id, in one
// pass and without allocation: head first, then each partition. It stops at the
// first error of a callback.
func walkReply(frame []byte, head func(*replyHead) error, part func(*partReply) error) error {
	r := reader{b: frame}
	r.tags() // of the response header
	h := replyHead{Throttle: r.int32(), Err: r.int16(), SessionID: r.int32()}
	topics := r.length()
	if r.bad {
		return fmt.Errorf("%w: its head is cut off", errBadReply)
	}
	if err := head(&h); err != nil {
		return err
	}
	var p partReply
	for range topics {
		copy(p.Topic[:], r.take(16))
		parts := r.length()
		for range parts {
			r.partition(&p)
			if r.bad {
				return fmt.Errorf("%w: partition %d of %s", errBadReply, p.Partition, p.Topic)
			}
			if err := part(&p); err != nil {
				return err
			}
		}
		r.tags()
		if r.bad {
			return fmt.Errorf("%w: topic %s", errBadReply, p.Topic)
		}
	}
	r.tags()
	if r.bad || len(r.b) > 0 {
		return fmt.Errorf("%w: %d bytes are left", errBadReply, len(r.b))
	}
	return nil
}

// reader takes fields of Kafka's flexible encoding off b. After a field that is
// not there it is bad and yields zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reader) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reader) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

// length is that of a compact array or string, 0 where it is null. It is never
// more than the bytes that are left: every element has one at least.
func (r *reader) length() int {
	n := r.uvarint()
	if n == 0 {
		return 0
	}
	if n-1 > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n - 1)
}

// tags skips tagged fields and answers the one with number 0, nil without it.
func (r *reader) tags() (first []byte) {
	for range r.uvarint() {
		tag, size := r.uvarint(), r.uvarint()
		if r.bad || size > uint64(len(r.b)) {
			r.bad, r.b = true, nil
			return nil
		}
		if field := r.take(int(size)); tag == 0 {
			first = field
		}
	}
	return first
}

func (r *reader) partition(p *partReply) {
	p.Partition, p.Err = r.int32(), r.int16()
	p.HighWatermark = record.Offset(r.int64())
	r.int64() // last stable offset
	p.LogStart = record.Offset(r.int64())
	for range r.length() { // aborted transactions: a follower finds them in the batches
		r.take(16)
		r.tags()
	}
	r.int32() // preferred read replica
	p.Records = r.take(r.length())
	p.Diverges, p.DivergingEpoch, p.DivergingEnd = false, -1, -1
	if diverging := r.tags(); diverging != nil {
		field := reader{b: diverging}
		p.DivergingEpoch, p.DivergingEnd = record.Epoch(field.int32()), record.Offset(field.int64())
		p.Diverges = p.DivergingEnd >= 0
		r.bad = r.bad || field.bad
	}
}
