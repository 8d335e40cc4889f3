package replica

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

// pieces is a log as its segments: where each ends, of 100 bytes an offset.
type pieces struct {
	start record.Offset
	ends  []record.Offset
}

func (p pieces) Start() record.Offset { return p.start }

func (p pieces) Below(at record.Offset) (segments int, bytes, of int64) {
	from := p.start
	for _, end := range p.ends {
		size := int64(end-from) * 100
		of += size
		if end <= at {
			segments, bytes = segments+1, bytes+size
		}
		from = end
	}
	return segments, bytes, of
}

// even is a log of segments of ten offsets each.
func even(start, end record.Offset) pieces {
	p := pieces{start: start}
	for at := start + 10; at < end; at += 10 {
		p.ends = append(p.ends, at)
	}
	p.ends = append(p.ends, end)
	return p
}

// tieredLeader leads 1000 offsets, of which the bucket has all but the last ten.
func tieredLeader(t testing.TB, cold []int32, isr ...int32) *Replica {
	t.Helper()
	r := New(1, Config{MinISR: 1, Warmth: true}, 0, Progress{LogEnd: 1000, FlushedEnd: 1000})
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 7, Replicas: []int32{1, 2, 3}, ISR: isr, Cold: cold, RemoteEnd: 990}, Progress{LogEnd: 1000, FlushedEnd: 1000})
	return r
}

// accept commits what was proposed.
func accept(t testing.TB, r *Replica, p *ISRProposal) {
	t.Helper()
	require.NotNil(t, p)
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: p.PartitionEpoch + 1, Replicas: []int32{1, 2, 3}, ISR: p.IDs(), Cold: p.Cold, RemoteEnd: r.remoteEnd, LogStart: r.logStart},
		Progress{LogEnd: r.logEnd, FlushedEnd: r.logEnd})
}

func TestWhoIsCold(t *testing.T) {
	for name, c := range map[string]struct {
		start record.Offset // of broker 2; −1: it did not tell
		own   record.Offset
		cold  []int32
		want  []int32
	}{
		"it has all":                          {},
		"it has more":                         {own: 500},
		"a piece of a segment is no matter":   {start: 9},
		"nor is a segment":                    {start: 19},
		"nor are two of a hundred":            {start: 29},
		"ten of a hundred":                    {start: 109},
		"more than a tenth":                   {start: 110, want: []int32{2}},
		"the tail alone":                      {start: 990, want: []int32{2}},
		"one segment of four":                 {own: 960, start: 979},
		"two segments of four":                {own: 960, start: 980, want: []int32{2}},
		"not heard of":                        {start: -1},
		"cold and not heard of":               {start: -1, cold: []int32{2}, want: []int32{2}},
		"cold, and still":                     {start: 990, cold: []int32{2}, want: []int32{2}},
		"cold, and between the two":           {start: 70, cold: []int32{2}, want: []int32{2}},
		"cold, and less than a twentieth":     {start: 49, cold: []int32{2}, want: nil},
		"cold, and the leader came up to it":  {own: 960, start: 969, cold: []int32{2}, want: nil},
		"cold, and all but":                   {own: 960, start: 970, cold: []int32{2}, want: []int32{2}},
		"a cold leader, others have no more":  {own: 900, start: 900, cold: []int32{1}, want: nil},
		"a cold leader, another has more":     {own: 900, start: 0, cold: []int32{1}, want: []int32{1}},
		"a cold leader, another a bit more":   {own: 900, start: 896, cold: []int32{1}, want: nil},
		"a cold leader and not heard of":      {own: 900, start: -1, cold: []int32{1}, want: []int32{1}},
		"both cold":                           {own: 900, start: 900, cold: []int32{1, 2}, want: nil},
		"both cold, the other had more later": {own: 900, start: 100, cold: []int32{1, 2}, want: nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := tieredLeader(t, c.cold, 1, 2)
			log := even(c.own, 1000)
			r.Holds(2, 1, c.start, log)
			eff := r.Judge(t0, log)
			if eff.Propose == nil {
				eff = r.Judge(t0.Add(ColdAfter), log)
			} else {
				require.Less(t, len(c.want), len(c.cold), "nobody gets cold at once")
			}
			if slices.Equal(c.cold, c.want) {
				require.Nil(t, eff.Propose)
				return
			}
			require.NotNil(t, eff.Propose)
			require.ElementsMatch(t, c.want, eff.Propose.Cold)
			require.Equal(t, []int32{1, 2}, eff.Propose.IDs(), "the ISR is another matter")
			accept(t, r, eff.Propose)
			require.Nil(t, r.Judge(t0.Add(time.Hour), log).Propose, "the same again")
		})
	}
}

// TestAColdLeaderJudgesByAWarmFollower: what it lacks itself does not make the others
// warm that lack the same.
func TestAColdLeaderJudgesByAWarmFollower(t *testing.T) {
	r := tieredLeader(t, []int32{1}, 1, 2, 3)
	log := even(900, 1000)
	r.Holds(2, 1, 0, log)
	require.Nil(t, r.Judge(t0, log).Propose, "3 has not told")
	r.Holds(3, 1, 900, log)
	require.Nil(t, r.Judge(t0, log).Propose)
	eff := r.Judge(t0.Add(ColdAfter), log)
	require.NotNil(t, eff.Propose)
	require.Equal(t, []int32{1, 3}, eff.Propose.Cold)
	accept(t, r, eff.Propose)
	// The warm one goes: they are as warm as anybody.
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 20, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 3}, Cold: []int32{1, 3}, RemoteEnd: 990}, Progress{LogEnd: 1000})
	eff = r.Judge(t0.Add(time.Hour), log)
	require.NotNil(t, eff.Propose)
	require.Empty(t, eff.Propose.Cold)
}

func TestNobodyIsColdWhereThereIsNoBucket(t *testing.T) {
	r := tieredLeader(t, []int32{2}, 1, 2)
	r.Holds(2, 1, 990, even(0, 1000))
	require.Nil(t, r.Judge(t0, even(0, 1000)).Propose)
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 8, Replicas: []int32{1, 2, 3}, ISR: []int32{1, 2}, Cold: []int32{2}, RemoteEnd: 990, LogStart: 990}, Progress{LogEnd: 1000})
	eff := r.Judge(t0, even(0, 1000))
	require.NotNil(t, eff.Propose, "nothing that it lacks can be read")
	require.Empty(t, eff.Propose.Cold)

	r = leader(t, Config{MinISR: 1, Warmth: true}, 1, 2)
	r.Appended(1000)
	r.Holds(2, 1, 990, even(0, 1000))
	r.Judge(t0, even(0, 1000))
	require.Nil(t, r.Judge(t0.Add(ColdAfter), even(0, 1000)).Propose, "an untiered topic")
}

func TestNobodyIsJudgedBelowTheLevel(t *testing.T) {
	r := tieredLeader(t, nil, 1, 2)
	r.SetConfig(Config{MinISR: 1})
	r.Holds(2, 1, 990, even(0, 1000))
	r.Holds(3, 1, 990, even(0, 1000))
	r.Judge(t0, even(0, 1000))
	require.Nil(t, r.Judge(t0.Add(ColdAfter), even(0, 1000)).Propose)
	require.Empty(t, r.Fetched(t0, 3, 1, 1000, true).Propose.Cold)
}

func TestJudgementsAreNotProposedOften(t *testing.T) {
	r := tieredLeader(t, []int32{2}, 1, 2)
	log := even(0, 1000)
	r.Holds(2, 1, 0, log)
	eff := r.Judge(t0, log)
	require.NotNil(t, eff.Propose)
	require.Nil(t, r.Judge(t0.Add(time.Minute), log).Propose, "one is under way")
	r.ProposalFailed(eff.Propose, true)
	r.Tick(t0, nil)
	require.Nil(t, r.Judge(t0.Add(WarmthPace-1), log).Propose)
	require.NotNil(t, r.Judge(t0.Add(WarmthPace), log).Propose)
}

// TestAMemberThatLacksForAWhileStaysWarm: its leader has yet to trim.
func TestAMemberThatLacksForAWhileStaysWarm(t *testing.T) {
	r := tieredLeader(t, nil, 1, 2)
	at := t0
	for range 5 {
		r.Holds(2, 1, 500, even(0, 1000))
		require.Nil(t, r.Judge(at, even(0, 1000)).Propose)
		at = at.Add(ColdAfter - 1)
		require.Nil(t, r.Judge(at, even(0, 1000)).Propose)
		require.Nil(t, r.Judge(at, even(490, 1000)).Propose, "trimmed")
	}
}

// TestWhoJoinsIsJudgedWithIt: a reassignment may end with it.
func TestWhoJoinsIsJudgedWithIt(t *testing.T) {
	log := even(0, 1000)
	for name, c := range map[string]struct {
		start      record.Offset
		cold, want []int32
	}{
		"it has all":             {cold: []int32{2}, want: []int32{2}},
		"it has the tail":        {start: 990, cold: []int32{2}, want: []int32{2, 3}},
		"a few segments less":    {start: 60, want: nil},
		"cold before, and now":   {start: 60, cold: []int32{3}, want: []int32{3}},
		"it did not say":         {start: -1, want: nil},
		"cold, and did not say":  {start: -1, cold: []int32{3}, want: []int32{3}},
		"cold before, and has":   {cold: []int32{2, 3}, want: []int32{2}},
		"it has less than a bit": {start: 105, want: nil},
	} {
		t.Run(name, func(t *testing.T) {
			r := tieredLeader(t, c.cold, 1, 2)
			r.Holds(3, 1, c.start, log)
			eff := r.Fetched(t0, 3, 1, 1000, true)
			require.Equal(t, []int32{1, 2, 3}, eff.Propose.IDs())
			require.ElementsMatch(t, c.want, eff.Propose.Cold)
		})
	}
	r := tieredLeader(t, nil, 1, 3)
	r.Holds(3, 1, 0, log)
	require.Nil(t, r.Judge(t0, log).Propose)
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 8, Replicas: []int32{1, 2, 3}, ISR: []int32{1}, RemoteEnd: 990}, Progress{LogEnd: 1000})
	r.Holds(3, 2, 500, log)
	require.Empty(t, r.Fetched(t0, 3, 2, 1000, true).Propose.Cold, "it only was away, and has trimmed")

	r = tieredLeader(t, []int32{3}, 1, 2)
	gone := func(id int32) bool { return id != 2 }
	r.Tick(t0, gone)
	require.Equal(t, []int32{3}, r.Tick(t0.Add(FenceGrace), gone).Propose.Cold, "who leaves changes nothing for the others")
}

// TestWhatAnEarlierLifeHeldMeansNothing, nor what somebody tells who is no replica.
func TestWhatAnEarlierLifeHeldMeansNothing(t *testing.T) {
	r := tieredLeader(t, nil, 1, 2)
	log := even(0, 1000)
	r.Holds(2, 5, 990, log)
	r.Fetched(t0, 2, 5, 1000, true)
	r.Holds(2, 4, 0, log)
	r.Holds(9, 1, 990, log)
	r.Judge(t0, log)
	require.Equal(t, []int32{2}, r.Judge(t0.Add(ColdAfter), log).Propose.Cold)
	require.EqualValues(t, 990, r.Followers()[0].LocalStart)
	follower := New(2, Config{Warmth: true}, 0, Progress{})
	follower.Holds(1, 1, 0, log)
	require.Zero(t, follower.Judge(t0, log))
}

// TestWarmthSettles: replicas that roll and trim at random, each by the same retention,
// are not called cold for it; a new one is, once, and becomes warm, once.
func TestWarmthSettles(t *testing.T) {
	const segment, keep, steps = 10, 200, 4000
	rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
	phase := [...]record.Offset{0, record.Offset(rng.IntN(segment)), record.Offset(rng.IntN(segment))}
	starts := [3]record.Offset{}
	r := tieredLeader(t, nil, 1, 2, 3)
	var flips []int32
	end := record.Offset(1000)
	now := t0
	isr := []int32{1, 2, 3}
	trim := func(i int) {
		// A trim drops whole segments that retention lets go.
		if to := (end - keep - phase[i]) / segment * segment; to+phase[i] > starts[i] {
			starts[i] = to + phase[i]
		}
	}
	for step := range steps {
		end += record.Offset(rng.IntN(3))
		now = now.Add(time.Second)
		if step%60 == 0 {
			trim(0)
		}
		if step%60 == 20 { // each by its own clock
			trim(1)
		}
		if step%60 == 50 {
			trim(2)
		}
		if step == steps/2 {
			// Its disk is new: it left, and joined again.
			starts[2] = end - 5
			isr = []int32{1, 2}
		}
		p := pieces{start: starts[0]}
		for at := starts[0] + segment; at < end; at += segment {
			p.ends = append(p.ends, at)
		}
		p.ends = append(p.ends, end)
		cold := r.cold
		if len(isr) == 2 {
			cold = []int32{3} // by the registration
		}
		r.Assign(now, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: r.partitionEpoch, Replicas: []int32{1, 2, 3}, ISR: isr, Cold: cold, RemoteEnd: end - 5},
			Progress{LogEnd: end, FlushedEnd: end})
		var eff Effects
		for i := 1; i < 3; i++ {
			r.Holds(int32(i+1), 1, starts[i], p)
			if fetched := r.Fetched(now, int32(i+1), 1, end, true); fetched.Propose != nil {
				eff, isr = fetched, []int32{1, 2, 3}
			}
		}
		if eff.Propose == nil {
			eff = r.Judge(now, p)
		}
		if eff.Propose != nil {
			for id := int32(1); id <= 3; id++ {
				if slices.Contains(eff.Propose.Cold, id) != slices.Contains(r.cold, id) {
					flips = append(flips, id)
				}
			}
			accept(t, r, eff.Propose)
		}
	}
	require.Equal(t, []int32{3}, flips, "it gets warm again, once: that it is cold its registration said")
}

// TestSharesLeaveRoom: between getting cold and getting warm there is room, whatever
// the sizes.
func TestSharesLeaveRoom(t *testing.T) {
	for range 10_000 {
		of := rand.Int64N(1 << 50)
		lacking := rand.Int64N(of + 1)
		if share(lacking, of, false) {
			require.True(t, share(lacking, of, true), "%d of %d makes cold, and warm again", lacking, of)
		}
	}
}
