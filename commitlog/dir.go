package commitlog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Names in a data directory: docs/format/data-directory.md.
const (
	lockName   = "LOCK"
	metaName   = "directory.json"
	strayName  = "stray"
	metaFormat = "firn-data-directory"
	metaV1     = 1
	metaLimit  = 1 << 20
)

// bootIDPath is where Linux names the running boot.
const bootIDPath = "/proc/sys/kernel/random/boot_id"

// dirMeta is the content of directory.json.
type dirMeta struct {
	Format      string    `json:"format"`
	Version     int       `json:"version"`
	DirectoryID uuid.UUID `json:"directoryId"`
	ClusterID   string    `json:"clusterId,omitempty"`
	BootID      string    `json:"bootId"`
	// Clean: closed after everything was synced, and not opened since.
	Clean bool `json:"clean"`
	// Untrusted: a sync failed; page cache and disk may differ.
	Untrusted bool `json:"untrusted,omitempty"`
}

// Dir is a data directory: who it is, whether the last run ended well, and
// where the partitions are. One process at a time holds its lock. Safe for
// concurrent use.
//
// Crash points: directory.json is replaced by a synced file and a rename, so a
// crash leaves the old or the new. A crash in SetAsideStray or RemovePartition
// leaves the partition where it was or out of ListPartitions.
type Dir struct {
	fs   vfs.FS
	path string
	lock io.Closer
	last dirMeta // as found when opened; zero when the directory is new

	mu     sync.Mutex // guards the below; held while the file is replaced, which is rare
	meta   dirMeta
	marked bool // MarkUntrusted was called in this run
	begun  bool // this run is on disk
}

// DirOptions configures OpenDir.
type DirOptions struct {
	// BootID names the running boot; that of the kernel when empty. Without any
	// two runs never count as of the same boot.
	BootID string
	// Defer leaves the directory as it was found until Begin.
	Defer bool
}

// OpenDir locks and opens a data directory, making and naming it if it is new.
//
// Errors: ErrLocked, ErrCorrupt.
func OpenDir(fs vfs.FS, path string, o DirOptions) (*Dir, error) {
	if fs == nil {
		fs = vfs.Default
	}
	if o.BootID == "" {
		o.BootID = kernelBootID()
	}
	if err := fs.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("commitlog: make %s: %w", path, err)
	}
	lock, err := fs.Lock(fs.PathJoin(path, lockName))
	var notOpened *os.PathError
	switch {
	case errors.As(err, &notOpened): // nobody holds the lock: its file cannot be opened
		return nil, fmt.Errorf("commitlog: lock %s: %w", path, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %s: %w", ErrLocked, path, err)
	}
	d := &Dir{fs: fs, path: path, lock: lock}
	err = d.load(o.BootID)
	if err == nil && !o.Defer {
		err = d.Begin()
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// Begin notes on disk that a run is under way: a new directory gets its name, and
// one that was left clean is not clean any more. It does so once. REQUIRES: before
// any log of the directory is opened.
func (d *Dir) Begin() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.beginLocked()
}

func (d *Dir) beginLocked() error {
	if d.begun {
		return nil
	}
	if err := d.storeLocked(); err != nil {
		return err
	}
	d.begun = true
	return nil
}

func kernelBootID() string {
	b, err := os.ReadFile(bootIDPath)
	if err != nil {
		return "" // not Linux: each start counts as another boot
	}
	return strings.TrimSpace(string(b))
}

func (d *Dir) load(bootID string) error {
	b, err := segment.ReadFile(d.fs, d.metaPath(), metaLimit)
	switch {
	case segment.IsNotExist(err):
		d.meta = dirMeta{Format: metaFormat, Version: metaV1, DirectoryID: uuid.New()}
	case err != nil:
		return err
	default:
		if d.last, err = parseDirMeta(b); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrCorrupt, d.metaPath(), err)
		}
		d.meta = d.last
	}
	d.meta.BootID = bootID
	d.meta.Clean = false
	// A directory that was untrusted stays so until a run ends well: the tails
	// are read back from the disk at each start before that.
	return nil
}

func parseDirMeta(b []byte) (dirMeta, error) {
	var m dirMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return m, err
	}
	if m.Format != metaFormat || m.DirectoryID == uuid.Nil {
		return m, errors.New("not a description of a data directory")
	}
	if m.Version != metaV1 {
		return m, fmt.Errorf("unknown version %d", m.Version)
	}
	return m, nil
}

func (d *Dir) metaPath() string { return d.fs.PathJoin(d.path, metaName) }

func (d *Dir) storeLocked() error {
	b, err := json.MarshalIndent(&d.meta, "", "  ")
	if err != nil {
		return err
	}
	if err := segment.WriteFile(d.fs, d.metaPath(), append(b, '\n'), true); err != nil {
		return err
	}
	return segment.SyncDir(d.fs, d.path)
}

// Path is the data directory itself.
func (d *Dir) Path() string { return d.path }

// DirectoryID was made when the directory was first opened.
func (d *Dir) DirectoryID() uuid.UUID {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meta.DirectoryID
}

// ClusterID is the cluster that the directory belongs to, "" when none yet.
func (d *Dir) ClusterID() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.meta.ClusterID
}

// SetClusterID binds the directory to a cluster for ever.
func (d *Dir) SetClusterID(id string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.meta.ClusterID == id {
		return nil
	}
	if d.meta.ClusterID != "" {
		return fmt.Errorf("commitlog: %s belongs to cluster %s, not %s", d.path, d.meta.ClusterID, id)
	}
	d.meta.ClusterID = id
	return d.storeLocked()
}

// IsNew says whether this run made the directory.
func (d *Dir) IsNew() bool { return d.last.DirectoryID == uuid.Nil }

// SameBoot says whether the last run was on the running boot of the machine,
// so that what it wrote is in the page cache even if it was not synced.
func (d *Dir) SameBoot() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last.BootID != "" && d.last.BootID == d.meta.BootID
}

// Clean says whether the last run ended by Close(true).
func (d *Dir) Clean() bool { return d.last.Clean }

// Untrusted says whether a sync failed in the last run. Logs are then opened
// with Options.Untrusted.
func (d *Dir) Untrusted() bool { return d.last.Untrusted }

// MarkUntrusted notes that a sync failed. The disk may be too broken to take
// the note.
func (d *Dir) MarkUntrusted() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.meta.Untrusted, d.marked = true, true
	return d.storeLocked()
}

// PathOf is the directory of a partition: <data>/<topic id>/<partition>.
func (d *Dir) PathOf(tp record.TopicPartition) string {
	return d.fs.PathJoin(d.topicPath(tp.Topic), strconv.Itoa(int(tp.Partition)))
}

func (d *Dir) topicPath(id record.TopicID) string { return d.fs.PathJoin(d.path, id.String()) }

// ListPartitions lists the partitions that have a directory, in no order.
func (d *Dir) ListPartitions() ([]record.TopicPartition, error) {
	names, err := d.fs.List(d.path)
	if err != nil {
		return nil, fmt.Errorf("commitlog: list %s: %w", d.path, err)
	}
	var tps []record.TopicPartition
	for _, name := range names {
		id, err := record.ParseTopicID(name)
		if err != nil {
			continue // something else's
		}
		parts, err := d.fs.List(d.topicPath(id))
		if err != nil {
			return nil, fmt.Errorf("commitlog: list %s: %w", d.topicPath(id), err)
		}
		for _, part := range parts {
			n, err := strconv.ParseInt(part, 10, 32)
			if err != nil || n < 0 || strconv.FormatInt(n, 10) != part {
				continue
			}
			tps = append(tps, record.TopicPartition{Topic: id, Partition: int32(n)})
		}
	}
	return tps, nil
}

// SetAsideStray moves a partition's directory out of the way, noting the time,
// and answers where it is now. Its log must be closed.
func (d *Dir) SetAsideStray(tp record.TopicPartition, at time.Time) (string, error) {
	strays := d.fs.PathJoin(d.path, strayName)
	if err := d.fs.MkdirAll(strays, 0o755); err != nil {
		return "", fmt.Errorf("commitlog: make %s: %w", strays, err)
	}
	to := d.fs.PathJoin(strays, fmt.Sprintf("%s-%d.%d", tp.Topic, tp.Partition, at.UnixMilli()))
	if err := d.fs.Rename(d.PathOf(tp), to); err != nil {
		return "", fmt.Errorf("commitlog: set aside %s: %w", tp, err)
	}
	for _, dir := range [...]string{strays, d.topicPath(tp.Topic), d.path} {
		if err := segment.SyncDir(d.fs, dir); err != nil {
			return "", err
		}
	}
	return to, d.removeIfEmpty(tp.Topic)
}

// RemoveStrays deletes what was set aside before the time and counts it.
func (d *Dir) RemoveStrays(before time.Time) (int, error) {
	strays := d.fs.PathJoin(d.path, strayName)
	names, err := d.fs.List(strays)
	if segment.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("commitlog: list %s: %w", strays, err)
	}
	n := 0
	for _, name := range names {
		_, stamp, ok := strings.Cut(name, ".")
		at, err := strconv.ParseInt(stamp, 10, 64)
		if !ok || err != nil || at >= before.UnixMilli() {
			continue
		}
		if err := d.fs.RemoveAll(d.fs.PathJoin(strays, name)); err != nil {
			return n, fmt.Errorf("commitlog: remove stray %s: %w", name, err)
		}
		n++
	}
	return n, nil
}

// RemovePartition deletes a partition for good. Its log must be closed. After
// a crash in between, it is set aside as a stray that RemoveStrays deletes.
func (d *Dir) RemovePartition(tp record.TopicPartition) error {
	path, err := d.SetAsideStray(tp, time.UnixMilli(0))
	if segment.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := d.fs.RemoveAll(path); err != nil {
		return fmt.Errorf("commitlog: remove %s: %w", tp, err)
	}
	return nil
}

func (d *Dir) removeIfEmpty(id record.TopicID) error {
	names, err := d.fs.List(d.topicPath(id))
	if err != nil || len(names) > 0 {
		if segment.IsNotExist(err) {
			return nil
		}
		return err
	}
	return segment.RemoveFile(d.fs, d.topicPath(id))
}

// Close gives the directory up. clean says that all logs were closed cleanly.
func (d *Dir) Close(clean bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if clean && d.begun && !d.marked {
		d.meta.Clean, d.meta.Untrusted = true, false
		err = d.storeLocked()
	}
	return errors.Join(err, d.lock.Close())
}
