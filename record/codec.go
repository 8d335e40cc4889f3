package record

import (
	"fmt"
	"strconv"
)

// Codec is the compression of a batch: bits 0 to 2 of its attributes.
type Codec int8

// The codecs of a batch. CodecProducer is no codec: as a topic's
// compression.type it means to keep what the producer chose.
const (
	CodecProducer Codec = -1
	CodecNone     Codec = 0
	CodecGzip     Codec = 1
	CodecSnappy   Codec = 2
	CodecLz4      Codec = 3
	CodecZstd     Codec = 4
)

const codecMask = 0x07

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

// ParseCodec reads a compression.type: none (or uncompressed), gzip, snappy,
// lz4, zstd, producer. Anything else is ErrUnsupportedCodec.
func ParseCodec(name string) (Codec, error) {
	switch name {
	case "producer":
		return CodecProducer, nil
	case "uncompressed":
		return CodecNone, nil
	}
	for i, n := range codecNames {
		if n == name {
			return Codec(i), nil
		}
	}
	return CodecNone, fmt.Errorf("%w: %q", ErrUnsupportedCodec, name)
}

// String returns the name that ParseCodec reads.
func (c Codec) String() string {
	switch {
	case c == CodecProducer:
		return "producer"
	case c.known():
		return codecNames[c]
	}
	return "codec(" + strconv.Itoa(int(c)) + ")"
}

// known reports whether c can stand in a batch.
func (c Codec) known() bool { return c >= 0 && int(c) < len(codecNames) }
