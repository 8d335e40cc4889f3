package harness

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"
)

// LoadOptions shape a Load.
type LoadOptions struct {
	Partitions  int32
	RecordBytes int // at least 16
	// Limit is how many records each partition gets; 0 is until Stop.
	Limit int64
	// Window is how many records of a partition wait for their acks; default 200.
	Window int
	// Rate is how many records a second each partition gets at the most; 0 is as
	// fast as they are acked.
	Rate float64
	// Client are options of the producer over the defaults.
	Client []kgo.Opt
}

// Load writes numbered records into all partitions of a topic that was empty, as
// idempotent producer with acks=all, through whatever happens to the broker.
//
// The record with number n of a partition is the n-th that was handed to the
// client, and its bytes follow from the two numbers. So there is one right
// content of the topic: the record at offset n is number n, without gap, for
// every acked record. Lost, doubled, reordered and damaged records all show as
// another record at some offset.
type Load struct {
	Topic string
	opts  LoadOptions

	t     testing.TB
	stop  chan struct{}
	once  sync.Once
	done  sync.WaitGroup
	acked []atomic.Int64 // by partition: records, all before it too
	total atomic.Int64
	moved chan struct{} // holds a token after an ack
	base  time.Time

	mu  sync.Mutex
	err error
}

// StartLoad begins to write.
func StartLoad(t testing.TB, b *Broker, topic string, o LoadOptions) *Load {
	t.Helper()
	if o.Window == 0 {
		o.Window = 200
	}
	l := &Load{Topic: topic, opts: o, t: t, stop: make(chan struct{}), acked: make([]atomic.Int64, o.Partitions),
		moved: make(chan struct{}, 1), base: time.Now().Add(-time.Hour).Truncate(time.Millisecond)}
	c := b.Client(t, append([]kgo.Opt{
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.StopProducerOnDataLossDetected(), kgo.UnknownTopicRetries(-1),
		kgo.ProduceRequestTimeout(10 * time.Second), kgo.ProducerLinger(2 * time.Millisecond),
	}, o.Client...)...)
	for p := range o.Partitions {
		l.done.Go(func() { l.write(c, p) })
	}
	t.Cleanup(func() { l.once.Do(func() { close(l.stop) }) })
	return l
}

// write keeps a window of records of one partition under way.
func (l *Load) write(c *kgo.Client, partition int32) {
	window := make(chan struct{}, l.opts.Window)
	var pending sync.WaitGroup
	defer pending.Wait()
	limit := rate.Inf
	if l.opts.Rate > 0 {
		limit = rate.Limit(l.opts.Rate)
	}
	pace := rate.NewLimiter(limit, 100)
	for n := int64(0); l.opts.Limit == 0 || n < l.opts.Limit; n++ {
		select {
		case window <- struct{}{}:
		case <-l.stop:
			return
		}
		if err := pace.Wait(context.Background()); err != nil {
			l.fail(fmt.Errorf("pace: %w", err))
			return
		}
		pending.Add(1)
		// A context that never ends: a record that was given up would leave a gap
		// that is nobody's fault.
		c.Produce(context.Background(), l.record(partition, n), func(r *kgo.Record, err error) {
			defer pending.Done()
			<-window
			l.ack(r, n, err)
		})
	}
}

// ack notes the outcome of a record. The client calls back in order.
func (l *Load) ack(r *kgo.Record, n int64, err error) {
	if err == nil && r.Offset != n {
		err = fmt.Errorf("record %d was acked at offset %d", n, r.Offset)
	}
	if err != nil {
		l.fail(fmt.Errorf("produce to %s-%d: %w", l.Topic, r.Partition, err))
		return
	}
	l.acked[r.Partition].Store(n + 1)
	l.total.Add(1)
	select {
	case l.moved <- struct{}{}:
	default:
	}
}

// fail ends the load; the first reason stays.
func (l *Load) fail(err error) {
	l.mu.Lock()
	if l.err == nil {
		l.err = err
	}
	l.mu.Unlock()
	l.once.Do(func() { close(l.stop) })
}

// record makes a partition's record with number n. Its timestamp is Time(n).
func (l *Load) record(partition int32, n int64) *kgo.Record {
	value := make([]byte, l.opts.RecordBytes)
	fill(value, partition, n)
	return &kgo.Record{Topic: l.Topic, Partition: partition, Value: value, Timestamp: l.Time(n)}
}

// Time is the timestamp of the records with number n: a millisecond apart.
func (l *Load) Time(n int64) time.Time { return l.base.Add(time.Duration(n) * time.Millisecond) }

// fill makes bytes that follow from the two numbers and do not compress.
func fill(value []byte, partition int32, n int64) {
	binary.BigEndian.PutUint64(value, uint64(partition))
	binary.BigEndian.PutUint64(value[8:], uint64(n))
	random := rand.NewPCG(uint64(partition), uint64(n))
	rest := value[16:]
	for ; len(rest) >= 8; rest = rest[8:] {
		binary.LittleEndian.PutUint64(rest, random.Uint64())
	}
	for i := range rest {
		rest[i] = byte(n)
	}
}

// Acked is how many records were acked so far, of all partitions.
func (l *Load) Acked() int64 { return l.total.Load() }

// Err is why the client gave up, nil while it has not.
func (l *Load) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Await waits until more records were acked.
func (l *Load) Await(more int64, limit time.Duration) {
	l.t.Helper()
	want := l.Acked() + more
	end := time.After(limit)
	for l.Acked() < want {
		select {
		case <-l.moved:
		case <-l.stop:
			l.t.Fatalf("the load stopped: %v", l.Err())
		case <-end:
			l.t.Fatalf("%d of %d further records were acked within %v", l.Acked()-want+more, more, limit)
		}
	}
}

// finishLimit bounds the wait for the last acks.
const finishLimit = 3 * time.Minute

// Finish waits until every partition has its Limit.
func (l *Load) Finish() {
	l.t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); l.done.Wait() }()
	select {
	case <-done:
	case <-time.After(finishLimit):
		l.t.Fatalf("records of %s were not acked within %v: %v are", l.Topic, finishLimit, l.Ends())
	}
	if err := l.Err(); err != nil {
		l.t.Fatal(err)
	}
}

// Stop hands out no more records and waits until all are acked.
func (l *Load) Stop() {
	l.t.Helper()
	l.once.Do(func() { close(l.stop) })
	l.Finish()
}

// Ends are the acked ends by partition.
func (l *Load) Ends() map[int32]int64 {
	ends := make(map[int32]int64, len(l.acked))
	for p := range l.acked {
		ends[int32(p)] = l.acked[p].Load()
	}
	return ends
}

// CheckOptions say how Check reads.
type CheckOptions struct {
	From   int64 // offset to begin at, in each partition; below every end
	Client []kgo.Opt
	Limit  time.Duration // default two minutes
}

// Check reads each partition up to what is acked by now, and holds every byte
// and every offset against what was written.
func (l *Load) Check(b *Broker, o CheckOptions) {
	l.t.Helper()
	if o.Limit == 0 {
		o.Limit = 2 * time.Minute
	}
	ends, next := l.Ends(), make(map[int32]int64)
	at := make(map[int32]kgo.Offset)
	missing := 0
	for p, end := range ends {
		if end > o.From {
			next[p], at[p] = o.From, kgo.NewOffset().At(o.From)
			missing++
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), o.Limit)
	defer cancel()
	c := b.Client(l.t, append([]kgo.Opt{kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.Topic: at}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset())}, o.Client...)...)
	defer c.Close()
	want := make([]byte, l.opts.RecordBytes)
	for missing > 0 {
		fetches := c.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			l.t.Fatalf("read %s, at %v of %v: %v", l.Topic, next, ends, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				l.t.Fatalf("%s-%d: offset %d came where %d was due", l.Topic, r.Partition, r.Offset, next[r.Partition])
			}
			fill(want, r.Partition, r.Offset)
			if !bytes.Equal(want, r.Value) || !r.Timestamp.Equal(l.Time(r.Offset)) {
				l.t.Fatalf("%s-%d: the record at offset %d is not the one written: %s", l.Topic, r.Partition, r.Offset, describe(r.Value))
			}
			if next[r.Partition]++; next[r.Partition] == ends[r.Partition] {
				missing--
			}
		})
	}
}

// describe tells which record a value is, for a message.
func describe(value []byte) string {
	if len(value) < 16 {
		return fmt.Sprintf("%d bytes", len(value))
	}
	return fmt.Sprintf("it is number %d of partition %d, or damaged", binary.BigEndian.Uint64(value[8:]), binary.BigEndian.Uint64(value))
}
