package bench

import (
	"context"
	"errors"

	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/integration/probe/load"
)

// fetchCPU is the third row: one segment's file, served by Fetch in answers of
// at most 1 MiB, the consumers' default for a partition, and by bare sendfile.
func fetchCPU(ctx context.Context, e *Env) (figures []Figure, err error) {
	const topic = "hot"
	size := e.bytes(1e9)
	if err := e.room(size); err != nil {
		return nil, err
	}
	f, err := e.startFirn(ctx, firnOptions{data: "data"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.kill()) }()
	err = f.createTopic(ctx, topic, 1, map[string]string{"durability": "replicated", "segment.bytes": "2147483647", "remote.storage.enable": "false"})
	if err != nil {
		return nil, err
	}
	if err := f.fill(ctx, topic, 1, size); err != nil {
		return nil, err
	}
	file, err := f.partitionFile(ctx, topic, 0)
	if err != nil {
		return nil, err
	}
	raw, err := e.startRaw(ctx, "serve-file", "--file", file)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, raw.kill()) }()

	cpu := Figure{What: "server CPU for 1 GB served hot, plaintext", Unit: "s", RawWhat: "bare sendfile",
		Target: &Target{OfRatio: true, Bound: 2}}
	speed := Figure{What: "throughput of the same runs", Unit: "MB/s", RawWhat: "bare sendfile"}
	firn := func(ctx context.Context) (float64, error) {
		res, err := load.Fetch(ctx, load.FetchOptions{Addr: f.addr, Topic: topic, Partitions: 1, From: -1, Pid: f.pid()})
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
