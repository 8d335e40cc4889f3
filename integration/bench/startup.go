package bench

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/firnlog/firn/integration/probe/load"
)

// startPoll is how often a starting server is asked.
const startPoll = time.Millisecond

// startEmpty is the sixth row. Beside it stands the bare server: what it costs
// to start a program and be answered.
func startEmpty(ctx context.Context, e *Env) ([]Figure, error) {
	answer := Figure{What: "first answered request after an empty start", Unit: "s", RawWhat: "bare server listens", Target: &Target{Bound: 0.3}}
	acked := Figure{What: "first acked Produce", Unit: "s", Target: &Target{Bound: 0.5},
		Note: "creating its topic of one partition included; durability=fsync, the default"}
	err := e.pairs(ctx, &answer, func(ctx context.Context) (v float64, err error) {
		f, err := e.prepareFirn(firnOptions{data: "data"})
		if err != nil {
			return 0, err
		}
		began := time.Now()
		if err := f.launch(); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, f.kill(), e.remove("data")) }()
		err = f.await(ctx, startPoll, func(ctx context.Context) error { return load.Ping(ctx, f.addr) })
		if err != nil {
			return 0, err
		}
		v = time.Since(began).Seconds()
		err = f.await(ctx, startPoll, func(ctx context.Context) error {
			if err := f.createTopic(ctx, "first", 1, nil); err != nil {
				return err
			}
			return f.produceOne(ctx, "first")
		})
		acked.Values = append(acked.Values, time.Since(began).Seconds())
		return v, err
	}, func(ctx context.Context) (v float64, err error) {
		began := time.Now()
		s, err := e.startRaw(ctx, "serve-produce", "--dir", e.path("raw-data"))
		if err != nil {
			return 0, err
		}
		return time.Since(began).Seconds(), s.kill()
	})
	return []Figure{answer, acked}, err
}

// produceOne sends one small batch to partition 0.
func (f *firn) produceOne(ctx context.Context, topic string) error {
	_, err := load.Produce(ctx, load.ProduceOptions{Addr: f.addr, Topic: topic, Partitions: 1, Acks: -1, Connections: 1, Depth: 1,
		RecordBytes: 100, BatchBytes: 100, Bytes: 1})
	return err
}

// restart is the seventh row. Before each kill some data is written that no
// flush has seen, as a broker under load has.
func restart(ctx context.Context, e *Env) (figures []Figure, err error) {
	const topic, partitions = "big", 12
	size := e.bytes(20e9)
	free, err := freeDisk(e.Dir)
	if err != nil {
		return nil, err
	}
	note := ""
	if most := free / 2; size > most {
		note = fmt.Sprintf("the disk has room for %d GB of log only; ", most/1e9)
		size = most
	}
	if err := e.room(size + size/4); err != nil {
		return nil, err
	}
	f, err := e.startFirn(ctx, firnOptions{data: "data"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.kill()) }()
	if err := f.createTopic(ctx, topic, partitions, pageCache); err != nil {
		return nil, err
	}
	e.logf("  writing %.1f GB of log", float64(size)/1e9)
	if err := f.fill(ctx, topic, partitions, size); err != nil {
		return nil, err
	}
	answer := Figure{What: fmt.Sprintf("restart after kill -9 with %.1f GB of log: first answered request", float64(size)/1e9), Unit: "s"}
	acked := Figure{What: "first acked Produce to that log", Unit: "s", RawWhat: "empty start", Target: &Target{Bound: 2},
		Note: fmt.Sprintf("%s%d MB were written right before the kill", note, e.bytes(1e9)>>20)}
	err = e.pairs(ctx, &acked, func(ctx context.Context) (float64, error) {
		if err := f.fill(ctx, topic, partitions, e.bytes(1e9)); err != nil {
			return 0, err
		}
		if err := f.kill(); err != nil {
			return 0, err
		}
		began := time.Now()
		if err := f.launch(); err != nil {
			return 0, err
		}
		err := f.await(ctx, startPoll, func(ctx context.Context) error { return load.Ping(ctx, f.addr) })
		if err != nil {
			return 0, err
		}
		answer.Values = append(answer.Values, time.Since(began).Seconds())
		err = f.await(ctx, startPoll, func(ctx context.Context) error { return f.produceOne(ctx, topic) })
		return time.Since(began).Seconds(), err
	}, e.emptyStart)
	return []Figure{acked, answer}, err
}

// emptyStart is the time to a first acked Produce without any log.
func (e *Env) emptyStart(ctx context.Context) (v float64, err error) {
	f, err := e.prepareFirn(firnOptions{data: "empty"})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := f.launch(); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.kill(), e.remove("empty")) }()
	err = f.await(ctx, startPoll, func(ctx context.Context) error {
		if err := f.createTopic(ctx, "first", 1, pageCache); err != nil {
			return err
		}
		return f.produceOne(ctx, "first")
	})
	return time.Since(began).Seconds(), err
}
