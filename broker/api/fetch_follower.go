package api

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/firnlog/firn/broker/fetch"
	"github.com/firnlog/firn/metadata"
)

// follow adds what a follower's fetch of one partition needs: whether it is in
// sync, and the throttle that it is under if not.
func (s *Server) follow(img *metadata.Image, follower int32, w *fetch.Want) {
	state := img.Partition(w.TP)
	w.OutOfSync = state == nil || !slices.Contains(state.ISR, follower)
	p := s.Partitions.Get(w.TP)
	if p == nil {
		return
	}
	if who := p.Config().LeaderThrottledReplicas; len(who) > 0 && throttles(who, w.TP.Partition, s.nodeID()) {
		w.Throttled = s.throttle.at(s, img)
	}
}

// throttles says whether a list of throttled replicas ("*", or partition:broker
// pairs) names a partition on this broker (KIP-73).
func throttles(who []string, number, broker int32) bool {
	for _, pair := range who {
		if pair == "*" {
			return true
		}
		p, b, _ := strings.Cut(pair, ":")
		if p == strconv.Itoa(int(number)) && b == strconv.Itoa(int(broker)) {
			return true
		}
	}
	return false
}

// leaderThrottle is the throttle of what this broker's leaders send, at the rate
// of leader.replication.throttled.rate.
type leaderThrottle struct {
	*fetch.Throttle
	mu  sync.Mutex
	img *metadata.Image // that the rate was read from
}

// at brings the rate in step with an image.
func (t *leaderThrottle) at(s *Server, img *metadata.Image) *fetch.Throttle {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.img != img {
		t.img = img
		// The default is the largest number there is, which bounds nothing.
		rate, err := strconv.ParseInt(s.brokerValue(img, "leader.replication.throttled.rate"), 10, 64)
		if err != nil || rate == math.MaxInt64 {
			rate = 0
		}
		t.SetRate(rate)
	}
	return t.Throttle
}

// countOut counts records that go out to a consumer or a follower.
func (s *Server) countOut(w *fetch.Want, bytes int64) {
	p := s.Partitions.Get(w.TP)
	switch {
	case p == nil: // it has just gone
	case w.Read.Replica == nil:
		p.CountOut(bytes)
	default:
		p.CountReplicaOut(bytes)
	}
	if w.Throttled != nil {
		w.Throttled.Sent(bytes)
	}
}
