package record

import (
	"bytes"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

// The oracle is franz-go: kmsg lays out batches and records, kgo compresses
// them and reads ours as a consumer would. It shares no code with the package.

var allCodecs = []Codec{CodecNone, CodecGzip, CodecSnappy, CodecLz4, CodecZstd}

// spec describes a batch for both sides.
type spec struct {
	codec         Codec
	base          Offset
	epoch         Epoch
	attributes    int16 // above the codec
	producerID    int64
	producerEpoch int16
	sequence      int32
	records       []Record // Offset is base + index
}

func newSpec(codec Codec, records ...Record) spec {
	for i := range records {
		records[i].Offset = Offset(i)
	}
	return spec{codec: codec, epoch: NoEpoch, producerID: NoProducerID, producerEpoch: NoProducerEpoch,
		sequence: NoSequence, records: records}
}

func kgoCompress(t require.TestingT, c Codec, plain []byte) []byte {
	codec := [...]kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(),
		kgo.Lz4Compression(), kgo.ZstdCompression()}[c]
	if c == CodecNone {
		return plain
	}
	enc, err := kgo.DefaultCompressor(codec)
	require.NoError(t, err)
	packed, used := enc.Compress(new(bytes.Buffer), plain)
	require.EqualValues(t, c, used)
	return bytes.Clone(packed)
}

// plainRecords lays records out with kmsg, relative to the first timestamp.
func plainRecords(records []Record) []byte {
	var plain []byte
	for i, r := range records {
		kr := kmsg.NewRecord()
		kr.TimestampDelta64 = r.Timestamp - records[0].Timestamp
		kr.OffsetDelta = int32(i)
		kr.Key, kr.Value = r.Key, r.Value
		for _, h := range r.Headers {
			kh := kmsg.NewHeader()
			kh.Key, kh.Value = string(h.Key), h.Value
			kr.Headers = append(kr.Headers, kh)
		}
		kr.Length = int32(len(kr.AppendTo(nil)) - 1) // less its own length of 0
		plain = kr.AppendTo(plain)
	}
	return plain
}

// oracleBatch makes the batch with franz-go.
func (s spec) oracleBatch(t require.TestingT) []byte {
	kb := kmsg.NewRecordBatch()
	kb.FirstOffset = int64(s.base)
	kb.PartitionLeaderEpoch = int32(s.epoch)
	kb.Magic = 2
	kb.Attributes = s.attributes | int16(s.codec)
	kb.LastOffsetDelta = int32(len(s.records) - 1)
	kb.FirstTimestamp, kb.MaxTimestamp = s.records[0].Timestamp, s.records[0].Timestamp
	for _, r := range s.records {
		kb.MaxTimestamp = max(kb.MaxTimestamp, r.Timestamp)
	}
	kb.ProducerID, kb.ProducerEpoch, kb.FirstSequence = s.producerID, s.producerEpoch, s.sequence
	kb.NumRecords = int32(len(s.records))
	kb.Records = kgoCompress(t, s.codec, plainRecords(s.records))
	return finishOracle(&kb)
}

// finishOracle sets length and checksum.
func finishOracle(kb *kmsg.RecordBatch) []byte {
	raw := kb.AppendTo(nil)
	kb.Length = int32(len(raw) - 12)
	kb.CRC = int32(crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return kb.AppendTo(nil)
}

// collect copies all records of a batch.
func collect(t require.TestingT, b *Batch) []Record {
	var all []Record
	require.NoError(t, b.Records(func(r *Record) error {
		all = append(all, cloneRecord(r))
		return nil
	}))
	return all
}

func cloneRecord(r *Record) Record {
	c := *r
	c.Key, c.Value, c.Headers = bytes.Clone(r.Key), bytes.Clone(r.Value), nil
	for _, h := range r.Headers {
		c.Headers = append(c.Headers, RecordHeader{Key: bytes.Clone(h.Key), Value: bytes.Clone(h.Value)})
	}
	return c
}

// consume reads a batch as a franz-go consumer does.
func consume(t require.TestingT, raw []byte) []Record {
	p := kmsg.NewFetchResponseTopicPartition()
	p.RecordBatches = raw
	fp, _ := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{KeepControlRecords: true, Offset: -1}, &p, kgo.DefaultDecompressor(), nil)
	require.NoError(t, fp.Err)
	var all []Record
	for _, r := range fp.Records {
		rec := Record{Offset: Offset(r.Offset), Timestamp: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			rec.Headers = append(rec.Headers, RecordHeader{Key: []byte(h.Key), Value: h.Value})
		}
		all = append(all, rec)
	}
	return all
}

// draw makes a random batch that keeps all rules.
func drawSpec(t *rapid.T) spec {
	bytesOrNull := func(label string) []byte {
		switch k := rapid.IntRange(0, 39).Draw(t, label+" kind"); {
		case k < 4:
			return nil
		case k == 4: // compresses well, and is larger than the window now and then
			return bytes.Repeat([]byte("snow"), rapid.IntRange(0, 20_000).Draw(t, label+" repeats"))
		}
		return append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, label)...)
	}
	s := newSpec(rapid.SampledFrom(allCodecs).Draw(t, "codec"))
	s.base = Offset(rapid.Int64Range(0, 1<<60).Draw(t, "base"))
	s.epoch = Epoch(rapid.Int32Range(-1, 1<<30).Draw(t, "epoch"))
	if rapid.Bool().Draw(t, "idempotent") {
		s.producerID = rapid.Int64Range(0, 1<<40).Draw(t, "producer")
		s.producerEpoch = rapid.Int16Range(0, 100).Draw(t, "producer epoch")
		s.sequence = rapid.Int32Range(0, 1<<31-1).Draw(t, "sequence")
		if rapid.Bool().Draw(t, "transactional") {
			s.attributes |= attrTransactional
		}
	}
	now := rapid.Int64Range(0, 1<<41).Draw(t, "now")
	for i := range rapid.IntRange(1, 40).Draw(t, "records") {
		r := Record{
			Offset:    s.base + Offset(i),
			Timestamp: now + rapid.Int64Range(-1000, 1000).Draw(t, "time"),
			Key:       bytesOrNull("key"),
			Value:     bytesOrNull("value"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "headers") {
			r.Headers = append(r.Headers, RecordHeader{
				Key:   append([]byte{}, rapid.SliceOfN(rapid.Byte(), 0, 10).Draw(t, "header key")...),
				Value: bytesOrNull("header"),
			})
		}
		s.records = append(s.records, r)
	}
	return s
}

// looseRules accept all timestamps.
func looseRules() *Rules {
	r := NewRules(0)
	r.TimestampAfterMax = NoTimestampLimit
	r.MaxBytes = 64 << 20
	return &r
}

func TestReadsWhatOthersWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		raw := s.oracleBatch(t)
		sent := bytes.Clone(raw)
		b, err := Validate(raw, looseRules())
		require.NoError(t, err)
		require.Equal(t, sent, b.Raw, "a batch that keeps the rules is stored as it came")
		require.Equal(t, s.base, b.BaseOffset)
		require.Equal(t, s.epoch, b.LeaderEpoch)
		require.Equal(t, s.producerID, b.ProducerID)
		require.Equal(t, s.producerEpoch, b.ProducerEpoch)
		require.Equal(t, s.sequence, b.BaseSequence)
		require.Equal(t, s.attributes&attrTransactional != 0, b.IsTransactional())
		require.Equal(t, s.records, collect(t, &b))

		// Lookups against a walk over the list.
		ts := s.records[0].Timestamp + rapid.Int64Range(-2000, 2000).Draw(t, "searched")
		want := Record{Offset: NoOffset, Timestamp: NoTimestamp}
		latest := s.records[0]
		for i := len(s.records) - 1; i >= 0; i-- {
			if s.records[i].Timestamp >= ts {
				want = s.records[i]
			}
			if s.records[i].Timestamp >= latest.Timestamp {
				latest = s.records[i]
			}
		}
		off, at, ok, err := b.FirstAtOrAfter(ts)
		require.NoError(t, err)
		require.Equal(t, want.Offset != NoOffset, ok)
		require.Equal(t, want.Offset, off)
		require.Equal(t, want.Timestamp, at)
		off, at, ok, err = b.LatestRecord()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, latest.Timestamp, at)
		require.Equal(t, latest.Offset, off)
	})
}

func TestOthersReadWhatIsBuilt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		raw := s.built(rapid.IntRange(0, 12).Draw(t, "level"))
		b, err := ReadBatch(raw)
		require.NoError(t, err)
		b.Stamp(s.base, s.epoch)
		require.NoError(t, b.VerifyCRC())
		require.Equal(t, s.records, consume(t, b.Raw))
		again, err := Validate(b.Raw, looseRules())
		require.NoError(t, err)
		require.Equal(t, b, again)
	})
}

// built makes the batch with BatchBuilder, not stamped.
func (s spec) built(level int) []byte {
	bb := NewBuilder(BuilderOptions{Codec: s.codec, Level: level, Idempotent: s.producerID >= 0,
		ProducerID: s.producerID, ProducerEpoch: s.producerEpoch, BaseSequence: s.sequence,
		Transactional: s.attributes&attrTransactional != 0})
	for _, r := range s.records {
		bb.Append(r.Timestamp, r.Key, r.Value, r.Headers...)
	}
	return bb.Build()
}

func TestRecompressionKeepsRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		raw := s.oracleBatch(t)
		rules := looseRules()
		rules.Compression = rapid.SampledFrom(allCodecs).Draw(t, "topic's codec")
		rules.HeaderOnly = rapid.Bool().Draw(t, "header only")
		b, err := Validate(raw, rules)
		require.NoError(t, err)
		require.Equal(t, rules.Compression, b.Codec())
		require.NoError(t, b.VerifyCRC())
		require.Equal(t, s.records, consume(t, b.Raw))
		require.Equal(t, rules.Compression == s.codec, &raw[0] == &b.Raw[0], "only another codec makes new bytes")
		reread, err := ReadBatch(b.Raw)
		require.NoError(t, err)
		require.Equal(t, b, reread, "header and bytes agree")
	})
}

func TestFilterKeepsPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := drawSpec(t)
		raw := s.oracleBatch(t)
		b, err := ReadBatch(raw)
		require.NoError(t, err)
		mask := rapid.SliceOfN(rapid.Bool(), len(s.records), len(s.records)).Draw(t, "keep")
		o := FilterOptions{KeepEmpty: rapid.Bool().Draw(t, "keep empty"),
			SetHorizon: rapid.Bool().Draw(t, "set horizon"), DeleteHorizon: rapid.Int64Range(0, 1<<41).Draw(t, "horizon")}
		var want []Record
		latest := int64(-1 << 62)
		for i, keep := range mask {
			if keep {
				want = append(want, s.records[i])
				latest = max(latest, s.records[i].Timestamp)
			}
		}
		prefix := []byte("in front")
		dst, stats, err := b.Filter(bytes.Clone(prefix), o, func(r *Record) (bool, error) { return mask[r.Offset-s.base], nil })
		require.NoError(t, err)
		require.True(t, bytes.HasPrefix(dst, prefix))
		dst = dst[len(prefix):]
		require.Equal(t, FilterStats{Kept: len(want), Dropped: len(mask) - len(want), Bytes: len(dst)}, stats)
		if len(want) == 0 && !o.KeepEmpty {
			require.Empty(t, dst)
			return
		}
		f, err := ReadBatch(dst)
		require.NoError(t, err)
		require.Len(t, f.Raw, len(dst))
		require.NoError(t, f.VerifyCRC())
		require.Equal(t, b.BaseOffset, f.BaseOffset)
		require.Equal(t, b.NextOffset(), f.NextOffset())
		require.Equal(t, b.LeaderEpoch, f.LeaderEpoch)
		require.Equal(t, b.ProducerID, f.ProducerID)
		require.Equal(t, b.ProducerEpoch, f.ProducerEpoch)
		require.Equal(t, b.BaseSequence, f.BaseSequence)
		require.Equal(t, b.IsTransactional(), f.IsTransactional())
		require.Equal(t, want, collect(t, &f))
		if len(want) == 0 {
			return
		}
		require.Equal(t, latest, f.MaxTimestamp)
		require.Equal(t, want, consume(t, f.Raw))
		horizon, set := f.DeleteHorizon()
		require.Equal(t, o.SetHorizon, set)
		if set {
			require.Equal(t, o.DeleteHorizon, horizon)
		} else if len(want) == len(s.records) {
			require.Equal(t, b.Raw, f.Raw, "unchanged bytes stay")
		}
		// A second pass keeps the horizon of the first.
		o.DeleteHorizon++
		o.SetHorizon = set
		again, _, err := f.Filter(nil, o, func(*Record) (bool, error) { return true, nil })
		require.NoError(t, err)
		require.Equal(t, f.Raw, again)
	})
}
