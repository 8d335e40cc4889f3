package record

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"runtime"
	"testing"

	"github.com/golang/snappy"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// packed makes a batch of one record out of bytes that are compressed already.
func packed(t *testing.T, codec Codec, compressed []byte) []byte {
	return packedCount(t, codec, 1, compressed)
}

// packedCount is packed with any number of records in the header.
func packedCount(t *testing.T, codec Codec, n int, compressed []byte) []byte {
	return bend(t, codec, func(kb *kmsg.RecordBatch) {
		kb.NumRecords, kb.LastOffsetDelta, kb.Records = int32(n), int32(n-1), compressed
	})
}

// allocated runs fn and returns how many bytes it took from the heap.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// A few kilobytes that become forty megabytes: refused at the limit, and the
// memory is the window's, not the output's.
func TestBombs(t *testing.T) {
	const blown = 40 << 20
	zeros := make([]byte, blown)
	for name, c := range map[string]struct {
		plain   []byte
		records int
	}{
		"one record": {appendRecord(nil, 0, 0, &Record{Value: zeros}), 1},
		"tiny ones":  {bytes.Repeat([]byte{12, 0, 0, 0, 1, 1, 0}, blown/7), blown / 7},
		"of nothing": {zeros, blown},
	} {
		for _, codec := range []Codec{CodecGzip, CodecLz4, CodecZstd} {
			t.Run(codec.String()+"/"+name, func(t *testing.T) {
				var out bytes.Buffer
				enc, free, err := newCompressor(codec, 0, &out)
				require.NoError(t, err)
				_, err = enc.Write(c.plain)
				require.NoError(t, err)
				require.NoError(t, enc.Close())
				free()
				raw := packedCount(t, codec, c.records, out.Bytes())
				rules := looseRules()
				rules.MaxDecompressed = 32 << 20
				got := allocated(func() { _, err = Validate(raw, rules) })
				require.Error(t, err)
				if name == "one record" {
					require.ErrorIs(t, err, ErrTooLarge)
				}
				require.Less(t, got, uint64(12<<20), "allocated")

				b, err := ReadBatch(raw)
				require.NoError(t, err)
				got = allocated(func() { err = b.RecordsWithin(1<<20, func(*Record) error { return nil }) })
				if name != "of nothing" {
					require.ErrorIs(t, err, ErrTooLarge)
				}
				require.Error(t, err)
				require.Less(t, got, uint64(16<<20), "allocated")
			})
		}
	}
}

func TestLimitIsExact(t *testing.T) {
	for _, codec := range allCodecs[1:] {
		bb := NewBuilder(BuilderOptions{Codec: codec})
		for range 100 {
			bb.Append(testNow, nil, make([]byte, 5000))
		}
		plain := int64(bb.Size() - HeaderSize)
		raw := bb.Build()
		rules := looseRules()
		rules.MaxDecompressed = plain
		_, err := Validate(raw, rules)
		require.NoError(t, err, codec)
		rules.MaxDecompressed--
		_, err = Validate(raw, rules)
		require.ErrorIs(t, err, ErrTooLarge, codec)
	}
}

// The lengths in front of compressed data lie.
func TestLyingLengths(t *testing.T) {
	frame := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	u32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	xerial := append(bytes.Clone(xerialMagic), 0, 0, 0, 1, 0, 0, 0, 1)
	huge := binary.AppendUvarint(nil, math.MaxUint32)
	lz := func(opts ...lz4.Option) []byte {
		var out bytes.Buffer
		w := lz4.NewWriter(&out)
		require.NoError(t, w.Apply(opts...))
		_, err := w.Write(oneRecord(0, "v"))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	lzGood := lz()
	lzDependent := bytes.Clone(lzGood)
	lzDependent[4] &^= lz4Independent
	for sum := range 256 { // the one that makes the header right again
		lzDependent[6] = byte(sum)
		if _, err := io.ReadAll(lz4.NewReader(bytes.NewReader(lzDependent))); err == nil {
			break
		}
	}
	lzVersion := bytes.Clone(lzGood)
	lzVersion[4] ^= 0x80
	lzHeader := bytes.Clone(lzGood)
	lzHeader[6] ^= 1
	for name, c := range map[string]struct {
		codec Codec
		data  []byte
	}{
		"nothing/gzip":                 {CodecGzip, nil},
		"nothing/snappy":               {CodecSnappy, nil},
		"nothing/lz4":                  {CodecLz4, nil},
		"nothing/zstd":                 {CodecZstd, nil},
		"garbage/gzip":                 {CodecGzip, []byte("garbage that goes on for a while")},
		"garbage/snappy":               {CodecSnappy, []byte("garbage that goes on for a while")},
		"garbage/lz4":                  {CodecLz4, []byte("garbage that goes on for a while")},
		"garbage/zstd":                 {CodecZstd, []byte("garbage that goes on for a while")},
		"snappy block of 4 GiB":        {CodecSnappy, frame(huge, []byte{0xff, 0xff})},
		"xerial block of 4 GiB":        {CodecSnappy, frame(xerial, u32(7), huge, []byte{0, 0})},
		"xerial chunk beyond":          {CodecSnappy, frame(xerial, u32(math.MaxUint32), []byte("x"))},
		"xerial length cut off":        {CodecSnappy, frame(xerial, []byte{0, 0})},
		"xerial header cut off":        {CodecSnappy, xerial[:12]},
		"snappy with s2's repeat code": {CodecSnappy, []byte{12, 0x0c, 'a', 'b', 'c', 'd', 0x01 | 0<<2, 4, 0x01 | 0<<2, 0}},
		"lz4 dependent blocks":         {CodecLz4, lzDependent},
		"lz4 version":                  {CodecLz4, lzVersion},
		"lz4 header checksum":          {CodecLz4, lzHeader},
		"lz4 two frames":               {CodecLz4, frame(lzGood, lzGood)},
		"lz4 empty frame behind":       {CodecLz4, frame(lzGood, []byte{4, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82, 0, 0, 0, 0})},
		"lz4 byte behind":              {CodecLz4, frame(lzGood, []byte{0})},
		"lz4 without end":              {CodecLz4, lzGood[:len(lzGood)-6]},
		"lz4 legacy":                   {CodecLz4, lz(lz4.LegacyOption(true))},
		"lz4 skippable":                {CodecLz4, frame([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, lzGood)},
		"lz4 block beyond":             {CodecLz4, frame(lzGood[:7], []byte{0xff, 0xff, 0xff, 0x7f, 1})},
		// A frame header that claims a window of 3.75 TiB.
		"zstd window": {CodecZstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			raw := packed(t, c.codec, c.data)
			var err error
			got := allocated(func() { _, err = Validate(raw, looseRules()) })
			require.ErrorIs(t, err, ErrInvalidRecord)
			require.Less(t, got, uint64(20<<20), "allocated")
		})
	}
	_, err := Validate(packed(t, CodecLz4, lzGood), looseRules())
	require.NoError(t, err, "the frame that the cases are made of is good")
	// A content size that claims 2^60 bytes, in a single segment.
	claim := append([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, 0, 0, 0, 0, 0, 0, 0, 0x10, 1, 0, 0)
	_, err = Validate(packed(t, CodecZstd, claim), looseRules())
	require.ErrorIs(t, err, ErrTooLarge)
}

// A large record that is longer than its fields must not lend its rest to the
// record behind it.
func TestRestIsNoRecord(t *testing.T) {
	value := make([]byte, windowKeep+1) // larger than any pooled window
	first := appendRecord(nil, 0, 0, &Record{Value: value})
	_, n := varint32(first)
	body := append(bytes.Clone(first[n:]), oneRecord(1, "hidden")...)
	plain := append(appendVarint(nil, int64(len(body))), body...)
	for _, codec := range allCodecs {
		_, err := Validate(payload(t, codec, 2, plain), looseRules())
		require.ErrorIs(t, err, ErrInvalidRecord, codec)
	}
}

// What other clients write, beside kgo.
func TestForeignFramings(t *testing.T) {
	big := bytes.Repeat([]byte("the quick brown fox "), 8_000)
	plain := appendRecord(nil, 0, 0, &Record{Key: []byte("k"), Value: big})
	lz := func(opts ...lz4.Option) []byte {
		var out bytes.Buffer
		w := lz4.NewWriter(&out)
		require.NoError(t, w.Apply(opts...))
		_, err := w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	zs := func(opts ...zstd.EOption) []byte {
		var out bytes.Buffer
		w, err := zstd.NewWriter(&out, opts...)
		require.NoError(t, err)
		_, err = w.Write(plain)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		return out.Bytes()
	}
	all, err := zstd.NewWriter(nil)
	require.NoError(t, err)

	// snappy-java: two joined streams, blocks in each, the last one empty.
	var xerial []byte
	for _, half := range [][]byte{plain[:len(plain)/2], plain[len(plain)/2:], nil} {
		xerial = append(xerial, xerialMagic...)
		xerial = append(xerial, 0, 0, 0, 1, 0, 0, 0, 1)
		for len(half) > 0 {
			n := min(len(half), xerialBlock)
			block := snappy.Encode(nil, half[:n])
			xerial = binary.BigEndian.AppendUint32(xerial, uint32(len(block)))
			xerial = append(xerial, block...)
			half = half[n:]
		}
	}
	for name, c := range map[string]struct {
		codec Codec
		data  []byte
	}{
		"snappy bare":            {CodecSnappy, snappy.Encode(nil, plain)},
		"snappy bare by s2":      {CodecSnappy, s2.EncodeSnappyBest(nil, plain)},
		"snappy xerial":          {CodecSnappy, xerial},
		"lz4 content size":       {CodecLz4, lz(lz4.SizeOption(uint64(len(plain))))},
		"lz4 all checksums":      {CodecLz4, lz(lz4.BlockChecksumOption(true), lz4.ChecksumOption(true))},
		"lz4 blocks of 4 MiB":    {CodecLz4, lz(lz4.BlockSizeOption(lz4.Block4Mb))},
		"zstd single segment":    {CodecZstd, all.EncodeAll(plain, nil)},
		"zstd two frames":        {CodecZstd, append(all.EncodeAll(plain[:100], nil), all.EncodeAll(plain[100:], nil)...)},
		"zstd window of 8 MiB":   {CodecZstd, zs(zstd.WithWindowSize(8 << 20))},
		"zstd window of 128 MiB": {CodecZstd, zs(zstd.WithWindowSize(128 << 20))},
		"gzip two members":       {CodecGzip, append(kgoCompress(t, CodecGzip, plain[:99]), kgoCompress(t, CodecGzip, plain[99:])...)},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := Validate(packed(t, c.codec, c.data), looseRules())
			require.NoError(t, err)
			require.Equal(t, big, collect(t, &b)[0].Value)
		})
	}
}

// Frames with a wide window are decoded in memory, by doubling and bounded.
func TestWideWindow(t *testing.T) {
	value := bytes.Repeat([]byte("0123456789abcdef"), 20<<20/16)
	plain := appendRecord(nil, 0, 0, &Record{Value: value})
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(64<<20))
	require.NoError(t, err)
	_, err = w.Write(plain)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	raw := packed(t, CodecZstd, out.Bytes())
	b, err := Validate(raw, looseRules())
	require.NoError(t, err)
	require.Equal(t, value, collect(t, &b)[0].Value)
	rules := looseRules()
	rules.MaxDecompressed = int64(len(plain)) - 1
	_, err = Validate(raw, rules)
	require.ErrorIs(t, err, ErrTooLarge)
}

func TestValidateDoesNotAllocate(t *testing.T) {
	bb := NewBuilder(BuilderOptions{})
	for range 16 {
		bb.Append(testNow, []byte("key"), make([]byte, 1000), RecordHeader{Key: []byte("h"), Value: []byte("v")})
	}
	raw := bb.Build()
	rules := looseRules()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if _, err := Validate(raw, rules); err != nil {
			t.Fatal(err)
		}
	}))
	b, err := ReadBatch(raw)
	require.NoError(t, err)
	seen := func(*Record) error { return nil }
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := b.Records(seen); err != nil {
			t.Fatal(err)
		}
	}))
}
