package controller

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// TestClocks: the cluster's time is that of most clocks, whoever leads the metadata.
func TestClocks(t *testing.T) {
	const h = time.Hour
	type ahead = map[int32]time.Duration
	for _, c := range []struct {
		name   string
		clocks []time.Duration // of brokers 1, 2 ..., ahead of the metadata leader's
		behind time.Duration
		ahead  ahead
	}{
		{"nobody is heard", nil, 0, nil},
		{"alone", []time.Duration{0}, 0, nil},
		{"all the same", []time.Duration{0, 5 * time.Millisecond, -5 * time.Millisecond}, 0, nil},
		{"another is ahead", []time.Duration{0, h, 0}, 0, ahead{2: h}},
		{"another is behind", []time.Duration{0, -h, 0}, 0, ahead{2: -h}},
		{"the leader is ahead", []time.Duration{0, -h, -h}, h, ahead{1: h}},
		{"the leader is behind", []time.Duration{0, h, h + time.Millisecond}, -h, ahead{1: -h}},
		{"all differ", []time.Duration{0, -h, h}, 0, ahead{2: -h, 3: h}},
		{"one of two: the leader is believed", []time.Duration{0, h}, 0, ahead{2: h}},
		{"one of two, behind", []time.Duration{0, -h}, 0, ahead{2: -h}},
		{"two of four", []time.Duration{0, -h, -h, 0}, 0, ahead{2: -h, 3: -h}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ed := metadata.Empty().Edit()
			for id := range int32(5) {
				ed.PutBroker(&metadata.Broker{ID: id + 1, Epoch: 1})
			}
			img, _ := ed.Commit(1)
			now := time.Unix(1_000_000, 0)
			l := NewLeases(LeaseOptions{}, now, img)
			// Whoever is silent for long does not count.
			require.True(t, l.Hear(now.Add(-3*time.Second), img, &Heartbeat{BrokerID: 5, BrokerEpoch: 1, Clock: now.Add(10 * h).UnixMilli()}))
			for i, d := range c.clocks {
				require.True(t, l.Hear(now, img, &Heartbeat{BrokerID: int32(i + 1), BrokerEpoch: 1, Clock: now.Add(d).UnixMilli()}))
			}
			behind, off, _ := l.clocks(now)
			require.Equal(t, c.behind, behind)
			require.Equal(t, c.ahead, off)
		})
	}
}

// TestNobodyTellsTheTime: where half of the clocks contradicts the other, or half of the
// brokers in use is silent, none of them is believed, be it the leader's.
func TestNobodyTellsTheTime(t *testing.T) {
	const h = time.Hour
	for _, c := range []struct {
		name   string
		clocks []time.Duration // of brokers 1, 2 ..., ahead of the metadata leader's
		silent int             // more brokers that are not fenced
		unsure bool
	}{
		{"nobody is heard", nil, 0, true},
		{"alone", []time.Duration{0}, 0, false},
		{"two that agree", []time.Duration{0, 9 * time.Second}, 0, false},
		{"two that do not", []time.Duration{0, h}, 0, true},
		{"two that do not, behind", []time.Duration{0, -h}, 0, true},
		{"two of three, and the third is down", []time.Duration{0, -h}, 1, true},
		{"most of three", []time.Duration{0, -h, -h}, 0, false},
		{"two of four", []time.Duration{0, -h, -h, 0}, 0, true},
		{"three of four", []time.Duration{0, -h, -h, -h}, 0, false},
		{"the leader has heard only itself yet", []time.Duration{0}, 2, true},
		{"one of three is down", []time.Duration{0, 0}, 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			ed := metadata.Empty().Edit()
			for i := range len(c.clocks) + c.silent {
				ed.PutBroker(&metadata.Broker{ID: int32(i + 1), Epoch: 1})
			}
			ed.PutBroker(&metadata.Broker{ID: 9, Epoch: 1, Fenced: true}) // dead for long
			img, _ := ed.Commit(1)
			now := time.Unix(1_000_000, 0)
			l := NewLeases(LeaseOptions{}, now, img)
			for i, d := range c.clocks {
				require.True(t, l.Hear(now, img, &Heartbeat{BrokerID: int32(i + 1), BrokerEpoch: 1, Clock: now.Add(d).UnixMilli()}))
			}
			_, _, unsure := l.clocks(now)
			require.Equal(t, c.unsure, unsure)
		})
	}
}

// TestClockJumps: a node knows at once that its clock has jumped, and all brokers
// hear of it with the next heartbeats.
func TestClockJumps(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		_, leave := w.join(t, 3)
		defer leave()
		// The fourth's clock stands still while the others' go on: to it, wall time jumps.
		var still time.Duration
		h := w.heartbeater(4, uuid.New(), func(o *HeartbeaterOptions) {
			o.Clock = func() time.Duration { return time.Since(epochOfTests) - still }
		})
		_, known := h.ClockBehind(time.Now())
		require.False(t, known, "nobody has told it anything yet")
		require.True(t, h.ClockUnsure())
		_, err := h.Register(t.Context())
		require.NoError(t, err)
		defer run(h.Run)()
		require.NoError(t, h.Active(t.Context()))
		synctest.Wait()
		behind, known := h.ClockBehind(time.Now())
		require.True(t, known)
		require.Zero(t, behind)
		require.False(t, h.ClockUnsure())
		still += time.Hour
		behind, _ = h.ClockBehind(time.Now())
		require.Equal(t, -time.Hour, behind)
		require.Empty(t, h.ClocksAhead())
	})
}

// TestGrantTellsOfClocks: whoever asks is told the time of most clocks, and whose is
// off.
func TestGrantTellsOfClocks(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		c, stop := w.controller(UpkeepOptions{})
		defer stop()
		all, leave := w.join(t, 3)
		defer leave()
		epoch, err := Register(t.Context(), w, &command.RegisterBroker{BrokerID: 4, DirectoryID: uuid.New(), Incarnation: uuid.New()})
		require.NoError(t, err)
		g, _, err := c.hear(&Heartbeat{BrokerID: 4, BrokerEpoch: epoch, Clock: time.Now().Add(-time.Hour).UnixMilli()})
		require.NoError(t, err)
		require.Equal(t, time.Now().UnixMilli(), g.Clock)
		require.Equal(t, map[int32]int64{4: -time.Hour.Milliseconds()}, g.ClocksAhead)
		time.Sleep(time.Second)
		for _, h := range all {
			require.Equal(t, map[int32]time.Duration{4: -time.Hour}, h.ClocksAhead())
		}
	})
}
