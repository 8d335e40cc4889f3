package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/integration/probe/load"
)

// partitionsEach is how many partitions each broker leads in rows of throughput.
const partitionsEach = 4

// replicated is the row of produce at factor 3.
func replicated(ctx context.Context, e *Env) (figures []Figure, err error) {
	size := e.bytes(1e9)
	if err := e.room(int64(e.Runs) * 5 * size); err != nil {
		return nil, err
	}
	speed := Figure{What: "produce at factor 3, three brokers, 12 partitions, acks=all, page cache", Unit: "MB/s", RawWhat: "factor 1",
		Target: &Target{OfRatio: true, Least: true, Bound: 0.3}}
	c, err := e.startCluster(ctx, false)
	defer func() { err = errors.Join(err, c.end()) }()
	if err != nil {
		return nil, err
	}
	n := 0
	sampleOf := func(factor int) sample {
		return func(ctx context.Context) (float64, error) {
			n++
			return c.produce(ctx, fmt.Sprintf("factor-%d-%d", factor, n), factor, size)
		}
	}
	err = e.pairs(ctx, &speed, sampleOf(clusterSize), sampleOf(1))
	return []Figure{speed}, err
}

// produce loads all brokers at once, each with what it leads: a topic for each,
// since the generator speaks to one broker.
func (c *cluster) produce(ctx context.Context, prefix string, factor int, bytes int64) (mbps float64, err error) {
	var topics []string
	for i := range c.Brokers {
		name := fmt.Sprintf("%s-%d", prefix, i+1)
		if err := c.createTopic(ctx, name, ledBy(i, factor), pageCache); err != nil {
			return 0, err
		}
		topics = append(topics, name)
		defer func() { err = errors.Join(err, c.deleteTopic(context.WithoutCancel(ctx), name)) }()
	}
	if err := c.whole(ctx); err != nil {
		return 0, err
	}
	if _, _, err := loadAll(ctx, c.Seeds(), topics, bytes/10); err != nil { // warms up
		return 0, err
	}
	taken, wall, err := loadAll(ctx, c.Seeds(), topics, bytes)
	return mbPerSecond(taken, wall), err
}

// ledBy are the replicas of partitionsEach partitions that the i-th broker leads.
func ledBy(i, factor int) [][]int32 {
	replicas := make([][]int32, partitionsEach)
	for p := range replicas {
		for k := range factor {
			replicas[p] = append(replicas[p], int32(1+(i+k*(1+p%2))%clusterSize))
		}
	}
	return replicas
}

// loadAll loads the brokers at once, each with the topic that it leads, and returns
// how many bytes of batches they took in.
func loadAll(ctx context.Context, addrs, topics []string, bytes int64) (taken int64, wall time.Duration, err error) {
	var total atomic.Int64
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i, addr := range addrs {
		g.Go(func() error {
			res, err := load.Produce(ctx, load.ProduceOptions{Addr: addr, Topic: topics[i], Partitions: partitionsEach, Acks: -1,
				Connections: partitionsEach, Bytes: bytes / clusterSize})
			total.Add(res.Bytes)
			return err
		})
	}
	err = g.Wait()
	return total.Load(), time.Since(began), err
}

func (c *cluster) deleteTopic(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.TimeoutMillis = int32(startLimit.Milliseconds())
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = &name
	req.Topics, req.TopicNames = append(req.Topics, topic), []string{name}
	resp, err := req.RequestWith(ctx, c.client)
	if err == nil {
		err = codeError(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		return fmt.Errorf("bench: delete topic %s: %w", name, err)
	}
	return nil
}

// rolling is the row of a rolling restart.
func rolling(ctx context.Context, e *Env) (figures []Figure, err error) {
	p99 := Figure{What: "p99 of produce during a rolling restart, clients not told", Unit: "ms", Target: &Target{Bound: 1000}}
	worst := Figure{What: "the slowest produce of the same runs", Unit: "ms"}
	failed := Figure{What: "records that were given up in the same runs", Unit: "records", Target: &Target{Bound: 0}}
	c, err := e.startCluster(ctx, false)
	defer func() { err = errors.Join(err, c.end()) }()
	if err != nil {
		return nil, err
	}
	if err := c.createTopic(ctx, failTopic, spread(failPartitions), map[string]string{"remote.storage.enable": "false"}); err != nil {
		return nil, err
	}
	for range e.Runs {
		l, err := startPaced(failTopic, kgo.SeedBrokers(c.Seeds()...))
		if err != nil {
			return nil, err
		}
		err = c.restartAll(ctx)
		latencies, errs := l.stop()
		if err != nil {
			return nil, err
		}
		slices.Sort(latencies)
		p99.Values = append(p99.Values, ms(latencies[int(math.Ceil(0.99*float64(len(latencies))))-1]))
		worst.Values = append(worst.Values, ms(latencies[len(latencies)-1]))
		failed.Values = append(failed.Values, float64(len(errs)))
		e.logf("  rolling restart: %d records, p99 %.1f ms, slowest %.1f ms, failed %v", len(latencies), last(p99.Values), last(worst.Values), errors.Join(errs...))
	}
	p99.Note = fmt.Sprintf("%d records a second over %d partitions, franz-go with its default retries", pacedRate, failPartitions)
	return []Figure{p99, worst, failed}, nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// restartAll stops each broker in order and starts it, and goes on once the
// cluster is whole.
func (c *cluster) restartAll(ctx context.Context) error {
	for _, b := range c.Brokers {
		if err := b.Stop(); err != nil {
			return err
		}
		if err := b.Start(ctx); err != nil {
			return err
		}
		if err := c.whole(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pacedRate is how many records a second the rolling restart sees.
const pacedRate = 500

// paced is a producer at a fixed pace, whatever the answers: a record that waits
// does not hold back the next, so no pause hides.
type paced struct {
	client *kgo.Client
	end    chan struct{}
	done   chan struct{}

	mu        sync.Mutex
	latencies []time.Duration
	errs      []error
	sent      int
	waiting   map[int]bool // records by number that were sent and not answered
}

// startPaced begins to write to a topic, round about, with a client of the usual
// options and those given.
func startPaced(topic string, opts ...kgo.Opt) (*paced, error) {
	client, err := kgo.NewClient(append(opts, kgo.RecordPartitioner(kgo.RoundRobinPartitioner()), kgo.DefaultProduceTopic(topic),
		kgo.ProducerLinger(0))...)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	l := &paced{client: client, end: make(chan struct{}), done: make(chan struct{}), waiting: make(map[int]bool)}
	go l.write()
	return l, nil
}

func (l *paced) write() {
	defer close(l.done)
	tick := time.NewTicker(time.Second / pacedRate)
	defer tick.Stop()
	value := make([]byte, 1000)
	for {
		select {
		case <-tick.C:
		case <-l.end:
			return
		}
		begin := time.Now()
		l.mu.Lock()
		n := l.sent
		l.sent++
		l.waiting[n] = true
		l.mu.Unlock()
		l.client.Produce(context.Background(), &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			delete(l.waiting, n)
			l.latencies = append(l.latencies, time.Since(begin))
			if err != nil {
				l.errs = append(l.errs, err)
			}
		})
	}
}

// acked waits until a second's records, from now on, are answered, and all before
// them.
func (l *paced) acked(ctx context.Context) error {
	l.mu.Lock()
	upTo := l.sent + pacedRate
	l.mu.Unlock()
	_, err := until(ctx, time.Now(), pollEvery, func(context.Context) (bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.sent < upTo {
			return false, nil
		}
		for n := range l.waiting {
			if n < upTo {
				return false, nil
			}
		}
		return true, nil
	})
	return err
}

// stop waits for the last answers.
func (l *paced) stop() ([]time.Duration, []error) {
	close(l.end)
	<-l.done
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	err := l.client.Flush(ctx)
	l.client.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errs = append(l.errs, err)
	}
	return l.latencies, l.errs
}
