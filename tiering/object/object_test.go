package object

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
)

var update = flag.Bool("update", false, "write the golden objects anew")

// memStore serves one object and counts reads.
type memStore struct {
	data  []byte
	reads []string
	fail  error // of every body, after half of it
}

func (s *memStore) GetRange(_ context.Context, _ string, off, n int64) (io.ReadCloser, error) {
	s.reads = append(s.reads, fmt.Sprintf("%d+%d", off, n))
	if off < 0 || n < 0 || off+n > int64(len(s.data)) {
		return nil, fmt.Errorf("range %d+%d of %d", off, n, len(s.data))
	}
	b := s.data[off : off+n]
	var body io.Reader = bytes.NewReader(b)
	if s.fail != nil {
		body = io.MultiReader(bytes.NewReader(b[:n/2]), failing{s.fail})
	}
	return io.NopCloser(body), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// testKeys is a provider of one key.
type testKeys struct{}

func (testKeys) Current(context.Context) (string, []byte, error) {
	return "key-1", bytes.Repeat([]byte{7}, KeySize), nil
}

func (k testKeys) Key(_ context.Context, id string) ([]byte, error) {
	if id != "key-1" {
		return nil, fmt.Errorf("no key %q", id)
	}
	_, key, err := k.Current(context.Background())
	return key, err
}

// makeBatch returns a batch of n offsets with the given body after the header.
func makeBatch(base record.Offset, n int32, ts int64, body []byte) []byte {
	b := make([]byte, record.HeaderSize, record.HeaderSize+len(body))
	be := binary.BigEndian
	be.PutUint64(b, uint64(base))
	be.PutUint32(b[8:], uint32(record.HeaderSize-12+len(body)))
	b[16] = 2
	be.PutUint32(b[23:], uint32(n-1))
	be.PutUint64(b[27:], uint64(ts))
	be.PutUint64(b[35:], uint64(ts+int64(n)))
	be.PutUint64(b[43:], ^uint64(0))
	be.PutUint32(b[57:], uint32(n))
	b = append(b, body...)
	be.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}

// testLog is what an object is made from, with a naive view of it.
type testLog struct {
	src  Source
	raw  [][]byte          // per run: all batches
	ends [][]record.Offset // per run: end of each batch
}

func randomLog(r *rand.Rand, runs, batches, maxBody int) *testLog {
	l := &testLog{}
	for i := range runs {
		run := RunSource{Run: Run{
			TopicPartition: record.TopicPartition{Topic: record.TopicID{1, byte(i)}, Partition: int32(i)},
			TopicName:      fmt.Sprintf("topic-%d", i),
			Config:         map[string]string{"retention.ms": "-1", "cleanup.policy": "delete"},
			Predecessor:    uuid.UUID{9, byte(i)},
			LogStart:       record.Offset(i),
			Aborted:        []AbortedTxn{{ProducerID: 3, First: 101, Last: 120, LastStable: 119}, {ProducerID: 4, First: 103, Last: 110, LastStable: 101}},
			Epochs:         []EpochStart{{Epoch: 1, Start: 90}, {Epoch: 4, Start: 130}},
		}, Producers: []byte(fmt.Sprintf("producers of run %d", i))}
		off := record.Offset(100)
		run.Start = off
		ts := int64(1_700_000_000_000)
		var all, file []byte
		var ends []record.Offset
		flush := func() {
			pad := bytes.Repeat([]byte{0xee}, r.IntN(20))
			b := append(append(append([]byte{}, pad...), file...), 0xdd)
			run.Extents = append(run.Extents, Extent{File: bytes.NewReader(b), Pos: int64(len(pad)), Len: int64(len(file))})
			file = file[:0]
		}
		for range batches {
			n := int32(1 + r.IntN(5))
			body := make([]byte, r.IntN(maxBody))
			for j := range body {
				body[j] = byte(r.IntN(4))
			}
			b := makeBatch(off, n, ts, body)
			ts += int64(r.IntN(10)) - 2
			all, file = append(all, b...), append(file, b...)
			off += record.Offset(n)
			ends = append(ends, off)
			if r.IntN(10) == 0 {
				off += record.Offset(r.IntN(5)) // compaction left a gap
			}
			if r.IntN(6) == 0 {
				flush()
			}
		}
		flush()
		run.End = off
		l.src.Runs = append(l.src.Runs, run)
		l.raw = append(l.raw, all)
		l.ends = append(l.ends, ends)
	}
	return l
}

func testMeta() Meta {
	return Meta{
		Object:     uuid.MustParse("6ba7b810-9dad-41d1-80b4-00c04fd430c8"),
		Provenance: Provenance{ClusterID: "cluster", NodeID: 3, CreatedAt: 1_700_000_000_000, IntentIndex: 77, Generation: 2},
		ChunkBytes: 4096,
	}
}

func readAll(t testing.TB, b *Built) []byte {
	t.Helper()
	data, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	require.NoError(t, err)
	require.EqualValues(t, b.Size(), len(data))
	return data
}

func build(t testing.TB, l *testLog, meta Meta) []byte {
	t.Helper()
	b, err := Build(t.Context(), l.src, meta)
	require.NoError(t, err)
	data := readAll(t, b)
	require.Equal(t, crcOf(data), b.CRC32C(), "checksum of the whole object")
	require.NoError(t, b.Close())
	return data
}

func openData(data []byte, keys KeyProvider) (*Reader, *memStore, error) {
	s := &memStore{data: data}
	r, err := Open(context.Background(), OpenOptions{Store: s, Key: "k", Size: int64(len(data)), Keys: keys})
	return r, s, err
}

func allChunks(r *Reader) ([][]byte, error) {
	f := r.Footer()
	raw := make([][]byte, len(f.Runs))
	for i := range f.Runs {
		err := r.ReadChunks(context.Background(), f.Runs[i].FirstChunk, f.Runs[i].Chunks, func(_ int, b []byte) error {
			raw[i] = append(raw[i], b...)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return raw, nil
}

// variants are the ways an object can be stored.
func variants(dir string) map[string]Meta {
	plain, zstd, sealed, both := testMeta(), testMeta(), testMeta(), testMeta()
	zstd.Codec = CodecZstd
	sealed.Keys = testKeys{}
	both.Codec, both.Keys = CodecZstd, testKeys{}
	all := map[string]Meta{"none": plain, "zstd": zstd, "aes": sealed, "zstd-aes": both}
	for name, m := range all {
		m.SpoolDir = dir
		all[name] = m
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	for name, meta := range variants(t.TempDir()) {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(12) {
				r := rand.New(rand.NewPCG(seed, 1))
				l := randomLog(r, 1+r.IntN(3), r.IntN(200), 1+r.IntN(3000))
				data := build(t, l, meta)
				rd, store, err := openData(data, testKeys{})
				require.NoError(t, err, "seed %d", seed)
				require.LessOrEqual(t, len(store.reads), 2)
				f := rd.Footer()
				require.Equal(t, meta.Provenance, f.Provenance)
				raw, err := allChunks(rd)
				require.NoError(t, err)
				for i := range l.src.Runs {
					want, got := l.src.Runs[i].Run, f.Runs[i]
					want.FirstChunk, want.Chunks = got.FirstChunk, got.Chunks
					require.Equal(t, want, got)
					require.True(t, bytes.Equal(l.raw[i], raw[i]), "seed %d run %d", seed, i)
					state, err := rd.ProducerState(t.Context(), i)
					require.NoError(t, err)
					require.Equal(t, l.src.Runs[i].Producers, state)
				}
				crc, err := rd.Verify(t.Context())
				require.NoError(t, err)
				require.Equal(t, crcOf(data), crc)
			}
			left, err := os.ReadDir(meta.SpoolDir)
			require.NoError(t, err)
			require.Empty(t, left, "spool files left behind")
		})
	}
}

// TestIndex compares lookups by offset and time with a walk over all batches.
func TestIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	l := randomLog(r, 2, 300, 600)
	rd, _, err := openData(build(t, l, testMeta()), nil)
	require.NoError(t, err)
	f := rd.Footer()
	for run := range f.Runs {
		chunks := f.RunChunks(run)
		require.Greater(t, len(chunks), 5)
		heads := make([][]record.Header, len(chunks))
		for i := range chunks {
			require.NoError(t, rd.ReadChunks(t.Context(), f.Runs[run].FirstChunk+i, 1, func(_ int, raw []byte) error {
				for len(raw) > 0 {
					h, err := record.ReadHeader(raw)
					require.NoError(t, err)
					heads[i] = append(heads[i], h)
					raw = raw[h.Size():]
				}
				return nil
			}))
		}
		for off := record.Offset(95); off < f.Runs[run].End+5; off++ {
			want, wantOK := 0, false
			for i := len(heads) - 1; i >= 0; i-- {
				if last := heads[i][len(heads[i])-1]; last.NextOffset() > off {
					want, wantOK = f.Runs[run].FirstChunk+i, true
				}
			}
			got, ok := f.FindOffset(run, off)
			require.Equal(t, wantOK, ok, "offset %d", off)
			if ok {
				require.Equal(t, want, got, "offset %d", off)
			}
		}
		minTs, maxTs, ok := f.Timestamps(run)
		require.True(t, ok)
		for ts := minTs - 2; ts <= maxTs+2; ts++ {
			want, wantOK := 0, false
			for i := len(heads) - 1; i >= 0; i-- {
				for _, h := range heads[i] {
					require.GreaterOrEqual(t, h.BaseTimestamp, minTs)
					require.LessOrEqual(t, h.MaxTimestamp, maxTs)
					if h.MaxTimestamp >= ts {
						want, wantOK = f.Runs[run].FirstChunk+i, true
					}
				}
			}
			got, ok := f.FindTime(run, 0, ts)
			require.Equal(t, wantOK, ok)
			if ok {
				require.Equal(t, want, got)
			}
		}
		got, ok := f.Run(l.src.Runs[run].TopicPartition, 101)
		require.True(t, ok)
		require.Equal(t, run, got)
	}
	_, ok := f.Run(record.TopicPartition{}, 101)
	require.False(t, ok)
}

func TestReadCounts(t *testing.T) {
	l := randomLog(rand.New(rand.NewPCG(1, 1)), 1, 50, 500)
	data := build(t, l, testMeta())
	rd, s, err := openData(data, nil)
	require.NoError(t, err)
	require.Len(t, s.reads, 1, "a small footer comes with the first read")
	s.reads = nil
	_, err = allChunks(rd)
	require.NoError(t, err)
	require.Len(t, s.reads, 1, "adjacent chunks come with one read")

	l.src.Runs[0].Producers = make([]byte, 1<<20)
	data = build(t, l, testMeta())
	_, s, err = openData(data, nil)
	require.NoError(t, err)
	require.Equal(t, []string{fmt.Sprintf("%d+%d", len(data)-speculativeTail, speculativeTail)}, s.reads,
		"producer state is not read at open")

	for i := range 5000 {
		l.src.Runs[0].Config[fmt.Sprintf("key-%d", i)] = "a value that makes the footer large"
	}
	data = build(t, l, testMeta())
	_, s, err = openData(data, nil)
	require.NoError(t, err)
	require.Len(t, s.reads, 2)
}

func TestLargeBatchMakesLargeChunk(t *testing.T) {
	small, large := makeBatch(0, 1, 1, make([]byte, 100)), makeBatch(1, 1, 1, make([]byte, 3<<20))
	all := append(append(append([]byte{}, small...), large...), makeBatch(2, 1, 1, nil)...)
	run := RunSource{Run: Run{End: 3}, Extents: []Extent{{File: bytes.NewReader(all), Len: int64(len(all))}}}
	meta := testMeta()
	rd, _, err := openData(build(t, &testLog{src: Source{Runs: []RunSource{run}}}, meta), nil)
	require.NoError(t, err)
	var lens []int64
	for _, c := range rd.Footer().Chunks {
		lens = append(lens, c.RawLen)
	}
	require.Equal(t, []int64{int64(len(small)), int64(len(large)), record.HeaderSize}, lens)
}

func TestBadSources(t *testing.T) {
	b0, b1 := makeBatch(0, 2, 1, []byte("hello")), makeBatch(2, 1, 1, []byte("world"))
	flipped := bytes.Clone(b0)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct {
		data       []byte
		start, end record.Offset
	}{
		"checksum":        {flipped, 0, 3},
		"descending":      {append(bytes.Clone(b1), b0...), 0, 3},
		"twice":           {append(bytes.Clone(b0), b0...), 0, 3},
		"cut in header":   {append(bytes.Clone(b0), b1[:30]...), 0, 3},
		"cut in body":     {append(bytes.Clone(b0), b1[:63]...), 0, 3},
		"past the end":    {append(bytes.Clone(b0), b1...), 0, 2},
		"below the start": {append(bytes.Clone(b0), b1...), 2, 3},
		"not a batch":     {make([]byte, 100), 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			run := RunSource{Run: Run{Start: c.start, End: c.end}, Extents: []Extent{{File: bytes.NewReader(c.data), Len: int64(len(c.data))}}}
			_, err := Build(t.Context(), Source{Runs: []RunSource{run}}, testMeta())
			require.ErrorIs(t, err, ErrSource)
		})
	}
	_, err := Build(t.Context(), Source{}, Meta{})
	require.ErrorIs(t, err, ErrSource)
	run := RunSource{Run: Run{End: 3}, Extents: []Extent{{File: bytes.NewReader(b0), Len: 500}}}
	_, err = Build(t.Context(), Source{Runs: []RunSource{run}}, testMeta())
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

// TestSourceBecomesShorter: a file that was cut between Build and upload fails
// the read instead of giving other bytes.
func TestSourceBecomesShorter(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "segment"))
	require.NoError(t, err)
	defer f.Close()
	batch := makeBatch(0, 1, 1, make([]byte, 5000))
	_, err = f.Write(batch)
	require.NoError(t, err)
	run := RunSource{Run: Run{End: 1}, Extents: []Extent{{File: f, Len: int64(len(batch))}}}
	b, err := Build(t.Context(), Source{Runs: []RunSource{run}}, testMeta())
	require.NoError(t, err)
	require.NoError(t, f.Truncate(100))
	_, err = io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestTransientErrorIsNotCorruption(t *testing.T) {
	l := randomLog(rand.New(rand.NewPCG(1, 1)), 1, 50, 500)
	rd, s, err := openData(build(t, l, testMeta()), nil)
	require.NoError(t, err)
	for _, fault := range []error{errors.New("connection reset"), io.EOF} {
		s.fail = fault
		_, err = allChunks(rd)
		require.Error(t, err)
		require.NotErrorIs(t, err, ErrCorrupt)
	}
}

// TestBitFlips: each flipped bit of an object is found, or changes nothing that
// is served; and Verify finds each.
func TestBitFlips(t *testing.T) {
	for name, meta := range variants(t.TempDir()) {
		t.Run(name, func(t *testing.T) {
			l := randomLog(rand.New(rand.NewPCG(3, 3)), 2, 4, 20)
			meta.ChunkBytes = 200
			data := build(t, l, meta)
			whole := crcOf(data)
			for bit := range len(data) * 8 {
				bad := bytes.Clone(data)
				bad[bit/8] ^= 1 << (bit % 8)
				rd, _, err := openData(bad, testKeys{})
				if err == nil {
					var raw [][]byte
					if raw, err = allChunks(rd); err == nil {
						for i := range raw {
							require.True(t, bytes.Equal(raw[i], l.raw[i]), "bit %d served as data", bit)
						}
						var crc uint32
						if crc, err = rd.Verify(t.Context()); err == nil {
							require.NotEqual(t, whole, crc, "bit %d", bit)
							continue
						}
					}
				}
				require.True(t, errors.Is(err, ErrCorrupt), "bit %d: %v", bit, err)
			}
		})
	}
}

// TestSwappedChunks: the AAD binds a chunk to its place; the checksums of the
// index cannot, when both index and data were exchanged.
func TestSwappedChunks(t *testing.T) {
	block := bytes.Repeat([]byte{1}, 3000)
	data := append(makeBatch(0, 1, 1, block), makeBatch(1, 1, 1, block)...)
	run := RunSource{Run: Run{End: 2}, Extents: []Extent{{File: bytes.NewReader(data), Len: int64(len(data))}}}
	meta := testMeta()
	meta.Keys = testKeys{}
	meta.SpoolDir = t.TempDir()
	built := build(t, &testLog{src: Source{Runs: []RunSource{run}}}, meta)
	rd, _, err := openData(built, testKeys{})
	require.NoError(t, err)
	c := rd.Footer().Chunks
	require.Len(t, c, 2)
	c[0].StoredCRC, c[1].StoredCRC = c[1].StoredCRC, c[0].StoredCRC
	second := bytes.Clone(built[c[1].Position : c[1].Position+c[1].StoredLen])
	_, err = rd.DecodeChunk(t.Context(), 0, second)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, "chunk 0")
	require.ErrorContains(t, err, "decrypt")
}

func TestEncryptedNeedsKey(t *testing.T) {
	meta := testMeta()
	meta.Keys, meta.SpoolDir = testKeys{}, t.TempDir()
	l := randomLog(rand.New(rand.NewPCG(1, 1)), 1, 20, 100)
	data := build(t, l, meta)
	require.False(t, bytes.Contains(data, l.raw[0][:200]))
	rd, _, err := openData(data, nil)
	require.NoError(t, err)
	_, err = allChunks(rd)
	require.ErrorContains(t, err, "key")
	require.NotErrorIs(t, err, ErrCorrupt)
}

func TestUnknownSections(t *testing.T) {
	l := randomLog(rand.New(rand.NewPCG(1, 1)), 1, 20, 100)
	data := build(t, l, testMeta())
	_, _, err := openData(withSection(t, data, 99), nil)
	require.NoError(t, err, "an unknown section is skipped")
	_, _, err = openData(withSection(t, data, 99|sectionCritical), nil)
	require.ErrorIs(t, err, ErrVersion)
}

// withSection rewrites an object's end with one more section.
func withSection(t *testing.T, data []byte, id uint16) []byte {
	t.Helper()
	size := int64(len(data))
	tr, err := parseTrailer(data[size-trailerSize:], size)
	require.NoError(t, err)
	dir := bytes.Clone(data[tr.dirPos : tr.dirPos+tr.dirLen])
	extra := []byte("from the future")
	dir = appendDirEntry(dir, sectionRef{id: id, pos: tr.dirPos, len: int64(len(extra)), crc: crcOf(extra)})
	out := append(bytes.Clone(data[:tr.dirPos]), extra...)
	tr.dirPos += int64(len(extra))
	tr.dirLen, tr.dirCRC = int64(len(dir)), crcOf(dir)
	out = append(out, dir...)
	tr.size = int64(len(out)) + trailerSize
	return appendTrailer(out, &tr)
}

func TestCombineCRC(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	for range 300 {
		a, b := make([]byte, r.IntN(300)), make([]byte, r.IntN(70000))
		for i := range a {
			a[i] = byte(r.Uint32())
		}
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		require.Equal(t, crcOf(append(bytes.Clone(a), b...)), combineCRC(crcOf(a), crcOf(b), int64(len(b))))
	}
}

// TestGolden reads objects that version 1 wrote, and holds the bytes of the one
// variant that is the same for each build.
func TestGolden(t *testing.T) {
	l := randomLog(rand.New(rand.NewPCG(42, 42)), 2, 20, 120)
	for name, meta := range variants(t.TempDir()) {
		if name == "aes" {
			continue
		}
		meta.ChunkBytes = 700
		path := filepath.Join("testdata", "v1-"+name+".object")
		if *update {
			require.NoError(t, os.WriteFile(path, build(t, l, meta), 0o644))
		}
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		if name == "none" {
			require.Equal(t, data, build(t, l, meta), "the format changed: it needs a new version")
		}
		rd, _, err := openData(data, testKeys{})
		require.NoError(t, err, name)
		raw, err := allChunks(rd)
		require.NoError(t, err, name)
		require.Equal(t, l.raw, raw, name)
		for i := range l.src.Runs {
			want, got := l.src.Runs[i].Run, rd.Footer().Runs[i]
			want.FirstChunk, want.Chunks = got.FirstChunk, got.Chunks
			require.Equal(t, want, got)
		}
		_, err = rd.Verify(t.Context())
		require.NoError(t, err, name)
	}
}

// BenchmarkBuild is the one pass over the data of a segment, and reading the
// result once as an upload does.
func BenchmarkBuild(b *testing.B) {
	body := make([]byte, 16<<10)
	var file []byte
	for off := record.Offset(0); len(file) < 64<<20; off++ {
		file = append(file, makeBatch(off, 1, 1, body)...)
	}
	run := RunSource{Run: Run{End: 1 << 20}, Extents: []Extent{{File: bytes.NewReader(file), Len: int64(len(file))}}}
	for name, meta := range variants(b.TempDir()) {
		meta.ChunkBytes = 0
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(file)))
			for range b.N {
				built, err := Build(b.Context(), Source{Runs: []RunSource{run}}, meta)
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, io.NewSectionReader(built, 0, built.Size()))
				require.NoError(b, err)
				require.NoError(b, built.Close())
			}
		})
	}
}
