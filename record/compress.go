package record

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// compressor writes one payload. Close completes it and does not close the
// writer below.
type compressor interface {
	io.WriteCloser
	Reset(io.Writer)
}

// levels is how many levels each codec has here; 0 is its default.
const levels = 10

// compressors[codec][level]: an encoder is expensive, and its level fixed.
var compressors [len(codecNames)][levels]sync.Pool

// newCompressor takes a compressor out of its pool. A level of 0 is the
// codec's default; others are clamped to what the codec has: gzip 1 to 9,
// lz4 1 to 9, zstd 1 to 22; snappy has none.
func newCompressor(c Codec, level int, to io.Writer) (compressor, func(), error) {
	level = clampLevel(c, level)
	pool := &compressors[c][level]
	enc, ok := pool.Get().(compressor)
	if !ok {
		var err error
		if enc, err = makeCompressor(c, level); err != nil {
			return nil, nil, fmt.Errorf("record: %v level %d: %w", c, level, err)
		}
	}
	enc.Reset(to)
	return enc, func() {
		enc.Reset(io.Discard)
		pool.Put(enc)
	}, nil
}

// clampLevel returns the index of a level's pool.
func clampLevel(c Codec, level int) int {
	switch {
	case level == 0 || c == CodecSnappy:
		return 0
	case c == CodecZstd:
		return int(zstd.EncoderLevelFromZstd(level)) // four of them
	}
	return min(max(level, 1), levels-1)
}

func makeCompressor(c Codec, level int) (compressor, error) {
	switch c {
	case CodecNone:
		return &nopCompressor{}, nil
	case CodecGzip:
		if level == 0 {
			level = gzip.DefaultCompression
		}
		return gzip.NewWriterLevel(io.Discard, level)
	case CodecSnappy:
		return &xerialWriter{}, nil
	case CodecLz4:
		w := lz4.NewWriter(io.Discard)
		// Blocks and checksums as Java writes them.
		opts := []lz4.Option{lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.ConcurrencyOption(1)}
		if level > 0 {
			opts = append(opts, lz4.CompressionLevelOption(lz4.CompressionLevel(1<<(8+level))))
		}
		return w, w.Apply(opts...)
	case CodecZstd:
		if level == 0 {
			level = int(zstd.SpeedDefault)
		}
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true),
			zstd.WithWindowSize(zstdEncodeWindow), zstd.WithEncoderLevel(zstd.EncoderLevel(level)))
	default:
		return nil, ErrUnsupportedCodec
	}
}

// zstdEncodeWindow is the window in bytes of what is compressed here: batches
// are about 1 MiB at most, and readers pay for the window.
const zstdEncodeWindow = 1 << 20

// xerialBlock is the size in bytes of snappy-java's blocks.
const xerialBlock = 32 << 10

// xerialWriter writes Snappy in snappy-java's framing.
type xerialWriter struct {
	to   io.Writer
	in   []byte // not written yet, fewer than xerialBlock
	out  []byte
	head bool // the framing's header is written
}

func (x *xerialWriter) Reset(to io.Writer) { x.to, x.in, x.head = to, x.in[:0], false }

func (x *xerialWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 {
		n := min(len(p), xerialBlock-len(x.in))
		x.in = append(x.in, p[:n]...)
		p = p[n:]
		if len(x.in) == xerialBlock {
			if err := x.flush(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (x *xerialWriter) Close() error {
	if len(x.in) == 0 && x.head {
		return nil
	}
	return x.flush()
}

// flush writes what is there as a block.
func (x *xerialWriter) flush() error {
	x.out = x.out[:0]
	if !x.head {
		x.out = append(x.out, xerialMagic...)
		x.out = binary.BigEndian.AppendUint32(x.out, 1) // version
		x.out = binary.BigEndian.AppendUint32(x.out, 1) // oldest compatible version
		x.head = true
	}
	if len(x.in) > 0 {
		start := len(x.out) + 4
		need := start + s2.MaxEncodedLen(len(x.in))
		if cap(x.out) < need {
			x.out = append(make([]byte, 0, need), x.out...)
		}
		x.out = x.out[:need]
		block := s2.EncodeSnappy(x.out[start:], x.in)
		binary.BigEndian.PutUint32(x.out[start-4:], uint32(len(block)))
		x.out = x.out[:start+len(block)]
		x.in = x.in[:0]
	}
	_, err := x.to.Write(x.out)
	return err
}

// batchBuffer collects a batch that is being made, at most max bytes.
type batchBuffer struct {
	buf []byte
	max int
}

// newBatchBuffer leaves room for the header, which Batch.seal fills in.
func newBatchBuffer(size, limit int) *batchBuffer {
	return &batchBuffer{buf: make([]byte, HeaderSize, HeaderSize+size), max: limit}
}

func (o *batchBuffer) Write(p []byte) (int, error) {
	if len(p) > o.max-len(o.buf) {
		return 0, fmt.Errorf("%w: more than %d bytes after compression", ErrTooLarge, o.max)
	}
	o.buf = append(o.buf, p...)
	return len(p), nil
}

// nopCompressor stores as it is.
type nopCompressor struct{ to io.Writer }

func (n *nopCompressor) Write(p []byte) (int, error) { return n.to.Write(p) }
func (n *nopCompressor) Close() error                { return nil }
func (n *nopCompressor) Reset(to io.Writer)          { n.to = to }
