package object

import (
	"fmt"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// EncodeAll and DecodeAll of one coder are safe for concurrent use; making a
// coder costs megabytes, so the process shares one of each, made at first use.
var (
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithEncoderCRC(false))
	})
	zstdDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
	})
)

// compress appends the compressed raw to dst.
func compress(dst, raw []byte) ([]byte, error) {
	e, err := zstdEncoder()
	if err != nil {
		return nil, fmt.Errorf("object: zstd: %w", err)
	}
	return e.EncodeAll(raw, dst), nil
}

// decompress fills raw, exactly; the output can never be larger.
func decompress(raw, stored []byte) error {
	d, err := zstdDecoder()
	if err != nil {
		return fmt.Errorf("object: zstd: %w", err)
	}
	out, err := d.DecodeAll(stored, raw[:0:len(raw)])
	if err != nil {
		return damaged("zstd: %v", err)
	}
	if len(out) != len(raw) || &out[0] != &raw[0] {
		return damaged("zstd: %d bytes, want %d", len(out), len(raw))
	}
	return nil
}
