package cluster

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/internal/testminio"
)

func TestMain(m *testing.M) { harness.Main(m, testminio.StopShared) }

const (
	// harnessLimit bounds what follows from a fault's end.
	harnessLimit = time.Minute
	// envLong asks for the long matrix, envSeed repeats its random choices, and
	// envFault is an expression that the names of the faults to make match.
	envLong, envSeed, envFault = "FIRN_TEST_LONG", "FIRN_TEST_SEED", "FIRN_TEST_FAULT"
)

// long tells whether the long matrix is asked for.
func long() bool { return os.Getenv(envLong) != "" }

// rounds is how often a test makes its fault.
func rounds(short, whenLong int) int {
	if long() {
		return whenLong
	}
	return short
}

// random draws a test's choices, from a seed that is logged.
func random(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(envSeed); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", envSeed, err)
		}
	}
	t.Logf("%s=%d", envSeed, seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// settings let brokers look often for what to move and delete.
func settings(more ...string) []string {
	return append([]string{"log.retention.check.interval.ms=200", "remote.log.manager.task.interval.ms=200", "tier.delete.grace.ms=1000",
		"cache.memory.bytes=16777216", "cache.disk.bytes=33554432", "group.initial.rebalance.delay.ms=100",
		"replica.selector.class=org.apache.kafka.common.replica.RackAwareReplicaSelector"}, more...)
}
