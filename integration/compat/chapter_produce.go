package main

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// plainBatch are the options of a batch without a producer id.
func plainBatch() record.BuilderOptions {
	return record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
}

// longAgo is the time of the records sent, in ms.
const longAgo = 1_700_000_000_000

func batchOf(o record.BuilderOptions, values ...string) []byte {
	b := record.NewBuilder(o)
	for i, v := range values {
		b.Append(longAgo+int64(i), []byte("key"), []byte(v))
	}
	return b.Build()
}

// sealed gives a tampered batch its CRC again.
func sealed(b []byte) []byte {
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// target says where a batch goes.
type target struct {
	name string
	id   [16]byte
}

func producing(t target, acks int16, batches ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = acks, 30_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic, rt.TopicID = t.name, t.id
	for i, b := range batches {
		p := kmsg.NewProduceRequestTopicPartition()
		p.Partition, p.Records = int32(i), b
		rt.Partitions = append(rt.Partitions, p)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func produce(s *script) {
	var t target
	t.name, t.id = s.topic("written", 2)
	for v := int16(3); v <= 13; v++ {
		for _, acks := range []int16{-1, 1} {
			s.ask(fmt.Sprintf("acks %d", acks), v, producing(t, acks, batchOf(plainBatch(), "a", "b"), batchOf(plainBatch(), "c")))
		}
		s.askSilently("acks 0", v, producing(t, 0, batchOf(plainBatch(), "a")))
	}
	for _, codec := range []record.Codec{record.CodecGzip, record.CodecSnappy, record.CodecLz4, record.CodecZstd} {
		o := plainBatch()
		o.Codec = codec
		for _, v := range []int16{3, 6, 7, 9, 13} {
			s.ask("codec "+codec.String(), v, producing(t, -1, batchOf(o, "a", "b", "c")))
		}
	}
	none := kmsg.NewPtrProduceRequest()
	none.Acks, none.TimeoutMillis = -1, 1000
	s.ask("nothing", 9, none)
	s.ask("a topic of no partition", 9, producing(t, -1))
	s.ask("records", 13, fetching(13, t, 0))
}

func produceErrors(s *script) {
	var t target
	t.name, t.id = s.topic("refused", 2)
	ok := func() []byte { return batchOf(plainBatch(), "a", "b") }
	for _, v := range []int16{3, 7, 8, 9, 12, 13} {
		s.ask("acks 2", v, producing(t, 2, ok()))
		s.ask("acks -2", v, producing(t, -2, ok()))
		s.ask("unknown topic", v, producing(target{s.name("nothing"), unknownID}, -1, ok()))
		far := producing(t, -1, ok())
		far.Topics[0].Partitions[0].Partition = 7
		s.ask("unknown partition", v, far)
		far = producing(t, -1, ok())
		far.Topics[0].Partitions[0].Partition = -1
		s.ask("negative partition", v, far)
		crc := ok()
		crc[len(crc)-1] ^= 1
		s.ask("bad crc", v, producing(t, -1, crc))
		s.ask("one good, one bad", v, producing(t, -1, ok(), append([]byte{}, crc...)))
	}
	broken := map[string][]byte{
		"empty records":  {},
		"one byte":       {1},
		"cut off":        ok()[:70],
		"two batches":    append(ok(), ok()...),
		"trailing byte":  append(ok(), 0),
		"magic 1":        tampered(ok(), 16, 1),
		"magic 0":        tampered(ok(), 16, 0),
		"magic 3":        tampered(ok(), 16, 3),
		"control":        sealed(tampered(ok(), 22, 1<<5)),
		"append time":    sealed(tampered(ok(), 22, 1<<3)),
		"codec 5":        sealed(tampered(ok(), 22, 5)),
		"codec 7":        sealed(tampered(ok(), 22, 7)),
		"delete horizon": sealed(tampered(ok(), 22, 1<<6)),
		"high attribute": sealed(tampered(ok(), 21, 0x80)),
		"count 3 of 2":   sealed(tampered(ok(), 60, 3)),
		"count 0":        sealed(tampered(ok(), 60, 0)),
		"last delta 5":   sealed(tampered(ok(), 26, 5)),
		"length short":   tampered(ok(), 11, 55),
		"base offset 7":  tampered(ok(), 7, 7),
		"leader epoch 9": tampered(ok(), 15, 9),
		"transactional":  sealed(tampered(ok(), 22, 1<<4)),
		"garbled inside": sealed(tampered(ok(), 62, 0x7f)),
		"snappy garbage": sealed(tampered(ok(), 22, 2)),
		"gzip garbage":   sealed(tampered(ok(), 22, 1)),
		"zstd garbage":   sealed(tampered(ok(), 22, 4)),
		"lz4 garbage":    sealed(tampered(ok(), 22, 3)),
	}
	for _, label := range slices.Sorted(maps.Keys(broken)) {
		raw := broken[label]
		for _, v := range []int16{3, 9} {
			s.ask(label, v, producing(t, -1, append([]byte{}, raw...)))
		}
	}
	null := producing(t, -1, ok())
	null.Topics[0].Partitions[0].Records = nil
	s.ask("null records", 9, null)
	o := plainBatch()
	o.ProducerID, o.ProducerEpoch, o.BaseSequence = 5, 0, -1
	s.ask("sequence -1 with a producer", 9, producing(t, -1, batchOf(o, "a")))
	o.ProducerEpoch, o.BaseSequence = -1, 0
	s.ask("epoch -1 with a producer", 9, producing(t, -1, batchOf(o, "a")))
	s.ask("internal topic", 9, producing(target{name: "__consumer_offsets"}, -1, ok()))
	twice := producing(t, -1, ok())
	twice.Topics[0].Partitions = append(twice.Topics[0].Partitions, twice.Topics[0].Partitions[0])
	s.ask("partition twice", 9, twice)
	t.name, t.id = s.topic("refused-too", 1)
	tx := producing(t, -1, ok())
	tx.TransactionID = kmsg.StringPtr(s.name("tx"))
	s.ask("transactional id, plain batch", 9, tx)
	crc := ok()
	crc[len(crc)-1] ^= 1
	s.askSilently("acks 0, bad crc", 9, producing(t, 0, crc))
	s.askSilently("acks 0, unknown topic", 9, producing(target{name: s.name("nothing")}, 0, ok()))
}

func tampered(b []byte, at int, v byte) []byte {
	b[at] = v
	return b
}

// produceSettings writes under the topic settings that change or refuse batches.
func produceSettings(s *script) {
	compacted, id := s.topic("compacted", 1, "cleanup.policy", "compact")
	b := record.NewBuilder(plainBatch())
	b.Append(longAgo, []byte("k"), []byte("v"))
	b.Append(longAgo, nil, []byte("v"))
	raw := b.Build()
	for _, v := range []int16{7, 8, 9} {
		s.ask("null key", v, producing(target{compacted, id}, -1, append([]byte{}, raw...)))
	}
	var t target
	t.name, t.id = s.topic("small", 1, "max.message.bytes", "200")
	big := string(make([]byte, 300))
	s.ask("too large", 9, producing(t, -1, batchOf(plainBatch(), big)))
	t.name, t.id = s.topic("append-time", 1, "message.timestamp.type", "LogAppendTime")
	s.ask("append time", 9, producing(t, -1, batchOf(plainBatch(), "a", "b")))
	s.ask("append time fetched", 12, fetching(12, t, 0))
	t.name, t.id = s.topic("zipped", 1, "compression.type", "gzip")
	s.ask("recompressed", 9, producing(t, -1, batchOf(plainBatch(), "a", "b")))
	resp, _ := s.must(12, fetching(12, t, 0)).(*kmsg.FetchResponse)
	codec := -1
	if raw := resp.Topics[0].Partitions[0].RecordBatches; len(raw) > 22 {
		codec = int(raw[22] & 7)
	}
	s.note("codec on disk", -1, answered, answer{"codec": fmt.Sprint(codec)}, nil)
	t.name, t.id = s.topic("timely", 1, "message.timestamp.before.max.ms", "1000", "message.timestamp.after.max.ms", "1000")
	s.ask("too old", 9, producing(t, -1, batchOf(plainBatch(), "a", "b")))
	b = record.NewBuilder(plainBatch())
	b.Append(time.Now().Add(48*time.Hour).UnixMilli(), []byte("k"), []byte("v"))
	s.ask("too new", 9, producing(t, -1, b.Build()))
	b = record.NewBuilder(plainBatch())
	b.Append(-1, []byte("k"), []byte("v"))
	s.ask("no timestamp", 9, producing(t, -1, b.Build()))
	t.name, t.id = s.topic("default-times", 1)
	b = record.NewBuilder(plainBatch())
	b.Append(time.Now().Add(100*time.Hour).UnixMilli(), []byte("k"), []byte("v"))
	s.ask("four days ahead", 9, producing(t, -1, b.Build()))
	wrongMax := batchOf(plainBatch(), "a", "b")
	binary.BigEndian.PutUint64(wrongMax[35:], longAgo+999)
	s.ask("wrong max timestamp", 9, producing(t, -1, sealed(wrongMax)))
	s.ask("wrong max timestamp fetched", 12, fetching(12, t, 0))
	t.name, t.id = s.topic("two-copies", 1, "min.insync.replicas", "2")
	s.ask("not enough replicas", 9, producing(t, -1, batchOf(plainBatch(), "a")))
	s.ask("not enough replicas, acks 1", 9, producing(t, 1, batchOf(plainBatch(), "a")))
	t.name, t.id = s.topic("tiny-segments", 1, "segment.bytes", "1048576", "max.message.bytes", "4000000")
	s.ask("larger than a segment", 9, producing(t, -1, batchOf(plainBatch(), string(make([]byte, 1<<20)))))
}

// idempotent follows a producer's sequence.
func idempotent(s *script) {
	var t target
	t.name, t.id = s.topic("sequenced", 1)
	fresh := kmsg.NewPtrInitProducerIDRequest()
	fresh.ProducerID, fresh.ProducerEpoch = -1, -1
	init := s.until(4, fresh, func(r kmsg.Response) bool {
		got := r.(*kmsg.InitProducerIDResponse)
		return got.ErrorCode == 0 && got.ProducerID > 0 // the builder takes 0 for none
	}).(*kmsg.InitProducerIDResponse)
	send := func(label string, epoch int16, seq int32, values ...string) {
		o := record.BuilderOptions{ProducerID: init.ProducerID, ProducerEpoch: epoch, BaseSequence: seq}
		s.ask(label, 9, producing(t, -1, batchOf(o, values...)))
	}
	send("first", 0, 0, "a", "b")
	send("second", 0, 2, "c")
	send("first again", 0, 0, "a", "b")
	send("second again", 0, 2, "c")
	send("gap", 0, 9, "x")
	send("behind", 0, 1, "x")
	send("overlap", 0, 2, "c", "d")
	send("new epoch in the middle", 1, 5, "x")
	send("new epoch", 1, 0, "d")
	send("old epoch", 0, 3, "x")
	for i := range int32(6) {
		send(fmt.Sprintf("batch %d", i), 1, 1+i, "e")
	}
	send("duplicate of the sixth last", 1, 1, "e")
	send("duplicate of the fifth last", 1, 2, "e")
	o := record.BuilderOptions{ProducerID: init.ProducerID + 500, ProducerEpoch: 0, BaseSequence: 1<<31 - 2}
	s.ask("unknown producer starts late", 9, producing(t, -1, batchOf(o, "a", "b", "c")))
	o.BaseSequence = 1
	s.ask("sequence wraps", 9, producing(t, -1, batchOf(o, "d")))
	s.ask("records", 12, fetching(12, t, 0))
}

func producerIDs(s *script) {
	with := func(id int64, epoch int16) *kmsg.InitProducerIDRequest {
		req := kmsg.NewPtrInitProducerIDRequest()
		req.ProducerID, req.ProducerEpoch, req.TransactionTimeoutMillis = id, epoch, 60_000
		return req
	}
	s.each("fresh", 0, 5, func(int16) kmsg.Request { return with(-1, -1) })
	s.each("id and epoch", 3, 5, func(int16) kmsg.Request { return with(5, 3) })
	s.each("id alone", 3, 5, func(int16) kmsg.Request { return with(5, -1) })
	s.each("epoch alone", 3, 5, func(int16) kmsg.Request { return with(-1, 5) })
	s.each("empty transactional id", 0, 5, func(int16) kmsg.Request {
		req := with(-1, -1)
		req.TransactionalID = kmsg.StringPtr("")
		return req
	})
}
