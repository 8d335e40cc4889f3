package controller

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/raftnode"
)

// TestNobodyIsFencedWhoIsHeard drives the leases and decisions with random
// heartbeats, losses, pauses of the leader and changes of leader, beside what the
// brokers themselves believe of their leases: none is fenced that may still lead, or
// whose last heartbeat arrived within a session, or within the grace of a new leader;
// and each that is silent is fenced within a session of its last lease, or that grace,
// and a look. All brokers vote. A majority of any of them makes a leader sure, and any
// of them elects one.
func TestNobodyIsFencedWhoIsHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const brokers = 5
		ed := metadata.Empty().Edit()
		var voters []uuid.UUID
		for id := int32(1); id <= brokers; id++ {
			voters = append(voters, uuid.UUID{byte(id)})
			ed.PutBroker(&metadata.Broker{ID: id, DirectoryID: voters[id-1], Epoch: int64(id)})
		}
		img, _ := ed.Commit(10)
		opts := LeaseOptions{Session: 3 * time.Second, Grant: time.Duration(rapid.IntRange(500, 3000).Draw(t, "grant")) * time.Millisecond}
		start := time.Unix(1000, 0)
		now, led := start, start
		heard, lease, paused := map[int32]time.Time{}, map[int32]time.Time{}, start
		suspected, decided := map[int32]bool{}, map[int32]bool{}
		term, terms := uint64(0), map[int32]uint64{} // what each voter knows
		contacts := map[int32]*raftnode.Contacts{}
		for id := int32(1); id <= brokers; id++ {
			c := raftnode.NewContacts(start)
			contacts[id] = &c
		}
		leader := int32(0)
		majority := func() []int32 {
			ids := rapid.Permutation([]int32{1, 2, 3, 4, 5}).Draw(t, "majority")[:brokers/2+1]
			if leader != 0 && !slices.Contains(ids, leader) {
				ids[0] = leader
			}
			return ids
		}
		var l *Leases
		elect := func() {
			leader = 0
			voted := majority()
			leader = voted[0]
			term++
			for _, id := range voted {
				terms[id] = term
			}
			l, led = NewLeases(opts, now, img), now
			l.Reign(Reign{Term: term, Self: voters[leader-1], Voters: voters})
			clear(suspected)
			clear(decided)
			clear(heard)
		}
		elect()
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			id := rapid.Int32Range(1, brokers).Draw(t, "broker")
			switch rapid.IntRange(0, 39).Draw(t, "step") {
			default: // a heartbeat that took its time on the way
				way := time.Duration(rapid.IntRange(0, 700).Draw(t, "way")) * time.Millisecond
				hb := &Heartbeat{BrokerID: id, BrokerEpoch: int64(id), Applied: 10, Ready: true, Term: terms[id]}
				hb.ContactMs = now.Sub(contacts[id].Last(hb.Term)).Milliseconds()
				g, _, known := l.Answer(now, img, hb)
				require.True(t, known)
				require.Equal(t, !decided[id], g.Lease > 0)
				heard[id], suspected[id] = now, false
				if g.Lease > 0 {
					if until := now.Add(-way).Add(time.Duration(g.Lease) * time.Millisecond); until.After(lease[id]) {
						lease[id] = until
					}
					for _, v := range majority() { // the leader makes sure
						terms[v] = term
						contacts[v].Note(term, now)
					}
				}
			case 0: // an old epoch's
				require.False(t, l.Hear(now, img, &Heartbeat{BrokerID: id, BrokerEpoch: int64(id) - 1}))
			case 1:
				l.Suspect(id, int64(id), false)
				suspected[id] = true
			case 2, 3: // another leader
				elect()
			case 4: // the process is paused, and so are its looks
				now = now.Add(time.Duration(rapid.IntRange(1600, 9000).Draw(t, "pause")) * time.Millisecond)
				l.Tick(now, img)
				led, paused = now, now
			case 5: // a voter starts anew
				*contacts[id] = raftnode.NewContacts(now)
			case 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25:
				now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
			}
			for _, cmd := range Decide(now, img, l) {
				s := cmd.(*command.SetBrokerState)
				require.Equal(t, command.BrokerFenced, s.State)
				if decided[s.BrokerID] {
					continue // until the image shows it
				}
				decided[s.BrokerID] = true
				require.False(t, now.Before(lease[s.BrokerID]), "broker %d may still lead", s.BrokerID)
				least := opts.Session
				if suspected[s.BrokerID] {
					least = opts.Grant
				}
				if heard[s.BrokerID].IsZero() {
					least = min(least, opts.grace())
				}
				require.GreaterOrEqual(t, now.Sub(later(heard[s.BrokerID], led)), least)
				require.GreaterOrEqual(t, now.Sub(paused), least)
			}
			next := l.Next(now)
			require.True(t, next.After(now))
			require.LessOrEqual(t, next.Sub(now), opts.Session/4)
			for id := int32(1); id <= brokers; id++ {
				if now.Sub(later(heard[id], led)) >= opts.Session {
					require.True(t, l.Expired(now, id))
				}
			}
		}
	})
}

// TestNewLeaderCountsFromTheLastContact: a metadata leader that falls silent costs its
// partitions a session from then, not an election and a session.
func TestNewLeaderCountsFromTheLastContact(t *testing.T) {
	dirs := []uuid.UUID{{1}, {2}, {3}}
	ed := metadata.Empty().Edit()
	for i, dir := range dirs {
		ed.PutBroker(&metadata.Broker{ID: int32(i + 1), DirectoryID: dir, Epoch: 1})
	}
	img, _ := ed.Commit(10)
	began := time.Unix(1000, 0)
	at := func(d time.Duration) time.Time { return began.Add(d) }
	begin := func() *Leases {
		l := NewLeases(LeaseOptions{}, began, img)
		l.Reign(Reign{Term: 7, Self: dirs[1], Voters: dirs})
		return l
	}
	tell := func(l *Leases, now time.Time, id int32, term uint64, contact time.Duration) (act bool) {
		_, act, known := l.Answer(now, img, &Heartbeat{BrokerID: id, BrokerEpoch: 1, Applied: 10, Ready: true, Term: term, ContactMs: contact.Milliseconds()})
		require.True(t, known)
		return act
	}
	expires := func(l *Leases, id int32, when time.Duration) {
		t.Helper()
		require.False(t, l.Expired(at(when-1), id))
		require.True(t, l.Expired(at(when), id))
	}
	// The leader before, broker 1, fell silent 1.2 s ago; 2 heard it last 1.3 s ago.
	l := begin()
	require.False(t, tell(l, at(0), 2, 7, 1300*time.Millisecond))
	expires(l, 1, 3*time.Second)
	require.True(t, tell(l, at(100*time.Millisecond), 3, 7, 1300*time.Millisecond), "the end of a lease is another")
	expires(l, 1, 1800*time.Millisecond)
	expires(l, 3, 3100*time.Millisecond)
	// What one tells later changes nothing.
	require.False(t, tell(l, at(200*time.Millisecond), 3, 7, 5*time.Second))
	expires(l, 1, 1800*time.Millisecond)

	l = begin() // an election took long: a living broker has the grace to be heard
	tell(l, at(0), 2, 7, 9*time.Second)
	tell(l, at(0), 3, 7, 9*time.Second)
	expires(l, 1, time.Second)
	l.Suspect(1, 1, false)
	expires(l, 1, time.Second)
	l.Suspect(1, 1, true)
	require.True(t, l.Expired(at(0), 1))

	l = begin() // one of no majority, one of an earlier term, a paused leader
	tell(l, at(0), 2, 7, time.Minute)
	tell(l, at(0), 2, 7, time.Minute)
	tell(l, at(0), 3, 6, time.Minute)
	expires(l, 1, 3*time.Second)
	l.Tick(at(2*time.Second), img)
	tell(l, at(2*time.Second), 3, 7, time.Minute)
	expires(l, 1, 5*time.Second)

	l = begin() // others than the leader itself
	tell(l, at(0), 1, 7, time.Minute)
	tell(l, at(0), 3, 7, time.Minute)
	expires(l, 2, 3*time.Second)
}

// TestABrokerThatAppliesNothingGetsNoLease: it is heard, but goes by what the metadata
// were.
func TestABrokerThatAppliesNothingGetsNoLease(t *testing.T) {
	now := time.Unix(1000, 0)
	image := func(index uint64, fenced bool) *metadata.Image {
		ed := metadata.Empty().Edit()
		ed.PutBroker(&metadata.Broker{ID: 1, Epoch: 1, Fenced: fenced})
		img, _ := ed.Commit(index)
		return img
	}
	const step = 500 * time.Millisecond
	l := NewLeases(LeaseOptions{}, now, image(10, false))
	beat := func(img *metadata.Image, applied uint64) (leased bool, cmds []command.Command) {
		now = now.Add(step)
		g, _, known := l.Answer(now, img, &Heartbeat{BrokerID: 1, BrokerEpoch: 1, Applied: applied, Ready: true})
		require.True(t, known)
		return g.Lease > 0, Decide(now, img, l)
	}
	good := func(img *metadata.Image, applied uint64) {
		t.Helper()
		leased, cmds := beat(img, applied)
		require.True(t, leased)
		require.Empty(t, cmds)
	}
	for range 20 { // nothing happens
		good(image(10, false), 10)
	}
	for i := range uint64(20) { // slow, and slower, but not still
		good(image(100+10*i, false), 11+i/5)
	}
	good(image(500, false), 500)
	for range 100 { // an old heartbeat comes late
		good(image(500, false), 499)
	}
	behind := now.Add(step)
	for now.Add(step).Sub(behind) < 3*time.Second {
		good(image(501, false), 500)
	}
	last := now
	fenced := false
	for !fenced {
		leased, cmds := beat(image(502, false), 500)
		require.False(t, leased, "%v behind", now.Sub(behind))
		if fenced = len(cmds) > 0; fenced {
			require.Equal(t, []command.Command{&command.SetBrokerState{BrokerID: 1, BrokerEpoch: 1, State: command.BrokerFenced}}, cmds)
		}
	}
	require.Equal(t, 3*time.Second, now.Sub(last), "its own lease ends first")
	for range 10 {
		leased, cmds := beat(image(503, true), 500)
		require.False(t, leased)
		require.Empty(t, cmds)
	}
	_, cmds := beat(image(503, true), 502)
	require.Empty(t, cmds, "it does not know yet that it was fenced")
	_, cmds = beat(image(503, true), 503)
	require.Equal(t, []command.Command{&command.SetBrokerState{BrokerID: 1, BrokerEpoch: 1, State: command.BrokerActive}}, cmds)
	good(image(504, false), 504)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestStateOfABroker holds Decide against the table of what calls for what.
func TestStateOfABroker(t *testing.T) {
	now := time.Unix(1000, 0)
	type b = metadata.Broker
	for name, c := range map[string]struct {
		broker b
		hb     *Heartbeat
		want   command.BrokerState
	}{
		"fenced and silent":             {broker: b{Fenced: true}},
		"fenced, heard, not ready":      {broker: b{Fenced: true}, hb: &Heartbeat{Applied: 9}},
		"fenced, ready, behind":         {broker: b{Fenced: true}, hb: &Heartbeat{Applied: 8, Ready: true}},
		"fenced, ready, caught up":      {broker: b{Fenced: true}, hb: &Heartbeat{Applied: 9, Ready: true}, want: command.BrokerActive},
		"fenced, wants to go":           {broker: b{Fenced: true}, hb: &Heartbeat{Applied: 9, Ready: true, WantShutdown: true}},
		"fenced after a shutdown":       {broker: b{Fenced: true, ShuttingDown: true}, hb: &Heartbeat{Applied: 9, Ready: true}},
		"active":                        {hb: &Heartbeat{Applied: 9, Ready: true}},
		"active, wants to go":           {hb: &Heartbeat{Applied: 9, Ready: true, WantShutdown: true}, want: command.BrokerShuttingDown},
		"shutting down, leads nothing":  {broker: b{ShuttingDown: true}, hb: &Heartbeat{Applied: 9, WantShutdown: true}, want: command.BrokerFenced},
		"shutting down, and then heard": {broker: b{ShuttingDown: true}, hb: &Heartbeat{Applied: 9}, want: command.BrokerFenced},
	} {
		t.Run(name, func(t *testing.T) {
			c.broker.ID, c.broker.Epoch = 1, 5
			ed := metadata.Empty().Edit()
			ed.PutBroker(&c.broker)
			img, _ := ed.Commit(9)
			l := NewLeases(LeaseOptions{}, now, img)
			if c.hb != nil {
				c.hb.BrokerID, c.hb.BrokerEpoch = 1, 5
				require.True(t, l.Hear(now, img, c.hb))
			}
			got := Decide(now, img, l)
			if c.want == 0 {
				require.Empty(t, got)
				return
			}
			require.Equal(t, []command.Command{&command.SetBrokerState{BrokerID: 1, BrokerEpoch: 5, State: c.want}}, got)
		})
	}
}

// TestFullDisks: a broker hands over while another has room, and takes part again once
// it has room or nobody has.
func TestFullDisks(t *testing.T) {
	now := time.Unix(1000, 0)
	decide := func(level command.Level, brokers ...metadata.Broker) map[int32]command.BrokerState {
		ed := metadata.Empty().Edit()
		ed.SetFeature(command.Feature, int16(level), 1)
		for _, b := range brokers {
			b.Epoch = 5
			b.Full = b.Version == "known"
			ed.PutBroker(&b)
		}
		img, _ := ed.Commit(9)
		l := NewLeases(LeaseOptions{}, now, img)
		for _, b := range brokers {
			if b.Rack != "unheard" {
				require.True(t, l.Hear(now, img, &Heartbeat{BrokerID: b.ID, BrokerEpoch: 5, Applied: 9, Ready: true, DiskFull: b.Rack == "full"}))
			}
		}
		got := map[int32]command.BrokerState{}
		for _, c := range Decide(now, img, l) {
			got[c.(*command.SetBrokerState).BrokerID] = c.(*command.SetBrokerState).State
		}
		return got
	}
	room := func(id int32) metadata.Broker { return metadata.Broker{ID: id} }
	full := func(id int32) metadata.Broker { return metadata.Broker{ID: id, Rack: "full"} }
	known := func(b metadata.Broker) metadata.Broker { b.Version = "known"; return b }
	fenced := func(b metadata.Broker) metadata.Broker { b.Fenced = true; return b }
	unheard := func(id int32) metadata.Broker { return metadata.Broker{ID: id, Rack: "unheard"} }
	type states = map[int32]command.BrokerState
	require.Equal(t, states{1: command.BrokerFull}, decide(command.Level2, full(1), room(2)))
	require.Equal(t, states{}, decide(command.Level1, full(1), room(2)), "nobody could read the command")
	require.Equal(t, states{}, decide(command.Level2, known(full(1)), room(2)))
	require.Equal(t, states{1: command.BrokerActive}, decide(command.Level2, known(room(1)), room(2)))
	require.Equal(t, states{}, decide(command.Level2, full(1), full(2)), "nobody has room")
	require.Equal(t, states{1: command.BrokerActive}, decide(command.Level2, known(full(1)), full(2)), "nobody has room any more")
	require.Equal(t, states{2: command.BrokerActive}, decide(command.Level2, full(1), fenced(room(2))))
	require.Equal(t, states{1: command.BrokerFull}, decide(command.Level2, fenced(full(1)), room(2)), "straight from being fenced")
	require.Equal(t, states{}, decide(command.Level2, full(1), unheard(2)), "it may be as full")
	require.Equal(t, states{}, decide(command.Level2, known(full(1)), unheard(2)), "it may have room")
	require.Equal(t, states{1: command.BrokerFull}, decide(command.Level2, full(1), unheard(2), room(3)))
	require.Equal(t, states{1: command.BrokerActive}, decide(command.Level2, known(full(1)), full(2), fenced(unheard(3))))
}

// TestDrainedWaitsForTheOthers: the shutdown of a broker is granted when the others
// have heard who leads instead, or after a while.
func TestDrainedWaitsForTheOthers(t *testing.T) {
	ed := metadata.Empty().Edit()
	ed.PutBroker(&metadata.Broker{ID: 1, Epoch: 1, ShuttingDown: true})
	ed.PutBroker(&metadata.Broker{ID: 2, Epoch: 2})
	img, _ := ed.Commit(20)
	now := time.Unix(1000, 0)
	l := NewLeases(LeaseOptions{}, now, img)
	hear := func(id int32, applied uint64) {
		require.True(t, l.Hear(now, img, &Heartbeat{BrokerID: id, BrokerEpoch: int64(id), Applied: applied, Ready: true, WantShutdown: id == 1}))
	}
	hear(1, 20)
	hear(2, 19)
	require.Empty(t, Decide(now, img, l))
	hear(2, 20)
	require.Len(t, Decide(now, img, l), 1)

	l = NewLeases(LeaseOptions{}, now, img)
	hear(1, 20)
	hear(2, 19)
	require.Empty(t, Decide(now, img, l))
	now = now.Add(drainWait / 2)
	require.Empty(t, Decide(now, img, l))
	now = now.Add(drainWait / 2)
	require.Len(t, Decide(now, img, l), 1)
}
