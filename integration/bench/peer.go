package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/integration/probe/load"
)

// kafkaBroker is an Apache Kafka of one node (KRaft), with the settings that it
// comes with and the flags of its own start script.
type kafkaBroker struct {
	*process
	addr string
}

var errNoKafka = fmt.Errorf("%w: Apache Kafka does not start; `make test-clients` fetches it", errCannot)

// startKafka runs Apache Kafka by the script that `make test-clients` uses too,
// and waits until it answers.
func (e *Env) startKafka(ctx context.Context) (*kafkaBroker, error) {
	var ports [2]string
	var addr string
	for i := range ports {
		a, err := freeAddr()
		if err != nil {
			return nil, err
		}
		if _, ports[i], err = net.SplitHostPort(a); err != nil {
			return nil, err
		}
		if i == 0 {
			addr = a
		}
	}
	p, err := start("Apache Kafka", nil, e.Kafka, ports[0], e.path("kafka-data"), ports[1])
	if err != nil {
		return nil, err
	}
	k := &kafkaBroker{process: p, addr: addr}
	err = p.await(ctx, pollEvery, func(ctx context.Context) error { return load.Ping(ctx, addr) })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoKafka, errors.Join(err, p.kill()))
	}
	return k, nil
}

// rival is one of two brokers that are given the same work.
type rival struct {
	*process
	addr   string
	admin  *kadm.Client
	paged  map[string]string // configs of a topic that is acknowledged once written
	synced map[string]string // of one that is acknowledged once on disk
	topics int               // created so far
}

// topic creates one for a run.
func (r *rival) topic(ctx context.Context, configs map[string]string) (string, error) {
	r.topics++
	name := fmt.Sprintf("bench-%d", r.topics)
	if err := load.CreateTopic(ctx, r.addr, name, 12, configs); err != nil {
		return "", err
	}
	// Kafka answers before its broker has heard that it leads.
	return name, r.await(ctx, pollEvery, func(ctx context.Context) error {
		ends, err := r.admin.ListEndOffsets(ctx, name)
		return errors.Join(err, ends.Error())
	})
}

// produce loads a new topic.
func (r *rival) produce(ctx context.Context, configs map[string]string, o load.ProduceOptions) (string, load.ProduceResult, error) {
	topic, err := r.topic(ctx, configs)
	if err != nil {
		return "", load.ProduceResult{}, err
	}
	o.Addr, o.Pid, o.Topic, o.Partitions, o.Acks = r.addr, r.pid(), topic, 12, -1
	res, err := load.Produce(ctx, o)
	return topic, res, err
}

// fetch reads a topic whole.
func (r *rival) fetch(ctx context.Context, topic string) (load.FetchResult, error) {
	return load.Fetch(ctx, load.FetchOptions{Addr: r.addr, Pid: r.pid(), Topic: topic, Partitions: 12, From: -1, MaxBytes: 50 << 20})
}

// peerWarmUp is what each broker takes in before it is measured: a just-in-time
// compiler needs that, whatever the scale.
const peerWarmUp = 2e9

// peer is the row beside Apache Kafka: one broker each, the same load on the same
// machine, in turns.
func peer(ctx context.Context, e *Env) (figures []Figure, err error) {
	size := e.bytes(1e9)
	const warm int64 = peerWarmUp
	span := e.duration(4 * time.Second)
	if err := e.room(2 * (warm + int64(e.Runs)*(size+int64(span.Seconds()*1e9)))); err != nil {
		return nil, err
	}
	f, err := e.startFirn(ctx, firnOptions{data: "firn-data"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.kill()) }()
	k, err := e.startKafka(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.kill()) }()
	segment := map[string]string{"segment.bytes": "1073741824"}
	firnClient, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer firnClient.Close()
	kafkaClient, err := kgo.NewClient(kgo.SeedBrokers(k.addr))
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer kafkaClient.Close()
	firn := &rival{process: f.process, addr: f.addr, admin: kadm.NewClient(firnClient), paged: pageCache,
		synced: map[string]string{"durability": "fsync", "remote.storage.enable": "false"}}
	kafka := &rival{process: k.process, addr: k.addr, admin: kadm.NewClient(kafkaClient), paged: segment, synced: map[string]string{"flush.messages": "1"}}

	const who = "Apache Kafka"
	in := Figure{What: "server CPU for 1 GB taken in, 12 partitions, page cache", Unit: "s", RawWhat: who}
	inSpeed := Figure{What: "throughput of the same runs", Unit: "MB/s", RawWhat: who}
	inP99 := Figure{What: "p99 of an ack in the same runs", Unit: "ms", RawWhat: who}
	out := Figure{What: "server CPU for 1 GB served hot", Unit: "s", RawWhat: who}
	outSpeed := Figure{What: "throughput of the same runs", Unit: "MB/s", RawWhat: who}
	sync := Figure{What: "throughput with fsync on every ack, 64 connections", Unit: "MB/s", RawWhat: who,
		Note: "Kafka with flush.messages=1, which is off by default"}
	resident := Figure{What: "resident memory after all that", Unit: "MB", RawWhat: who, Note: "Kafka's heap is 1 GB, as its start script has it"}

	taken := func(r *rival, speed, p99 *[]float64, topic *string) sample {
		return func(ctx context.Context) (float64, error) {
			name, res, err := r.produce(ctx, r.paged, load.ProduceOptions{Bytes: size})
			*topic = name
			*speed, *p99 = append(*speed, mbPerSecond(res.Bytes, res.Usage.Wall)), append(*p99, res.Latency.P99)
			return cpuPerGB(res.Usage.Target, res.Bytes), err
		}
	}
	served := func(r *rival, speed *[]float64, topic *string) sample {
		return func(ctx context.Context) (float64, error) {
			res, err := r.fetch(ctx, *topic)
			*speed = append(*speed, mbPerSecond(res.Bytes, res.Usage.Wall))
			return cpuPerGB(res.Usage.Target, res.Bytes), err
		}
	}
	durable := func(r *rival) sample {
		return func(ctx context.Context) (float64, error) {
			_, res, err := r.produce(ctx, r.synced, load.ProduceOptions{Connections: 64, Duration: span})
			return mbPerSecond(res.Bytes, res.Usage.Wall), err
		}
	}
	for _, r := range []*rival{firn, kafka} {
		topic, _, err := r.produce(ctx, r.paged, load.ProduceOptions{Bytes: warm})
		if err == nil {
			_, err = r.fetch(ctx, topic)
		}
		if err != nil {
			return nil, err
		}
	}
	var firnTopic, kafkaTopic string
	if err := e.pairs(ctx, &in, taken(firn, &inSpeed.Values, &inP99.Values, &firnTopic), taken(kafka, &inSpeed.Raw, &inP99.Raw, &kafkaTopic)); err != nil {
		return nil, err
	}
	if err := e.pairs(ctx, &out, served(firn, &outSpeed.Values, &firnTopic), served(kafka, &outSpeed.Raw, &kafkaTopic)); err != nil {
		return nil, err
	}
	if err := e.pairs(ctx, &sync, durable(firn), durable(kafka)); err != nil {
		return nil, err
	}
	for _, m := range []struct {
		pid  int
		into *[]float64
	}{{f.pid(), &resident.Values}, {k.pid(), &resident.Raw}} {
		all, _, err := memory(m.pid)
		if err != nil {
			return nil, err
		}
		*m.into = append(*m.into, float64(all)/1e6)
	}
	return []Figure{in, inSpeed, inP99, out, outSpeed, sync, resident}, nil
}
