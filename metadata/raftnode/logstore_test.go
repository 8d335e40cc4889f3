package raftnode

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
)

func openStore(t require.TestingT, fs vfs.FS) *logStore {
	db, err := pebble.Open("raft", &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: fsm.PebbleLog{Logger: quiet, Dir: "raft"}})
	require.NoError(t, err)
	s, err := newLogStore(db)
	require.NoError(t, err)
	return s
}

func entry(index uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: index/3 + 1, Type: raft.LogCommand, Data: []byte(data)}
}

// TestStoreConformance is what Raft expects of any log and stable store.
func TestStoreConformance(t *testing.T) {
	fs := vfs.NewMem()
	s := openStore(t, fs)
	var out raft.Log
	bounds := func(first, last uint64) {
		t.Helper()
		f, err := s.FirstIndex()
		require.NoError(t, err)
		l, err := s.LastIndex()
		require.NoError(t, err)
		require.Equal(t, []uint64{first, last}, []uint64{f, l})
	}
	bounds(0, 0)
	require.ErrorIs(t, s.GetLog(1, &out), raft.ErrLogNotFound)
	require.NoError(t, s.StoreLogs(nil))

	in := &raft.Log{Index: 1, Term: 7, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.Unix(5, 6)}
	require.NoError(t, s.StoreLog(in))
	require.NoError(t, s.GetLog(1, &out))
	require.Equal(t, in.AppendedAt.UnixNano(), out.AppendedAt.UnixNano())
	out.AppendedAt = in.AppendedAt
	require.Equal(t, *in, out)
	in.Data[0] = 'X' // the store must not keep the caller's buffer
	require.NoError(t, s.GetLog(1, &out))
	require.Equal(t, "data", string(out.Data))

	require.NoError(t, s.StoreLogs([]*raft.Log{entry(2, "b"), entry(3, ""), entry(4, "d")}))
	bounds(1, 4)
	require.NoError(t, s.GetLog(3, &out))
	require.Empty(t, out.Data)
	require.Zero(t, out.AppendedAt)
	require.NoError(t, s.StoreLog(entry(4, "again"))) // overwritten after a truncation elsewhere
	require.NoError(t, s.GetLog(4, &out))
	require.Equal(t, "again", string(out.Data))

	require.NoError(t, s.DeleteRange(4, 4)) // a suffix
	bounds(1, 3)
	require.NoError(t, s.DeleteRange(1, 2)) // a prefix
	bounds(3, 3)
	require.ErrorIs(t, s.GetLog(2, &out), raft.ErrLogNotFound)
	require.NoError(t, s.DeleteRange(3, 3))
	bounds(0, 0)
	require.NoError(t, s.StoreLog(entry(100, "after a snapshot")))
	bounds(100, 100)

	_, err := s.Get([]byte("absent"))
	require.EqualError(t, err, "not found", "raft knows a missing key by this text")
	_, err = s.GetUint64([]byte("absent"))
	require.EqualError(t, err, "not found")
	require.NoError(t, s.Set([]byte("k"), []byte("v")))
	require.NoError(t, s.SetUint64([]byte("n"), 1<<63+5))
	require.NoError(t, s.db.Close())
	s = openStore(t, fs)
	bounds(100, 100)
	v, err := s.Get([]byte("k"))
	require.NoError(t, err)
	require.Equal(t, "v", string(v))
	n, err := s.GetUint64([]byte("n"))
	require.NoError(t, err)
	require.Equal(t, uint64(1<<63+5), n)

	require.NoError(t, s.db.Set([]byte(keyStoreFormat), []byte{storeFormat + 1}, pebble.Sync))
	_, err = newLogStore(s.db)
	require.ErrorIs(t, err, command.ErrUnknownVersion)
	require.NoError(t, s.db.Close())
}

// TestStoreSurvivesCrash runs random appends, truncations and votes, cuts the power
// after each, and compares what is left with a map: every write that returned is
// there.
func TestStoreSurvivesCrash(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		fs := vfs.NewCrashableMem()
		s := openStore(t, fs)
		logs := map[uint64]string{}
		votes := map[string]uint64{}
		next, first := uint64(1), uint64(1)
		for step := range rapid.IntRange(1, 8).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				var batch []*raft.Log
				for range rapid.IntRange(1, 5).Draw(t, "entries") {
					data := fmt.Sprintf("%d-%d", step, next)
					batch = append(batch, entry(next, data))
					logs[next] = data
					next++
				}
				require.NoError(t, s.StoreLogs(batch))
			case 2:
				if next > first {
					from := rapid.Uint64Range(first, next-1).Draw(t, "suffix")
					require.NoError(t, s.DeleteRange(from, next-1))
					for ; next > from; next-- {
						delete(logs, next-1)
					}
				}
			case 3:
				if next > first {
					to := rapid.Uint64Range(first, next-1).Draw(t, "prefix")
					require.NoError(t, s.DeleteRange(first, to))
					for ; first <= to; first++ {
						delete(logs, first)
					}
				}
			case 4:
				votes["CurrentTerm"] = uint64(step)
				require.NoError(t, s.SetUint64([]byte("CurrentTerm"), uint64(step)))
			}
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rapid.IntRange(0, 100).Draw(t, "kept"), RNG: testRand(int64(step))})
			compareStore(t, openStore(t, clone), logs, votes)
		}
		require.NoError(t, s.db.Close())
	})
}

func compareStore(t *rapid.T, s *logStore, logs map[uint64]string, votes map[string]uint64) {
	first, err := s.FirstIndex()
	require.NoError(t, err)
	last, err := s.LastIndex()
	require.NoError(t, err)
	if len(logs) == 0 {
		require.Zero(t, last)
	} else {
		require.Equal(t, uint64(len(logs)), last-first+1)
	}
	for index, want := range logs {
		var l raft.Log
		require.NoError(t, s.GetLog(index, &l))
		require.Equal(t, want, string(l.Data))
		require.Equal(t, index, l.Index)
	}
	for key, want := range votes {
		got, err := s.GetUint64([]byte(key))
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	require.NoError(t, s.db.Close())
}

// FuzzLogEntry decodes any bytes as a log entry: a typed error, or an entry that
// encodes to the same bytes.
func FuzzLogEntry(f *testing.F) {
	for _, l := range []*raft.Log{entry(1, "a"), {Extensions: []byte("e"), Data: []byte("d"), AppendedAt: time.Unix(1, 2)}, {}} {
		b := make([]byte, logHeader+len(l.Extensions)+len(l.Data))
		encodeLog(b, l)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var l raft.Log
		if err := decodeLog(b, &l); err != nil {
			requireKnown(t, err)
			return
		}
		again := make([]byte, logHeader+len(l.Extensions)+len(l.Data))
		encodeLog(again, &l)
		if !bytes.Equal(b, again) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// FuzzSnapshotHeader reads any bytes as a snapshot file's header.
func FuzzSnapshotHeader(f *testing.F) {
	fs := vfs.NewMem()
	store, err := openSnapStore(fs, "snapshots")
	require.NoError(f, err)
	sink, err := store.Create(1, 5, 2, raft.Configuration{Servers: []raft.Server{{ID: "a", Address: "b"}}}, 1, nil)
	require.NoError(f, err)
	require.NoError(f, sink.Close())
	f.Add(readAll(f, fs, store.path(sink.ID())))
	f.Add([]byte(snapFileMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		meta, n, err := readSnapHeader(bytes.NewReader(b))
		if err != nil {
			requireKnown(t, err)
		} else if n > int64(len(b)) || meta == nil {
			t.Fatalf("header of %d bytes in %d", n, len(b))
		}
	})
}

var update = flag.Bool("update", false, "write the golden file anew")

// TestGoldenEntries holds the encoding of log entries against
// testdata/entries.golden.
func TestGoldenEntries(t *testing.T) {
	var out strings.Builder
	for _, l := range []*raft.Log{
		{Index: 1, Term: 2, Type: raft.LogConfiguration, Data: []byte("configuration")},
		{Index: 2, Term: 3, Type: raft.LogCommand, Data: []byte("command"), Extensions: []byte("ext"), AppendedAt: time.Unix(1700000000, 5)},
		{Index: 3, Term: 3, Type: raft.LogNoop},
	} {
		b := make([]byte, logHeader+len(l.Extensions)+len(l.Data))
		encodeLog(b, l)
		fmt.Fprintf(&out, "%x %x\n", logKey(l.Index), b)
	}
	path := filepath.Join("testdata", "entries.golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), out.String(), "the format changed: raise its version")
}

// TestLogBesideASnapshot: what is kept of a log at a start is what goes on from the
// snapshot, and no entry that another leader's history has replaced.
func TestLogBesideASnapshot(t *testing.T) {
	for name, c := range map[string]struct {
		from, to    uint64 // the log
		index, term uint64 // the snapshot
		kept        bool
	}{
		"goes on":          {1, 10, 5, 2, true},
		"ends with it":     {1, 10, 10, 4, true},
		"begins behind it": {6, 10, 5, 2, true},
		"ends before":      {1, 10, 11, 4, false},
		"another history":  {1, 10, 5, 3, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, vfs.NewMem())
			for i := c.from; i <= c.to; i++ {
				require.NoError(t, s.StoreLog(entry(i, "x")))
			}
			require.NoError(t, s.dropBelow(c.index, c.term))
			last, err := s.LastIndex()
			require.NoError(t, err)
			require.Equal(t, c.kept, last == c.to)
			require.NoError(t, s.db.Close())
		})
	}
}
