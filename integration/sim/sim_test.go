package sim

import (
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seedFlag  = flag.Int64("sim.seed", -1, "replay one seed, with a trace")
	seedsFlag = flag.Int("sim.seeds", 0, "how many seeds to run")
	firstFlag = flag.Bool("sim.first", false, "stop at the first seed that fails")
	fromFlag  = flag.Uint64("sim.from", 1, "the first seed")
)

func TestSeed(t *testing.T) {
	if *seedFlag < 0 {
		return
	}
	res := run(uint64(*seedFlag), os.Stdout)
	fmt.Fprintf(os.Stdout, "seed %d: %d events, %v, hash %016x, %+v\n", res.seed, res.steps, res.now, res.hash, res.count)
	if res.err != nil {
		t.Fatal(res.err)
	}
}

func TestSeeds(t *testing.T) {
	n := 200
	if *seedsFlag > 0 {
		n = *seedsFlag
	}
	var next atomic.Uint64
	next.Store(*fromFlag)
	var stop atomic.Bool
	var mu sync.Mutex
	var total counts
	var failed, steps int
	began := time.Now()
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				seed := next.Add(1) - 1
				if seed >= *fromFlag+uint64(n) || *firstFlag && stop.Load() {
					return
				}
				res := run(seed, nil)
				mu.Lock()
				total.add(res.count)
				steps += res.steps
				if res.err != nil {
					failed++
					stop.Store(true)
					if failed <= 10 {
						t.Errorf("seed %d: %v\n  replay: go test ./integration/sim -run TestSeed$ -sim.seed=%d", seed, res.err, seed)
					}
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	d := time.Since(began)
	t.Logf("%d seeds, %d failed, in %v: %.1f a second, %d events; %+v", n, failed, d, float64(n)/d.Seconds(), steps, total)
}

func TestSameSeedSameRun(t *testing.T) {
	for seed := uint64(1); seed <= 20; seed++ {
		a, b := run(seed, nil), run(seed, io.Discard)
		if a.hash != b.hash || a.steps != b.steps {
			t.Errorf("seed %d: %016x after %d events, then %016x after %d", seed, a.hash, a.steps, b.hash, b.steps)
		}
	}
}
