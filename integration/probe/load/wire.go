package load

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

const (
	clientID = "firn-probe"
	// maxResponse bounds in bytes what an answer may claim to have.
	maxResponse = 256 << 20
	maxText     = 64 << 10 // bytes of an error's message
	setupWait   = 30 * time.Second
)

// ErrResponse is returned for an answer that is not the one to the request.
var ErrResponse = errors.New("load: unexpected answer")

// dial opens a connection that ends with ctx. stop gives it up.
func dial(ctx context.Context, addr string) (conn net.Conn, stop func(), err error) {
	var d net.Dialer
	if conn, err = d.DialContext(ctx, "tcp", addr); err != nil {
		return nil, nil, fmt.Errorf("load: %w", err)
	}
	cancel := context.AfterFunc(ctx, func() { conn.Close() })
	return conn, func() { cancel(); conn.Close() }, nil
}

// roundTrip sends one request and reads its answer, for what happens before
// the clock starts.
func roundTrip(ctx context.Context, addr string, req kmsg.Request) (kmsg.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, setupWait)
	defer cancel()
	conn, stop, err := dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer stop()
	return ask(conn, req)
}

// ask sends the only request that is under way on a connection and reads its
// answer.
func ask(conn net.Conn, req kmsg.Request) (kmsg.Response, error) {
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(nil, req, 1)
	if _, err := conn.Write(frame); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	r := &reader{r: bufio.NewReader(conn)}
	r.frame(1)
	if req.IsFlexible() && req.Key() != 18 { // ApiVersions keeps the old header
		r.tags()
	}
	body := make([]byte, max(r.left, 0))
	r.full(body)
	if r.err != nil {
		return nil, r.err
	}
	resp := req.ResponseKind()
	if err := resp.ReadFrom(body); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrResponse, err)
	}
	return resp, nil
}

// CreateTopic creates a topic with replication factor 1 and the given configs.
// One that exists already is left as it is.
func CreateTopic(ctx context.Context, addr, name string, partitions int32, configs map[string]string) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.Version = 5
	req.TimeoutMillis = int32(setupWait.Milliseconds())
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, partitions, 1
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, kmsg.StringPtr(v)
		topic.Configs = append(topic.Configs, c)
	}
	req.Topics = append(req.Topics, topic)
	kresp, err := roundTrip(ctx, addr, req)
	if err != nil {
		return err
	}
	resp, ok := kresp.(*kmsg.CreateTopicsResponse)
	if !ok || len(resp.Topics) != 1 {
		return fmt.Errorf("%w to CreateTopics", ErrResponse)
	}
	err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
		return fmt.Errorf("load: create topic %s: %w", name, err)
	}
	return nil
}

// Ping asks for the broker's API versions and returns once it has answered.
func Ping(ctx context.Context, addr string) error {
	_, err := roundTrip(ctx, addr, kmsg.NewPtrApiVersionsRequest())
	return err
}

// Connect opens a connection on which one ApiVersions was answered, as a client
// does that then has nothing to say.
func Connect(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if _, err := ask(conn, kmsg.NewPtrApiVersionsRequest()); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// LookupTopic returns id and number of partitions of a topic.
func LookupTopic(ctx context.Context, addr, name string) (record.TopicID, int32, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 10
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(name)
	req.Topics = append(req.Topics, topic)
	kresp, err := roundTrip(ctx, addr, req)
	if err != nil {
		return record.TopicID{}, 0, err
	}
	resp, ok := kresp.(*kmsg.MetadataResponse)
	if !ok || len(resp.Topics) != 1 {
		return record.TopicID{}, 0, fmt.Errorf("%w to Metadata", ErrResponse)
	}
	t := &resp.Topics[0]
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return record.TopicID{}, 0, fmt.Errorf("load: topic %s: %w", name, err)
	}
	return record.TopicID(t.TopicID), int32(len(t.Partitions)), nil
}

// earliest is the timestamp that asks ListOffsets for the log start, latest for
// the high watermark.
const (
	earliest = -2
	latest   = -1
)

// listOffsets returns an offset for each of the partitions.
func listOffsets(ctx context.Context, addr, name string, partitions []int32, timestamp int64) (map[int32]record.Offset, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version = 5
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = name
	for _, p := range partitions {
		part := kmsg.NewListOffsetsRequestTopicPartition()
		part.Partition, part.Timestamp = p, timestamp
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = append(req.Topics, topic)
	kresp, err := roundTrip(ctx, addr, req)
	if err != nil {
		return nil, err
	}
	resp, ok := kresp.(*kmsg.ListOffsetsResponse)
	if !ok || len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != len(partitions) {
		return nil, fmt.Errorf("%w to ListOffsets", ErrResponse)
	}
	offsets := map[int32]record.Offset{}
	for _, p := range resp.Topics[0].Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return nil, fmt.Errorf("load: offset of %s-%d: %w", name, p.Partition, err)
		}
		offsets[p.Partition] = record.Offset(p.Offset)
	}
	return offsets, nil
}

// reader reads one frame after another, field by field, out of a buffered
// connection. After the first failure all fields are zero.
type reader struct {
	r    *bufio.Reader
	left int // bytes of the frame not read yet
	err  error
	tmp  [16]byte
}

// frame begins the next frame and checks its length and correlation id.
func (r *reader) frame(correlation int32) {
	r.left = 8
	size, got := int(r.int32()), r.int32()
	if r.err != nil {
		return
	}
	if size < 4 || size > maxResponse || got != correlation {
		r.err = fmt.Errorf("%w: %d bytes for request %d, want %d", ErrResponse, size, got, correlation)
		return
	}
	r.left = size - 4
}

// end checks that the frame is used up.
func (r *reader) end() error {
	if r.err == nil && r.left != 0 {
		r.err = fmt.Errorf("%w: %d bytes are left", ErrResponse, r.left)
	}
	return r.err
}

// full fills p.
func (r *reader) full(p []byte) {
	if r.err == nil && len(p) > r.left {
		r.err = fmt.Errorf("%w: it is cut off", ErrResponse)
	}
	if r.err != nil {
		clear(p)
		return
	}
	r.left -= len(p)
	if _, err := io.ReadFull(r.r, p); err != nil {
		r.err = fmt.Errorf("load: %w", err)
		clear(p)
	}
}

// skip drops n bytes.
func (r *reader) skip(n int) {
	if r.err == nil && (n < 0 || n > r.left) {
		r.err = fmt.Errorf("%w: it is cut off", ErrResponse)
	}
	if r.err != nil {
		return
	}
	r.left -= n
	if _, err := r.r.Discard(n); err != nil {
		r.err = fmt.Errorf("load: %w", err)
	}
}

func (r *reader) int16() int16 {
	r.full(r.tmp[:2])
	return int16(binary.BigEndian.Uint16(r.tmp[:]))
}

func (r *reader) int32() int32 {
	r.full(r.tmp[:4])
	return int32(binary.BigEndian.Uint32(r.tmp[:]))
}

// uvarint returns a length or count.
func (r *reader) uvarint() int {
	var v uint32
	for shift := 0; shift < 32; shift += 7 {
		r.full(r.tmp[:1])
		v |= uint32(r.tmp[0]&0x7f) << shift
		if r.tmp[0] < 0x80 {
			return int(v)
		}
	}
	if r.err == nil {
		r.err = fmt.Errorf("%w: an endless number", ErrResponse)
	}
	return 0
}

// length returns a length or count, -1 where it is null: compact in flexible
// versions.
func (r *reader) length(flexible bool) int {
	if flexible {
		return r.uvarint() - 1
	}
	return int(r.int32())
}

// count returns how many elements follow. It is 0 after a failure, also of the
// loop around it, so that a count that lies ends with the bytes.
func (r *reader) count(flexible bool) int {
	n := r.length(flexible)
	if r.err == nil && n > r.left { // an element has a byte at least
		r.err = fmt.Errorf("%w: it counts %d elements in %d bytes", ErrResponse, n, r.left)
	}
	if r.err != nil {
		return 0
	}
	return n
}

// text returns a string, "" where it is null.
func (r *reader) text() string {
	n := r.length(true)
	if r.err != nil || n <= 0 {
		return ""
	}
	if n > r.left || n > maxText {
		r.err = fmt.Errorf("%w: a text of %d bytes", ErrResponse, n)
		return ""
	}
	b := make([]byte, n)
	r.full(b)
	return string(b)
}

// tags skips tagged fields.
func (r *reader) tags() {
	for range r.uvarint() {
		if r.err != nil {
			return
		}
		r.uvarint()
		r.skip(r.uvarint())
	}
}
