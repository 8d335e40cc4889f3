package producer

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func header(base record.Offset, id int64, epoch int16, seq, n int32, txn bool) *record.Header {
	h := &record.Header{
		BaseOffset: base, ProducerID: id, ProducerEpoch: epoch, BaseSequence: seq, LastOffsetDelta: n - 1, NumRecords: n, MaxTimestamp: 77,
	}
	if txn {
		h.Attributes |= 1 << 4
	}
	return h
}

func end(base record.Offset, id int64, epoch int16) *record.Header {
	return &record.Header{BaseOffset: base, ProducerID: id, ProducerEpoch: epoch, BaseSequence: -1, NumRecords: 1, Attributes: 1<<4 | 1<<5}
}

func TestSequences(t *testing.T) {
	var s State
	at := record.Offset(0)
	apply := func(epoch int16, seq, n int32) {
		s.Apply(header(at, 1, epoch, seq, n, false), nil, 0)
		at += record.Offset(n)
	}
	check := func(epoch int16, seq, n int32) (Verdict, error) {
		defer s.Forget()
		return s.Check(header(at, 1, epoch, seq, n, false))
	}
	v, err := check(3, 500, 1)
	require.NoError(t, err, "a producer without state may start anywhere")
	require.True(t, v.Unknown)
	apply(3, 500, 10)
	for _, c := range []struct {
		epoch int16
		seq   int32
		want  error
	}{
		{3, 510, nil}, {3, 511, ErrOutOfOrderSequence}, {3, 509, ErrOutOfOrderSequence}, {3, 0, ErrOutOfOrderSequence},
		{2, 510, ErrStaleEpoch}, {4, 0, nil}, {4, 510, ErrOutOfOrderSequence},
	} {
		_, err := check(c.epoch, c.seq, 1)
		require.ErrorIs(t, err, c.want, "%+v", c)
	}
	v, err = check(3, 500, 10)
	require.NoError(t, err)
	require.Equal(t, Verdict{Duplicate: true, Base: 0, Next: 10, Timestamp: 77}, v)
	_, err = check(3, 500, 9)
	require.ErrorIs(t, err, ErrOutOfOrderSequence, "the same first sequence, but not the same batch")
	for i := range int32(5) {
		apply(3, 510+i, 1)
	}
	_, err = check(3, 500, 10)
	require.ErrorIs(t, err, ErrOutOfOrderSequence, "older than the last five")
	v, err = check(3, 510, 1)
	require.NoError(t, err)
	require.True(t, v.Duplicate)
}

func TestSequencesWrap(t *testing.T) {
	var s State
	s.Apply(header(0, 1, 0, math.MaxInt32-2, 2, false), nil, 0)
	wrapping := header(2, 1, 0, math.MaxInt32, 3, false) // max, 0, 1
	_, err := s.Check(wrapping)
	require.NoError(t, err)
	s.Forget()
	s.Apply(wrapping, nil, 0)
	v, err := s.Check(wrapping)
	require.NoError(t, err)
	require.Equal(t, Verdict{Duplicate: true, Base: 2, Next: 5, Timestamp: 77}, v)
	_, err = s.Check(header(5, 1, 0, 2, 1, false))
	require.NoError(t, err)
	s.Forget()
	s.Apply(header(5, 1, 0, 2, math.MaxInt32-1, false), nil, 0)
	_, err = s.Check(header(6, 1, 0, 0, 1, false))
	require.NoError(t, err, "0 follows 2147483647")
}

func TestGatheredBatchesSeeEachOther(t *testing.T) {
	var s State
	first, second := header(0, 1, 0, 0, 2, false), header(2, 1, 0, 2, 2, false)
	for _, h := range []*record.Header{first, second} {
		v, err := s.Check(h)
		require.NoError(t, err)
		require.False(t, v.Duplicate)
	}
	v, err := s.Check(first)
	require.NoError(t, err)
	require.Equal(t, Verdict{Duplicate: true, Base: 0, Next: 2, Timestamp: 77}, v)
	_, err = s.Check(header(4, 1, 0, 5, 1, false))
	require.ErrorIs(t, err, ErrOutOfOrderSequence)
	_, err = s.Check(header(4, 1, 1, 0, 1, false))
	require.NoError(t, err)
	_, err = s.Check(header(4, 1, 0, 4, 1, false))
	require.ErrorIs(t, err, ErrStaleEpoch)
	s.Forget()
	v, err = s.Check(header(0, 1, 0, 9, 1, false))
	require.NoError(t, err)
	require.True(t, v.Unknown, "what was checked was not appended")
}

func TestRecordsOutsideTheOpenTransaction(t *testing.T) {
	var s State
	s.Apply(header(0, 1, 0, 0, 1, true), nil, 0)
	_, err := s.Check(header(1, 1, 0, 1, 1, false))
	require.ErrorIs(t, err, ErrInvalidTxnState)
	_, err = s.Check(header(1, 1, 0, 1, 1, true))
	require.NoError(t, err)
	require.ErrorIs(t, s.CheckMarker(1, -1, 0), ErrStaleEpoch)
	s.Apply(end(1, 1, 0), &record.EndTxnMarker{CoordinatorEpoch: 5}, 0)
	require.ErrorIs(t, s.CheckMarker(1, 0, 4), ErrStaleCoordinator)
	require.NoError(t, s.CheckMarker(1, 0, 5))
	require.NoError(t, s.CheckMarker(2, 0, 0))
}

func TestExpiry(t *testing.T) {
	var s State
	s.Apply(header(0, 1, 0, 0, 1, false), nil, 100)
	s.Apply(header(1, 2, 0, 0, 1, true), nil, 100)
	s.Apply(header(2, 3, 0, 0, 1, false), nil, 200)
	require.Equal(t, 0, s.Expire(100))
	require.Equal(t, 1, s.Expire(101))
	require.Equal(t, 1, s.Expire(1000), "the open transaction's producer stays")
	require.Equal(t, 1, s.Len())
}

// TestTransactionsAgainstNaive compares the last stable offset and aborted
// transactions with a model that looks at all batches each time.
func TestTransactionsAgainstNaive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type txn struct {
			id            int64
			first, marker record.Offset // marker -1 while open
			commit        bool
		}
		var s State
		var txns []txn
		at, hw := record.Offset(0), record.Offset(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := rapid.Int64Range(0, 4).Draw(t, "id")
			open := -1
			for i := range txns {
				if txns[i].id == id && txns[i].marker < 0 {
					open = i
				}
			}
			switch rapid.IntRange(0, 2).Draw(t, "op") {
			case 0:
				s.Apply(header(at, id, 0, -1, 2, true), nil, 0)
				if open < 0 {
					txns = append(txns, txn{id: id, first: at, marker: -1})
				}
				at += 2
			case 1:
				m := record.EndTxnMarker{Commit: rapid.Bool().Draw(t, "commit")}
				done, ended := s.Apply(end(at, id, 0), &m, 0)
				if ended != (open >= 0) {
					t.Fatalf("ended %v, open %d", ended, open)
				}
				if ended {
					x := &txns[open]
					x.marker, x.commit = at, m.Commit
					stable := at + 1
					for _, y := range txns {
						if y.marker < 0 {
							stable = min(stable, y.first)
						}
					}
					want := Completed{Aborted: Aborted{ProducerID: id, First: x.first, Last: at, LastStable: stable}, Commit: m.Commit}
					if done != want {
						t.Fatalf("got %+v, want %+v", done, want)
					}
				}
				at++
			case 2:
				hw = rapid.Custom(func(t *rapid.T) record.Offset {
					return record.Offset(rapid.Int64Range(int64(hw), int64(at)).Draw(t, "o"))
				}).Draw(t, "hw")
			}
			want, first := hw, record.NoOffset
			for _, x := range txns {
				if x.marker < 0 || x.marker >= hw {
					want = min(want, x.first)
				}
				if x.marker < 0 && first == record.NoOffset {
					first = x.first
				}
			}
			if got := s.LastStable(hw); got != want {
				t.Fatalf("last stable under %d is %d, want %d: %+v", hw, got, want, txns)
			}
			if got := s.FirstOpen(); got != first {
				t.Fatalf("first open %d, want %d", got, first)
			}
		}
	})
}

// randomState makes a state by applying random batches.
func randomState(seed uint64) (*State, record.Offset) {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := &State{}
	at := record.Offset(0)
	next := map[int64]int32{}
	for range 100 {
		id := rng.Int64N(10)
		if rng.IntN(4) == 0 {
			s.Apply(end(at, id, 0), &record.EndTxnMarker{CoordinatorEpoch: 3}, 5)
			at++
			continue
		}
		n := 1 + rng.Int32N(5)
		s.Apply(header(at, id, 0, next[id], n, rng.IntN(2) == 0), nil, int64(at))
		next[id] += n
		at += record.Offset(n)
	}
	return s, at
}

func TestSnapshotRoundTrip(t *testing.T) {
	for seed := range uint64(50) {
		s, at := randomState(seed)
		b := s.AppendSnapshot([]byte("before"), at)
		got, end, err := ParseSnapshot(b[len("before"):])
		require.NoError(t, err)
		require.Equal(t, at, end)
		require.Equal(t, s.Infos(), got.Infos())
		require.Equal(t, s.FirstOpen(), got.FirstOpen())
		require.Equal(t, b[len("before"):], got.AppendSnapshot(nil, at))
		for i := range b[6:] {
			b[6+i] ^= 0x10
			_, _, err := ParseSnapshot(b[6:])
			require.ErrorIs(t, err, ErrCorrupt)
			b[6+i] ^= 0x10
		}
	}
}
