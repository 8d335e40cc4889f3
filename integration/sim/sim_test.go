package sim

import (
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	seedFlag  = flag.Int64("sim.seed", -1, "replay one seed, with a trace")
	seedsFlag = flag.Int("sim.seeds", 0, "how many seeds to run")
	fromFlag  = flag.Uint64("sim.from", 1, "the first seed")
	firstFlag = flag.Bool("sim.first", false, "stop at the first seed that fails")
)

// seeds is how many are run if nobody says: ten thousand, or as many as take about
// as long under the race detector, or a few.
func seeds() int {
	switch {
	case *seedsFlag > 0:
		return *seedsFlag
	case testing.Short():
		return 200
	case raceEnabled:
		return 1000
	default:
		return 10_000
	}
}

// TestSeed replays the seed that is named.
func TestSeed(t *testing.T) {
	if *seedFlag < 0 {
		return // nobody asked; TestSeeds runs them all
	}
	res := run(uint64(*seedFlag), os.Stdout)
	fmt.Fprintf(os.Stdout, "seed %d: %d events in %v, hash %016x, %+v\n", res.seed, res.steps, res.now, res.hash, res.count)
	require.NoError(t, res.err)
}

// TestSeeds runs many seeds.
func TestSeeds(t *testing.T) {
	n := seeds()
	todo := make(chan uint64, n)
	for i := range n {
		todo <- *fromFlag + uint64(i)
	}
	close(todo)
	var mu sync.Mutex
	var total counts
	failed, steps := 0, 0
	began := time.Now()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for seed := range todo {
				res := run(seed, nil)
				mu.Lock()
				total.add(&res.count)
				steps += res.steps
				if res.err != nil {
					if failed++; failed <= 10 {
						t.Errorf("seed %d: %v\n  replay: go test ./integration/sim -run 'TestSeed$' -sim.seed=%d", seed, res.err, seed)
					}
				}
				stop := *firstFlag && failed > 0
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d seeds in %v, %.0f a second; %d failed; %d events; %+v", n, took.Round(time.Second), float64(n)/took.Seconds(), failed, steps, total)
	if n >= 200 && failed == 0 {
		total.requireAll(t)
	}
}

// requireAll fails where something that the simulator claims to do did not happen
// once in many runs.
func (c *counts) requireAll(t *testing.T) {
	v := reflect.ValueOf(*c)
	for i := range v.NumField() {
		require.NotZero(t, v.Field(i).Int(), "no seed had any: %s", v.Type().Field(i).Name)
	}
}

// TestSameSeedSameRun runs seeds twice, once with a trace.
func TestSameSeedSameRun(t *testing.T) {
	for seed := uint64(1); seed <= 30; seed++ {
		a, b := run(seed, nil), run(seed, io.Discard)
		require.Equal(t, a.steps, b.steps, "seed %d", seed)
		require.Equal(t, a.hash, b.hash, "seed %d", seed)
	}
	require.NotEqual(t, run(1, nil).hash, run(2, nil).hash)
}
