package replica

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

var t0 = time.Unix(1_700_000_000, 0)

func leader(t testing.TB, cfg Config, isr ...int32) *Replica {
	t.Helper()
	r := New(1, cfg, 0, Progress{})
	eff := r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 7, Replicas: []int32{1, 2, 3}, ISR: isr}, Progress{})
	require.True(t, eff.RoleChanged)
	require.True(t, eff.AssignEpoch, "a leader must record its epoch before it appends")
	return r
}

func TestSingleReplicaCountsByDurability(t *testing.T) {
	r := New(1, Config{Fsync: true, MinISR: 1}, 0, Progress{})
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 0, Replicas: []int32{1}, ISR: []int32{1}}, Progress{})
	require.False(t, r.Appended(10).WatermarkMoved, "fsync topics do not count what is not flushed")
	eff := r.Flushed(10)
	require.True(t, eff.WatermarkMoved)
	require.EqualValues(t, 10, eff.HighWatermark)

	r = New(1, Config{MinISR: 1}, 0, Progress{})
	r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 0, Replicas: []int32{1}, ISR: []int32{1}}, Progress{})
	require.EqualValues(t, 10, r.Appended(10).HighWatermark)
}

// The flusher may be heard before the writer has told of the append.
func TestFlushBeforeAppendIsHeard(t *testing.T) {
	r := New(1, Config{Fsync: true, MinISR: 1}, 0, Progress{})
	r.Assign(t0, Assignment{Leader: 1, Replicas: []int32{1}, ISR: []int32{1}}, Progress{})
	require.False(t, r.Flushed(10).WatermarkMoved)
	require.EqualValues(t, 10, r.Appended(10).HighWatermark)
}

func TestWatermarkIsTheSlowestOfTheMaximalISR(t *testing.T) {
	r := leader(t, Config{MinISR: 1}, 1, 2)
	r.Appended(100)
	require.EqualValues(t, 40, r.Fetched(t0, 2, 1, 40, true).HighWatermark)
	// 3 catches up to the watermark: proposed, and counted at once.
	eff := r.Fetched(t0, 3, 1, 50, true)
	require.NotNil(t, eff.Propose)
	require.Equal(t, []Member{{1, -1}, {2, 1}, {3, 1}}, eff.Propose.Members, "with the broker epochs as heard")
	require.EqualValues(t, 7, eff.Propose.PartitionEpoch)
	require.EqualValues(t, 50, r.Fetched(t0, 2, 1, 90, true).HighWatermark, "held by the proposed member")
	// Refused: it does not hold the watermark any more.
	r.ProposalFailed(eff.Propose, true)
	require.EqualValues(t, 90, r.Appended(100).HighWatermark)
}

func TestShrinkCountsOnlyWhenCommitted(t *testing.T) {
	r := leader(t, Config{MinISR: 1, LagMax: 10 * time.Second}, 1, 2)
	r.Appended(100)
	require.Nil(t, r.Tick(t0.Add(10*time.Second), nil).Propose, "not over the lag time yet")
	eff := r.Tick(t0.Add(11*time.Second), nil)
	require.NotNil(t, eff.Propose)
	require.Equal(t, []int32{1}, eff.Propose.IDs())
	require.False(t, r.Appended(120).WatermarkMoved, "a proposed shrink does not count")
	eff = r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 3, PartitionEpoch: 8, Replicas: []int32{1, 2, 3}, ISR: []int32{1}}, Progress{LogEnd: 120})
	require.False(t, eff.RoleChanged)
	require.EqualValues(t, 120, eff.HighWatermark)
}

// A follower of an idle partition is not heard of. It had all there was until the
// first append, and has the whole lag time from then.
func TestIdleFollowersDoNotLag(t *testing.T) {
	r := leader(t, Config{MinISR: 1, LagMax: 10 * time.Second}, 1, 2)
	r.Appended(100)
	r.Fetched(t0, 2, 1, 100, true)
	for s := range 100 {
		require.Nil(t, r.Tick(t0.Add(time.Duration(s)*time.Second), nil).Propose)
	}
	r.Appended(101)
	require.Nil(t, r.Tick(t0.Add(109*time.Second), nil).Propose)
	require.NotNil(t, r.Tick(t0.Add(110*time.Second), nil).Propose)
}

func TestMinISRHoldsTheWatermark(t *testing.T) {
	r := leader(t, Config{MinISR: 2}, 1)
	require.False(t, r.EnoughInSync())
	require.False(t, r.Appended(10).WatermarkMoved)
	require.True(t, r.SetConfig(Config{MinISR: 1}).WatermarkMoved)
}

func TestStaleIsIgnored(t *testing.T) {
	r := leader(t, Config{MinISR: 1}, 1, 2)
	r.Appended(10)
	r.Fetched(t0, 2, 5, 10, true)
	require.False(t, r.Fetched(t0, 2, 4, 10, true).WatermarkMoved, "an earlier life of the follower")
	require.False(t, r.Assign(t0, Assignment{Leader: 2, LeaderEpoch: 2, Replicas: []int32{1, 2}, ISR: []int32{2}}, Progress{}).RoleChanged)
	require.Equal(t, Leader, r.Role())
	require.Nil(t, r.Fetched(t0, 3, 1, 10, false).Propose, "a fenced follower does not join")
	require.Nil(t, r.Fetched(t0, 9, 1, 10, true).Propose, "nor does a stranger")
}

func TestNewLeaderKnowsItsWatermarkFromItsEpochOn(t *testing.T) {
	r := New(1, Config{MinISR: 1}, 0, Progress{LogEnd: 50, FlushedEnd: 50})
	r.Assign(t0, Assignment{Leader: 2, LeaderEpoch: 1, Replicas: []int32{1, 2}, ISR: []int32{1, 2}}, Progress{LogEnd: 50, FlushedEnd: 50})
	require.Equal(t, Follower, r.Role())
	require.EqualValues(t, 20, r.LearnWatermark(20).HighWatermark)
	eff := r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 2, Replicas: []int32{1, 2}, ISR: []int32{1, 2}, RemoteEnd: 30}, Progress{LogEnd: 50, FlushedEnd: 50})
	require.EqualValues(t, 30, eff.HighWatermark, "what is in the bucket was committed")
	require.False(t, r.WatermarkKnown())
	r.Fetched(t0, 2, 1, 50, true)
	require.True(t, r.WatermarkKnown())
}

// The machine against a naive one: the watermark never goes back, never passes
// the slowest member of the maximal ISR, and reaches it when enough are in sync.
func TestWatermarkAgainstNaiveModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := Config{Fsync: rapid.Bool().Draw(t, "fsync"), MinISR: rapid.IntRange(1, 3).Draw(t, "min"), LagMax: time.Second}
		r := New(1, cfg, 0, Progress{})
		isr := []int32{1, 2, 3}
		epoch := int32(1)
		assign := func() {
			r.Assign(t0, Assignment{Leader: 1, LeaderEpoch: 1, PartitionEpoch: epoch, Replicas: []int32{1, 2, 3}, ISR: isr},
				Progress{LogEnd: r.logEnd, FlushedEnd: r.flushedEnd})
		}
		assign()
		progress := map[int32]record.Offset{2: -1, 3: -1}
		var end, flushed, before record.Offset
		var proposal *ISRProposal
		now := t0
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			var eff Effects
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				end += record.Offset(rapid.IntRange(1, 20).Draw(t, "n"))
				eff = r.Appended(end)
			case 1:
				flushed = record.Offset(rapid.Int64Range(int64(flushed), int64(end)).Draw(t, "flushed"))
				eff = r.Flushed(flushed)
			case 2:
				id := rapid.SampledFrom([]int32{2, 3}).Draw(t, "follower")
				progress[id] = record.Offset(rapid.Int64Range(max(int64(progress[id]), 0), int64(end)).Draw(t, "at"))
				eff = r.Fetched(now, id, 1, progress[id], true)
			case 3:
				now = now.Add(700 * time.Millisecond)
				eff = r.Tick(now, nil)
			case 4:
				if proposal != nil {
					isr, proposal = proposal.IDs(), nil
					epoch++
					assign()
				}
			case 5:
				if proposal != nil {
					r.ProposalFailed(proposal, true)
					proposal = nil
				}
			}
			if eff.Propose != nil {
				proposal = eff.Propose
			}
			low := end
			if cfg.Fsync {
				low = flushed
			}
			for _, id := range []int32{2, 3} {
				if slices.Contains(isr, id) || (proposal != nil && slices.Contains(proposal.IDs(), id)) {
					low = min(low, progress[id])
				}
			}
			hw := r.HighWatermark()
			if hw < before {
				t.Fatalf("watermark went back from %d to %d", before, hw)
			}
			if hw > before && hw > low {
				t.Fatalf("watermark %d passes the slowest replica %d", hw, low)
			}
			if len(isr) >= cfg.MinISR && low > hw && eff.WatermarkMoved {
				t.Fatalf("watermark %d stays behind %d", hw, low)
			}
			before = hw
		}
	})
}
