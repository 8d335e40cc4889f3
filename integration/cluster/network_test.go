package cluster

import (
	"testing"
	"time"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/integration/netns"
)

// follower is a broker that follows a partition.
func (s *stage) follower(p int32) *fleet.Broker {
	s.t.Helper()
	d := s.c.Partitions(topicName)[p]
	for _, id := range d.Replicas {
		if id != d.Leader {
			return s.c.Broker(id)
		}
	}
	s.t.Fatalf("%s-%d has no follower: %+v", topicName, p, d)
	return nil
}

// clients is the node that clients are on.
func (s *stage) clients() *netns.Node { return s.c.Network.Node(fleet.Client) }

// heal undoes all cuts.
func (s *stage) heal() { s.t.Helper(); s.must(s.c.Network.HealAll()) }

// lasting is how long a cut lasts: longer than leases and elections take.
const lasting = 6 * time.Second

var cutToFollower = fault{"cut from a leader to a follower, one way", byLease, func(s *stage) {
	b, p := s.leader()
	s.must(s.c.Network.CutOneWay(b.Node, s.follower(p).Node))
	s.sleep(lasting)
	s.progress(50, harnessLimit)
	s.heal()
}}

var cutFromFollower = fault{"cut from a follower to a leader, one way", byLease, func(s *stage) {
	b, p := s.leader()
	s.must(s.c.Network.CutOneWay(s.follower(p).Node, b.Node))
	s.sleep(lasting)
	s.progress(50, harnessLimit)
	s.heal()
}}

var cutBoth = fault{"cut between two brokers, both ways", byLease, func(s *stage) {
	b, p := s.leader()
	s.must(s.c.Network.Cut(s.follower(p).Node, b.Node))
	s.sleep(lasting)
	s.progress(50, harnessLimit)
	s.heal()
}}

var cutOneWayOut = fault{"a leader that nobody hears", untilOver, func(s *stage) {
	b, _ := s.leader()
	for _, o := range s.others(b) {
		s.must(s.c.Network.CutOneWay(b.Node, o.Node))
	}
	s.sleep(lasting)
	s.heal()
}}

var cutLeader = fault{"a leader cut from the quorum, clients attached", byLease, func(s *stage) {
	b, p := s.leader()
	s.must(s.c.Network.Isolate(b.Node, s.clients()))
	s.c.AwaitLeader(topicName, p, harnessLimit, b)
	s.progress(100, harnessLimit)
	s.heal()
}}

var blackhole = fault{"a leader cut from everyone", byLease, func(s *stage) {
	b, _ := s.leader()
	s.must(s.c.Network.Isolate(b.Node))
	s.progress(100, harnessLimit)
	s.heal()
}}

var cutController = fault{"the controller cut from everyone", byLease, func(s *stage) {
	b := s.c.Controller()
	s.must(s.c.Network.Isolate(b.Node))
	s.progress(100, harnessLimit)
	s.heal()
}}

var cutThenKill = fault{"followers cut, then the leader killed", byLease, func(s *stage) {
	b, _ := s.leader()
	s.must(s.c.Network.Isolate(b.Node, s.clients()))
	s.sleep(time.Duration(s.r.IntN(2500)) * time.Millisecond)
	s.c.KillBroker(b)
	s.heal()
	s.progress(100, harnessLimit)
	s.c.StartBroker(b)
}}

var clientsCut = fault{"clients cut from a leader", untilOver, func(s *stage) {
	b, _ := s.leader()
	s.must(s.c.Network.Cut(b.Node, s.clients()))
	s.sleep(lasting / 2)
	s.heal()
}}

var flap = fault{"a flapping link", byLease, func(s *stage) {
	b, p := s.leader()
	stop := s.c.Network.Flap(b.Node, s.follower(p).Node, 700*time.Millisecond, 500*time.Millisecond)
	s.sleep(lasting)
	s.must(stop())
}}

// slow is less than what the replica is to take in, so that it falls behind.
var slow = fault{"a slow replica", byLease, func(s *stage) {
	b := s.any()
	s.must(s.c.Network.Rate(b.Node, 200<<10))
	s.sleep(2 * lasting)
	s.must(s.c.Network.Rate(b.Node, 0))
}}

// TestNetwork cuts cables.
func TestNetwork(t *testing.T) {
	matrix(t, harness.ClusterOptions{Network: true, Set: []string{"replica.lag.time.max.ms=4000"}},
		[]fault{cutLeader, cutController, cutToFollower, cutFromFollower, cutThenKill, blackhole, flap, slow, cutBoth, cutOneWayOut, clientsCut})
}
