package partition

import (
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/twmb/franz-go/pkg/kerr"
)

// maxReserve is the most that is kept free on the data disk, in bytes; on a small
// disk it is a twentieth.
const maxReserve = 64 << 20

// space keeps the last of the disk for what must go on when it is full: the
// metadata log, checkpoints, and the copying to the bucket that makes room again.
// Clients' batches are refused before, with an error that they retry.
//
// It is measured now and then; what is appended in between is taken off.
type space struct {
	fs   vfs.FS
	path string
	log  *slog.Logger

	left    atomic.Int64 // above the reserve, by the last measure and what was taken since
	free    atomic.Int64 // by the last measure
	reserve atomic.Int64
	unknown atomic.Bool  // the file system does not say
	full    atomic.Bool  // for the log: told once
	lacking atomic.Bool  // see Set.Full
	refused atomic.Int64 // the largest append that found no room, 0 once there is room for it
}

func newSpace(fs vfs.FS, path string, log *slog.Logger) *space {
	s := &space{fs: fs, path: path, log: log}
	s.measure()
	return s
}

// measure asks the file system. One that cannot be asked is never called full:
// the log itself still notices.
func (s *space) measure() {
	use, err := s.fs.GetDiskUsage(s.path)
	if err != nil {
		s.unknown.Store(true)
		return
	}
	reserve := min(maxReserve, int64(use.TotalBytes/20))
	left := int64(use.AvailBytes) - reserve
	s.unknown.Store(false)
	s.reserve.Store(reserve)
	s.free.Store(int64(use.AvailBytes))
	s.left.Store(left)
	full := left <= s.refused.Load()
	if !full {
		s.refused.Store(0)
	}
	if full || left >= reserve {
		s.lacking.Store(full)
	}
	if full != s.full.Swap(full) {
		if full {
			s.log.Error("the disk is full: writes are refused until there is room", "path", s.path, "free", use.AvailBytes, "kept_free", reserve)
		} else {
			s.log.Info("the disk has room again: writes are taken", "path", s.path, "free", use.AvailBytes)
		}
	}
}

// take reserves n bytes for an append. The broker's own small writes may go half
// into what is kept free.
func (s *space) take(n int64, internal bool) error {
	if s.unknown.Load() {
		return nil
	}
	floor := int64(0)
	if internal {
		floor = -s.reserve.Load() / 2
	}
	if left := s.left.Add(-n); left < floor {
		s.left.Add(n)
		s.refused.Store(max(n, s.refused.Load()))
		return fmt.Errorf("%w: the disk is full: %d bytes are left and %d of them kept free", kerr.KafkaStorageError,
			s.free.Load(), s.reserve.Load())
	}
	return nil
}
