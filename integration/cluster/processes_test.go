package cluster

import (
	"testing"
	"time"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// killAndBack kills a broker, sees the others go on, and brings it back.
func (s *stage) killAndBack(b *fleet.Broker) {
	s.t.Helper()
	s.c.KillBroker(b)
	s.progress(100, harnessLimit)
	s.c.StartBroker(b)
}

var killLeader = fault{"kill -9 of a leader", soon, func(s *stage) {
	b, p := s.leader()
	s.c.KillBroker(b)
	s.c.AwaitLeader(topicName, p, harnessLimit, b)
	s.progress(100, harnessLimit)
	s.c.StartBroker(b)
}}

var killController = fault{"kill -9 of the controller", soon, func(s *stage) { s.killAndBack(s.c.Controller()) }}

var killAgain = fault{"kill -9 of any broker, twice", soon, func(s *stage) {
	b := s.any()
	s.c.KillBroker(b)
	s.must(b.Launch())
	s.sleep(time.Duration(s.r.IntN(1500)) * time.Millisecond) // somewhere in the start
	s.killAndBack(b)
}}

var killTwo = fault{"kill -9 of two of three", untilOver, func(s *stage) {
	for _, b := range s.others(s.any()) {
		s.c.KillBroker(b)
	}
	s.sleep(time.Duration(s.r.IntN(4000)) * time.Millisecond)
	s.startAll()
}}

var killAll = fault{"kill -9 of all", untilOver, func(s *stage) {
	for _, b := range s.c.Brokers {
		s.c.KillBroker(b)
	}
	s.startAll()
}}

// startAll starts the brokers that do not run: none serves before there is a
// quorum.
func (s *stage) startAll() {
	s.t.Helper()
	for _, b := range s.c.Brokers {
		if !b.Running() {
			s.must(b.Launch())
		}
	}
	s.c.AwaitWhole()
}

var pauseLeader = fault{"SIGSTOP of a leader, longer than its lease", byLease, func(s *stage) {
	b, p := s.leader()
	s.must(b.Pause())
	s.c.AwaitLeader(topicName, p, harnessLimit, b)
	s.progress(100, harnessLimit)
	s.must(b.Resume())
}}

var pauseController = fault{"SIGSTOP of the controller", byLease, func(s *stage) {
	b := s.c.Controller()
	s.must(b.Pause())
	s.progress(100, harnessLimit)
	s.must(b.Resume())
}}

var pauseShortly = fault{"SIGSTOP of any broker for a moment", byLease, func(s *stage) {
	b := s.any()
	s.must(b.Pause())
	s.sleep(time.Duration(200+s.r.IntN(3500)) * time.Millisecond)
	s.must(b.Resume())
}}

var pauseAll = fault{"SIGSTOP of all", untilOver, func(s *stage) {
	for _, b := range s.c.Brokers {
		s.must(b.Pause())
	}
	s.sleep(4 * time.Second)
	for _, b := range s.c.Brokers {
		s.must(b.Resume())
	}
}}

var wipe = fault{"a wiped disk", soon, func(s *stage) {
	b := s.any()
	s.c.KillBroker(b)
	s.must(b.Wipe())
	s.c.StartBroker(b)
}}

var rollingRestart = fault{"rolling restart", soon, func(s *stage) {
	for _, b := range s.c.Brokers {
		s.c.StopBroker(b)
		s.c.StartBroker(b)
		s.c.AwaitWhole()
	}
}}

// TestProcesses kills, pauses, stops and wipes brokers. Their bucket is a real
// MinIO's.
func TestProcesses(t *testing.T) {
	matrix(t, harness.ClusterOptions{MinIO: true}, []fault{killLeader, killController, pauseLeader, pauseController, wipe, rollingRestart,
		killAgain, killTwo, killAll, pauseShortly, pauseAll})
}
