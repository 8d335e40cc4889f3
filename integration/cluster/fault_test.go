package cluster

import (
	"math/rand/v2"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// fault is something that happens to a cluster under load, and is over when make
// returns.
type fault struct {
	name string
	// pause is the longest that a partition may stand still meanwhile. It leaves
	// room for a machine that does much else; the figures are the bench's.
	pause time.Duration
	make  func(s *stage)
}

// stage is what faults happen on.
type stage struct {
	*workload
	r *rand.Rand
}

// The pauses that are allowed: a cluster that notices a fault at once, one that
// has to wait for a lease, and one that cannot go on before the fault is over.
const (
	soon      = 10 * time.Second
	byLease   = 15 * time.Second
	untilOver = 45 * time.Second
)

// run makes faults on a cluster under load, one after the other. Whatever they
// do, the cluster must be whole soon after each, with no anomaly in what clients
// saw and the same bytes on all disks.
func run(t *testing.T, o harness.ClusterOptions, n int, faults ...fault) {
	t.Helper()
	o.Set = settings(o.Set...)
	c := harness.StartCluster(t, o)
	s := &stage{workload: startWorkload(t, c), r: random(t)}
	s.endure(n, faults...)
	s.awaitTiered()
	s.finish()
	s.verifyTiers(lateUploads(n, faults))
	s.compareDisks()
}

// endure makes the faults one after the other, n times: each is over, and the cluster
// whole, before the next begins.
func (s *stage) endure(n int, faults ...fault) {
	s.t.Helper()
	for round := range n {
		for _, f := range faults {
			s.progress(int64(1+s.r.IntN(200)), harnessLimit)
			s.pauses()
			begin := time.Now()
			f.make(s)
			s.progress(50, harnessLimit)
			pause := s.pauses()
			s.c.AwaitWhole()
			s.t.Logf("%s, round %d: longest pause %v, whole after %v", f.name, round+1, pause.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
			require.LessOrEqual(s.t, pause, f.pause, f.name)
		}
	}
}

// noWord is what a fault's name has between its words and numbers.
var noWord = regexp.MustCompile(`[^A-Za-z0-9]+`)

// matrix makes all faults on one cluster, or in the long matrix each on its own
// for some rounds.
func matrix(t *testing.T, o harness.ClusterOptions, faults []fault) {
	t.Helper()
	if only := os.Getenv(envFault); only != "" {
		word := regexp.MustCompile(only)
		faults = slices.DeleteFunc(slices.Clone(faults), func(f fault) bool { return !word.MatchString(f.name) })
	}
	if !long() {
		t.Parallel()
		run(t, o, 1, faults...)
		return
	}
	for _, f := range faults {
		// The name becomes that of directories, which settings and URLs name.
		t.Run(noWord.ReplaceAllString(f.name, "-"), func(t *testing.T) { run(t, o, 5, f) })
	}
}

// leader is the leader of any partition of the topic.
func (s *stage) leader() (b *fleet.Broker, partition int32) {
	s.t.Helper()
	partition = s.r.Int32N(partitions)
	return s.c.Leader(topicName, partition), partition
}

// any is any broker.
func (s *stage) any() *fleet.Broker { return s.c.Brokers[s.r.IntN(len(s.c.Brokers))] }

// others are all brokers but one.
func (s *stage) others(b *fleet.Broker) []*fleet.Broker {
	var others []*fleet.Broker
	for _, o := range s.c.Brokers {
		if o != b {
			others = append(others, o)
		}
	}
	return others
}

// must fails the test unless err is nil.
func (s *stage) must(err error) {
	s.t.Helper()
	require.NoError(s.t, err)
}

// sleep lets a fault last: nothing tells when it has been long enough.
func (s *stage) sleep(d time.Duration) { <-time.After(d) }
