package segment

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, b []byte) {
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, b, 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, b)
}

func place(t testing.TB) Place {
	fs := vfs.NewMem()
	require.NoError(t, fs.MkdirAll("/log", 0o755))
	return Place{FS: fs, FDs: NewFDCache(8), Dir: "/log"}
}

func batch(base record.Offset, ts int64, values ...string) record.Batch {
	bb := record.NewBuilder(record.BuilderOptions{})
	for i, v := range values {
		bb.Append(ts+int64(i), nil, []byte(v))
	}
	b, err := record.ReadBatch(bb.Build())
	if err != nil {
		panic(err)
	}
	b.Stamp(base, 3)
	return b
}

// randomSegment writes batches of random sizes, with gaps, from base on.
func randomSegment(t testing.TB, p Place, rng *rand.Rand, base record.Offset) (*Segment, []record.Batch) {
	s, err := Create(p, base, 100+rng.Int64N(300))
	require.NoError(t, err)
	require.NoError(t, s.File().Acquire())
	defer s.File().Release()
	var all []record.Batch
	at := base
	for range 1 + rng.IntN(60) {
		var batches []record.Batch
		for range 1 + rng.IntN(3) {
			if rng.IntN(8) == 0 {
				at += record.Offset(rng.IntN(50))
			}
			values := make([]string, 1+rng.IntN(4))
			for i := range values {
				values[i] = string(make([]byte, rng.IntN(60)))
			}
			b := batch(at, rng.Int64N(1000), values...)
			at = b.NextOffset()
			batches = append(batches, b)
		}
		require.NoError(t, s.Write(batches))
		s.Commit(batches, 42)
		all = append(all, batches...)
	}
	return s, all
}

// TestLookupsAgainstNaive compares every lookup, on the active segment, the
// sealed one, one whose index was lost, and one that was recovered, with a
// walk over all batches.
func TestLookupsAgainstNaive(t *testing.T) {
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 0))
		p := place(t)
		s, all := randomSegment(t, p, rng, 1000)
		naive(t, s, all, rng)
		end := s.Meta().End + record.Offset(rng.IntN(3))
		s.Seal(end)
		require.NoError(t, s.Persist())
		naive(t, s, all, rng)

		m, err := ReadMeta(p, 1000, s.Meta().Bytes)
		require.NoError(t, err)
		require.Equal(t, s.Meta(), m)
		naive(t, Sealed(p, m), all, rng)

		for _, suffix := range []string{IndexSuffix, TimeIndexSuffix} {
			require.NoError(t, p.FS.Remove(p.Path(1000, suffix)))
			naive(t, Sealed(p, m), all, rng)
		}

		r, bad, err := Recover(p, Recovery{Meta: NewMeta(1000), Size: m.Bytes, Interval: 200, Verify: true, ModTime: 42})
		require.NoError(t, err)
		require.NoError(t, bad)
		require.Equal(t, m.Bytes, r.Meta().Bytes)
		naive(t, r, all, rng)
	}
}

func naive(t *testing.T, s *Segment, all []record.Batch, rng *rand.Rand) {
	t.Helper()
	require.NoError(t, s.File().Acquire())
	defer s.File().Release()
	end := s.Meta().End
	pos := make([]int64, len(all)+1)
	for i := range all {
		pos[i+1] = pos[i] + int64(len(all[i].Raw))
	}
	for off := s.Base(); off <= end+2; off++ {
		i := 0
		for i < len(all) && all[i].LastOffset() < off {
			i++
		}
		at, ok, err := s.Find(off)
		require.NoError(t, err)
		require.Equal(t, i < len(all), ok)
		if ok {
			require.Equal(t, pos[i], at.Pos)
		}
		upTo, limit, one := off+record.Offset(rng.IntN(100)), rng.Int64N(2000), rng.IntN(2) == 0
		span, ok, err := s.Read(off, upTo, limit, one)
		require.NoError(t, err)
		require.Equal(t, i < len(all), ok)
		j := i
		for j < len(all) && all[j].NextOffset() <= upTo && (pos[j+1]-pos[i] <= limit || one && j == i) {
			j++
		}
		require.Equal(t, pos[j]-pos[i], span.Len, "read [%d, %d) of %d bytes", off, upTo, limit)
		if span.Len > 0 {
			require.Equal(t, all[i].BaseOffset, span.First)
			require.GreaterOrEqual(t, span.Next, all[j-1].NextOffset())
			if j < len(all) {
				require.LessOrEqual(t, span.Next, all[j].BaseOffset)
			}
		}
	}
	for ts := int64(-1); ts < 1010; ts += 1 + rng.Int64N(7) {
		i := 0
		for i < len(all) && all[i].MaxTimestamp < ts {
			i++
		}
		at, ok, err := s.FindTime(ts, s.Base())
		require.NoError(t, err)
		require.Equal(t, i < len(all), ok, ts)
		if ok {
			require.Equal(t, pos[i], at.Pos)
		}
	}
}

func TestGoldenFiles(t *testing.T) {
	p := place(t)
	s, err := Create(p, 5, 100)
	require.NoError(t, err)
	require.NoError(t, s.File().Acquire())
	for i := range record.Offset(6) {
		b := []record.Batch{batch(5+2*i, 1700000000000+int64(i)*7, "one", "two")}
		require.NoError(t, s.Write(b))
		s.Commit(b, 1700000000000)
	}
	s.File().Release()
	s.Seal(20)
	require.NoError(t, s.Persist())
	for _, suffix := range []string{LogSuffix, IndexSuffix, TimeIndexSuffix} {
		b, err := ReadFile(p.FS, p.Path(5, suffix), 1<<20)
		require.NoError(t, err)
		golden(t, "v1"+suffix, b)
	}
}

func TestNames(t *testing.T) {
	require.Equal(t, "00000000000000000042.log", Name(42, LogSuffix))
	for name, want := range map[string]bool{
		"00000000000000000042.log": true, "09223372036854775807.log": true, "09223372036854775808.log": false,
		"0000000000000000042.log": false, "00000000000000000042": false, "+0000000000000000042.log": false, "recovery.checkpoint": false,
	} {
		_, suffix, ok := ParseName(name)
		require.Equal(t, want, ok, name)
		if ok {
			require.Equal(t, LogSuffix, suffix)
		}
	}
}

func TestFileLifetime(t *testing.T) {
	p := place(t)
	s, all := randomSegment(t, p, rand.New(rand.NewPCG(1, 1)), 0)
	f := s.File()
	require.NoError(t, f.Acquire())
	require.NoError(t, s.Remove())
	require.ErrorIs(t, f.Acquire(), ErrRemoved)
	b := make([]byte, len(all[0].Raw))
	_, err := f.ReadAt(b, 0)
	require.NoError(t, err)
	require.Equal(t, all[0].Raw, b)
	require.Equal(t, 1, p.FDs.Open())
	f.Release()
	require.Zero(t, p.FDs.Open())
	require.Panics(t, f.Release)
}

func resealIndex(b []byte, header int) []byte {
	if len(b) < header {
		return b
	}
	b = append([]byte(nil), b...)
	setSum(b, header)
	return b
}

func FuzzParseIndex(f *testing.F) {
	m := NewMeta(7)
	m.End, m.Bytes = 100, 5000
	entries := []entry{{1, 2, 100}, {1, 9, 900}, {6, 80, 4000}}
	f.Add(appendIndex(nil, 7, 5000, entries), appendTimeIndex(nil, &m, entries))
	f.Add(appendIndex(nil, 0, 0, nil), appendTimeIndex(nil, &m, nil))
	f.Fuzz(func(t *testing.T, index, timeIndex []byte) {
		index, timeIndex = resealIndex(index, indexHeader), resealIndex(timeIndex, timeIndexHeader)
		if len(timeIndex) >= timeIndexHeader && len(index) >= indexHeader {
			// Let them agree on what they describe, so that more gets through.
			copy(index[8:24], timeIndex[8:16])
			copy(index[16:24], timeIndex[24:32])
			index = resealIndex(index, indexHeader)
		}
		m, entries, err := parseBoth(index, timeIndex)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		for i, e := range entries {
			require.Less(t, int64(e.pos), m.Bytes)
			require.True(t, i == 0 || e.pos > entries[i-1].pos && e.rel > entries[i-1].rel && e.before >= entries[i-1].before)
		}
	})
}

// FuzzRecover takes up a segment of arbitrary bytes, with the checksums made
// right: what it publishes are whole batches that can be looked up and read.
func FuzzRecover(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 9))
	for range 3 {
		p := place(f)
		s, _ := randomSegment(f, p, rng, 0)
		b, err := ReadFile(p.FS, p.Path(0, LogSuffix), 1<<20)
		if err != nil {
			f.Fatal(err)
		}
		_ = s
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		raw = append([]byte(nil), raw...)
		fixSums(raw)
		p := place(t)
		require.NoError(t, WriteFile(p.FS, p.Path(0, LogSuffix), raw, false))
		var got []record.Batch
		s, bad, err := Recover(p, Recovery{
			Meta: NewMeta(0), Size: int64(len(raw)), Interval: 64, Verify: true,
			OnBatch: func(b *record.Batch) error {
				got = append(got, record.Batch{Header: b.Header, Raw: append([]byte(nil), b.Raw...)})
				return nil
			},
		})
		require.NoError(t, err)
		m := s.Meta()
		require.Equal(t, bad == nil, m.Bytes == int64(len(raw)))
		var pos int64
		next := record.Offset(0)
		for i := range got {
			require.NoError(t, got[i].VerifyCRC())
			require.GreaterOrEqual(t, got[i].BaseOffset, next)
			next = got[i].NextOffset()
			pos += int64(len(got[i].Raw))
		}
		require.Equal(t, m.Bytes, pos)
		require.Equal(t, m.End, next)
		require.NoError(t, s.File().Acquire())
		defer s.File().Release()
		for i := range got {
			at, ok, err := s.Find(got[i].LastOffset())
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, got[i].BaseOffset, at.Header.BaseOffset)
		}
	})
}

// fixSums makes the checksums of batch after batch right.
func fixSums(raw []byte) {
	for len(raw) >= record.HeaderSize {
		h, err := record.ReadHeader(raw)
		if err != nil || h.Size() > len(raw) {
			return
		}
		binary.BigEndian.PutUint32(raw[17:], checksum(raw[21:h.Size()]))
		raw = raw[h.Size():]
	}
}

func checksum(b []byte) uint32 {
	h := fileSum(append(make([]byte, 4), b...), 4)
	return h
}

// errReader fails at a position, which is not damage.
type errReader struct {
	b  []byte
	at int64
}

var errDisk = errors.New("disk")

func (r errReader) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > r.at {
		return 0, errDisk
	}
	return copy(p, r.b[off:]), nil
}

func TestScanTellsErrorsFromDamage(t *testing.T) {
	var raw []byte
	for i := range record.Offset(3000) {
		raw = append(raw, batch(i, 0, fmt.Sprint("value ", i)).Raw...)
	}
	n := 0
	end, bad, err := Scan(errReader{raw, int64(len(raw))}, 0, int64(len(raw)), 0, true, func(int64, *record.Batch) error { n++; return nil })
	require.NoError(t, err)
	require.NoError(t, bad)
	require.Equal(t, 3000, n)
	require.Equal(t, int64(len(raw)), end)
	_, bad, err = Scan(errReader{raw, int64(len(raw)) - 1}, 0, int64(len(raw)), 0, true, func(int64, *record.Batch) error { return nil })
	require.ErrorIs(t, err, errDisk)
	require.NoError(t, bad)
}
