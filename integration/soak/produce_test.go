package soak

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"
)

// producers are idempotent clients, each of a codec, that write to every topic.
type producers struct {
	clients []*kgo.Client
	pending sync.WaitGroup
}

func (s *soak) produce() *producers {
	ps := &producers{}
	pace := rate.NewLimiter(rate.Limit(*rateFlag), 4<<20)
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	for n, codec := range codecs {
		c := s.client(kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
			kgo.StopProducerOnDataLossDetected(), kgo.UnknownTopicRetries(-1), kgo.ProduceRequestTimeout(10*time.Second),
			kgo.ProducerLinger(time.Duration(n)*2*time.Millisecond), kgo.MaxBufferedRecords(3000))
		ps.clients = append(ps.clients, c)
		s.run(func() { s.write(ps, c, int32(n), pace) })
	}
	return ps
}

// close waits for what is under way. Every record is acked in the end: a client
// gives up none of its own accord.
func (ps *producers) close(s *soak) {
	for _, c := range ps.clients {
		if err := c.Flush(s.ctx); err != nil {
			s.fail("flush: %v", err)
		}
	}
	if s.ctx.Err() == nil {
		ps.pending.Wait()
	}
	for _, c := range ps.clients {
		c.Close()
	}
}

// lane is one producer's records of one partition.
type lane struct {
	topic     *topic
	partition int32
	producer  int32
	next      int64 // number of the next record
	// Of the acks, which come in order.
	mu     sync.Mutex
	offset int64 // of the last
}

func (s *soak) write(ps *producers, c *kgo.Client, producer int32, pace *rate.Limiter) {
	random := s.random(100 + uint64(producer))
	type place struct {
		tag       uint64
		partition int32
	}
	lanes := make(map[place]*lane)
	for s.ctx.Err() == nil {
		t := s.topics[random.IntN(len(s.topics))]
		p := random.Int32N(t.count())
		l := lanes[place{t.tag, p}]
		if l == nil {
			l = &lane{topic: t, partition: p, producer: producer, offset: -1}
			lanes[place{t.tag, p}] = l
		}
		for range 1 + random.IntN(60) {
			if !s.one(ps, c, l, random, pace) {
				return
			}
		}
	}
}

func (s *soak) one(ps *producers, c *kgo.Client, l *lane, random *rand.Rand, pace *rate.Limiter) bool {
	r, id := l.topic.make(random, l.partition, l.producer, l.next)
	if pace.WaitN(s.ctx, len(r.Key)+len(r.Value)+100) != nil {
		return false
	}
	l.next++
	ps.pending.Add(1)
	// A context that never ends: a record given up would be a gap of nobody's.
	c.Produce(context.Background(), r, func(r *kgo.Record, err error) {
		defer ps.pending.Done()
		if err != nil && strings.HasPrefix(err.Error(), "invalid record partitioning choice") {
			c.ForceMetadataRefresh() // a partition made just now
			return
		}
		if err != nil {
			s.fail("produce to %s-%d: %v", l.topic.name, l.partition, err)
			return
		}
		l.mu.Lock()
		before := l.offset
		l.offset = r.Offset
		l.mu.Unlock()
		if r.Offset <= before {
			s.fail("%s-%d: producer %d's record %d was acked at %d, the one before at %d", l.topic.name, l.partition, l.producer, id.seq, r.Offset, before)
		}
		s.count("records acked")
		if err := l.topic.part(l.partition).ack(id, r.Offset); err != nil {
			s.fail("%v", err)
		}
	})
	return true
}
