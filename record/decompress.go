package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// decompressor reads one payload. Read returns io.EOF where it ends and
// malformed or ErrTooLarge where it is no such payload.
type decompressor interface {
	io.Reader
	// open starts a payload that may become at most limit bytes.
	open(payload []byte, limit int64) error
	// release drops the payload and goes back to its pool.
	release()
}

var decompressors = [...]sync.Pool{
	CodecGzip:   {New: func() any { return new(gzipSource) }},
	CodecSnappy: {New: func() any { return new(snappySource) }},
	CodecLz4:    {New: func() any { return &lz4Source{r: lz4.NewReader(nil)} }},
	CodecZstd:   {New: func() any { return new(zstdSource) }},
}

// newDecompressor takes a decompressor out of its pool.
func newDecompressor(c Codec, payload []byte, limit int64) (decompressor, error) {
	if !c.known() || c == CodecNone {
		return nil, fmt.Errorf("%w: %v", ErrUnsupportedCodec, c)
	}
	d := decompressors[c].Get().(decompressor)
	if err := d.open(payload, limit); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

// broken wraps the error of a codec library as malformed.
func broken(c Codec, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return malformed("it does not decompress as " + c.String() + ": " + err.Error())
}

// gzipSource reads gzip, several members one after another too, as Java does.
type gzipSource struct {
	in bytes.Reader
	r  gzip.Reader
}

func (g *gzipSource) open(payload []byte, _ int64) error {
	g.in.Reset(payload)
	if err := g.r.Reset(&g.in); err != nil {
		return noEOF(broken(CodecGzip, err))
	}
	return nil
}

func (g *gzipSource) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	return n, broken(CodecGzip, err)
}

func (g *gzipSource) release() {
	g.in.Reset(nil)
	decompressors[CodecGzip].Put(g)
}

// noEOF makes an error of an end where more had to come.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return malformed("it does not decompress: " + io.ErrUnexpectedEOF.Error())
	}
	return err
}

// The framing of snappy-java ("xerial"): this magic, two version numbers, then
// blocks, each behind its length. Java writes it; others write a bare block,
// and both are read everywhere.
var xerialMagic = []byte("\x82SNAPPY\x00")

const (
	xerialHeader = 16
	// snappyRatio bounds what a byte of Snappy can become: the shortest copy
	// has 3 bytes for 64.
	snappyRatio = 22
)

// snappySource reads both framings. Snappy may refer back to anything in a
// block, so a block is decoded whole; its claimed size is believed only as far
// as the format can produce it from the bytes at hand.
type snappySource struct {
	in    []byte // not decoded yet
	bare  bool   // the rest of in is one block without a length
	block []byte // reused between blocks
	out   []byte // decoded and not handed out yet
	left  int64
}

func (s *snappySource) open(payload []byte, limit int64) error {
	s.in, s.out, s.left = payload, nil, limit
	s.bare = !bytes.HasPrefix(payload, xerialMagic)
	if !s.bare && len(payload) < xerialHeader {
		return malformed("the snappy framing is cut off")
	}
	return nil
}

func (s *snappySource) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if err := s.decode(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// decode decodes the next block.
func (s *snappySource) decode() error {
	// A stream may be several streams joined, each with its header.
	for !s.bare && bytes.HasPrefix(s.in, xerialMagic) && len(s.in) >= xerialHeader {
		s.in = s.in[xerialHeader:]
	}
	if len(s.in) == 0 {
		return io.EOF
	}
	chunk := s.in
	if s.bare {
		s.in = nil
	} else {
		if len(s.in) < 4 {
			return malformed("the snappy framing is cut off")
		}
		n := binary.BigEndian.Uint32(s.in)
		if uint64(n) > uint64(len(s.in)-4) {
			return malformed("a snappy block reaches beyond the batch")
		}
		chunk, s.in = s.in[4:4+n], s.in[4+n:]
	}
	size, err := snappy.DecodedLen(chunk)
	if err != nil {
		return broken(CodecSnappy, err)
	}
	if size > snappyRatio*len(chunk) {
		return malformed("a snappy block claims more than it can hold")
	}
	if s.left -= int64(size); s.left < 0 {
		return fmt.Errorf("%w: it decompresses to more than the limit", ErrTooLarge)
	}
	// Strict: what only the S2 dialect knows would not be readable in Java.
	out, err := snappy.DecodeStrict(s.block[:0], chunk)
	if err != nil {
		return broken(CodecSnappy, err)
	}
	s.block, s.out = out, out
	return nil
}

func (s *snappySource) release() {
	s.in, s.out = nil, nil
	if cap(s.block) > windowKeep {
		s.block = nil
	}
	decompressors[CodecSnappy].Put(s)
}

// What Java's reader insists on in an LZ4 frame: it checks the version, refuses
// blocks that depend on each other and reads one frame.
const (
	lz4Magic        = 0x184D2204
	lz4VersionMask  = 0xC0
	lz4Version      = 0x40
	lz4Independent  = 1 << 5
	lz4BlockSums    = 1 << 4
	lz4ContentSize  = 1 << 3
	lz4ContentSum   = 1 << 2
	lz4DictionaryID = 1 << 0
	lz4Stored       = 1 << 31 // bit of a block's length
)

// checkLz4Frame walks the lengths in a frame without decompressing it, and
// accepts exactly one frame that Java can read, with nothing behind it.
func checkLz4Frame(b []byte) error {
	le := binary.LittleEndian
	if len(b) < 7 || le.Uint32(b) != lz4Magic {
		return malformed("no lz4 frame")
	}
	flags := b[4]
	if flags&lz4VersionMask != lz4Version {
		return malformed("an lz4 frame of an unknown version")
	}
	if flags&lz4Independent == 0 {
		return malformed("an lz4 frame with dependent blocks, which Java cannot read")
	}
	if flags&lz4DictionaryID != 0 {
		return malformed("an lz4 frame with a dictionary")
	}
	pos := 7 // magic, flags, block size, header checksum
	if flags&lz4ContentSize != 0 {
		pos += 8
	}
	for {
		if len(b)-pos < 4 {
			return malformed("the lz4 frame is cut off")
		}
		n := le.Uint32(b[pos:])
		pos += 4
		if n == 0 {
			break
		}
		size := int(n &^ lz4Stored)
		if flags&lz4BlockSums != 0 {
			size += 4
		}
		if size > len(b)-pos {
			return malformed("the lz4 frame is cut off")
		}
		pos += size
	}
	if flags&lz4ContentSum != 0 {
		pos += 4
	}
	if pos != len(b) {
		return malformed("bytes behind the lz4 frame")
	}
	return nil
}

// lz4Source reads an LZ4 frame.
type lz4Source struct {
	in bytes.Reader
	r  *lz4.Reader
}

func (l *lz4Source) open(payload []byte, _ int64) error {
	if err := checkLz4Frame(payload); err != nil {
		return err
	}
	l.in.Reset(payload)
	l.r.Reset(&l.in)
	return nil
}

func (l *lz4Source) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	return n, broken(CodecLz4, err)
}

func (l *lz4Source) release() {
	l.in.Reset(nil)
	l.r.Reset(&l.in)
	decompressors[CodecLz4].Put(l)
}

const (
	// zstdWindow is the largest window in bytes that is decoded as a stream:
	// what RFC 8878 asks of every decoder, and what levels up to 19 need.
	zstdWindow = 8 << 20
	// zstdWideWindow is the largest at all: Java's level 22.
	zstdWideWindow = 128 << 20
)

// wideZstd decodes frames with a window above zstdWindow in memory. Their
// window then costs nothing: the output is the window.
var wideZstd = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxWindow(zstdWideWindow), zstd.WithDecoderMaxMemory(zstdWideWindow),
		zstd.WithDecodeAllCapLimit(true))
})

// zstdSource reads zstd frames.
type zstdSource struct {
	in   bytes.Reader
	r    *zstd.Decoder
	isIn bool   // decoded in memory: r is not in use
	mem  []byte // what is left of that
}

func (z *zstdSource) open(payload []byte, limit int64) error {
	var h zstd.Header
	if err := h.Decode(payload); err != nil {
		return noEOF(broken(CodecZstd, err))
	}
	if h.HasFCS && h.FrameContentSize > uint64(limit) {
		return fmt.Errorf("%w: it decompresses to %d bytes, the limit is %d", ErrTooLarge, h.FrameContentSize, limit)
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if z.isIn = window > zstdWindow; z.isIn {
		return z.decodeAll(payload, limit)
	}
	if z.r == nil {
		r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return fmt.Errorf("record: zstd decoder: %w", err)
		}
		z.r = r
	}
	z.in.Reset(payload)
	return broken(CodecZstd, z.r.Reset(&z.in))
}

func (z *zstdSource) Read(p []byte) (int, error) {
	if z.isIn {
		if len(z.mem) == 0 {
			return 0, io.EOF
		}
		n := copy(p, z.mem)
		z.mem = z.mem[n:]
		return n, nil
	}
	n, err := z.r.Read(p)
	return n, broken(CodecZstd, err)
}

// decodeAll decodes in memory. It starts over with twice the room until the
// output fits, rather than believe a size in the header.
func (z *zstdSource) decodeAll(payload []byte, limit int64) error {
	d, err := wideZstd()
	if err != nil {
		return fmt.Errorf("record: zstd decoder: %w", err)
	}
	for room := int64(zstdWindow); ; room *= 2 {
		room = min(room, limit)
		z.mem, err = d.DecodeAll(payload, make([]byte, 0, room))
		if !errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			return noEOF(broken(CodecZstd, err))
		}
		if room == limit {
			return fmt.Errorf("%w: it decompresses to more than the limit of %d bytes", ErrTooLarge, limit)
		}
	}
}

func (z *zstdSource) release() {
	z.in.Reset(nil)
	z.mem = nil
	if z.r != nil {
		if err := z.r.Reset(nil); err != nil {
			return // a decoder that does not reset is not pooled
		}
	}
	decompressors[CodecZstd].Put(z)
}
