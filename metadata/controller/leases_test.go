package controller

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// TestNobodyIsFencedWhoIsHeard drives the leases and decisions with random
// heartbeats, losses, pauses of the leader and changes of leader, beside what the
// brokers themselves believe of their leases: none is fenced that may still lead, or
// whose last heartbeat arrived within a session; and each that is silent is fenced
// within a session and a look.
func TestNobodyIsFencedWhoIsHeard(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const brokers = 3
		ed := metadata.Empty().Edit()
		for id := int32(1); id <= brokers; id++ {
			ed.PutBroker(&metadata.Broker{ID: id, DirectoryID: uuid.New(), Epoch: int64(id)})
		}
		img, _ := ed.Commit(10)
		opts := LeaseOptions{Session: 3 * time.Second, Grant: time.Duration(rapid.IntRange(500, 3000).Draw(t, "grant")) * time.Millisecond}
		start := time.Unix(1000, 0)
		now, led := start, start
		l := NewLeases(opts, now, img)
		heard, lease := map[int32]time.Time{}, map[int32]time.Time{}
		suspected := map[int32]bool{}
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			id := rapid.Int32Range(1, brokers).Draw(t, "broker")
			switch rapid.IntRange(0, 39).Draw(t, "step") {
			default: // a heartbeat that took its time on the way
				way := time.Duration(rapid.IntRange(0, 700).Draw(t, "way")) * time.Millisecond
				require.True(t, l.Hear(now, img, &Heartbeat{BrokerID: id, BrokerEpoch: int64(id), Applied: 10, Ready: true}))
				heard[id], suspected[id] = now, false
				if until := now.Add(-way).Add(opts.Grant); until.After(lease[id]) {
					lease[id] = until
				}
			case 0: // an old epoch's
				require.False(t, l.Hear(now, img, &Heartbeat{BrokerID: id, BrokerEpoch: int64(id) - 1}))
			case 1:
				l.Suspect(id, int64(id), false)
				suspected[id] = true
			case 2: // another leader
				l, led = NewLeases(opts, now, img), now
				clear(suspected)
			case 3: // the process is paused, and so are its looks
				now = now.Add(time.Duration(rapid.IntRange(1600, 9000).Draw(t, "pause")) * time.Millisecond)
				l.Tick(now, img)
				led = now
			case 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25:
				now = now.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ms")) * time.Millisecond)
			}
			for _, cmd := range Decide(now, img, l) {
				s := cmd.(*command.SetBrokerState)
				require.Equal(t, command.BrokerFenced, s.State)
				require.False(t, now.Before(lease[s.BrokerID]), "broker %d may still lead", s.BrokerID)
				silence := now.Sub(later(heard[s.BrokerID], led))
				least := opts.Session
				if suspected[s.BrokerID] {
					least = opts.Grant
				}
				require.GreaterOrEqual(t, silence, least)
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
