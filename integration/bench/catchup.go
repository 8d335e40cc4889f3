package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/integration/probe/load"
)

const (
	coldTopic      = "cold"
	hotTopic       = "hot"
	coldPartitions = 12
	coldConns      = 4 // that read, and as many raw GETs for each as Firn reads ahead
	rawGets        = 16
	settleLimit    = 5 * time.Minute
	// memorySpare is more than a scan leaves unused of the cache's memory.
	memorySpare = 128 << 20
)

// tiered is a broker whose topic coldTopic lies in a MinIO alone.
type tiered struct {
	*firn
	store  *minioServer
	status adminapi.TierStatus
	bytes  int64 // of the objects
}

// startTiered fills a topic, lets it settle into the store and keeps nothing of
// it on disk. With hot, as much is written to hotTopic, which stays.
func (e *Env) startTiered(ctx context.Context, store *minioServer, size int64, hot bool) (*tiered, error) {
	set := []string{"cache.disk.bytes=8589934592"} // holds all that is read
	f, err := e.startFirn(ctx, firnOptions{data: "data", store: store.url(), vars: store.vars(), set: set})
	if err != nil {
		return nil, err
	}
	t := &tiered{firn: f, store: store}
	if err := t.settle(ctx, size, hot); err != nil {
		return nil, errors.Join(err, f.kill())
	}
	return t, nil
}

func (t *tiered) settle(ctx context.Context, size int64, hot bool) error {
	e := t.env
	segment := fmt.Sprint(max(1<<20, min(64<<20, size/coldPartitions/2)))
	err := t.createTopic(ctx, coldTopic, coldPartitions, map[string]string{"durability": "replicated", "segment.bytes": segment,
		"remote.storage.enable": "true", "local.retention.ms": "1", "file.delete.delay.ms": "0"})
	if err != nil {
		return err
	}
	if err := t.fill(ctx, coldTopic, coldPartitions, size); err != nil {
		return err
	}
	if hot {
		if err := t.createTopic(ctx, hotTopic, coldPartitions, pageCache); err != nil {
			return err
		}
		if err := t.fill(ctx, hotTopic, coldPartitions, size); err != nil {
			return err
		}
	}
	// What is being written is sealed by age, and follows.
	if err := t.alterTopic(ctx, coldTopic, map[string]string{"segment.ms": "1"}); err != nil {
		return err
	}
	e.logf("  waiting until %d MB have settled into the bucket", size>>20)
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		if err := t.getJSON(ctx, adminapi.PathTierStatus, &t.status); err != nil {
			return err
		}
		for _, topic := range t.status.Topics {
			if topic.Topic == coldTopic && topic.LocalBytes == 0 && topic.RemoteBytes >= size {
				t.bytes = topic.RemoteBytes
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("bench: the topic has not settled within %v: %+v\n%s", settleLimit, t.status, t.out.String())
		case <-tick.C:
		}
	}
}

// forget starts the broker anew with an empty cache.
func (t *tiered) forget(ctx context.Context) error {
	if err := t.stop(); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(t.data, "cache")); err != nil {
		return err
	}
	if err := t.begin(ctx); err != nil {
		return err
	}
	if err := t.getJSON(ctx, adminapi.PathTierStatus, &t.status); err != nil {
		return err
	}
	if c := t.status.Cache; c.MemoryBytes+c.DiskBytes > 0 {
		return fmt.Errorf("bench: the cache is not empty after it was removed: %+v", c)
	}
	return nil
}

// read drains a topic.
func (t *tiered) read(ctx context.Context, topic string) (load.FetchResult, error) {
	return load.Fetch(ctx, load.FetchOptions{Addr: t.addr, Topic: topic, Partitions: coldPartitions, Connections: coldConns, From: -1, Pid: t.pid()})
}

// rawGet reads all objects of the cluster by parallel GETs.
func (t *tiered) rawGet(ctx context.Context) (probe.Report, error) {
	return t.env.probe(ctx, t.store.vars(), "get", "--endpoint", t.store.addr, "--bucket", t.store.bucket,
		"--prefix", t.status.ClusterID+"/data/", "--parallel", fmt.Sprint(rawGets), "--pid", fmt.Sprint(t.store.pid()))
}

// catchup is the fourth row.
func catchup(ctx context.Context, e *Env) (figures []Figure, err error) {
	size := e.bytes(1e9)
	if err := e.room(4 * size); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	store, err := e.startMinIO(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, store.kill()) }()
	t, err := e.startTiered(ctx, store, size, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.kill()) }()

	cold := Figure{What: "catch-up read of cold data from MinIO", Unit: "MB/s", RawWhat: "raw GETs",
		Target: &Target{OfRatio: true, Least: true, Bound: 0.6}}
	cpu := Figure{What: "Firn's CPU for 1 GB of them", Unit: "s", RawWhat: "of raw GETs"}
	total := Figure{What: "CPU of store, broker and reader for 1 GB", Unit: "s", RawWhat: "of store and raw GETs",
		Note: "where all of them share the cores, the throughput's ratio is the reverse of this one at best"}
	again := Figure{What: "second reader, from the cache", Unit: "MB/s", RawWhat: "hot read",
		Target: &Target{OfRatio: true, Least: true, Bound: 0.9}}
	againCPU := Figure{What: "Firn's CPU for 1 GB of it", Unit: "s", RawWhat: "hot read"}
	err = e.pairs(ctx, &cold, func(ctx context.Context) (float64, error) {
		if err := t.forget(ctx); err != nil {
			return 0, err
		}
		meter, err := probe.StartMeter(store.pid())
		if err != nil {
			return 0, err
		}
		res, err := t.read(ctx, coldTopic)
		if err == nil && res.Bytes < size {
			err = fmt.Errorf("bench: %d bytes came of %d", res.Bytes, size)
		}
		cpu.Values = append(cpu.Values, cpuPerGB(res.Usage.Target, res.Bytes))
		if err != nil {
			return 0, err
		}
		stored, err := meter.Stop()
		if err != nil {
			return 0, err
		}
		total.Values = append(total.Values, cpuPerGB(stored.Target+res.Usage.Target+res.Usage.Self, res.Bytes))
		// The second reader and the hot one while the cache is full.
		return mbPerSecond(res.Bytes, res.Usage.Wall), t.readAgain(ctx, &again, &againCPU)
	}, func(ctx context.Context) (float64, error) {
		r, err := t.rawGet(ctx)
		if err != nil {
			return 0, err
		}
		cpu.Raw = append(cpu.Raw, r.OwnCPUPerGB)
		total.Raw = append(total.Raw, r.OwnCPUPerGB+*r.ServerCPUPerGB)
		return r.MBPerSecond, nil
	})
	figures = []Figure{cold, cpu, total, again, againCPU}
	if err != nil {
		return figures, err
	}
	memory, err := t.memoryCache(ctx)
	return append(figures, memory...), err
}

// memoryCache measures the second reader once more, with a cache whose memory
// holds all that was read: without the disk, whose speed decides how much of a
// fast read can be kept there.
func (t *tiered) memoryCache(ctx context.Context) ([]Figure, error) {
	t.args = append(t.args, "--set", "cache.memory.bytes="+fmt.Sprint(2*t.bytes+memorySpare))
	speed := Figure{What: "second reader, cache in memory", Unit: "MB/s", RawWhat: "hot read",
		Target: &Target{OfRatio: true, Least: true, Bound: 0.9}}
	cpu := Figure{What: "Firn's CPU for 1 GB of it", Unit: "s", RawWhat: "hot read"}
	for range t.env.Runs {
		if err := t.forget(ctx); err != nil {
			return nil, err
		}
		if _, err := t.read(ctx, coldTopic); err != nil {
			return nil, err
		}
		if err := t.readAgain(ctx, &speed, &cpu); err != nil {
			return nil, err
		}
	}
	return []Figure{speed, cpu}, nil
}

// readAgain adds a pair of reads, from the cache and hot.
func (t *tiered) readAgain(ctx context.Context, speed, cpu *Figure) error {
	hot, err := t.read(ctx, hotTopic)
	if err != nil {
		return err
	}
	second, err := t.read(ctx, coldTopic)
	if err != nil {
		return err
	}
	speed.Values = append(speed.Values, mbPerSecond(second.Bytes, second.Usage.Wall))
	speed.Raw = append(speed.Raw, mbPerSecond(hot.Bytes, hot.Usage.Wall))
	cpu.Values = append(cpu.Values, cpuPerGB(second.Usage.Target, second.Bytes))
	cpu.Raw = append(cpu.Raw, cpuPerGB(hot.Usage.Target, hot.Bytes))
	return nil
}
