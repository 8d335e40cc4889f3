package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/integration/probe/load"
)

// calm is how long a process is left alone before its memory is read.
const calm = 5 * time.Second

// memoryUse is the eighth row.
func memoryUse(ctx context.Context, e *Env) ([]Figure, error) {
	figures, err := e.idleMemory(ctx)
	if err != nil {
		return figures, err
	}
	more, err := e.manyPartitions(ctx)
	return append(figures, more...), err
}

// rest leaves a process alone and reads its memory.
func (e *Env) rest(ctx context.Context, p *process) (all, own float64, err error) {
	select {
	case <-ctx.Done():
		return 0, 0, context.Cause(ctx)
	case <-time.After(calm):
	}
	a, o, err := memory(p.pid())
	return float64(a), float64(o), err
}

// idleMemory measures a broker that nobody uses, then with connections that do
// nothing.
func (e *Env) idleMemory(ctx context.Context) (figures []Figure, err error) {
	conns := e.count(10_000)
	idle := Figure{What: "resident memory, idle", Unit: "MB", Target: &Target{Bound: 80}}
	heap := Figure{What: "of which its own (RssAnon)", Unit: "MB"}
	each := Figure{What: fmt.Sprintf("for each of %d idle connections", conns), Unit: "KiB", Target: &Target{Bound: 20}}
	run := func() (err error) {
		f, err := e.startFirn(ctx, firnOptions{data: "data"})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.kill(), e.remove("data")) }()
		before, own, err := e.rest(ctx, f.process)
		if err != nil {
			return err
		}
		idle.Values, heap.Values = append(idle.Values, before/1e6), append(heap.Values, own/1e6)
		open, err := connect(ctx, f.addr, conns)
		defer closeAll(open)
		if err != nil {
			return err
		}
		after, _, err := e.rest(ctx, f.process)
		each.Values = append(each.Values, (after-before)/float64(conns)/1024)
		return err
	}
	for i := range e.Runs {
		if err := run(); err != nil {
			return nil, err
		}
		e.logf("  idle memory, run %d of %d: %s MB, connection %s KiB", i+1, e.Runs, number(idle.Values[i]), number(each.Values[i]))
	}
	return []Figure{idle, heap, each}, nil
}

// connect opens connections that each had one request answered.
func connect(ctx context.Context, addr string, n int) ([]net.Conn, error) {
	conns := make([]net.Conn, 0, n)
	for range n {
		c, err := load.Connect(ctx, addr)
		if err != nil {
			return conns, fmt.Errorf("bench: connection %d of %d: %w", len(conns)+1, n, err)
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// count scales a number of things, of which a thousand are the least that tell.
func (e *Env) count(full int) int { return max(1000, int(float64(full)*e.Scale)) }

// manyPartitions measures a topic of many partitions against one of ten.
func (e *Env) manyPartitions(ctx context.Context) (figures []Figure, err error) {
	many := int32(e.count(10_000))
	o := load.ProduceOptions{Acks: -1, Connections: 12, Bytes: e.bytes(1e9)}
	if err := e.room(4 * o.Bytes); err != nil {
		return nil, err
	}
	f, err := e.startFirn(ctx, firnOptions{data: "data"})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.kill()) }()
	for name, n := range map[string]int32{"many": many, "few": 10} {
		if err := f.createTopic(ctx, name, n, pageCache); err != nil {
			return nil, err
		}
	}
	limits := fmt.Sprintf("%d partitions", many)
	fresh := Figure{What: "resident memory with " + limits, Unit: "MB", Target: &Target{Bound: 600}}
	all, _, err := e.rest(ctx, f.process)
	if err != nil {
		return nil, err
	}
	fresh.Values = []float64{all / 1e6}
	used := Figure{What: "the same after each took its share of the load below", Unit: "MB", Target: &Target{Bound: 600}}
	speed := Figure{What: "throughput with " + limits, Unit: "MB/s", RawWhat: "10 partitions", Target: &Target{OfRatio: true, Least: true, Bound: 0.8}}
	produce := func(topic string, partitions int32) sample {
		return func(ctx context.Context) (float64, error) {
			o := o
			o.Addr, o.Topic, o.Partitions = f.addr, topic, partitions
			res, err := load.Produce(ctx, o)
			return mbPerSecond(res.Bytes, res.Usage.Wall), err
		}
	}
	// Each partition's first batch makes its files, which is not throughput.
	for topic, n := range map[string]int32{"many": many, "few": 10} {
		first := o
		first.Addr, first.Topic, first.Partitions = f.addr, topic, n
		first.Bytes = int64(n) * (16 << 10) * int64(first.Connections) / 4
		first.Bytes = min(first.Bytes, o.Bytes)
		if _, err := load.Produce(ctx, first); err != nil {
			return nil, err
		}
	}
	if err := e.pairs(ctx, &speed, produce("many", many), produce("few", 10)); err != nil {
		return nil, err
	}
	all, _, err = e.rest(ctx, f.process)
	if err != nil {
		return nil, err
	}
	used.Values = []float64{all / 1e6}
	bare := Figure{What: "the bare server with " + limits, Unit: "MB/s", RawWhat: "10 partitions"}
	raw := func(n int32) sample {
		return func(ctx context.Context) (float64, error) {
			o := o
			o.Partitions = n
			res, err := e.produceRaw(ctx, o)
			return mbPerSecond(res.Bytes, res.Usage.Wall), err
		}
	}
	err = e.pairs(ctx, &bare, raw(many), raw(10))
	return []Figure{fresh, used, speed, bare}, err
}

// remove deletes a directory of the case.
func (e *Env) remove(name string) error { return os.RemoveAll(filepath.Join(e.Dir, name)) }

// RaiseFiles raises the limit of open files to what the system allows, for this
// process and those it starts.
func RaiseFiles() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("bench: limit of open files: %w", err)
	}
	l.Cur = l.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("bench: limit of open files: %w", err)
	}
	return nil
}
