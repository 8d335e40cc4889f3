package load

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/record"
)

// idVersion is the first version of Produce with topic ids.
const idVersion = 13

// ProduceOptions say what Produce sends. Zero values take the defaults that
// are named.
type ProduceOptions struct {
	Addr        string
	Topic       string         // name; up to version 12
	TopicID     record.TopicID // version 13
	Partitions  int32          // 12: those from 0 on
	Version     int16          // 9 to 13; 9
	Acks        int16          // as on the wire: 0, 1 or -1; SetDefaults leaves it
	Connections int            // 12
	Depth       int            // requests in flight on a connection; 4
	RecordBytes int            // of a record's value; 1024
	BatchBytes  int            // about; 16 KiB
	Batches     int            // of different partitions in a request; 1
	Codec       record.Codec
	Timeout     time.Duration // that the broker may take for an answer; 30 s

	// Rate is how many bytes of batches are sent in a second, by all connections
	// together and evenly; 0 sends as fast as answers come. With a rate, Depth
	// should leave room for answers that are late: a full connection waits.
	Rate int64

	// The run ends after Bytes of batches or after Duration, whichever is
	// first; a zero is no limit. One must be set.
	Bytes    int64
	Duration time.Duration

	// Pid is the process whose CPU time is measured, 0 none.
	Pid int
}

// SetDefaults fills what is zero.
func (o *ProduceOptions) SetDefaults() {
	def(&o.Partitions, 12)
	def(&o.Version, 9)
	def(&o.Connections, 12)
	def(&o.Depth, 4)
	def(&o.RecordBytes, 1024)
	def(&o.BatchBytes, 16<<10)
	def(&o.Batches, 1)
	def(&o.Timeout, 30*time.Second)
}

func def[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// ErrOptions is returned for options that make no run.
var ErrOptions = errors.New("load: bad options")

func (o *ProduceOptions) validate() error {
	switch {
	case o.Version < 9 || o.Version > idVersion:
		return fmt.Errorf("%w: Produce version %d, want 9 to %d", ErrOptions, o.Version, idVersion)
	case o.Version < idVersion && o.Topic == "":
		return fmt.Errorf("%w: Produce version %d needs a topic's name", ErrOptions, o.Version)
	case o.Version >= idVersion && o.TopicID.IsZero():
		return fmt.Errorf("%w: Produce version %d needs a topic id", ErrOptions, o.Version)
	case o.Acks < -1 || o.Acks > 1:
		return fmt.Errorf("%w: acks %d, want -1, 0 or 1", ErrOptions, o.Acks)
	case o.Connections < 1 || o.Depth < 1 || o.Partitions < 1 || o.RecordBytes < 1 || o.BatchBytes < 1:
		return fmt.Errorf("%w: connections, depth, partitions and sizes are at least 1", ErrOptions)
	case o.Batches < 1 || o.Batches > int(o.Partitions):
		return fmt.Errorf("%w: %d batches in a request, want 1 to %d (the partitions)", ErrOptions, o.Batches, o.Partitions)
	case o.Rate < 0:
		return fmt.Errorf("%w: a rate of %d bytes a second", ErrOptions, o.Rate)
	case o.Bytes <= 0 && o.Duration <= 0:
		return fmt.Errorf("%w: neither bytes nor a duration ends the run", ErrOptions)
	}
	return nil
}

// request is one encoded Produce request, shared by all connections. All
// requests share the bytes of their batches, so that thousands of partitions do
// not cost the generator the CPU's caches.
type request struct {
	frame   [][]byte // in pieces, with correlation id 0 in the first
	records []byte   // of one batch
	bytes   int64    // of batches
}

// split cuts a frame at the copies of batch in it and puts batch itself in
// their place.
func split(frame, batch []byte) [][]byte {
	var pieces [][]byte
	for {
		before, after, found := bytes.Cut(frame, batch)
		pieces = append(pieces, bytes.Clone(before))
		if !found {
			return pieces
		}
		pieces, frame = append(pieces, batch), after
	}
}

// posCorrelation is where the correlation id stands in a frame, behind length,
// key and version.
const posCorrelation = 8

// encode makes the requests that connections send in turn: request i begins
// with partition i.
func (o *ProduceOptions) encode() []request {
	rng := rand.New(rand.NewPCG(1, 2)) // the same bytes in each run
	bb := record.NewBuilder(record.BuilderOptions{Codec: o.Codec})
	value := make([]byte, o.RecordBytes)
	now := time.Now().UnixMilli()
	for bb.Len() == 0 || bb.Size()+o.RecordBytes <= o.BatchBytes {
		for i := range value {
			value[i] = "abcdefghijklmnop"[rng.Uint32()>>28] // compresses to about half
		}
		bb.Append(now, nil, value)
	}
	batch := bb.Build()

	var frame []byte
	requests := make([]request, o.Partitions)
	for first := range o.Partitions {
		req := kmsg.NewPtrProduceRequest()
		req.Version, req.Acks, req.TimeoutMillis = o.Version, o.Acks, int32(o.Timeout.Milliseconds())
		topic := kmsg.NewProduceRequestTopic()
		topic.Topic, topic.TopicID = o.Topic, [16]byte(o.TopicID)
		for i := range int32(o.Batches) {
			p := kmsg.NewProduceRequestTopicPartition()
			p.Partition, p.Records = (first+i)%o.Partitions, batch
			topic.Partitions = append(topic.Partitions, p)
		}
		req.Topics = append(req.Topics, topic)
		frame = kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID)).AppendRequest(frame[:0], req, 0)
		requests[first] = request{frame: split(frame, batch), records: batch, bytes: int64(len(batch) * o.Batches)}
	}
	return requests
}

// ProduceResult is the outcome of a run.
type ProduceResult struct {
	Bytes    int64 // of acknowledged batches; of sent ones with acks=0
	Requests int64
	Records  int64
	Latency  *probe.Latency // nil with acks=0
	Usage    probe.Usage
}

// Report puts the result into the common form.
func (r ProduceResult) Report(o ProduceOptions) probe.Report {
	rep := probe.NewReport("produce", r.Bytes, r.Requests, o.Connections, r.Usage, o.Pid)
	rep.Latency = r.Latency
	return rep
}

// Produce runs the load. It returns what was reached together with the first
// error, which may be the context's.
func Produce(ctx context.Context, o ProduceOptions) (ProduceResult, error) {
	o.SetDefaults()
	if err := o.validate(); err != nil {
		return ProduceResult{}, err
	}
	run := &produceRun{opts: o, requests: o.encode()}
	acked := o
	acked.Acks = 1
	settle := acked.encode()
	conns := make([]*produceConn, o.Connections)
	g, gctx := errgroup.WithContext(ctx) // whose end closes the connections
	for i := range conns {
		conn, stop, err := dial(gctx, o.Addr)
		if err != nil {
			return ProduceResult{}, err
		}
		defer stop()
		conns[i] = &produceConn{run: run, settle: &settle[i%len(settle)], conn: conn, next: i % len(run.requests), inflight: make(chan time.Time, o.Depth)}
	}
	meter, err := probe.StartMeter(o.Pid)
	if err != nil {
		return ProduceResult{}, err
	}
	if o.Rate > 0 {
		each := time.Duration(float64(run.requests[0].bytes) / float64(o.Rate) * float64(time.Second))
		for i, c := range conns { // evenly, one after the other
			c.every, c.due = each*time.Duration(len(conns)), time.Now().Add(each*time.Duration(i))
		}
	}
	if o.Duration > 0 {
		timer := time.AfterFunc(o.Duration, func() { run.done.Store(true) })
		defer timer.Stop()
	}
	for _, c := range conns {
		g.Go(c.write)
		if o.Acks != 0 {
			g.Go(c.read)
		}
	}
	runErr := g.Wait()
	if run.failed != nil { // g.Wait has ordered it before us
		runErr = run.failed
	}
	usage, err := meter.Stop()
	if runErr == nil {
		runErr = err
	}
	if ctx.Err() != nil {
		runErr = context.Cause(ctx)
	}
	return run.result(conns, usage), runErr
}

// produceRun is what the connections of a run share.
type produceRun struct {
	opts     ProduceOptions
	requests []request
	claimed  atomic.Int64 // bytes that were sent or are about to be
	done     atomic.Bool  // the time is up

	failOnce sync.Once
	failed   error // what failed first; see fail
}

// fail keeps the first error of the run. A reader calls it before it closes the
// connection, so that the writer's complaint about that does not come first.
func (r *produceRun) fail(err error) { r.failOnce.Do(func() { r.failed = err }) }

// claim reports whether n more bytes are wanted.
func (r *produceRun) claim(n int64) bool {
	if r.done.Load() {
		return false
	}
	return r.opts.Bytes <= 0 || r.claimed.Add(n)-n < r.opts.Bytes
}

func (r *produceRun) result(conns []*produceConn, usage probe.Usage) ProduceResult {
	res := ProduceResult{Usage: usage}
	var all histogram
	for _, c := range conns {
		res.Bytes += c.bytes
		res.Requests += c.requests
		all.merge(&c.latency)
	}
	perBatch := int64(1)
	if b, err := record.ReadHeader(r.requests[0].records); err == nil {
		perBatch = int64(b.NumRecords)
	}
	res.Records = res.Requests * int64(r.opts.Batches) * perBatch
	if r.opts.Acks != 0 {
		res.Latency = probe.NewLatency(all.quantile(0.5), all.quantile(0.99), all.quantile(0.999), time.Duration(all.max))
	}
	return res
}

// produceConn is one connection. write and read have a goroutine each.
type produceConn struct {
	run  *produceRun
	conn net.Conn
	// inflight holds when each request in flight was sent, oldest first. Its
	// room is the depth. Closed by write.
	inflight chan time.Time

	// Of write:
	next    int      // request to send
	settle  *request // with acks=1, see finish
	sent    uint32
	head    [posCorrelation + 4]byte
	vectors [][]byte
	due     time.Time     // with a rate: of the next request
	every   time.Duration // with a rate: between requests

	// Of read, or of write with acks=0:
	bytes    int64
	requests int64
	latency  histogram
}

// write sends until no more is wanted.
func (c *produceConn) write() error {
	defer close(c.inflight)
	for {
		req := &c.run.requests[c.next]
		if !c.run.claim(req.bytes) {
			return c.finish()
		}
		c.pace()
		if c.run.opts.Acks != 0 {
			c.inflight <- time.Now()
		} else {
			c.bytes += req.bytes
			c.requests++
		}
		if err := c.send(req, c.sent); err != nil {
			return err
		}
		c.sent++
		c.next = (c.next + 1) % len(c.run.requests)
	}
}

// pace waits until the next request is due. What is late is sent at once.
func (c *produceConn) pace() {
	if c.every == 0 {
		return
	}
	time.Sleep(time.Until(c.due))
	c.due = c.due.Add(c.every)
}

// finish waits until the broker has handled what was sent with acks=0: the
// answer to a last request with acks=1 comes behind it.
func (c *produceConn) finish() error {
	if c.run.opts.Acks != 0 {
		return nil
	}
	if err := c.send(c.settle, c.sent); err != nil {
		return err
	}
	return readProduce(&reader{r: bufio.NewReader(c.conn)}, c.run.opts.Version, int32(c.sent))
}

// send writes a request under a correlation id without touching the shared
// bytes.
func (c *produceConn) send(req *request, correlation uint32) error {
	copy(c.head[:], req.frame[0])
	binary.BigEndian.PutUint32(c.head[posCorrelation:], correlation)
	c.vectors = append(c.vectors[:0], c.head[:], req.frame[0][len(c.head):])
	c.vectors = append(c.vectors, req.frame[1:]...)
	buffers := net.Buffers(c.vectors) // which WriteTo uses up, c.vectors stays
	if _, err := buffers.WriteTo(c.conn); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	return nil
}

// read takes the answers until write has ended and all are there. After an
// error it goes on to empty inflight, on whose room write may wait.
func (c *produceConn) read() error {
	in := &reader{r: bufio.NewReaderSize(c.conn, 16<<10)}
	size := c.run.requests[0].bytes
	var correlation int32
	var failed error
	for at := range c.inflight {
		if failed != nil {
			continue
		}
		if failed = readProduce(in, c.run.opts.Version, correlation); failed != nil {
			c.run.fail(failed)
			c.conn.Close()
			continue
		}
		c.latency.add(time.Since(at))
		correlation++
		c.bytes += size
		c.requests++
	}
	return failed
}

// readProduce reads one answer and returns the first error in it.
func readProduce(r *reader, version int16, correlation int32) error {
	r.frame(correlation)
	r.tags()
	var failed error
	for range r.count(true) {
		if version >= idVersion {
			r.skip(16)
		} else {
			r.skip(r.length(true))
		}
		for range r.count(true) {
			partition := r.int32()
			code := r.int16()
			r.skip(8 + 8 + 8) // base offset, append time, log start
			for range r.count(true) {
				r.int32()
				r.text()
				r.tags()
				if r.err != nil {
					return r.err
				}
			}
			message := r.text()
			r.tags()
			if r.err != nil {
				return r.err
			}
			if err := kerr.ErrorForCode(code); err != nil && failed == nil {
				failed = fmt.Errorf("load: partition %d: %w %s", partition, err, message)
			}
		}
		r.tags()
		if r.err != nil {
			return r.err
		}
	}
	r.int32() // throttle time
	r.tags()
	if err := r.end(); err != nil {
		return err
	}
	return failed
}
