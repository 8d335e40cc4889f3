package manifest

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/record"
)

func entryOf(start, end record.Offset, ts int64) Entry {
	return Entry{Start: start, End: end, Object: uuid.New(), Epochs: []EpochStart{{Epoch: 0, Start: start}}, Bytes: int64(end - start), MinTimestamp: ts, MaxTimestamp: ts}
}

// TestAgainstModel edits a manifest at random and a naive one beside it: for each
// offset the object that holds it. Old manifests must not change under new ones.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const space = 200
		var m Manifest
		var owner [space]uuid.UUID // what a reader finds, ignoring the log start
		var start, end record.Offset
		stored := map[record.Offset]Entry{}
		old, oldEntries := m, []Entry(nil)
		for range rapid.IntRange(1, 40).Draw(t, "edits") {
			if rapid.Bool().Draw(t, "keep") {
				old, oldEntries = m, append([]Entry(nil), m.Entries()...)
			}
			switch rapid.IntRange(0, 3).Draw(t, "edit") {
			case 0, 1:
				from := max(start, end) + record.Offset(rapid.IntRange(-1, 1).Draw(t, "off by"))
				to := min(from+record.Offset(rapid.IntRange(1, 15).Draw(t, "length")), space)
				if from < 0 || from >= to {
					continue
				}
				e := entryOf(from, to, rapid.Int64Range(0, 50).Draw(t, "ts"))
				next, added, err := m.WithCopied(e)
				switch {
				case from < end || from > max(start, end):
					require.ErrorIs(t, err, ErrRange)
				case to <= start:
					require.NoError(t, err)
					require.False(t, added)
				default:
					require.NoError(t, err)
					require.True(t, added)
					end = to
					stored[from] = e
					for o := from; o < to; o++ {
						owner[o] = e.Object
					}
				}
				m = next
			case 2:
				to := start + record.Offset(rapid.IntRange(-5, 25).Draw(t, "raise"))
				m = m.WithLogStart(to)
				start = max(start, to)
			case 3:
				at := record.Offset(rapid.IntRange(0, space).Draw(t, "remove"))
				for _, s := range slices.Sorted(maps.Keys(stored)) {
					if rapid.Bool().Draw(t, "this") {
						at = s
						break
					}
				}
				e, ok := stored[at]
				next, err := m.Without(at)
				switch {
				case !ok:
					require.ErrorIs(t, err, ErrNotFound)
				case e.End > start:
					require.ErrorIs(t, err, ErrRange)
				default:
					require.NoError(t, err)
					delete(stored, at)
				}
				m = next
			}
			require.NoError(t, m.Validate())
			require.Equal(t, start, m.LogStart())
			require.Equal(t, end, m.RemoteEnd())
			require.Len(t, m.Entries(), len(stored))
			require.Equal(t, len(stored), len(m.Expired())+len(m.Live()))
			for o := record.Offset(0); o < space; o++ {
				e, ok := m.Find(o)
				if o >= start && o < end {
					require.True(t, ok, "offset %d", o)
					require.Equal(t, owner[o], e.Object)
				} else if ok {
					require.Less(t, o, start, "found above the remote end")
					require.Greater(t, e.End, start, "found what is expired")
				}
			}
			checkTime(t, m)
			require.Equal(t, oldEntries, append([]Entry(nil), old.Entries()...), "an old manifest changed")
			again, err := New(start, end, append([]Entry(nil), m.Entries()...))
			require.NoError(t, err)
			require.Equal(t, append([]Entry(nil), m.Entries()...), append([]Entry(nil), again.Entries()...))
		}
	})
}

func checkTime(t *rapid.T, m Manifest) {
	ts := rapid.Int64Range(0, 60).Draw(t, "time")
	got, ok := m.FindTime(ts)
	for _, e := range m.Live() {
		if e.MaxTimestamp >= ts {
			require.True(t, ok)
			require.Equal(t, e, got)
			return
		}
	}
	require.False(t, ok)
}

func TestNewRefuses(t *testing.T) {
	for name, bad := range map[string]struct {
		start, end record.Offset
		entries    []Entry
	}{
		"hole":            {0, 30, []Entry{entryOf(0, 10, 1), entryOf(20, 30, 1)}},
		"overlap":         {0, 30, []Entry{entryOf(0, 10, 1), entryOf(9, 30, 1)}},
		"order":           {0, 30, []Entry{entryOf(10, 30, 1), entryOf(0, 10, 1)}},
		"late beginning":  {0, 30, []Entry{entryOf(10, 30, 1)}},
		"early end":       {0, 40, []Entry{entryOf(0, 30, 1)}},
		"end too low":     {0, 20, []Entry{entryOf(0, 30, 1)}},
		"empty range":     {0, 5, []Entry{entryOf(5, 5, 1)}},
		"no object":       {0, 5, []Entry{{Start: 0, End: 5, Epochs: []EpochStart{{}}}}},
		"no epoch":        {0, 5, []Entry{{Start: 0, End: 5, Object: uuid.New()}}},
		"negative":        {-1, 0, nil},
		"epochs decrease": {0, 5, []Entry{{Start: 0, End: 5, Object: uuid.New(), Epochs: []EpochStart{{Epoch: 2, Start: 0}, {Epoch: 1, Start: 3}}}}},
	} {
		_, err := New(bad.start, bad.end, bad.entries)
		require.ErrorIs(t, err, ErrInvalid, name)
	}
	m, err := New(25, 30, []Entry{entryOf(0, 10, 1), entryOf(20, 30, 1)})
	require.NoError(t, err, "a hole below the log start is none")
	require.Len(t, m.Expired(), 1)
	require.Equal(t, int64(10), m.LiveBytes())
}
