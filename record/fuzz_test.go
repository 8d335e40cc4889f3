package record

import (
	"bytes"
	"errors"
	"math"
	"testing"
)

// fuzzLimit bounds decompression while fuzzing, so that a bomb is found by the
// memory it takes and not by the machine's end.
const fuzzLimit = 1 << 20

func seeds(f *testing.F) {
	for _, codec := range allCodecs {
		raw := goldenSpec(codec).oracleBatch(f)
		f.Add(raw)
		f.Add(raw[:len(raw)-1])
		f.Add(append(bytes.Clone(raw), raw...))
	}
	f.Add(EndTxnMarker{Commit: true}.Batch(1, 2, 3))
	f.Add(make([]byte, HeaderSize))
}

// reseal makes the bytes pass magic, length and checksum, so that the fuzzer
// gets past them.
func reseal(raw []byte) (Batch, bool) {
	if len(raw) < HeaderSize {
		return Batch{}, false
	}
	b := Batch{Header: decodeHeader(raw), Raw: bytes.Clone(raw)}
	b.seal()
	return b, true
}

func FuzzReadBatch(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		pos := 0
		for b, err := range Batches(raw) {
			if err != nil {
				if !errors.Is(err, ErrCorrupt) {
					t.Fatalf("unexpected error: %v", err)
				}
				break
			}
			if !bytes.Equal(b.Raw, raw[pos:pos+b.Size()]) {
				t.Fatal("a batch is not where it is said to be")
			}
			again := make([]byte, HeaderSize)
			b.encode(again)
			if !bytes.Equal(again, b.Raw[:HeaderSize]) {
				t.Fatal("the header does not encode to its bytes")
			}
			pos += b.Size()
		}
	})
}

func FuzzValidate(f *testing.F) {
	for _, codec := range allCodecs {
		for to := CodecProducer; to <= CodecZstd; to++ {
			f.Add(goldenSpec(codec).oracleBatch(f), int8(to), false, true)
			f.Add(goldenSpec(codec).oracleBatch(f), int8(to), true, false)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, to int8, compacted, appendTime bool) {
		sealed, ok := reseal(raw)
		if !ok {
			return
		}
		rules := NewRules(math.MaxInt64 / 2)
		rules.MaxDecompressed, rules.Compacted = fuzzLimit, compacted
		if Codec(to).known() {
			rules.Compression = Codec(to)
		}
		if appendTime {
			rules.TimestampType = LogAppendTime
		}
		sent := bytes.Clone(sealed.Raw)
		b, err := Validate(sealed.Raw, &rules)
		if err != nil {
			var inv *InvalidError
			if !errors.As(err, &inv) {
				t.Fatalf("not an InvalidError: %v", err)
			}
			if !bytes.Equal(sent, sealed.Raw) {
				t.Fatal("a refused batch was changed")
			}
			return
		}
		// What is accepted, every reader can read.
		if err := b.VerifyCRC(); err != nil {
			t.Fatal(err)
		}
		next := b.BaseOffset
		err = b.Records(func(r *Record) error {
			if r.Offset != next || compacted && r.Key == nil {
				t.Fatalf("record %+v at %d", r, next)
			}
			next++
			return nil
		})
		if err != nil || next != b.NextOffset() {
			t.Fatalf("accepted, but not readable: %v, %d of %d", err, next, b.NextOffset())
		}
		rules.TimestampType, rules.Internal = CreateTime, true
		if again, err := Validate(bytes.Clone(b.Raw), &rules); err != nil || !bytes.Equal(again.Raw, b.Raw) {
			t.Fatalf("what was stored is not stable: %v", err)
		}
	})
}

func FuzzRecords(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, ok := reseal(raw)
		if !ok {
			return
		}
		n, size := int32(0), 0
		err := b.RecordsWithin(fuzzLimit, func(r *Record) error {
			n++
			size += len(r.Key) + len(r.Value)
			for _, h := range r.Headers {
				size += len(h.Key) + len(h.Value)
			}
			return nil
		})
		if limit := max(fuzzLimit, len(raw)); size > limit {
			t.Fatalf("%d bytes of records from a limit of %d", size, limit)
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrUnsupportedCodec) {
				t.Fatalf("unexpected error: %v", err)
			}
			return
		}
		if n != max(b.NumRecords, 0) {
			t.Fatalf("%d records, the header says %d", n, b.NumRecords)
		}
		if _, _, err := b.EndTxnMarker(); err != nil && !errors.Is(err, ErrCorrupt) {
			t.Fatal(err)
		}
		out, stats, err := b.Filter(nil, FilterOptions{}, func(r *Record) (bool, error) { return r.Key != nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		if len(out) > 0 {
			kept, err := ReadBatch(out)
			if err != nil || int(kept.NumRecords) != stats.Kept {
				t.Fatalf("filtered batch: %v, %d records of %d", err, kept.NumRecords, stats.Kept)
			}
		}
	})
}
