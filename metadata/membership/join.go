package membership

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// join is the goroutine that looks for members: all addresses until somebody is
// there, and those of the configuration now and then after that, so that two halves
// that began apart find each other.
func (m *Membership) join(ctx context.Context, peers []string) {
	known := slices.Clone(m.opts.Join)
	for _, peer := range peers {
		if !slices.Contains(known, peer) {
			known = append(known, peer)
		}
	}
	pause := m.opts.JoinRetry
	for first := true; ; first = false {
		targets := known
		if m.accompanied() {
			targets, pause = m.opts.Join, m.opts.JoinRetry
			if m.outdated() {
				targets = append(m.addresses(), known...)
			}
		}
		for _, target := range targets {
			if ctx.Err() != nil {
				return
			}
			m.joinOne(target, first)
		}
		if first {
			close(m.tried)
		}
		wait := pause + rand.N(pause/2+1)
		switch {
		case m.outdated(): // it came back elsewhere: until they take it
		case m.accompanied():
			wait = m.opts.JoinAgain
		default:
			pause = min(2*pause, 10*m.opts.JoinRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// accompanied reports whether another member is alive.
func (m *Membership) accompanied() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.others {
		if other.Status == Alive {
			return true
		}
	}
	return false
}

// contestTime is how long this node goes on telling its new address after a member
// was met that had an old one: longer than it takes to notice that one's death.
const contestTime = 3 * time.Second

// outdated reports whether a member was met just now that has this node at another
// address.
func (m *Membership) outdated() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.contest) < contestTime
}

// addresses are those of the living members.
func (m *Membership) addresses() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []string
	for _, other := range m.others {
		if other.Status == Alive {
			all = append(all, other.GossipAddr.String())
		}
	}
	return all
}

// named is how many nodes cluster.join names. This one is among them, whether it is
// named or not.
func (m *Membership) named() int {
	own := m.own()
	host, _, err := net.SplitHostPort(own.ClusterAddr)
	names := map[string]bool{}
	itself := 1
	for _, name := range m.opts.Join {
		names[name] = true
		port := strconv.Itoa(int(own.GossipAddr.Port()))
		if name == m.opts.Advertise || name == own.GossipAddr.String() || err == nil && name == net.JoinHostPort(host, port) {
			itself = 0
		}
	}
	return len(names) + itself
}

// amongItsOwn reports whether another living member belongs to this node's cluster.
func (m *Membership) amongItsOwn() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, other := range m.others {
		if other.Status == Alive && other.belongs() != "" && other.belongs() == m.self.belongs() {
			return true
		}
	}
	return false
}

// quiet reports whether the members that joining found are in the table: their
// events come a moment after it. An address that answered may be this node's own,
// so that is not waited for for ever.
func (m *Membership) quiet(since time.Time) bool {
	m.mu.Lock()
	reached := m.reached
	m.mu.Unlock()
	return !reached || m.accompanied() || time.Since(since) > time.Second
}

func (m *Membership) joinOne(target string, first bool) {
	_, err := m.serf.Join([]string{target}, true)
	if err == nil {
		m.settle(ErrWrongKey, target)
		m.mu.Lock()
		m.reached = true
		m.mu.Unlock()
		return
	}
	if text := keyMistake(target, err); text != "" {
		m.trouble(ErrWrongKey, target, Member{}, text)
		return
	}
	m.settle(ErrWrongKey, target)
	if first {
		m.log.Info("gossip: peer is not there yet, and will be tried again", "addr", target, "err", flat(err))
	} else {
		m.log.Debug("gossip: peer is not there", "addr", target, "err", flat(err))
	}
}

// flat takes the bullets out of the errors that memberlist joins.
func flat(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// keyMistake says which end has what key, "" if the failure is another.
func keyMistake(target string, err error) string {
	text := err.Error()
	switch {
	case strings.Contains(text, saysOtherKey):
		return fmt.Sprintf("%s is encrypted by another key: copy gossip.key from a broker of the cluster", target)
	case strings.Contains(text, saysWeHaveNo):
		return fmt.Sprintf("%s encrypts its gossip and this node does not: set gossip.key to that of the cluster", target)
	case strings.Contains(text, saysTheirsNo):
		return fmt.Sprintf("this node has a gossip.key and %s has none: remove it here, or set it on all brokers", target)
	}
	return ""
}

// inbound begins the name of a peer that is known by what it sent alone.
const inbound = "from "

// undecryptable is told of packets and streams that the key does not open, by
// whom they came from.
func (m *Membership) undecryptable(from string) {
	if from == "" {
		return // the other side's complaint, which joinOne tells
	}
	m.trouble(ErrWrongKey, inbound+from, Member{}, fmt.Sprintf("what %s gossips cannot be read: its gossip.key is not that of this node", from))
}

// Tried is closed once every address was tried, so that silence means that nobody
// is there.
func (m *Membership) Tried() <-chan struct{} { return m.tried }
