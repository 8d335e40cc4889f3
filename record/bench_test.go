package record

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// benchBatch is what the project's figures are measured with: 16 records of
// 1 KiB, half of which compresses.
func benchBatch(codec Codec, size int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	bb := NewBuilder(BuilderOptions{Codec: codec})
	for total := 0; total < 16<<10; total += size {
		value := make([]byte, size)
		for i := range size / 2 {
			value[i] = byte(rng.Uint32())
		}
		bb.Append(testNow, nil, value)
	}
	return bb.Build()
}

func BenchmarkValidate(b *testing.B) {
	for _, codec := range allCodecs {
		for _, size := range []int{100, 1024} {
			b.Run(fmt.Sprintf("%v/%d", codec, size), func(b *testing.B) {
				raw := benchBatch(codec, size)
				rules := looseRules()
				b.SetBytes(int64(len(raw)))
				b.ReportAllocs()
				for b.Loop() {
					if _, err := Validate(raw, rules); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

func BenchmarkVerifyCRC(b *testing.B) {
	batch, err := ReadBatch(benchBatch(CodecNone, 1024))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(batch.Raw)))
	for b.Loop() {
		if err := batch.VerifyCRC(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRecords(b *testing.B) {
	for _, codec := range allCodecs {
		b.Run(codec.String(), func(b *testing.B) {
			batch, err := ReadBatch(benchBatch(codec, 1024))
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(batch.Raw)))
			b.ReportAllocs()
			for b.Loop() {
				if err := batch.Records(func(*Record) error { return nil }); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
