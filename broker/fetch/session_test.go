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

// numbers are the partitions that a plan looks at.
func numbers(p *Plan) []int32 {
	var out []int32
	if p.Incremental {
		p.look()
	}
	for _, x := range p.Parts {
		out = append(out, x.Key.Partition)
	}
	return out
}

func got(hw record.Offset, bytes int64) *Got {
	g := &Got{Local: commitlog.Slice{Bytes: bytes}, Preferred: -1}
	g.State.HighWatermark = hw
	return g
}

func TestSessionTellsWhatChanged(t *testing.T) {
	s := NewSessions(10)
	full, err := s.Begin(Begin{Now: start, ID: 0, Epoch: 0, Parts: parts(0, 1, 2)})
	require.NoError(t, err)
	require.NotZero(t, full.ID)
	require.False(t, full.Incremental)
	for i := range full.Parts {
		require.True(t, full.Told(i, got(5, 0)), "a full answer has every partition")
	}
	// Nothing changed but partition 1: it alone is told, and goes to the end.
	plan, err := s.Begin(Begin{Now: start, ID: full.ID, Epoch: 1})
	require.NoError(t, err)
	require.Equal(t, []int32{0, 1, 2}, numbers(plan))
	require.False(t, plan.Told(0, got(5, 0)))
	require.True(t, plan.Told(1, got(6, 10)))
	require.False(t, plan.Told(2, got(5, 0)))
	plan, err = s.Begin(Begin{Now: start, ID: full.ID, Epoch: 2})
	require.NoError(t, err)
	require.Equal(t, []int32{0, 2, 1}, numbers(plan), "what had data goes last, so that none starves")
	// A moved watermark is news; an error is news each time, and so is its end.
	require.True(t, plan.Told(0, got(7, 0)))
	bad := &Got{Err: kerr.NotLeaderForPartition, Preferred: -1}
	require.True(t, plan.Told(1, bad))
	require.True(t, plan.Told(1, bad))
	require.True(t, plan.Told(1, got(5, 0)))
	require.False(t, plan.Told(1, got(5, 0)))
}

func TestSessionForgetsAndCloses(t *testing.T) {
	s := NewSessions(10)
	full, _ := s.Begin(Begin{Now: start, ID: 0, Epoch: 0, Parts: parts(0, 1)})
	plan, err := s.Begin(Begin{Now: start, ID: full.ID, Epoch: 1, Parts: parts(2), Forgotten: []SessionKey{{Name: "t", Partition: 0}}})
	require.NoError(t, err)
	require.Equal(t, []int32{1, 2}, numbers(plan))
	require.Equal(t, 2, s.Partitions())
	plan, err = s.Begin(Begin{Now: start, ID: full.ID, Epoch: 2, Forgotten: []SessionKey{{Name: "t", Partition: 1}, {Name: "t", Partition: 2}}})
	require.NoError(t, err)
	require.Zero(t, plan.ID, "a session left empty closes")
	require.Zero(t, s.Len())
	// A sessionless fetch closes the session that it names.
	full, _ = s.Begin(Begin{Now: start, ID: 0, Epoch: 0, Parts: parts(0)})
	plan, err = s.Begin(Begin{Now: start, ID: full.ID, Epoch: -1, Parts: parts(0)})
	require.NoError(t, err)
	require.Zero(t, plan.ID)
	require.Zero(t, s.Len())
}

func TestSessionErrors(t *testing.T) {
	s := NewSessions(10)
	_, err := s.Begin(Begin{Now: start, ID: 77, Epoch: 1})
	require.ErrorIs(t, err, kerr.FetchSessionIDNotFound)
	full, _ := s.Begin(Begin{Now: start, ID: 0, Epoch: 0, Parts: parts(0)})
	_, err = s.Begin(Begin{Now: start, ID: full.ID, Epoch: 2})
	require.ErrorIs(t, err, kerr.InvalidFetchSessionEpoch)
	_, err = s.Begin(Begin{Now: start, ID: full.ID, Epoch: 1, ByID: true})
	require.ErrorIs(t, err, kerr.FetchSessionTopicIDError)
	require.EqualValues(t, 1, nextEpoch(math.MaxInt32))
}

func TestSessionEviction(t *testing.T) {
	s := NewSessions(2)
	a, _ := s.Begin(Begin{Now: start, ID: 0, Epoch: 0, Parts: parts(0)})
	b, _ := s.Begin(Begin{Now: start, ID: 0, Epoch: 0, Parts: parts(0, 1, 2)})
	c, err := s.Begin(Begin{Now: start.Add(time.Minute), ID: 0, Epoch: 0, Parts: parts(0, 1)})
	require.NoError(t, err)
	require.Zero(t, c.ID, "no room: refused by id 0, which is no error")
	// Both are old enough now and in use; the smaller gives way to a larger one.
	later := start.Add(3 * time.Minute)
	_, err = s.Begin(Begin{Now: later, ID: a.ID, Epoch: 1})
	require.NoError(t, err)
	_, err = s.Begin(Begin{Now: later, ID: b.ID, Epoch: 1})
	require.NoError(t, err)
	c, _ = s.Begin(Begin{Now: later, ID: 0, Epoch: 0, Parts: parts(0, 1)})
	require.NotZero(t, c.ID)
	_, err = s.Begin(Begin{Now: later, ID: a.ID, Epoch: 2})
	require.ErrorIs(t, err, kerr.FetchSessionIDNotFound)
	// A follower displaces a consumer of any age and size, but no follower in use;
	// a consumer displaces none.
	f1, _ := s.Begin(Begin{Now: later, Epoch: 0, Follower: true, Parts: parts(0)})
	f2, _ := s.Begin(Begin{Now: later, Epoch: 0, Follower: true, Parts: parts(0)})
	require.NotZero(t, f1.ID)
	require.NotZero(t, f2.ID)
	_, err = s.Begin(Begin{Now: later, ID: c.ID, Epoch: 1})
	require.ErrorIs(t, err, kerr.FetchSessionIDNotFound)
	f3, _ := s.Begin(Begin{Now: later, Epoch: 0, Follower: true, Parts: parts(0, 1, 2)})
	require.Zero(t, f3.ID)
	c, _ = s.Begin(Begin{Now: later, Epoch: 0, Parts: parts(0, 1, 2)})
	require.Zero(t, c.ID)
	_, err = s.Begin(Begin{Now: later, ID: f1.ID, Epoch: 1})
	require.ErrorIs(t, err, kerr.FetchSessionIDNotFound, "a follower's session is no consumer's")
	// One idle for over two minutes gives way to anyone.
	d, _ := s.Begin(Begin{Now: later.Add(3 * time.Minute), ID: 0, Epoch: 0, Parts: parts(0)})
	require.NotZero(t, d.ID)
}
