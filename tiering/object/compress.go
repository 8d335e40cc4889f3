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

// decompress returns exactly rawLen bytes; the output can never be larger.
func decompress(stored []byte, rawLen int64) ([]byte, error) {
	d, err := zstdDecoder()
	if err != nil {
		return nil, fmt.Errorf("object: zstd: %w", err)
	}
	raw, err := d.DecodeAll(stored, make([]byte, 0, rawLen))
	if err != nil {
		return nil, damaged("zstd: %v", err)
	}
	if int64(len(raw)) != rawLen {
		return nil, damaged("zstd: %d bytes, want %d", len(raw), rawLen)
	}
	return raw, nil
}
