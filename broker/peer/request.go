package peer

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/replica"
	"github.com/firnlog/firn/record"
)

// request is a Fetch under construction; its arrays are used again.
type request struct {
	asks  []ask
	out   []record.TopicPartition // to be forgotten
	kafka *kmsg.FetchRequest
	buf   []byte
	id    int32 // correlation
}

type ask struct {
	tp       record.TopicPartition
	at       replica.Position
	start    record.Offset // of the local log
	maxBytes int32
}

func (q *request) reset() { q.asks, q.out = q.asks[:0], q.out[:0] }

func (q *request) add(tp record.TopicPartition, at *replica.Position, start record.Offset, maxBytes int32) {
	q.asks = append(q.asks, ask{tp: tp, at: *at, start: start, maxBytes: maxBytes})
}

func (q *request) forget(tps []record.TopicPartition) { q.out = append(q.out, tps...) }

func compareTP(a, b record.TopicPartition) int {
	return cmp.Or(bytes.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Partition, b.Partition))
}

// encode makes the frame. It stays valid until the next encode.
func (q *request) encode(o *Options, wait time.Duration, brokerEpoch int64, session, epoch int32, slot int) []byte {
	if q.kafka == nil {
		r := kmsg.NewFetchRequest()
		q.kafka = &r
	}
	r := q.kafka
	r.Version = fetchVersion
	r.ReplicaState.ID, r.ReplicaState.Epoch = o.NodeID, brokerEpoch
	r.MaxWaitMillis = int32(wait.Milliseconds())
	r.MinBytes, r.MaxBytes = o.MinBytes, o.ResponseBytes
	r.SessionID, r.SessionEpoch = session, epoch
	q.topics()
	q.forgotten()

	q.id++
	b := append(q.buf[:0], 0, 0, 0, 0)
	be := binary.BigEndian
	b = be.AppendUint16(b, uint16(r.Key()))
	b = be.AppendUint16(b, fetchVersion)
	b = be.AppendUint32(b, uint32(q.id))
	client := "broker-" + strconv.Itoa(int(o.NodeID)) + "-fetcher-" + strconv.Itoa(slot)
	b = be.AppendUint16(b, uint16(len(client)))
	b = append(b, client...)
	b = append(b, 0) // no tags
	b = r.AppendTo(b)
	be.PutUint32(b, uint32(len(b)-4))
	q.buf = b
	return b
}

// topics puts the positions into the request, by topic.
func (q *request) topics() {
	slices.SortFunc(q.asks, func(a, b ask) int { return compareTP(a.tp, b.tp) })
	topics := q.kafka.Topics[:0]
	for i := range q.asks {
		a := &q.asks[i]
		if n := len(topics); n == 0 || topics[n-1].TopicID != a.tp.Topic {
			topics = grow(topics, kmsg.NewFetchRequestTopic)
			topics[n].TopicID, topics[n].Partitions = a.tp.Topic, topics[n].Partitions[:0]
		}
		t := &topics[len(topics)-1]
		n := len(t.Partitions)
		t.Partitions = grow(t.Partitions, kmsg.NewFetchRequestTopicPartition)
		p := &t.Partitions[n]
		p.Partition, p.CurrentLeaderEpoch = a.tp.Partition, int32(a.at.LeaderEpoch)
		p.FetchOffset, p.LastFetchedEpoch = int64(a.at.Offset), int32(a.at.LastEpoch)
		p.LogStartOffset, p.PartitionMaxBytes = int64(a.start), a.maxBytes
	}
	q.kafka.Topics = topics
}

func (q *request) forgotten() {
	slices.SortFunc(q.out, compareTP)
	topics := q.kafka.ForgottenTopics[:0]
	for _, tp := range q.out {
		if n := len(topics); n == 0 || topics[n-1].TopicID != tp.Topic {
			topics = grow(topics, kmsg.NewFetchRequestForgottenTopic)
			topics[n].TopicID, topics[n].Partitions = tp.Topic, topics[n].Partitions[:0]
		}
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, tp.Partition)
	}
	q.kafka.ForgottenTopics = topics
}

// grow lengthens a slice by one element, with what it held there before if it had
// the room.
func grow[T any](s []T, empty func() T) []T {
	if len(s) < cap(s) {
		return s[:len(s)+1]
	}
	return append(s, empty())
}

const (
	// keepFrame is how large a frame buffer is kept between replies, over what a
	// reply is asked to have.
	keepFrame = 1 << 20
	// firstRead is how much of a frame is made room for before more of it arrives.
	firstRead = 64 << 10
)

func (l *loop) dial() (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.m.ctx, l.m.opts.Timeout)
	defer cancel()
	return l.m.opts.Dial(ctx, l.key.leader)
}

// roundTrip sends a frame and reads its reply, whose body stays valid until the
// next call.
func (l *loop) roundTrip(frame []byte, wait time.Duration) ([]byte, error) {
	conn := l.hold(wait)
	if conn == nil {
		return nil, net.ErrClosed
	}
	defer l.letGo()
	if err := conn.SetDeadline(time.Now().Add(wait + l.m.opts.Timeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(frame); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	l.letGo() // the reply is on its way
	n := int32(binary.BigEndian.Uint32(size[:]))
	if n < 4 {
		return nil, fmt.Errorf("%w: a frame of %d bytes", errBadReply, n)
	}
	if err := l.readFrame(conn, int(n)); err != nil {
		return nil, fmt.Errorf("receive: %w", err)
	}
	if id := int32(binary.BigEndian.Uint32(l.frame)); id != l.req.id {
		return nil, fmt.Errorf("%w: reply %d to request %d", errBadReply, id, l.req.id)
	}
	return l.frame[4:], nil
}

// hold lets the request be given up while it may wait at the leader for long; nil
// where the session has ended.
func (l *loop) hold(wait time.Duration) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped || len(l.parts) == 0 {
		return nil
	}
	l.waiting, l.brief = l.conn, wait <= shortWait
	if l.changed {
		l.hurryLocked() // they came while the request was made
	}
	return l.conn
}

// letGo ends that.
func (l *loop) letGo() {
	l.mu.Lock()
	l.waiting = nil
	l.mu.Unlock()
}

// readFrame reads n bytes into the frame buffer, which grows as they arrive: the
// length alone claims no memory.
func (l *loop) readFrame(conn net.Conn, n int) error {
	if cap(l.frame) > int(l.m.opts.ResponseBytes)+keepFrame && n < cap(l.frame)/2 {
		l.frame = nil
	}
	l.frame = l.frame[:0]
	for len(l.frame) < n {
		if len(l.frame) == cap(l.frame) {
			l.frame = slices.Grow(l.frame, min(n-len(l.frame), max(len(l.frame), firstRead)))
		}
		to := min(n, cap(l.frame))
		got, err := io.ReadFull(conn, l.frame[len(l.frame):to])
		l.frame = l.frame[:len(l.frame)+got]
		if err != nil {
			return err
		}
	}
	return nil
}
