package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/integration/netns"
)

// nodes are those of all brokers and of the clients.
func (s *stage) nodes() []*netns.Node {
	all := []*netns.Node{s.clients()}
	for _, b := range s.c.Brokers {
		all = append(all, b.Node)
	}
	return all
}

// between gives the ways between two nodes, both of them, a weather.
func (s *stage) between(a, b *netns.Node, w netns.Weather) {
	s.t.Helper()
	s.must(s.c.Network.SetWeather(a, b, w))
	s.must(s.c.Network.SetWeather(b, a, w))
}

// weather lasts for some time; load goes on in it, and packets were lost where they
// should be.
func (s *stage) weather(lost bool, lasts time.Duration) {
	s.t.Helper()
	_, before := s.c.Network.Traffic()
	s.sleep(lasts)
	s.progress(50, harnessLimit)
	passed, after := s.c.Network.Traffic()
	s.must(s.c.Network.ClearWeather())
	s.t.Logf("%d packets have passed through weather, %d were lost now", passed, after-before)
	require.Positive(s.t, passed)
	require.Equal(s.t, lost, after > before)
}

var lossEverywhere = fault{"5 % of all packets lost", byLease, func(s *stage) {
	all := s.nodes()
	for i, a := range all {
		for _, b := range all[:i] {
			s.between(a, b, netns.Weather{Loss: 0.05})
		}
	}
	s.weather(true, lasting)
}}

var lossBetween = fault{"30 % of the packets between two brokers lost", byLease, func(s *stage) {
	b, p := s.leader()
	s.between(b.Node, s.follower(p).Node, netns.Weather{Loss: 0.3})
	s.weather(true, 2*lasting)
}}

// farAway is 100 ms each way, and up to 50 ms more.
var farAway = fault{"a broker is far away", byLease, func(s *stage) {
	s.far(s.any())
}}

var controllerFarAway = fault{"the controller is far away", byLease, func(s *stage) {
	s.far(s.c.Controller())
}}

func (s *stage) far(b *fleet.Broker) {
	s.t.Helper()
	for _, x := range s.nodes() {
		if x != b.Node {
			s.between(x, b.Node, netns.Weather{Delay: 100 * time.Millisecond, Jitter: 50 * time.Millisecond})
		}
	}
	s.weather(false, lasting)
}

// TestWeather loses and delays single packets, of all that brokers and clients send,
// gossip's datagrams among them.
func TestWeather(t *testing.T) {
	matrix(t, harness.ClusterOptions{Network: true, Set: []string{"replica.lag.time.max.ms=4000"}},
		[]fault{lossEverywhere, lossBetween, farAway, controllerFarAway})
}
