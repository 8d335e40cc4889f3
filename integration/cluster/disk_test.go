package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// powerCut takes the power from brokers' disks, and gives it back.
func (s *stage) powerCut(brokers ...*fleet.Broker) {
	s.t.Helper()
	for _, b := range brokers {
		s.c.Disk[b.ID].LosePower(b.Pid())
	}
	for _, b := range brokers {
		// It notices by a failed write or fsync, and does not go on.
		select {
		case <-b.Exited():
		case <-time.After(harnessLimit):
			s.t.Fatalf("broker %d goes on after its disk failed", b.ID)
		}
	}
	if len(brokers) < len(s.c.Brokers) {
		s.progress(50, harnessLimit)
	}
	for _, b := range brokers {
		s.must(b.Kill()) // its end is known by now
		s.c.Disk[b.ID].Remount()
		s.must(b.Launch())
	}
	s.c.AwaitWhole()
}

var powerOne = fault{"power loss of a broker", soon, func(s *stage) { s.powerCut(s.any()) }}

var powerAll = fault{"power loss of all brokers", untilOver, func(s *stage) { s.powerCut(s.c.Brokers...) }}

// full is a disk without space: its broker cannot take part until there is some
// again. What retention frees meanwhile is taken too.
var full = fault{"a full disk", untilOver, func(s *stage) {
	b := s.any()
	var releases []func()
	harness.Eventually(s.t, harnessLimit, func() string {
		releases = append(releases, s.c.Disk[b.ID].Fill(0))
		has, err := b.LogContains("no space left on device")
		if err != nil {
			return err.Error()
		}
		if !has {
			return fmt.Sprintf("broker %d goes on", b.ID)
		}
		return ""
	})
	s.sleep(time.Second)
	for _, release := range releases {
		release()
	}
	if !b.Running() {
		s.c.StartBroker(b)
	}
}}

// short is a disk with too little space for records: its broker goes on, without
// leading what others can, and holds up nobody.
var short = fault{"a disk short of space", soon, func(s *stage) {
	b, _ := s.leader()
	var releases []func()
	harness.Eventually(s.t, harnessLimit, func() string {
		releases = append(releases, s.c.Disk[b.ID].Fill(4<<20)) // retention frees some
		for _, p := range s.c.Partitions(topicName) {
			if p.Leader == b.ID || slices.Contains(p.ISR, b.ID) {
				return fmt.Sprintf("broker %d is in sync in %s-%d, led by %d", b.ID, topicName, p.Partition, p.Leader)
			}
		}
		return ""
	})
	s.progress(200, harnessLimit)
	require.True(s.t, b.Running())
	for _, release := range releases {
		release()
	}
}}

// TestDisks takes power and space away from brokers with disks of their own.
func TestDisks(t *testing.T) {
	matrix(t, harness.ClusterOptions{Disks: map[int32]int64{1: 256 << 20, 2: 256 << 20, 3: 256 << 20},
		Set: []string{"log.durability=fsync", "replica.lag.time.max.ms=4000"}, MayPanic: "panic: pebble: "},
		[]fault{powerOne, powerAll, full, short})
}
