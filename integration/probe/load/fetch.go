package load

import (
	"bufio"
	"context"
	"fmt"
	"hash/crc32"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/record"
)

// fetchIDVersion is the first version of Fetch with topic ids.
const fetchIDVersion = 13

// FetchOptions say what Fetch reads. Zero values take the defaults that are
// named.
type FetchOptions struct {
	Addr       string
	Topic      string         // name; up to version 12, and to look offsets up
	TopicID    record.TopicID // version 13
	Partitions int32          // 12: those from 0 on
	Version    int16          // 11 to 13; 12
	// Connections share the partitions out; more than there are partitions
	// read them again, each one whole. 1.
	Connections    int
	MaxBytes       int32         // of an answer; 8 MiB
	PartitionBytes int32         // of a partition in an answer; 1 MiB
	MaxWait        time.Duration // that the broker may wait for data; 500 ms
	// From is where each partition begins; below 0 at its log start.
	From record.Offset
	// Bytes ends the run early; 0 reads up to the high watermarks at the start.
	Bytes int64
	// VerifyCRC checks each batch's checksum, which costs the generator CPU.
	VerifyCRC bool
	// Pid is the process whose CPU time is measured, 0 none.
	Pid int
}

// SetDefaults fills what is zero.
func (o *FetchOptions) SetDefaults() {
	def(&o.Partitions, 12)
	def(&o.Version, 12)
	def(&o.Connections, 1)
	def(&o.MaxBytes, 8<<20)
	def(&o.PartitionBytes, 1<<20)
	def(&o.MaxWait, 500*time.Millisecond)
}

func (o *FetchOptions) validate() error {
	switch {
	case o.Topic == "":
		return fmt.Errorf("%w: Fetch needs a topic's name", ErrOptions)
	case o.Version < 11 || o.Version > fetchIDVersion:
		return fmt.Errorf("%w: Fetch version %d, want 11 to %d", ErrOptions, o.Version, fetchIDVersion)
	case o.Version >= fetchIDVersion && o.TopicID.IsZero():
		return fmt.Errorf("%w: Fetch version %d needs a topic id", ErrOptions, o.Version)
	case o.Connections < 1 || o.Partitions < 1 || o.MaxBytes < 1 || o.PartitionBytes < 1:
		return fmt.Errorf("%w: connections, partitions and sizes are at least 1", ErrOptions)
	}
	return nil
}

// FetchResult is the outcome of a run.
type FetchResult struct {
	Bytes    int64 // of whole batches
	Batches  int64
	Records  int64
	Requests int64
	Latency  *probe.Latency // of a request until its answer is read whole
	Usage    probe.Usage
}

// Report puts the result into the common form.
func (r FetchResult) Report(o FetchOptions) probe.Report {
	rep := probe.NewReport("fetch", r.Bytes, r.Requests, o.Connections, r.Usage, o.Pid)
	rep.Latency = r.Latency
	return rep
}

// Fetch drains partitions. It returns what was reached together with the first
// error, which may be the context's.
func Fetch(ctx context.Context, o FetchOptions) (FetchResult, error) {
	o.SetDefaults()
	if err := o.validate(); err != nil {
		return FetchResult{}, err
	}
	conns, err := o.plan(ctx)
	if err != nil {
		return FetchResult{}, err
	}
	g, gctx := errgroup.WithContext(ctx) // whose end closes the connections
	for _, c := range conns {
		conn, stop, err := dial(gctx, o.Addr)
		if err != nil {
			return FetchResult{}, err
		}
		defer stop()
		c.conn = conn
	}
	meter, err := probe.StartMeter(o.Pid)
	if err != nil {
		return FetchResult{}, err
	}
	for _, c := range conns {
		g.Go(c.drain)
	}
	runErr := g.Wait()
	usage, err := meter.Stop()
	if runErr == nil {
		runErr = err
	}
	if ctx.Err() != nil {
		runErr = context.Cause(ctx)
	}

	res := FetchResult{Usage: usage}
	var all histogram
	for _, c := range conns {
		res.Bytes += c.bytes
		res.Batches += c.batches
		res.Records += c.records
		res.Requests += c.requests
		all.merge(&c.latency)
	}
	res.Latency = probe.NewLatency(all.quantile(0.5), all.quantile(0.99), all.quantile(0.999), time.Duration(all.max))
	return res, runErr
}

// plan looks the offsets up and shares the partitions out.
func (o *FetchOptions) plan(ctx context.Context) ([]*fetchConn, error) {
	all := make([]int32, o.Partitions)
	for i := range all {
		all[i] = int32(i)
	}
	ends, err := listOffsets(ctx, o.Addr, o.Topic, all, latest)
	if err != nil {
		return nil, err
	}
	starts := map[int32]record.Offset{}
	if o.From < 0 {
		if starts, err = listOffsets(ctx, o.Addr, o.Topic, all, earliest); err != nil {
			return nil, err
		}
	}
	conns := make([]*fetchConn, o.Connections)
	share := (o.Bytes + int64(o.Connections) - 1) / int64(o.Connections)
	for i := range conns {
		c := &fetchConn{opts: o, limit: share}
		for p := i % len(all); p < len(all); p += o.Connections {
			from := o.From
			if o.From < 0 {
				from = starts[int32(p)]
			}
			if from < ends[int32(p)] {
				c.partitions = append(c.partitions, &fetchPartition{id: int32(p), next: from, end: ends[int32(p)]})
			}
		}
		conns[i] = c
	}
	return conns, nil
}

// fetchPartition is one partition as a connection reads it.
type fetchPartition struct {
	id   int32
	next record.Offset
	end  record.Offset // exclusive; the run reads no further
}

// fetchConn is one connection and belongs to one goroutine.
type fetchConn struct {
	opts       *FetchOptions
	conn       net.Conn
	partitions []*fetchPartition // not at their end yet
	limit      int64             // bytes; 0 none
	header     [record.HeaderSize]byte
	scratch    []byte

	bytes, batches, records, requests int64
	latency                           histogram
}

// drain asks until all partitions are at their end.
func (c *fetchConn) drain() error {
	var (
		in        = &reader{r: bufio.NewReaderSize(c.conn, 256<<10)}
		formatter = kmsg.NewRequestFormatter(kmsg.FormatterClientID(clientID))
		frame     []byte
	)
	for id := int32(0); len(c.partitions) > 0 && (c.limit <= 0 || c.bytes < c.limit); id++ {
		frame = formatter.AppendRequest(frame[:0], c.request(), id)
		at := time.Now()
		if _, err := c.conn.Write(frame); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		before := c.bytes
		if err := c.response(in, id); err != nil {
			return err
		}
		c.latency.add(time.Since(at))
		c.requests++
		if c.bytes > before {
			c.rotate()
		}
	}
	return nil
}

// rotate drops partitions that are read and puts the first one last, so that a
// limit on an answer's bytes starves none.
func (c *fetchConn) rotate() {
	rest := c.partitions[:0]
	for _, p := range c.partitions {
		if p.next < p.end {
			rest = append(rest, p)
		}
	}
	if c.partitions = rest; len(rest) > 1 {
		first := rest[0]
		copy(rest, rest[1:])
		rest[len(rest)-1] = first
	}
}

func (c *fetchConn) request() *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version = c.opts.Version
	req.MaxWaitMillis, req.MinBytes = int32(c.opts.MaxWait.Milliseconds()), 1
	req.MaxBytes = c.opts.MaxBytes
	req.SessionID, req.SessionEpoch = 0, -1 // no session
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic, topic.TopicID = c.opts.Topic, [16]byte(c.opts.TopicID)
	for _, p := range c.partitions {
		part := kmsg.NewFetchRequestTopicPartition()
		part.Partition, part.FetchOffset, part.PartitionMaxBytes = p.id, int64(p.next), c.opts.PartitionBytes
		topic.Partitions = append(topic.Partitions, part)
	}
	req.Topics = append(req.Topics, topic)
	return req
}

// response reads one answer as it comes in; records are looked at header by
// header and dropped.
func (c *fetchConn) response(r *reader, correlation int32) error {
	flexible := c.opts.Version >= 12
	tags := func() {
		if flexible {
			r.tags()
		}
	}
	r.frame(correlation)
	tags()
	r.int32() // throttle time
	if err := kerr.ErrorForCode(r.int16()); err != nil && r.err == nil {
		return fmt.Errorf("load: fetch: %w", err)
	}
	r.int32() // session
	for range r.count(flexible) {
		switch {
		case c.opts.Version >= fetchIDVersion:
			r.skip(16)
		case flexible:
			r.skip(r.length(true))
		default:
			r.skip(int(r.int16()))
		}
		for range r.count(flexible) {
			if err := c.partition(r, flexible); err != nil {
				return err
			}
			tags()
		}
		tags()
		if r.err != nil {
			return r.err
		}
	}
	tags()
	return r.end()
}

// partition reads one partition of an answer, up to its tags.
func (c *fetchConn) partition(r *reader, flexible bool) error {
	id := r.int32()
	code := r.int16()
	r.skip(8 + 8 + 8) // high watermark, last stable offset, log start
	for range r.count(flexible) {
		r.skip(8 + 8) // aborted transactions
		if flexible {
			r.tags()
		}
		if r.err != nil {
			return r.err
		}
	}
	r.int32() // preferred replica
	size := r.length(flexible)
	if r.err != nil {
		return r.err
	}
	if err := kerr.ErrorForCode(code); err != nil {
		return fmt.Errorf("load: fetch of partition %d: %w", id, err)
	}
	for _, p := range c.partitions {
		if p.id == id {
			return c.take(r, p, size)
		}
	}
	return fmt.Errorf("%w: partition %d was not asked for", ErrResponse, id)
}

// take reads size bytes of batches. The last may be cut off.
func (c *fetchConn) take(r *reader, p *fetchPartition, size int) error {
	for size >= record.HeaderSize {
		r.full(c.header[:])
		if r.err != nil {
			return r.err
		}
		size -= record.HeaderSize
		h, err := record.ReadHeader(c.header[:])
		if err != nil {
			return fmt.Errorf("load: partition %d at %d: %w", p.id, p.next, err)
		}
		body := h.Size() - record.HeaderSize
		if body > size {
			break
		}
		size -= body
		if err := c.body(r, &h, body); err != nil {
			return fmt.Errorf("load: partition %d at %d: %w", p.id, p.next, err)
		}
		if h.NextOffset() <= p.next {
			continue // what lies before the offset that was asked for
		}
		p.next = h.NextOffset()
		c.bytes += int64(h.Size())
		c.batches++
		c.records += int64(h.NumRecords)
	}
	r.skip(max(size, 0))
	return r.err
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// body drops the records of a batch, checking them where that is asked for.
func (c *fetchConn) body(r *reader, h *record.Header, size int) error {
	if !c.opts.VerifyCRC {
		r.skip(size)
		return r.err
	}
	if cap(c.scratch) < size {
		c.scratch = make([]byte, size)
	}
	body := c.scratch[:size]
	r.full(body)
	if r.err != nil {
		return r.err
	}
	const attributes = 21 // where the checksum's range begins
	sum := crc32.Update(crc32.Checksum(c.header[attributes:], castagnoli), castagnoli, body)
	if sum != h.CRC {
		return fmt.Errorf("%w: checksum %08x, want %08x", record.ErrCorrupt, sum, h.CRC)
	}
	return nil
}
