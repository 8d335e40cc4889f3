package record

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const testNow = int64(1_700_000_000_000)

// three returns three plain records around testNow, made anew.
func three() []Record {
	return []Record{
		{Timestamp: testNow, Key: []byte("a"), Value: []byte("1")},
		{Timestamp: testNow + 5, Key: []byte("b"), Value: []byte("2"), Headers: []RecordHeader{{Key: []byte("h"), Value: []byte("v")}}},
		{Timestamp: testNow + 3, Key: []byte("c"), Value: nil},
	}
}

// bend makes a batch of three() with kmsg, lets fn change it, and seals it
// with the right length and checksum.
func bend(t *testing.T, codec Codec, fn func(kb *kmsg.RecordBatch)) []byte {
	s := newSpec(codec, three()...)
	var kb kmsg.RecordBatch
	require.NoError(t, kb.ReadFrom(s.oracleBatch(t)))
	fn(&kb)
	return finishOracle(&kb)
}

// payload makes a batch of n records whose uncompressed payload is plain.
func payload(t *testing.T, codec Codec, n int, plain []byte) []byte {
	return bend(t, codec, func(kb *kmsg.RecordBatch) {
		kb.NumRecords, kb.LastOffsetDelta = int32(n), int32(n-1)
		kb.Records = kgoCompress(t, codec, plain)
	})
}

// What is no batch yet is not looked at behind the first, and not kept.
func TestValidateIgnoresTheBeginningOfAnother(t *testing.T) {
	good := newSpec(CodecNone, three()...).oracleBatch(t)
	for _, n := range []int{1, 11, 16, 40, len(good) - 1} {
		r := NewRules(1_700_000_000_000)
		r.MaxBytes = len(good)
		b, err := Validate(append(bytes.Clone(good), good[:n]...), &r)
		require.NoError(t, err, n)
		require.Equal(t, good, b.Raw)
	}
}

func TestValidateRefuses(t *testing.T) {
	good := newSpec(CodecNone, three()...).oracleBatch(t)
	with := func(fn func(kb *kmsg.RecordBatch)) []byte { return bend(t, CodecNone, fn) }
	patch := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	plain := good[HeaderSize:]

	for name, c := range map[string]struct {
		raw   []byte
		rules func(*Rules)
		kind  error
		index int32 // of the record named, -1 none
	}{
		"no batch":              {raw: nil, kind: ErrInvalidRecord, index: -1},
		"two batches":           {raw: append(bytes.Clone(good), good...), kind: ErrInvalidRecord, index: -1},
		"no length behind":      {raw: append(bytes.Clone(good), make([]byte, 12)...), kind: ErrCorrupt, index: -1},
		"nonsense behind":       {raw: append(bytes.Clone(good), patch(posMagic, 3)...), kind: ErrCorrupt, index: -1},
		"cut off":               {raw: good[:len(good)-1], kind: ErrInvalidRecord, index: -1},
		"cut off in the header": {raw: good[:40], kind: ErrInvalidRecord, index: -1},
		"cut off before magic":  {raw: good[:10], kind: ErrInvalidRecord, index: -1},
		"magic 0":               {raw: patch(posMagic, 0), kind: ErrInvalidRecord, index: -1},
		"magic 1, short":        {raw: patch(posMagic, 1)[:30], kind: ErrInvalidRecord, index: -1},
		"magic 3":               {raw: patch(posMagic, 3), kind: ErrCorrupt, index: -1},
		"magic -1":              {raw: patch(posMagic, 0xff), kind: ErrCorrupt, index: -1},
		"negative length":       {raw: patch(posLength, 0x80), kind: ErrCorrupt, index: -1},
		"tiny length":           {raw: patch(posLength+3, 48)[:60+1], kind: ErrCorrupt, index: -1},
		"flipped bit":           {raw: patch(len(good)-1, good[len(good)-1]^1), kind: ErrCorrupt, index: -1},
		"wrong checksum":        {raw: patch(posCRC, good[posCRC]^1), kind: ErrCorrupt, index: -1},
		"too large":             {raw: good, rules: func(r *Rules) { r.MaxBytes = len(good) - 1 }, kind: ErrTooLarge, index: -1},
		"too large before the checksum": {raw: patch(posCRC, good[posCRC]^1),
			rules: func(r *Rules) { r.MaxBytes = len(good) - 1 }, kind: ErrTooLarge, index: -1},

		"no record":            {raw: with(func(kb *kmsg.RecordBatch) { kb.NumRecords, kb.LastOffsetDelta = 0, -1 }), kind: ErrInvalidRecord, index: -1},
		"negative count":       {raw: with(func(kb *kmsg.RecordBatch) { kb.NumRecords, kb.LastOffsetDelta = -1, -2 }), kind: ErrInvalidRecord, index: -1},
		"count and last delta": {raw: with(func(kb *kmsg.RecordBatch) { kb.LastOffsetDelta = 3 }), kind: ErrInvalidRecord, index: -1},
		"largest last delta":   {raw: with(func(kb *kmsg.RecordBatch) { kb.LastOffsetDelta = math.MaxInt32 }), kind: ErrInvalidRecord, index: -1},
		"control":              {raw: with(func(kb *kmsg.RecordBatch) { kb.Attributes |= 1 << 5 }), kind: ErrInvalidRecord, index: -1},
		"LogAppendTime":        {raw: with(func(kb *kmsg.RecordBatch) { kb.Attributes |= 1 << 3 }), kind: ErrInvalidTimestamp, index: -1},
		"no sequence":          {raw: with(func(kb *kmsg.RecordBatch) { kb.ProducerID, kb.ProducerEpoch = 7, 0 }), kind: ErrInvalidRecord, index: -1},
		"no producer epoch":    {raw: with(func(kb *kmsg.RecordBatch) { kb.ProducerID, kb.FirstSequence = 7, 0 }), kind: ErrInvalidRecord, index: -1},
		"anonymous transaction": {raw: with(func(kb *kmsg.RecordBatch) { kb.Attributes |= 1 << 4 }), kind: ErrInvalidRecord,
			index: -1},
		"codec 5": {raw: with(func(kb *kmsg.RecordBatch) { kb.Attributes |= 5 }), kind: ErrUnsupportedCodec, index: -1},
		"codec 6": {raw: with(func(kb *kmsg.RecordBatch) { kb.Attributes |= 6 }), kind: ErrUnsupportedCodec, index: -1},
		"codec 7": {raw: with(func(kb *kmsg.RecordBatch) { kb.Attributes |= 7 }), kind: ErrUnsupportedCodec, index: -1},
		"zstd before v7": {raw: newSpec(CodecZstd, three()...).oracleBatch(t), rules: func(r *Rules) { r.ForbidZstd = true },
			kind: ErrUnsupportedCodec, index: -1},

		"fewer records than counted": {raw: payload(t, CodecNone, 4, plain), kind: ErrInvalidRecord, index: 3},
		"more records than counted":  {raw: payload(t, CodecNone, 2, plain), kind: ErrInvalidRecord, index: 2},
		"trailing byte":              {raw: payload(t, CodecNone, 3, append(bytes.Clone(plain), 0)), kind: ErrInvalidRecord, index: 3},
		"offset deltas do not count": {raw: payload(t, CodecNone, 2, append(oneRecord(0, "a"), oneRecord(2, "b")...)), kind: ErrInvalidRecord, index: 1},
		"first offset delta is not 0": {raw: payload(t, CodecNone, 1, oneRecord(1, "a")), kind: ErrInvalidRecord,
			index: 0},

		"too old": {raw: good, rules: func(r *Rules) { r.Now = testNow + 1001; r.TimestampBeforeMax = 1000 },
			kind: ErrInvalidTimestamp, index: 0},
		"too new": {raw: good, rules: func(r *Rules) { r.Now = testNow - 996; r.TimestampAfterMax = 1000 },
			kind: ErrInvalidTimestamp, index: 1},
		"too new by the header alone": {raw: good, rules: func(r *Rules) { r.Now = testNow - 996; r.TimestampAfterMax = 1000; r.HeaderOnly = true },
			kind: ErrInvalidTimestamp, index: -1},
		"null key in a compacted topic": {raw: nullKey(t, CodecNone), rules: func(r *Rules) { r.Compacted = true },
			kind: ErrInvalidRecord, index: 1},
		"null key, though header only": {raw: nullKey(t, CodecZstd), rules: func(r *Rules) { r.Compacted, r.HeaderOnly = true, true },
			kind: ErrInvalidRecord, index: 1},
		"too large once recompressed": {raw: newSpec(CodecZstd, Record{Timestamp: testNow, Value: make([]byte, 10_000)}).oracleBatch(t),
			rules: func(r *Rules) { r.Compression, r.MaxBytes = CodecNone, 5000 }, kind: ErrTooLarge, index: -1},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRules(testNow)
			if c.rules != nil {
				c.rules(&r)
			}
			before := bytes.Clone(c.raw)
			_, err := Validate(c.raw, &r)
			require.ErrorIs(t, err, c.kind)
			var inv *InvalidError
			require.ErrorAs(t, err, &inv)
			require.NotEmpty(t, inv.Message)
			require.Equal(t, before, c.raw, "a refused batch is left as it was")
			if c.index < 0 {
				require.Empty(t, inv.Records)
				return
			}
			require.NotEmpty(t, inv.Records)
			require.Equal(t, c.index, inv.Records[0].Index)
			require.NotEmpty(t, inv.Records[0].Message)
		})
	}
}

// oneRecord lays out a record with any offset delta.
func oneRecord(offsetDelta int32, value string) []byte {
	return appendRecord(nil, 0, offsetDelta, &Record{Key: []byte("k"), Value: []byte(value)})
}

// nullKey makes a batch of which the second and third record have no key.
func nullKey(t *testing.T, c Codec) []byte {
	records := three()
	records[1].Key, records[2].Key = nil, nil
	return newSpec(c, records...).oracleBatch(t)
}

func TestValidateAccepts(t *testing.T) {
	for name, c := range map[string]struct {
		raw   []byte
		rules func(*Rules)
	}{
		"the limits of time": {raw: newSpec(CodecNone, three()...).oracleBatch(t), rules: func(r *Rules) {
			r.Now, r.TimestampBeforeMax, r.TimestampAfterMax = testNow+2, 2, 3
		}},
		"exactly the size": {raw: newSpec(CodecNone, three()...).oracleBatch(t), rules: func(r *Rules) {
			r.MaxBytes = len(newSpec(CodecNone, three()...).oracleBatch(t))
		}},
		"no timestamp at all": {raw: newSpec(CodecNone, Record{Timestamp: NoTimestamp, Value: []byte("v")}).oracleBatch(t),
			rules: func(r *Rules) { r.TimestampBeforeMax = 0 }},
		"null key where nothing is compacted": {raw: nullKey(t, CodecGzip)},
		"any time, unbounded": {raw: newSpec(CodecNone, Record{Timestamp: math.MaxInt64}, Record{Timestamp: 0}).oracleBatch(t),
			rules: func(r *Rules) { r.TimestampAfterMax = NoTimestampLimit }},
		"malformed records, header only": {raw: payload(t, CodecNone, 3, []byte("no records")),
			rules: func(r *Rules) { r.HeaderOnly = true }},
		"a marker of our own": {raw: EndTxnMarker{Commit: true}.Batch(9, 3, testNow-1000),
			rules: func(r *Rules) { r.Internal, r.Compacted, r.TimestampBeforeMax = true, true, 0 }},
		"unused attribute bits": {raw: bend(t, CodecNone, func(kb *kmsg.RecordBatch) { kb.Attributes |= 1 << 9 })},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewRules(testNow)
			if c.rules != nil {
				c.rules(&r)
			}
			before := bytes.Clone(c.raw)
			b, err := Validate(c.raw, &r)
			require.NoError(t, err)
			require.Equal(t, before, b.Raw)
			require.Same(t, &c.raw[0], &b.Raw[0])
		})
	}
}

func TestValidateNamesAtMostSomeRecords(t *testing.T) {
	bb := NewBuilder(BuilderOptions{})
	for range 10 * MaxRecordErrors {
		bb.Append(testNow, nil, []byte("v"))
	}
	r := NewRules(testNow)
	r.Compacted = true
	_, err := Validate(bb.Build(), &r)
	var inv *InvalidError
	require.ErrorAs(t, err, &inv)
	require.Len(t, inv.Records, MaxRecordErrors)
	for i, e := range inv.Records {
		require.EqualValues(t, i, e.Index)
	}
}

func TestTimestampDecidesTheKind(t *testing.T) {
	records := three()
	records[0].Key = nil
	records[2].Timestamp = testNow + 4000_000
	r := NewRules(testNow)
	r.Compacted = true
	_, err := Validate(newSpec(CodecLz4, records...).oracleBatch(t), &r)
	require.ErrorIs(t, err, ErrInvalidTimestamp)
	require.NotErrorIs(t, err, ErrInvalidRecord)
	var inv *InvalidError
	require.ErrorAs(t, err, &inv)
	require.Len(t, inv.Records, 2)
}

func TestValidateCorrectsTheHeader(t *testing.T) {
	for _, codec := range allCodecs {
		for name, c := range map[string]struct {
			fn     func(kb *kmsg.RecordBatch)
			rules  func(*Rules)
			latest int64
			times  []int64
		}{
			"LogAppendTime": {
				rules:  func(r *Rules) { r.TimestampType, r.Now, r.TimestampAfterMax = LogAppendTime, testNow-9e6, 0 },
				latest: testNow - 9e6, times: []int64{testNow - 9e6, testNow - 9e6, testNow - 9e6},
			},
			"LogAppendTime, header only": {
				rules:  func(r *Rules) { r.TimestampType, r.Now, r.HeaderOnly = LogAppendTime, testNow-9e6, true },
				latest: testNow - 9e6, times: []int64{testNow - 9e6, testNow - 9e6, testNow - 9e6},
			},
			"max timestamp too low": {
				fn:     func(kb *kmsg.RecordBatch) { kb.MaxTimestamp = 0 },
				latest: testNow + 5, times: []int64{testNow, testNow + 5, testNow + 3},
			},
			"max timestamp beyond the limit": {
				fn:     func(kb *kmsg.RecordBatch) { kb.MaxTimestamp = math.MaxInt64 },
				latest: testNow + 5, times: []int64{testNow, testNow + 5, testNow + 3},
			},
			"delete horizon": {
				fn:     func(kb *kmsg.RecordBatch) { kb.Attributes |= 1 << 6 },
				latest: testNow + 5, times: []int64{testNow, testNow + 5, testNow + 3},
			},
		} {
			t.Run(codec.String()+"/"+name, func(t *testing.T) {
				raw := bend(t, codec, func(kb *kmsg.RecordBatch) {
					if c.fn != nil {
						c.fn(kb)
					}
				})
				r := NewRules(testNow)
				if c.rules != nil {
					c.rules(&r)
				}
				b, err := Validate(raw, &r)
				require.NoError(t, err)
				require.Same(t, &raw[0], &b.Raw[0])
				require.NoError(t, b.VerifyCRC())
				reread, err := ReadBatch(b.Raw)
				require.NoError(t, err)
				require.Equal(t, b, reread)
				require.Equal(t, c.latest, b.MaxTimestamp)
				require.Equal(t, codec, b.Codec())
				require.False(t, b.HasDeleteHorizon())
				require.Equal(t, r.TimestampType == LogAppendTime, b.IsLogAppendTime())
				var times []int64
				for _, rec := range consume(t, b.Raw) {
					times = append(times, rec.Timestamp)
				}
				require.Equal(t, c.times, times)
				times = nil
				for _, rec := range collect(t, &b) {
					times = append(times, rec.Timestamp)
				}
				require.Equal(t, c.times, times)
			})
		}
	}
}

// Every way to break one record, in each codec, whole in the window and not.
func TestMalformedRecords(t *testing.T) {
	big := bytes.Repeat([]byte("firn"), windowKeep/3) // larger than any pooled window
	varint := func(vs ...int64) []byte {
		var b []byte
		for _, v := range vs {
			b = appendVarint(b, v)
		}
		return b
	}
	sized := func(parts ...[]byte) []byte {
		body := bytes.Join(parts, nil)
		return append(varint(int64(len(body))), body...)
	}
	attr := []byte{0}
	for name, plain := range map[string][]byte{
		"empty record":           sized(),
		"negative length":        varint(-2),
		"length without end":     bytes.Repeat([]byte{0xff}, 12),
		"length too wide":        {0xff, 0xff, 0xff, 0xff, 0x10},
		"longer than the batch":  append(varint(1<<30), "abc"...),
		"no time":                sized(attr),
		"time without end":       sized(attr, bytes.Repeat([]byte{0xff}, 11)),
		"no offset":              sized(attr, varint(0)),
		"offset too wide":        sized(attr, varint(0), []byte{0xff, 0xff, 0xff, 0xff, 0x1f, 0, 0, 0}),
		"no key":                 sized(attr, varint(0, 0)),
		"key too long":           sized(attr, varint(0, 0, 5), []byte("k")),
		"no value":               sized(attr, varint(0, 0, -1)),
		"value too long":         sized(attr, varint(0, 0, -1, 9), []byte("v")),
		"no header count":        sized(attr, varint(0, 0, -1, -1)),
		"negative header count":  sized(attr, varint(0, 0, -1, -1, -1)),
		"more headers than room": sized(attr, varint(0, 0, -1, -1, 1<<30), []byte{0, 0}),
		"null header key":        sized(attr, varint(0, 0, -1, -1, 1, -1, -1)),
		"header key too long":    sized(attr, varint(0, 0, -1, -1, 1, 7), []byte("h")),
		"header value too long":  sized(attr, varint(0, 0, -1, -1, 1, 0, 7), []byte("h")),
		"header missing":         sized(attr, varint(0, 0, -1, -1, 1, 0)),
		"longer than its fields": sized(attr, varint(0, 0, -1, -1, 0), []byte{0}),

		"large: key too long":          sized(attr, varint(0, 0, int64(len(big))+1), big),
		"large: value too long":        sized(attr, varint(0, 0, -1, int64(len(big))+9), big, varint(0)),
		"large: no header count":       sized(attr, varint(0, 0, -1, int64(len(big))), big),
		"large: negative headers":      sized(attr, varint(0, 0, -1, int64(len(big))), big, varint(-1)),
		"large: null header key":       sized(attr, varint(0, 0, -1, int64(len(big))), big, varint(1, -1, -1)),
		"large: padded header count":   sized(attr, varint(0, 0, -1, int64(len(big))), big, []byte{0x80, 0x80, 0x80, 0x80, 0x80, 0}),
		"large: header value too long": sized(attr, varint(0, 0, -1, int64(len(big))), big, varint(1, 0, 50)),
		"large: longer than fields":    sized(attr, varint(0, 0, -1, int64(len(big))), big, varint(0), []byte("rest")),
		"large: cut off":               sized(attr, varint(0, 0, -1, int64(len(big))), big, varint(0))[:len(big)-9],
		"large: bytes without end":     sized(attr, bytes.Repeat([]byte{0xff}, 2*windowStart)),
	} {
		for _, codec := range allCodecs {
			t.Run(codec.String()+"/"+name, func(t *testing.T) {
				raw := payload(t, codec, 1, plain)
				_, err := Validate(raw, looseRules())
				require.ErrorIs(t, err, ErrInvalidRecord)
				b, err := ReadBatch(raw)
				require.NoError(t, err)
				require.ErrorIs(t, b.Records(func(*Record) error { return nil }), ErrCorrupt)
				_, _, _, err = b.FirstAtOrAfter(0)
				require.ErrorIs(t, err, ErrCorrupt)
				_, _, _, err = b.LatestRecord()
				require.ErrorIs(t, err, ErrCorrupt)
			})
		}
	}
}
