package peer

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"

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
	r := reader{kbin.Reader{Src: frame}}
	r.tags() // of the response header
	h := replyHead{Throttle: r.Int32(), Err: r.Int16(), SessionID: r.Int32()}
	topics := r.length()
	if !r.Ok() {
		return fmt.Errorf("%w: its head is cut off", errBadReply)
	}
	if err := head(&h); err != nil {
		return err
	}
	var p partReply
	for range topics {
		p.Topic = r.Uuid()
		parts := r.length()
		for range parts {
			r.partition(&p)
			if !r.Ok() {
				return fmt.Errorf("%w: partition %d of %s", errBadReply, p.Partition, p.Topic)
			}
			if err := part(&p); err != nil {
				return err
			}
		}
		r.tags()
		if !r.Ok() {
			return fmt.Errorf("%w: topic %s", errBadReply, p.Topic)
		}
	}
	r.tags()
	if !r.Ok() || len(r.Src) > 0 {
		return fmt.Errorf("%w: %d bytes are left", errBadReply, len(r.Src))
	}
	return nil
}

// reader takes fields of Kafka's flexible encoding off Src. After a field that is
// not there it is not Ok any more and yields zeros.
type reader struct{ kbin.Reader }

// spoil makes the reader bad.
func (r *reader) spoil() { r.Span(-1) }

// length is that of a compact array, 0 where it is null. It is never more than the
// bytes that are left: every element has one at least.
func (r *reader) length() int {
	n := r.CompactArrayLen()
	if n < -1 {
		r.spoil()
	}
	return int(max(n, 0))
}

// tags skips tagged fields and answers the one with number 0, nil without it.
func (r *reader) tags() (first []byte) {
	for range r.Uvarint() {
		tag, field := r.Uvarint(), r.Span(int(r.Uvarint()))
		if !r.Ok() {
			return nil
		}
		if tag == 0 {
			first = field
		}
	}
	return first
}

func (r *reader) partition(p *partReply) {
	p.Partition, p.Err = r.Int32(), r.Int16()
	p.HighWatermark = record.Offset(r.Int64())
	r.Int64() // last stable offset
	p.LogStart = record.Offset(r.Int64())
	for range r.length() { // aborted transactions: a follower finds them in the batches
		r.Span(16)
		if r.tags(); !r.Ok() {
			return
		}
	}
	r.Int32() // preferred read replica
	p.Records = r.Span(r.length())
	p.Diverges, p.DivergingEpoch, p.DivergingEnd = false, -1, -1
	if diverging := r.tags(); diverging != nil {
		field := kbin.Reader{Src: diverging}
		p.DivergingEpoch, p.DivergingEnd = record.Epoch(field.Int32()), record.Offset(field.Int64())
		p.Diverges = p.DivergingEnd >= 0
		if !field.Ok() {
			r.spoil()
		}
	}
}
