package partition

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
)

// smallDisk says how much room there is.
type smallDisk struct {
	vfs.FS
	total, avail uint64
}

func (d *smallDisk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{TotalBytes: d.total, AvailBytes: d.avail}, nil
}

func TestSpaceKeepsAReserve(t *testing.T) {
	d := &smallDisk{FS: vfs.NewMem(), total: 1000 << 20, avail: 60 << 20} // reserve 50 MiB
	s := newSpace(d, "data", slog.New(slog.DiscardHandler))
	require.NoError(t, s.take(6<<20, false))
	require.ErrorIs(t, s.take(6<<20, false), kerr.KafkaStorageError)
	require.NoError(t, s.take(3<<20, false), "a smaller one still fits")
	require.NoError(t, s.take(20<<20, true), "the broker's own writes may use half of the reserve")
	require.ErrorIs(t, s.take(20<<20, true), kerr.KafkaStorageError)
	d.avail = 200 << 20
	s.measure()
	require.NoError(t, s.take(100<<20, false))

	// Appends of clients are refused, and taken again once there is room.
	b := newBench(t, nil)
	d.FS = b.fs
	d.avail = 0
	b.set.space.fs = d
	b.set.space.measure()
	require.ErrorIs(t, b.append(batch(1, plain()), true).Err, kerr.KafkaStorageError)
	d.avail = 900 << 20
	b.set.space.measure()
	require.NoError(t, b.append(batch(1, plain()), true).Err)
}

// Producers whose batches no longer fit are told of in the log, though a smaller
// record still would: a disk was full for half a minute before anybody knew.
func TestADiskTooFullForABatchIsTold(t *testing.T) {
	d := &smallDisk{FS: vfs.NewMem(), total: 1000 << 20, avail: 51 << 20} // 1 MiB above the reserve
	var told strings.Builder
	s := newSpace(d, "data", slog.New(slog.NewTextHandler(&told, nil)))
	require.Error(t, s.take(2<<20, false))
	s.measure()
	s.measure()
	require.Equal(t, 1, strings.Count(told.String(), "the disk is full"))
	require.True(t, s.full.Load())
	require.True(t, s.lacking.Load())
	require.NoError(t, s.take(10, false))
	d.avail = 53 << 20
	s.measure()
	require.False(t, s.full.Load())
	require.True(t, s.lacking.Load(), "taking part again would fill it at once")
	d.avail = 100 << 20
	s.measure()
	require.False(t, s.lacking.Load())
	require.Equal(t, 1, strings.Count(told.String(), "has room again"))
}
