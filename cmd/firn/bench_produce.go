package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/time/rate"
)

type benchProduceOptions struct {
	benchLimits
	connections, recordBytes, keyBytes int
	batchBytes                         int32
	inFlight, buffered                 int
	linger                             time.Duration
	acks, compression                  string
	perSecond                          int
	compressible                       float64
	partitions                         int32
	replicas                           int16
	configs                            []string
}

func (a *app) benchProduce() *cobra.Command {
	var o benchProduceOptions
	cmd := &cobra.Command{
		Use: "produce TOPIC", Short: "Write generated records and time their acks", Args: cobra.ExactArgs(1),
		Example:           "  firn bench produce bench --partitions 12 --connections 64 -d 30s -o json\n  firn bench produce bench --rate 10000 --record-bytes 200",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runBenchProduce(cmd.Context(), args[0], o)
		},
	}
	f := cmd.Flags()
	o.register(cmd, 10*time.Second)
	f.IntVar(&o.connections, "connections", 1, "clients, each with a connection of its own")
	f.IntVar(&o.recordBytes, "record-bytes", 1024, "size of a value")
	f.IntVar(&o.keyBytes, "key-bytes", 0, "size of a key; 0 is no key")
	f.Int32Var(&o.batchBytes, "batch-bytes", 16<<10, "largest batch")
	f.IntVar(&o.inFlight, "in-flight", idempotentInFlight, "requests of a connection that wait for their acks; with acks=all other than 5 is not idempotent")
	f.IntVar(&o.buffered, "buffered", 10_000, "records of a connection that wait to be sent")
	f.DurationVar(&o.linger, "linger", 0, "how long a batch waits to fill")
	f.StringVar(&o.acks, "acks", "all", "all, 1 or 0")
	f.StringVarP(&o.compression, "compression", "z", "none", "none, gzip, snappy, lz4 or zstd")
	f.IntVar(&o.perSecond, "rate", 0, "records per second, all connections together; 0 is as fast as possible")
	f.Float64Var(&o.compressible, "compressible", 0, "share of each value that repeats, from 0 (random bytes) to 1")
	f.Int32VarP(&o.partitions, "partitions", "p", -1, "partitions, if the topic is made")
	f.Int16VarP(&o.replicas, "replication-factor", "r", -1, "replicas, if the topic is made")
	f.StringArrayVarP(&o.configs, "config", "c", nil, "a setting, if the topic is made, NAME=VALUE; repeatable")
	a.completeWords(cmd, "compression", "none", "gzip", "snappy", "lz4", "zstd")
	a.complete(cmd, "config", completeConfigs)
	return cmd
}

// idempotentInFlight is Kafka's limit for idempotent producers.
const idempotentInFlight = 5

func (o benchProduceOptions) check() error {
	switch {
	case o.connections < 1:
		return errors.New("--connections: at least 1")
	case o.recordBytes < 0 || o.keyBytes < 0:
		return errors.New("--record-bytes and --key-bytes: at least 0")
	case o.perSecond < 0:
		return errors.New("--rate: at least 0")
	case o.compressible < 0 || o.compressible > 1:
		return errors.New("--compressible: from 0 to 1")
	case o.inFlight < 1 || o.buffered < 1 || o.batchBytes < 512:
		return errors.New("--in-flight and --buffered: at least 1; --batch-bytes: at least 512")
	}
	return nil
}

func (o benchProduceOptions) clientOptions() ([]kgo.Opt, error) {
	codec, err := codecOf(o.compression)
	if err != nil {
		return nil, err
	}
	opts, err := acksOf(o.acks)
	if err != nil {
		return nil, err
	}
	// An idempotent producer has five requests in flight, no more and no less.
	if o.acks == "all" && o.inFlight != idempotentInFlight {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	if o.acks != "all" || o.inFlight != idempotentInFlight {
		opts = append(opts, kgo.MaxProduceRequestsInflightPerBroker(o.inFlight))
	}
	return append(opts, kgo.ProducerBatchCompression(codec), kgo.ProducerBatchMaxBytes(o.batchBytes), kgo.ProducerLinger(o.linger),
		kgo.MaxBufferedRecords(o.buffered), kgo.RecordRetries(produceRetries), kgo.RecordPartitioner(kgo.ManualPartitioner())), nil
}

// payload is a pool of bytes that values are cut from at changing places, so
// that making a record costs no copy and records differ.
type payload struct {
	bytes []byte
	size  int
}

func newPayload(size int, compressible float64, rng *rand.Rand) payload {
	p := payload{bytes: make([]byte, 1<<20+size), size: size}
	for i := range p.bytes {
		if period := i % 1024; float64(period) < compressible*1024 {
			p.bytes[i] = 'a' + byte(period%16)
		} else {
			p.bytes[i] = byte(rng.Uint32())
		}
	}
	return p
}

func (p payload) next(rng *rand.Rand) []byte {
	at := rng.IntN(len(p.bytes) - p.size)
	return p.bytes[at : at+p.size : at+p.size]
}

// generator is what the connections of a produce bench share.
type generator struct {
	o          benchProduceOptions
	topic      string
	partitions int32
	meter      *meter
	left       atomic.Int64 // records that may still be sent, when o.records > 0
	limiter    *rate.Limiter
	values     payload
	cancel     context.CancelFunc
}

func (a *app) runBenchProduce(ctx context.Context, topic string, o benchProduceOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	opts, err := o.clientOptions()
	if err != nil {
		return err
	}
	configs, err := parseConfigs(o.configs)
	if err != nil {
		return err
	}
	partitions, err := a.ensureTopic(ctx, topic, o.partitions, o.replicas, configs)
	if err != nil {
		return err
	}
	g := &generator{o: o, topic: topic, partitions: int32(partitions), meter: &meter{}, limiter: rate.NewLimiter(rate.Inf, 0)}
	g.left.Store(o.records)
	g.values = newPayload(o.recordBytes, o.compressible, rand.New(rand.NewPCG(1, 2)))
	if o.perSecond > 0 {
		g.limiter = rate.NewLimiter(rate.Limit(o.perSecond), max(1, o.perSecond/100))
	}
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	if o.duration > 0 {
		runCtx, cancel = context.WithTimeout(runCtx, o.duration)
		defer cancel()
	}
	g.cancel = cancel
	watchCtx, stopWatching := context.WithCancel(ctx)
	wait := g.meter.watch(watchCtx, a.newProgress("produce", o.records, func(n int64) string { return fmt.Sprintf("%d records", n) }),
		func(m *meter) int64 { return m.records.Load() })
	err = a.connections(ctx, o.connections, g.meter, cancel, func(int) []kgo.Opt { return opts }, func(i int, client *kgo.Client) error {
		g.send(runCtx, i, client)
		return a.flush(ctx, client)
	})
	took := time.Since(g.meter.began)
	stopWatching()
	wait()
	if err != nil {
		return err
	}
	return a.printBench(g.meter.result(benchResult{Kind: "produce", Topic: topic, Connections: o.connections, Partitions: partitions, Settings: map[string]any{
		"record_bytes": o.recordBytes, "key_bytes": o.keyBytes, "batch_bytes": o.batchBytes, "in_flight": o.inFlight, "linger_ms": o.linger.Milliseconds(),
		"acks": o.acks, "compression": o.compression, "rate": o.perSecond, "compressible": o.compressible,
	}}, took))
}

// timedRecord is a record with the time it was handed over. They are made once
// per connection and come back through free.
type timedRecord struct {
	record  kgo.Record
	began   time.Time
	promise func(*kgo.Record, error)
}

// send writes until ctx ends or the records are used up. What it handed to the
// client is still sent then.
func (g *generator) send(ctx context.Context, connection int, client *kgo.Client) {
	rng := rand.New(rand.NewPCG(uint64(connection), 7))
	free := make(chan *timedRecord, g.o.buffered)
	for range g.o.buffered {
		r := &timedRecord{}
		r.promise = func(_ *kgo.Record, err error) {
			if err != nil {
				g.meter.fail(refused("topic "+g.topic, err, ""))
				g.cancel()
			} else {
				g.meter.histogram.record(time.Since(r.began))
				g.meter.count(1, int64(len(r.record.Key)+len(r.record.Value)))
			}
			free <- r
		}
		free <- r
	}
	partition := int32(connection) % g.partitions
	perBatch := max(1, int(g.o.batchBytes)/(g.o.recordBytes+g.o.keyBytes+16))
	for n := 0; g.take(ctx); n++ {
		var r *timedRecord
		select {
		case r = <-free:
		case <-ctx.Done():
			return
		}
		// A batch's worth to each partition in turn, so that batches fill.
		if n%perBatch == 0 && n > 0 {
			partition = (partition + 1) % g.partitions
		}
		r.record = kgo.Record{Topic: g.topic, Partition: partition, Value: g.values.next(rng)}
		if g.o.keyBytes > 0 {
			r.record.Key = g.values.bytes[rng.IntN(1<<20):][:g.o.keyBytes]
		}
		r.began = time.Now()
		client.Produce(context.WithoutCancel(ctx), &r.record, r.promise)
	}
}

// take waits for leave to send one record; false when there is to be no more.
func (g *generator) take(ctx context.Context) bool {
	if ctx.Err() != nil || (g.o.records > 0 && g.left.Add(-1) < 0) {
		return false
	}
	return g.limiter.Wait(ctx) == nil
}
