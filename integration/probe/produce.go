package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Produce versions that ProduceServer reads: flexible ones. From
// produceIDVersion on, topics have ids in place of names.
const (
	produceKey       = 0
	produceMin       = 9
	produceIDVersion = 13

	maxFrame   = 100 << 20 // bytes
	readBuffer = 256 << 10 // bytes of a connection's buffer at first
)

// ErrFrame is returned for bytes that are no Produce request of the supported
// versions.
var ErrFrame = errors.New("probe: not a Produce request of version 9 to 13")

// ErrBatch is returned for a batch whose checksum does not match.
var ErrBatch = errors.New("probe: bad record batch")

// ProduceServerOptions configure a ProduceServer.
type ProduceServerOptions struct {
	Addr string // host:port
	Dir  string // of the partitions' files, which are created or cut to nothing
	Sync bool   // fdatasync before each answer
}

// ProduceServer is the least that takes in Kafka's Produce. It is the floor
// under the figure of a broker's CPU time.
type ProduceServer struct {
	opts  ProduceServerOptions
	srv   *server
	bytes atomic.Int64

	mu         sync.Mutex
	partitions map[partitionKey]*partitionFile // guarded by mu
}

// partitionKey names a partition by the bytes of its topic's name or id.
type partitionKey struct {
	topic     string
	partition int32
}

// partitionFile is the log of a partition.
type partitionFile struct {
	mu     sync.Mutex
	file   *os.File
	end    int64 // guarded by mu: bytes
	offset int64 // guarded by mu: of the next record
}

// StartProduceServer listens and serves until Close.
func StartProduceServer(opts ProduceServerOptions) (*ProduceServer, error) {
	if err := os.MkdirAll(opts.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	p := &ProduceServer{opts: opts, partitions: map[partitionKey]*partitionFile{}}
	var err error
	p.srv, err = listen(opts.Addr, p.serve)
	return p, err
}

// Addr returns the address that clients connect to.
func (p *ProduceServer) Addr() string { return p.srv.ln.Addr().String() }

// Bytes returns how many bytes of batches were written.
func (p *ProduceServer) Bytes() int64 { return p.bytes.Load() }

// Close ends the server and returns the first error of a connection.
func (p *ProduceServer) Close() error {
	err := p.srv.close()
	for _, f := range p.partitions {
		err = errors.Join(err, f.file.Close())
	}
	return err
}

// serve reads requests in place out of one buffer, so that a read may bring
// many, and answers each before the next.
func (p *ProduceServer) serve(conn *net.TCPConn) error {
	var (
		buf   = make([]byte, readBuffer)
		from  int // buf[from:to] was not handled yet
		to    int
		reply []byte
		cache = map[partitionKey]*partitionFile{}
	)
	for {
		need := 4
		if to-from >= 4 {
			size := binary.BigEndian.Uint32(buf[from:])
			if size > maxFrame {
				return fmt.Errorf("%w: %d bytes", ErrFrame, size)
			}
			need += int(size)
		}
		if need > 4 && to-from >= need {
			var err error
			if reply, err = p.request(buf[from+4:from+need], reply[:0], cache); err != nil {
				return err
			}
			from += need
			if len(reply) > 0 {
				if _, err := conn.Write(reply); err != nil {
					return err
				}
			}
			continue
		}
		if from > 0 && (from == to || from+need > len(buf)) {
			to = copy(buf, buf[from:to])
			from = 0
		}
		if need > len(buf) {
			buf = append(buf, make([]byte, need-len(buf))...)
		}
		n, err := conn.Read(buf[to:])
		to += n
		if errors.Is(err, io.EOF) && to == from {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// request handles one frame and returns the answer, empty for acks=0.
func (p *ProduceServer) request(frame, reply []byte, cache map[partitionKey]*partitionFile) ([]byte, error) {
	d := decoder{b: frame}
	key, version, correlation := d.int16(), d.int16(), d.int32()
	if d.bad || key != produceKey || version < produceMin || version > produceIDVersion {
		return nil, fmt.Errorf("%w: key %d version %d", ErrFrame, key, version)
	}
	if n := d.int16(); n > 0 { // client id
		d.take(int(n))
	}
	d.tags()
	if n := d.uvarint(); n > 1 { // transactional id
		d.take(n - 1)
	}
	acks := d.int16()
	d.int32() // timeout

	reply = append(reply, 0, 0, 0, 0) // length
	reply = binary.BigEndian.AppendUint32(reply, uint32(correlation))
	reply = append(reply, 0) // tags
	topics := d.uvarint()
	reply = binary.AppendUvarint(reply, uint64(topics))
	for range topics - 1 {
		var topic []byte
		if version >= produceIDVersion {
			topic = d.take(16)
		} else {
			n := d.uvarint()
			topic = d.take(n - 1)
			reply = binary.AppendUvarint(reply, uint64(n))
		}
		reply = append(reply, topic...)
		if d.bad { // rather than count on, as far as it says
			break
		}
		partitions := d.uvarint()
		reply = binary.AppendUvarint(reply, uint64(partitions))
		for range partitions - 1 {
			partition := d.int32()
			batch := d.take(d.uvarint() - 1)
			d.tags()
			if d.bad {
				return nil, fmt.Errorf("%w: it is cut off", ErrFrame)
			}
			base, err := p.append(cache, topic, partition, batch)
			if err != nil {
				return nil, err
			}
			reply = binary.BigEndian.AppendUint32(reply, uint32(partition))
			reply = append(reply, 0, 0) // no error
			reply = binary.BigEndian.AppendUint64(reply, uint64(base))
			reply = binary.BigEndian.AppendUint64(reply, ^uint64(0)) // append time: CreateTime
			reply = binary.BigEndian.AppendUint64(reply, 0)          // log start
			reply = append(reply, 1, 0, 0)                           // no record errors, no message, tags
		}
		d.tags()
		reply = append(reply, 0)
	}
	d.tags()
	if d.bad || len(d.b) > 0 {
		return nil, fmt.Errorf("%w: %d bytes are left", ErrFrame, len(d.b))
	}
	reply = append(reply, 0, 0, 0, 0, 0) // throttle time, tags
	binary.BigEndian.PutUint32(reply, uint32(len(reply)-4))
	if acks == 0 {
		return reply[:0], nil
	}
	return reply, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// append checks one batch, writes it and returns its first offset.
func (p *ProduceServer) append(cache map[partitionKey]*partitionFile, topic []byte, partition int32, batch []byte) (int64, error) {
	// Kafka's batch: checksum at byte 17, of byte 21 on; record count at 57.
	if len(batch) < 61 || crc32.Checksum(batch[21:], castagnoli) != binary.BigEndian.Uint32(batch[17:]) {
		return 0, fmt.Errorf("%w of %d bytes for partition %d", ErrBatch, len(batch), partition)
	}
	f, ok := cache[partitionKey{string(topic), partition}]
	if !ok {
		var err error
		if f, err = p.open(partitionKey{string(topic), partition}); err != nil {
			return 0, err
		}
		cache[partitionKey{string(topic), partition}] = f
	}
	base, err := f.append(batch)
	if err != nil {
		return 0, err
	}
	if p.opts.Sync {
		if err := unix.Fdatasync(int(f.file.Fd())); err != nil {
			return 0, fmt.Errorf("probe: fdatasync: %w", err)
		}
	}
	p.bytes.Add(int64(len(batch)))
	return base, nil
}

// append writes at the end.
func (f *partitionFile) append(batch []byte) (int64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	base := f.offset
	if _, err := f.file.WriteAt(batch, f.end); err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	f.end += int64(len(batch))
	f.offset += int64(binary.BigEndian.Uint32(batch[57:]))
	return base, nil
}

// open returns the file of a partition, making it at first.
func (p *ProduceServer) open(key partitionKey) (*partitionFile, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f, ok := p.partitions[key]; ok {
		return f, nil
	}
	file, err := os.Create(filepath.Join(p.opts.Dir, fmt.Sprintf("%x-%d.log", key.topic, key.partition)))
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	f := &partitionFile{file: file}
	p.partitions[key] = f
	return f, nil
}

// decoder reads the fields of a request. After the first that does not fit all
// are zero and bad is set.
type decoder struct {
	b   []byte
	bad bool
}

// take returns the next n bytes.
func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	f := d.b[:n:n]
	d.b = d.b[n:]
	return f
}

func (d *decoder) int16() int16 {
	if f := d.take(2); f != nil {
		return int16(binary.BigEndian.Uint16(f))
	}
	return 0
}

func (d *decoder) int32() int32 {
	if f := d.take(4); f != nil {
		return int32(binary.BigEndian.Uint32(f))
	}
	return 0
}

// uvarint returns a length, which no frame has above its own.
func (d *decoder) uvarint() int {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > maxFrame {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return int(v)
}

// tags skips tagged fields.
func (d *decoder) tags() {
	for range d.uvarint() {
		if d.bad {
			return
		}
		d.uvarint()
		d.take(d.uvarint())
	}
}
