package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Env is what all cases share.
type Env struct {
	Firn  string // program
	Probe string // program, firn-probe
	MinIO string // program
	Kafka string // script that runs an Apache Kafka: PORT DIRECTORY
	// Dir is an existing directory for the data, on the disk to be measured.
	Dir string
	// Scale multiplies the sizes of the table, 1 is as written.
	Scale float64
	Runs  int       // measured pairs of each figure
	Log   io.Writer // progress
}

// Case is a row of the table.
type Case struct {
	Name string
	What string
	run  func(context.Context, *Env) ([]Figure, error)
}

// Cases are the rows, in the order of the table.
func Cases() []Case {
	return []Case{
		{"produce-cpu", "server CPU to take in 1 GB", produceCPU},
		{"fsync", "throughput with fsync on every ack", fsyncThroughput},
		{"fetch-cpu", "server CPU to serve 1 GB hot", fetchCPU},
		{"catchup", "catch-up read from MinIO, then from the cache", catchup},
		{"link", "catch-up read over a link of fixed rate, beside hot produce", slowLink},
		{"start", "start empty", startEmpty},
		{"restart", "restart after kill -9 with 20 GB of log", restart},
		{"memory", "memory idle, with connections, with partitions", memoryUse},
		{"failover", "new leaders after kill -9 and after a blackhole, three brokers", failover},
		{"replicated", "produce at factor 3", replicated},
		{"rolling", "produce during a rolling restart", rolling},
		{"move", "moving a partition of 20 GB of which 64 MB are hot", move},
		{"many", "failover of a third of 10,000 partitions", manyPartitions},
		{"commits", "metadata commits", metadataCommits},
		{"peer", "the same load on Firn and on Apache Kafka", peer},
		{"peer-cluster", "the same with three brokers: produce at factor 3, kill -9", peerCluster},
	}
}

// errCannot is wrapped by a case that this machine cannot run.
var errCannot = errors.New("cannot be measured here")

// Run runs the case and removes its data.
func (c Case) Run(ctx context.Context, e *Env) (figures []Figure, err error) {
	own := *e
	if own.Dir, err = os.MkdirTemp(e.Dir, "firn-bench-"+c.Name+"-"); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(own.Dir)) }()
	figures, err = c.run(ctx, &own)
	if errors.Is(err, errCannot) {
		figures = append(figures, Figure{What: c.What, Note: err.Error()})
		err = nil
	}
	for i := range figures {
		figures[i].Case = c.Name
		figures[i].finish()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", c.Name, err)
	}
	return figures, err
}

// bytes scales a size of the table.
func (e *Env) bytes(full float64) int64 { return max(1<<20, int64(full*e.Scale)) }

// path names a file or directory of the case.
func (e *Env) path(name string) string { return filepath.Join(e.Dir, name) }

// logf tells of progress.
func (e *Env) logf(format string, args ...any) { fmt.Fprintf(e.Log, format+"\n", args...) }

// room checks that n bytes fit with some space to spare.
func (e *Env) room(n int64) error {
	const spare = 4 << 30
	free, err := freeDisk(e.Dir)
	if err != nil {
		return err
	}
	if free < n+spare {
		return fmt.Errorf("%w: %d MB are free in %s, want %d", errCannot, free>>20, e.Dir, (n+spare)>>20)
	}
	return nil
}

// sample measures one value.
type sample func(context.Context) (float64, error)

// pairs measures Firn and the baseline in turns, the one or the other first, and
// fills both rows of the figure.
func (e *Env) pairs(ctx context.Context, f *Figure, firn, raw sample) error {
	for run := range e.Runs {
		order := []struct {
			of   sample
			into *[]float64
		}{{raw, &f.Raw}, {firn, &f.Values}}
		if run%2 == 1 {
			order[0], order[1] = order[1], order[0]
		}
		for _, s := range order {
			v, err := s.of(ctx)
			if err != nil {
				return err
			}
			*s.into = append(*s.into, v)
		}
		e.logf("  %s, run %d of %d: %s %s, %s %s", f.What, run+1, e.Runs, number(f.Values[run]), f.Unit, f.RawWhat, number(f.Raw[run]))
	}
	return nil
}
