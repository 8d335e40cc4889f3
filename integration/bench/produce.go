package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/integration/probe/load"
)

// pageCache is the durability of Kafka's default: acknowledged once written. What
// the dev profile would tier stays on disk.
var pageCache = map[string]string{"durability": "replicated", "segment.bytes": "1073741824", "remote.storage.enable": "false"}

// cpuPerGB is what a process took for so many bytes.
func cpuPerGB(cpu time.Duration, bytes int64) float64 { return cpu.Seconds() / (float64(bytes) / 1e9) }

// warmed runs a tenth of the load before the load.
func warmed(ctx context.Context, o load.ProduceOptions) (load.ProduceResult, error) {
	warm := o
	warm.Bytes, warm.Duration = o.Bytes/10, o.Duration/10
	if _, err := load.Produce(ctx, warm); err != nil {
		return load.ProduceResult{}, err
	}
	return load.Produce(ctx, o)
}

// produceFirn loads a fresh broker and ends it.
func (e *Env) produceFirn(ctx context.Context, o load.ProduceOptions, configs map[string]string) (res load.ProduceResult, err error) {
	const data = "produce-data"
	f, err := e.startFirn(ctx, firnOptions{data: data})
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, f.kill(), e.remove(data)) }()
	o.Addr, o.Pid, o.Topic = f.addr, f.pid(), "bench"
	if err := f.createTopic(ctx, o.Topic, o.Partitions, configs); err != nil {
		return res, err
	}
	return warmed(ctx, o)
}

// produceRaw loads a fresh bare server and ends it.
func (e *Env) produceRaw(ctx context.Context, o load.ProduceOptions, flags ...string) (res load.ProduceResult, err error) {
	const data = "raw-data"
	s, err := e.startRaw(ctx, "serve-produce", append(flags, "--dir", e.path(data))...)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, s.kill(), e.remove(data)) }()
	o.Addr, o.Pid, o.Topic = s.addr, s.pid(), "bench"
	return warmed(ctx, o)
}

// produceCPU is the first row.
func produceCPU(ctx context.Context, e *Env) ([]Figure, error) {
	o := load.ProduceOptions{Partitions: 12, Acks: -1, Bytes: e.bytes(1e9)}
	if err := e.room(2 * o.Bytes); err != nil {
		return nil, err
	}
	cpu := Figure{What: "server CPU for 1 GB taken in, 12 partitions, page cache", Unit: "s", RawWhat: "bare server",
		Target: &Target{OfRatio: true, Bound: 1.2}}
	speed := Figure{What: "throughput of the same runs", Unit: "MB/s", RawWhat: "bare server"}
	err := e.pairs(ctx, &cpu, func(ctx context.Context) (float64, error) {
		res, err := e.produceFirn(ctx, o, pageCache)
		speed.Values = append(speed.Values, mbPerSecond(res.Bytes, res.Usage.Wall))
		return cpuPerGB(res.Usage.Target, res.Bytes), err
	}, func(ctx context.Context) (float64, error) {
		res, err := e.produceRaw(ctx, o)
		speed.Raw = append(speed.Raw, mbPerSecond(res.Bytes, res.Usage.Wall))
		return cpuPerGB(res.Usage.Target, res.Bytes), err
	})
	return []Figure{cpu, speed}, err
}

func mbPerSecond(bytes int64, wall time.Duration) float64 {
	return float64(bytes) / 1e6 / wall.Seconds()
}

// fsyncThroughput is the second row.
func fsyncThroughput(ctx context.Context, e *Env) (figures []Figure, err error) {
	o := load.ProduceOptions{Partitions: 12, Acks: -1, Connections: 64, Duration: e.duration(4 * time.Second)}
	const fastest = 1e9 // bytes a second, more than any run here reached
	if err := e.room(int64(2 * fastest * o.Duration.Seconds())); err != nil {
		return nil, err
	}
	measured := func(run func(context.Context) (load.ProduceResult, error), latency *[]float64) sample {
		return func(ctx context.Context) (float64, error) {
			res, err := run(ctx)
			if err == nil && latency != nil {
				*latency = append(*latency, res.Latency.P99)
			}
			return mbPerSecond(res.Bytes, res.Usage.Wall), err
		}
	}
	p99 := Figure{What: "p99 of an ack in the same runs", Unit: "ms", RawWhat: "page cache"}
	firn := Figure{What: "throughput with fsync on every ack, 64 connections, 12 partitions", Unit: "MB/s", RawWhat: "page cache",
		Target: &Target{OfRatio: true, Least: true, Bound: 0.35}}
	err = e.pairs(ctx, &firn, measured(func(ctx context.Context) (load.ProduceResult, error) {
		return e.produceFirn(ctx, o, map[string]string{"durability": "fsync", "remote.storage.enable": "false"})
	}, &p99.Values), measured(func(ctx context.Context) (load.ProduceResult, error) {
		return e.produceFirn(ctx, o, pageCache)
	}, &p99.Raw))
	if err != nil {
		return nil, err
	}
	bare := Figure{What: "the bare server with fdatasync for each batch", Unit: "MB/s", RawWhat: "bare server, page cache"}
	err = e.pairs(ctx, &bare, measured(func(ctx context.Context) (load.ProduceResult, error) {
		return e.produceRaw(ctx, o, "--sync")
	}, nil), measured(func(ctx context.Context) (load.ProduceResult, error) {
		return e.produceRaw(ctx, o)
	}, nil))
	return []Figure{firn, p99, bare}, err
}

// duration scales a time, of which too little says nothing.
func (e *Env) duration(full time.Duration) time.Duration {
	return max(time.Second, time.Duration(float64(full)*e.Scale))
}

// fill writes bytes to a topic as fast as it goes.
func (f *firn) fill(ctx context.Context, topic string, partitions int32, bytes int64) error {
	_, err := load.Produce(ctx, load.ProduceOptions{Addr: f.addr, Topic: topic, Partitions: partitions, Acks: -1, Bytes: bytes})
	if err != nil {
		return fmt.Errorf("bench: fill %s: %w", topic, err)
	}
	return nil
}
