package record

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
	"pgregory.net/rapid"
)

func TestHeaderAgreesWithKmsg(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), HeaderSize, HeaderSize).Draw(t, "header")
		raw[posMagic] = Magic
		raw[posLength] &= 0x7f
		raw[posLength+3] |= 0x7f // at least 49
		h, err := ReadHeader(raw)
		require.NoError(t, err)

		var kb kmsg.RecordBatch
		tail := append(bytes.Clone(raw), make([]byte, 1)...)
		copy(tail[posLength:], []byte{0, 0, 0, HeaderSize - Overhead})
		require.NoError(t, kb.ReadFrom(tail[:HeaderSize]))
		require.EqualValues(t, kb.FirstOffset, h.BaseOffset)
		require.EqualValues(t, kb.PartitionLeaderEpoch, h.LeaderEpoch)
		require.EqualValues(t, uint32(kb.CRC), h.CRC)
		require.Equal(t, kb.Attributes, h.Attributes)
		require.Equal(t, kb.LastOffsetDelta, h.LastOffsetDelta)
		require.Equal(t, kb.FirstTimestamp, h.BaseTimestamp)
		require.Equal(t, kb.MaxTimestamp, h.MaxTimestamp)
		require.Equal(t, kb.ProducerID, h.ProducerID)
		require.Equal(t, kb.ProducerEpoch, h.ProducerEpoch)
		require.Equal(t, kb.FirstSequence, h.BaseSequence)
		require.Equal(t, kb.NumRecords, h.NumRecords)

		again := make([]byte, HeaderSize)
		h.encode(again)
		require.Equal(t, raw, again)
	})
}

func TestHeaderBits(t *testing.T) {
	h := Header{BaseOffset: 100, LastOffsetDelta: 9, Length: 49, ProducerID: NoProducerID, BaseSequence: NoSequence}
	require.EqualValues(t, 109, h.LastOffset())
	require.EqualValues(t, 110, h.NextOffset())
	require.Equal(t, HeaderSize, h.Size())
	require.False(t, h.HasProducer())
	require.Equal(t, NoSequence, h.LastSequence())
	_, set := h.DeleteHorizon()
	require.False(t, set)

	h.ProducerID = 0
	require.True(t, h.HasProducer(), "the first id that Kafka hands out is 0")
	h.BaseSequence = math.MaxInt32 - 3
	require.EqualValues(t, 5, h.LastSequence(), "0 follows the largest sequence")
	require.EqualValues(t, math.MaxInt32, AddSequence(math.MaxInt32-3, 3))
	require.EqualValues(t, 0, AddSequence(math.MaxInt32, 1))

	for bit, get := range map[int16]func() bool{
		1 << 3: h.IsLogAppendTime, 1 << 4: h.IsTransactional, 1 << 5: h.IsControl, 1 << 6: h.HasDeleteHorizon,
	} {
		h.Attributes = ^bit
		require.False(t, get(), "bit %#x", bit)
		h.Attributes = bit
		require.True(t, get(), "bit %#x", bit)
		require.Equal(t, CodecNone, h.Codec())
	}
}

func TestStampStaysOutsideTheChecksum(t *testing.T) {
	raw := newSpec(CodecSnappy, three()...).oracleBatch(t)
	b, err := ReadBatch(raw)
	require.NoError(t, err)
	b.Stamp(1<<40, 77)
	require.NoError(t, b.VerifyCRC())
	again, err := ReadBatch(raw)
	require.NoError(t, err)
	require.Equal(t, b, again)
	require.EqualValues(t, 1<<40, again.BaseOffset)
	require.EqualValues(t, 77, again.LeaderEpoch)
}

func TestBatches(t *testing.T) {
	var log []byte
	var ends []int
	for i, codec := range allCodecs {
		b, err := ReadBatch(newSpec(codec, three()...).oracleBatch(t))
		require.NoError(t, err)
		b.Stamp(Offset(3*i), 1)
		log = append(log, b.Raw...)
		ends = append(ends, len(log))
	}
	for cut := range len(log) + 1 {
		whole, next := 0, Offset(0)
		for b, err := range Batches(log[:cut]) {
			require.NoError(t, err)
			require.Equal(t, next, b.BaseOffset)
			require.NoError(t, b.VerifyCRC())
			next = b.NextOffset()
			whole++
		}
		want := 0
		for want < len(ends) && ends[want] <= cut {
			want++
		}
		require.Equal(t, want, whole, "cut at %d", cut)
	}

	log[ends[1]+posMagic] = 7
	seen := 0
	for _, err := range Batches(log) {
		if seen++; seen == 3 {
			require.ErrorIs(t, err, ErrCorrupt)
		} else {
			require.NoError(t, err)
		}
	}
	require.Equal(t, 3, seen, "nothing comes after corruption")
	for _, err := range Batches(log) {
		require.NoError(t, err)
		break // the reader may stop at will
	}
}

func TestTopicID(t *testing.T) {
	seen := map[TopicID]bool{}
	for range 2000 {
		id := NewTopicID()
		require.False(t, id.IsZero() || seen[id])
		seen[id] = true
		s := id.String()
		require.Len(t, s, 22)
		require.NotEqual(t, byte('-'), s[0], "tools would read it as a flag")
		require.EqualValues(t, 4, id[6]>>4)
		require.EqualValues(t, 2, id[8]>>6)
		back, err := ParseTopicID(s)
		require.NoError(t, err)
		require.Equal(t, id, back)
	}
	require.Equal(t, "AAAAAAAAAAAAAAAAAAAAAA", TopicID{}.String())
	require.True(t, TopicID{}.IsZero())
	id, err := ParseTopicID("AAECAwQFBgcICQoLDA0ODw")
	require.NoError(t, err)
	require.Equal(t, TopicID{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, id)
	require.Equal(t, "AAECAwQFBgcICQoLDA0ODw-12", TopicPartition{Topic: id, Partition: 12}.String())
	for _, bad := range []string{"", "AAECAwQFBgcICQoLDA0OD", "AAECAwQFBgcICQoLDA0ODw=", "AAECAwQFBgcICQoLDA0OD+", "AAECAwQFBgcICQoLDA0ODx"} {
		_, err := ParseTopicID(bad)
		require.ErrorIs(t, err, ErrTopicID, bad)
	}
}

func TestCodecNames(t *testing.T) {
	for _, c := range append([]Codec{CodecProducer}, allCodecs...) {
		back, err := ParseCodec(c.String())
		require.NoError(t, err)
		require.Equal(t, c, back)
	}
	c, err := ParseCodec("uncompressed")
	require.NoError(t, err)
	require.Equal(t, CodecNone, c)
	_, err = ParseCodec("brotli")
	require.ErrorIs(t, err, ErrUnsupportedCodec)
	require.Equal(t, "codec(6)", Codec(6).String())
}

func TestEndTxnMarker(t *testing.T) {
	for _, m := range []EndTxnMarker{{Commit: true, CoordinatorEpoch: 9}, {CoordinatorEpoch: 1 << 30}} {
		raw := m.Batch(0, 4, testNow)
		b, err := ReadBatch(raw)
		require.NoError(t, err)
		require.NoError(t, b.VerifyCRC())
		require.True(t, b.IsControl())
		require.True(t, b.IsTransactional())
		require.EqualValues(t, 0, b.ProducerID)
		require.EqualValues(t, 4, b.ProducerEpoch)
		require.Equal(t, NoSequence, b.BaseSequence)
		back, ok, err := b.EndTxnMarker()
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, m, back)

		// kmsg, which knows both records, agrees.
		rec := consume(t, raw)[0]
		var key kmsg.ControlRecordKey
		require.NoError(t, key.ReadFrom(rec.Key))
		require.Equal(t, m.Commit, key.Type == kmsg.ControlRecordKeyTypeCommit)
		var value kmsg.EndTxnMarker
		require.NoError(t, value.ReadFrom(rec.Value))
		require.Equal(t, m.CoordinatorEpoch, value.CoordinatorEpoch)
	}

	control := func(key, value []byte) Batch {
		bb := NewBuilder(BuilderOptions{Control: true})
		bb.Append(testNow, key, value)
		b, err := ReadBatch(bb.Build())
		require.NoError(t, err)
		return b
	}
	b := control([]byte{0, 0, 0, 2}, []byte{0})
	_, ok, err := b.EndTxnMarker()
	require.NoError(t, err)
	require.False(t, ok, "a leader change is no marker")
	b = control([]byte{0, 0, 0}, []byte{0, 0, 0, 0, 0, 0})
	_, _, err = b.EndTxnMarker()
	require.ErrorIs(t, err, ErrCorrupt)
	b = control([]byte{0, 0, 0, 1}, []byte{0, 0, 0, 0, 0})
	_, _, err = b.EndTxnMarker()
	require.ErrorIs(t, err, ErrCorrupt)
	plain, err := ReadBatch(newSpec(CodecNone, three()...).oracleBatch(t))
	require.NoError(t, err)
	_, ok, err = plain.EndTxnMarker()
	require.NoError(t, err)
	require.False(t, ok)
}

func TestRecordsStopsAndFails(t *testing.T) {
	for _, codec := range allCodecs {
		b, err := ReadBatch(newSpec(codec, three()...).oracleBatch(t))
		require.NoError(t, err)
		n := 0
		require.NoError(t, b.Records(func(*Record) error { n++; return ErrStop }))
		require.Equal(t, 1, n)
		require.ErrorIs(t, b.Records(func(*Record) error { return ErrTopicID }), ErrTopicID)
		_, _, err = b.Filter(nil, FilterOptions{}, func(*Record) (bool, error) { return true, ErrStop })
		require.ErrorIs(t, err, ErrStop, "a filter cannot drop records by stopping")
	}
}

func TestLookupsByTheLogsClock(t *testing.T) {
	r := NewRules(testNow)
	r.TimestampType = LogAppendTime
	b, err := Validate(newSpec(CodecGzip, three()...).oracleBatch(t), &r)
	require.NoError(t, err)
	off, ts, ok, err := b.FirstAtOrAfter(testNow - 1)
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 0, off)
	require.Equal(t, testNow, ts)
	off, ts, ok, err = b.LatestRecord()
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 2, off)
	require.Equal(t, testNow, ts)
	_, _, ok, err = b.FirstAtOrAfter(testNow + 1)
	require.NoError(t, err)
	require.False(t, ok)
}

func TestEmptiedBatch(t *testing.T) {
	s := newSpec(CodecZstd, three()...)
	s.producerID, s.producerEpoch, s.sequence = 5, 1, 40
	b, err := ReadBatch(s.oracleBatch(t))
	require.NoError(t, err)
	b.Stamp(200, 6)
	raw, stats, err := b.Filter(nil, FilterOptions{KeepEmpty: true}, func(*Record) (bool, error) { return false, nil })
	require.NoError(t, err)
	require.Equal(t, FilterStats{Dropped: 3, Bytes: HeaderSize}, stats)
	e, err := ReadBatch(raw)
	require.NoError(t, err)
	require.NoError(t, e.VerifyCRC())
	require.EqualValues(t, 42, e.LastSequence())
	require.EqualValues(t, 203, e.NextOffset())
	require.Zero(t, e.NumRecords)
	require.Equal(t, CodecNone, e.Codec())
	require.Empty(t, collect(t, &e))
	require.Empty(t, consume(t, raw))
	for _, find := range []func() (Offset, int64, bool, error){e.LatestRecord, func() (Offset, int64, bool, error) { return e.FirstAtOrAfter(0) }} {
		off, _, ok, err := find()
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, NoOffset, off)
	}
}

func TestBuilderIsUsedAgain(t *testing.T) {
	bb := NewBuilder(BuilderOptions{Codec: CodecLz4, Idempotent: true, BaseSequence: 10})
	require.Panics(t, func() { bb.Build() }, "an empty batch is a bug of the caller")
	bb.Append(testNow, []byte("k"), nil)
	require.Equal(t, 1, bb.Len())
	first := bb.Build()
	bb.Reset(11)
	bb.Append(testNow+9, nil, []byte("v"))
	require.Equal(t, HeaderSize+len(bb.records), bb.Size())
	second := bb.Build()
	a, err := ReadBatch(first)
	require.NoError(t, err)
	b, err := ReadBatch(second)
	require.NoError(t, err)
	require.EqualValues(t, 10, a.BaseSequence)
	require.EqualValues(t, 0, a.ProducerID)
	require.EqualValues(t, 11, b.BaseSequence)
	require.Equal(t, testNow+9, b.BaseTimestamp)
	require.NoError(t, a.VerifyCRC(), "the first batch has its own memory")
	require.Equal(t, []Record{{Timestamp: testNow + 9, Value: []byte("v")}}, collect(t, &b))
}
