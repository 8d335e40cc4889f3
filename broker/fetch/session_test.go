package fetch

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/record"
)

var start = time.Unix(1_700_000_000, 0)

func parts(numbers ...int32) []SessionPartition {
	var out []SessionPartition
	for _, n := range numbers {
		out = append(out, SessionPartition{Key: SessionKey{Name: "t", Partition: n}, MaxBytes: 100})
	}
	return out
}

func numbers(p *Plan) []int32 {
	var out []int32
	for _, x := range p.Parts {
		out = append(out, x.Key.Partition)
	}
	return out
}

func got(hw record.Offset, bytes int64) *Got {
	g := &Got{Local: commitlog.Slice{Bytes: bytes}}
	g.State.HighWatermark = hw
	return g
}

func TestSessionTellsWhatChanged(t *testing.T) {
	s := NewSessions(10)
	full, err := s.Begin(start, 0, 0, false, parts(0, 1, 2), nil)
	require.NoError(t, err)
	require.NotZero(t, full.ID)
	require.False(t, full.Incremental)
	for i := range full.Parts {
		require.True(t, full.Told(i, got(5, 0), false), "a full answer has every partition")
	}
	// Nothing changed but partition 1: it alone is told, and goes to the end.
	plan, err := s.Begin(start, full.ID, 1, false, nil, nil)
	require.NoError(t, err)
	require.Equal(t, []int32{0, 1, 2}, numbers(plan))
	require.False(t, plan.Told(0, got(5, 0), false))
	require.True(t, plan.Told(1, got(6, 10), false))
	require.False(t, plan.Told(2, got(5, 0), false))
	plan, err = s.Begin(start, full.ID, 2, false, nil, nil)
	require.NoError(t, err)
	require.Equal(t, []int32{0, 2, 1}, numbers(plan), "what had data goes last, so that none starves")
	// A moved watermark is news; an error is news each time, and so is its end.
	require.True(t, plan.Told(0, got(7, 0), false))
	bad := &Got{Err: kerr.NotLeaderForPartition}
	require.True(t, plan.Told(1, bad, false))
	require.True(t, plan.Told(1, bad, false))
	require.True(t, plan.Told(1, got(5, 0), false))
	require.False(t, plan.Told(1, got(5, 0), false))
}

func TestSessionForgetsAndCloses(t *testing.T) {
	s := NewSessions(10)
	full, _ := s.Begin(start, 0, 0, false, parts(0, 1), nil)
	plan, err := s.Begin(start, full.ID, 1, false, parts(2), []SessionKey{{Name: "t", Partition: 0}})
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2}, numbers(plan))
	require.Equal(t, 2, s.Partitions())
	plan, err = s.Begin(start, full.ID, 2, false, nil, []SessionKey{{Name: "t", Partition: 1}, {Name: "t", Partition: 2}})
	require.NoError(t, err)
	require.Zero(t, plan.ID, "a session left empty closes")
	require.Zero(t, s.Len())
	// A sessionless fetch closes the session that it names.
	full, _ = s.Begin(start, 0, 0, false, parts(0), nil)
	plan, err = s.Begin(start, full.ID, -1, false, parts(0), nil)
	require.NoError(t, err)
	require.Zero(t, plan.ID)
	require.Zero(t, s.Len())
}

func TestSessionErrors(t *testing.T) {
	s := NewSessions(10)
	_, err := s.Begin(start, 77, 1, false, nil, nil)
	require.ErrorIs(t, err, kerr.FetchSessionIDNotFound)
	full, _ := s.Begin(start, 0, 0, false, parts(0), nil)
	_, err = s.Begin(start, full.ID, 2, false, nil, nil)
	require.ErrorIs(t, err, kerr.InvalidFetchSessionEpoch)
	_, err = s.Begin(start, full.ID, 1, true, nil, nil)
	require.ErrorIs(t, err, kerr.FetchSessionTopicIDError)
	require.EqualValues(t, 1, nextEpoch(math.MaxInt32))
}

func TestSessionEviction(t *testing.T) {
	s := NewSessions(2)
	a, _ := s.Begin(start, 0, 0, false, parts(0), nil)
	b, _ := s.Begin(start, 0, 0, false, parts(0, 1, 2), nil)
	c, err := s.Begin(start.Add(time.Minute), 0, 0, false, parts(0, 1), nil)
	require.NoError(t, err)
	require.Zero(t, c.ID, "no room: refused by id 0, which is no error")
	// Both are old enough now and in use; the smaller gives way to a larger one.
	later := start.Add(3 * time.Minute)
	_, err = s.Begin(later, a.ID, 1, false, nil, nil)
	require.NoError(t, err)
	_, err = s.Begin(later, b.ID, 1, false, nil, nil)
	require.NoError(t, err)
	c, _ = s.Begin(later, 0, 0, false, parts(0, 1), nil)
	require.NotZero(t, c.ID)
	_, err = s.Begin(later, a.ID, 2, false, nil, nil)
	require.ErrorIs(t, err, kerr.FetchSessionIDNotFound)
	// One idle for over two minutes gives way to anyone.
	d, _ := s.Begin(later.Add(3*time.Minute), 0, 0, false, parts(0), nil)
	require.NotZero(t, d.ID)
}
