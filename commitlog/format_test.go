package commitlog

import (
	"encoding/binary"
	"flag"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
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
	require.Equal(t, string(want), string(b))
}

func sampleCheckpoint() *checkpoint {
	sealed := segment.Meta{Base: 10, End: 20, Bytes: 700, MinTimestamp: 5, MaxTimestamp: 9, MaxTimestampBatch: 12, Created: 1700000000000, LastAppend: 1700000000500, Aborted: 1}
	active := segment.Meta{Base: 20, End: 31, Bytes: 300, MinTimestamp: 7, MaxTimestamp: 8, MaxTimestampBatch: 20, Created: 1700000001000, LastAppend: 1700000001500}
	swap := sealed
	swap.Bytes, swap.Flags = 200, segment.Compacted
	return &checkpoint{
		clean: true, start: 10, cleaned: 20, segments: []segment.Meta{sealed, active}, swap: &swap,
		epochs: EpochCache{{1, 0}, {4, 15}}, aborted: []producer.Aborted{{ProducerID: 3, First: 21, Last: 25, LastStable: 26}},
		producers: (&producer.State{}).AppendSnapshot(nil, 31),
	}
}

func TestGoldenCheckpoint(t *testing.T) {
	b := sampleCheckpoint().encode()
	golden(t, "v1.checkpoint", b)
	got, err := parseCheckpoint(b)
	require.NoError(t, err)
	require.Equal(t, sampleCheckpoint(), got)
	for i := range b {
		b[i] ^= 1
		_, err := parseCheckpoint(b)
		require.ErrorIs(t, err, ErrCorrupt, "byte %d", i)
		b[i] ^= 1
	}
}

func TestGoldenEpochs(t *testing.T) {
	golden(t, "v1.epochs", appendEpochs(nil, EpochCache{{0, 0}, {3, 100}, {4, 100}}))
}

func TestGoldenDirectory(t *testing.T) {
	fs := memFS(t)
	d, err := OpenDir(fs, "/data", DirOptions{BootID: "0c1f3a1e-0f3c-4d0e-9d8e-5f8a2b7c6d10"})
	require.NoError(t, err)
	d.meta.DirectoryID = uuid.MustParse("6ba7b810-9dad-11d1-80b4-00c04fd430c8")
	require.NoError(t, d.SetClusterID("Zm9vYmFyYmF6cXV4cXV1eA"))
	b, err := segment.ReadFile(fs, "/data/"+metaName, metaLimit)
	require.NoError(t, err)
	golden(t, "v1.directory.json", b)
	require.NoError(t, d.Close(true))
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add(sampleCheckpoint().encode())
	f.Add((&checkpoint{reset: true, producers: []byte{}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 4 {
			return
		}
		b = append([]byte(nil), b...)
		binary.BigEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
		c, err := parseCheckpoint(b)
		if err != nil {
			return
		}
		again, err := parseCheckpoint(c.encode())
		require.NoError(t, err)
		require.Equal(t, c, again)
	})
}

func FuzzParseEpochs(f *testing.F) {
	f.Add(appendEpochs(nil, EpochCache{{0, 0}, {3, 100}, {4, 100}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, rest, err := parseEpochs(b)
		if err != nil {
			require.ErrorIs(t, err, ErrCorrupt)
			return
		}
		require.Equal(t, b, append(appendEpochs(nil, c), rest...))
		for _, e := range c {
			got, end := c.EndOf(e.Epoch, math.MaxInt64)
			require.Equal(t, e.Epoch, got)
			require.GreaterOrEqual(t, end, e.Start)
		}
	})
}

// A directory whose lock cannot be opened (no permission, a read-only disk) is
// not said to be in use by somebody.
func TestALockThatCannotBeOpenedIsNotHeld(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, lockName), 0o755))
	_, err := OpenDir(vfs.Default, dir, DirOptions{})
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrLocked)
}

func TestDir(t *testing.T) {
	fs := memFS(t)
	d, err := OpenDir(fs, "/data", DirOptions{BootID: "boot-1"})
	require.NoError(t, err)
	require.True(t, d.IsNew())
	require.False(t, d.SameBoot())
	id := d.DirectoryID()
	require.NotEqual(t, uuid.Nil, id)
	_, err = OpenDir(fs, "/data", DirOptions{})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, d.SetClusterID("c1"))
	require.NoError(t, d.SetClusterID("c1"))
	require.Error(t, d.SetClusterID("c2"))

	tp := record.TopicPartition{Topic: record.NewTopicID(), Partition: 3}
	e := newEnv(t, fs, d.PathOf(tp))
	l := e.open()
	fill(t, l, 2)
	require.NoError(t, l.Close(true))
	require.NoError(t, fs.MkdirAll("/data/metadata", 0o755))
	tps, err := d.ListPartitions()
	require.NoError(t, err)
	require.Equal(t, []record.TopicPartition{tp}, tps)

	now := time.Now()
	stray, err := d.SetAsideStray(tp, now)
	require.NoError(t, err)
	_, err = fs.Stat(stray + "/" + checkpointName)
	require.NoError(t, err)
	tps, err = d.ListPartitions()
	require.NoError(t, err)
	require.Empty(t, tps)
	n, err := d.RemoveStrays(now)
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = d.RemoveStrays(now.Add(time.Second))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	_, err = fs.Stat(stray)
	require.True(t, segment.IsNotExist(err))

	l = e.open()
	fill(t, l, 2)
	require.NoError(t, l.Close(true))
	require.NoError(t, d.RemovePartition(tp))
	require.NoError(t, d.RemovePartition(tp))
	tps, err = d.ListPartitions()
	require.NoError(t, err)
	require.Empty(t, tps)
	require.NoError(t, d.Close(true))

	for _, c := range []struct {
		boot                   string
		same, clean, untrusted bool
		mark, closeClean       bool
	}{
		{boot: "boot-1", same: true, clean: true},
		{boot: "boot-2", closeClean: true},
		{boot: "boot-2", same: true, clean: true, mark: true, closeClean: true},
		{boot: "boot-2", same: true, untrusted: true},
		{boot: "boot-2", same: true, untrusted: true, closeClean: true},
		{boot: "boot-2", same: true, clean: true},
	} {
		d, err := OpenDir(fs, "/data", DirOptions{BootID: c.boot})
		require.NoError(t, err)
		require.Equal(t, id, d.DirectoryID())
		require.Equal(t, "c1", d.ClusterID())
		require.False(t, d.IsNew())
		require.Equal(t, c.same, d.SameBoot(), "%+v", c)
		require.Equal(t, c.clean, d.Clean(), "%+v", c)
		require.Equal(t, c.untrusted, d.Untrusted(), "%+v", c)
		if c.mark {
			require.NoError(t, d.MarkUntrusted())
		}
		require.NoError(t, d.Close(c.closeClean))
	}
	require.NoError(t, segment.WriteFile(fs, "/data/"+metaName, []byte(`{"format":"else"}`), true))
	_, err = OpenDir(fs, "/data", DirOptions{})
	require.ErrorIs(t, err, ErrCorrupt)
}

func FuzzParseDirMeta(f *testing.F) {
	f.Add([]byte(`{"format":"firn-data-directory","version":1,"directoryId":"6ba7b810-9dad-11d1-80b4-00c04fd430c8","bootId":"x","clean":true}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseDirMeta(b); err == nil {
			require.Equal(t, metaV1, m.Version)
			require.NotEqual(t, uuid.Nil, m.DirectoryID)
		}
	})
}

// TestDirIsLeftAsFoundUntilItBegins: a node that is refused leaves no trace, neither
// a name in a new directory nor an unclean mark in one that was left clean.
func TestDirIsLeftAsFoundUntilItBegins(t *testing.T) {
	fs := vfs.NewMem()
	d, err := OpenDir(fs, "/data", DirOptions{BootID: "b", Defer: true})
	require.NoError(t, err)
	require.NoError(t, d.Close(true))
	_, err = fs.Stat("/data/" + metaName)
	require.True(t, segment.IsNotExist(err), "%v", err)

	d, err = OpenDir(fs, "/data", DirOptions{BootID: "b", Defer: true})
	require.NoError(t, err)
	name := d.DirectoryID()
	require.NoError(t, d.Begin())
	require.NoError(t, d.Close(true))
	for range 2 {
		d, err = OpenDir(fs, "/data", DirOptions{BootID: "b", Defer: true})
		require.NoError(t, err)
		require.True(t, d.Clean())
		require.Equal(t, name, d.DirectoryID())
		require.NoError(t, d.Close(false))
	}
	d, err = OpenDir(fs, "/data", DirOptions{BootID: "b", Defer: true})
	require.NoError(t, err)
	require.NoError(t, d.Begin())
	require.NoError(t, d.Begin())
	require.NoError(t, d.Close(false))
	d, err = OpenDir(fs, "/data", DirOptions{BootID: "b"})
	require.NoError(t, err)
	require.False(t, d.Clean())
	require.NoError(t, d.Close(false))
}
