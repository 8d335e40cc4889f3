package bench

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/integration/probe/load"
)

// fetchCPU is the third row: the segments of a topic of 12 partitions, served by
// Fetch to one consumer with the default limits of Kafka's own (1 MiB of each
// partition, 50 MiB in all), and by bare sendfile.
//
// A topic of one partition, whose answers therefore have 1 MiB, stands beside
// it: what fits into the socket's buffer is sent wholly on the server's time,
// while most of a longer answer is sent on that of the client's
// acknowledgements, as with the bare server.
func fetchCPU(ctx context.Context, e *Env) ([]Figure, error) {
	figures, err := e.hotFetch(ctx, 12)
	if err != nil {
		return figures, err
	}
	one, err := e.hotFetch(ctx, 1)
	if err == nil {
		one[0].Target = nil
	}
	return append(figures, one...), err
}

// hotFetch measures a topic of so many partitions.
func (e *Env) hotFetch(ctx context.Context, partitions int32) (figures []Figure, err error) {
	const topic = "hot"
	size := e.bytes(1e9)
	if err := e.room(size); err != nil {
		return nil, err
	}
	f, err := e.startFirn(ctx, firnOptions{data: "data"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.kill(), e.remove("data")) }()
	err = f.createTopic(ctx, topic, partitions, map[string]string{"durability": "replicated", "segment.bytes": "2147483647", "remote.storage.enable": "false"})
	if err != nil {
		return nil, err
	}
	if err := f.fill(ctx, topic, partitions, size); err != nil {
		return nil, err
	}
	files, err := f.segments(ctx, topic)
	if err != nil {
		return nil, err
	}
	var args []string
	for _, file := range files {
		args = append(args, "--file", file)
	}
	raw, err := e.startRaw(ctx, "serve-file", args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.kill()) }()

	cpu := Figure{What: fmt.Sprintf("server CPU for 1 GB served hot, plaintext, partitions: %d", partitions), Unit: "s", RawWhat: "bare sendfile",
		Target: &Target{OfRatio: true, Bound: 2}}
	speed := Figure{What: "throughput of the same runs", Unit: "MB/s", RawWhat: "bare sendfile"}
	firn := func(ctx context.Context) (float64, error) {
		res, err := load.Fetch(ctx, load.FetchOptions{Addr: f.addr, Topic: topic, Partitions: partitions, From: -1, MaxBytes: 50 << 20, Pid: f.pid()})
		speed.Values = append(speed.Values, mbPerSecond(res.Bytes, res.Usage.Wall))
		return cpuPerGB(res.Usage.Target, res.Bytes), err
	}
	bare := func(ctx context.Context) (float64, error) {
		meter, err := probe.StartMeter(raw.pid())
		if err != nil {
			return 0, err
		}
		bytes, err := probe.Drain(ctx, raw.addr, 1, 1)
		if err != nil {
			return 0, err
		}
		u, err := meter.Stop()
		speed.Raw = append(speed.Raw, mbPerSecond(bytes, u.Wall))
		return cpuPerGB(u.Target, bytes), err
	}
	for _, warm := range []sample{bare, firn} {
		if _, err := warm(ctx); err != nil {
			return nil, err
		}
	}
	speed.Values, speed.Raw = nil, nil
	err = e.pairs(ctx, &cpu, firn, bare)
	return []Figure{cpu, speed}, err
}
