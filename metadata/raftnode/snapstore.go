package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
)

// The snapshot file (docs/format/metadata-snapshot.md): a header with Raft's own
// facts under a CRC, then the state machine's stream, which checks itself.
const (
	snapFileMagic   = "FIRNSNAP"
	snapFileVersion = 1
	snapFileFixed   = 8 + 2 + 2 + 8 + 8 + 8 + 4 // to the configuration
	snapMaxConfig   = 1 << 20
	snapSuffix      = ".snap"
	snapTmpSuffix   = ".tmp"
	// snapshotsKept is how many snapshots stay.
	snapshotsKept = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapStore is Raft's snapshot store on a vfs.FS, so that crash tests see it too.
//
// Crash cases: a snapshot is written under a temporary name, synced, renamed, and
// its directory synced, before Raft hears of it; a leftover temporary file is
// removed at open. Older snapshots go only after that.
type snapStore struct {
	fs  vfs.FS
	dir string
}

var _ raft.SnapshotStore = (*snapStore)(nil)

func openSnapStore(fs vfs.FS, dir string) (*snapStore, error) {
	if err := makeDir(fs, dir); err != nil {
		return nil, fmt.Errorf("snapshots: %w", err)
	}
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("snapshots: %w", err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, snapTmpSuffix) {
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
				return nil, fmt.Errorf("snapshots: %w", err)
			}
		}
	}
	return &snapStore{fs: fs, dir: dir}, nil
}

func (s *snapStore) path(id string) string { return s.fs.PathJoin(s.dir, id+snapSuffix) }

// Create implements raft.SnapshotStore.
func (s *snapStore) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshot version %d of raft is not supported", version)
	}
	id := fmt.Sprintf("%016x-%016x", term, index)
	tmp := s.path(id) + snapTmpSuffix
	file, err := s.fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("create snapshot %s: %w", id, err)
	}
	sink := &snapSink{store: s, id: id, tmp: tmp, file: file}
	config := raft.EncodeConfiguration(conf)
	h := append([]byte(snapFileMagic), 0, snapFileVersion, 0, 0)
	h = binary.BigEndian.AppendUint64(h, index)
	h = binary.BigEndian.AppendUint64(h, term)
	h = binary.BigEndian.AppendUint64(h, confIndex)
	h = binary.BigEndian.AppendUint32(h, uint32(len(config)))
	h = append(h, config...)
	h = binary.BigEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
	if _, err := sink.Write(h); err != nil {
		return nil, errors.Join(err, sink.Cancel())
	}
	return sink, nil
}

// List implements raft.SnapshotStore: newest first.
func (s *snapStore) List() ([]*raft.SnapshotMeta, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	slices.Sort(names)
	slices.Reverse(names)
	var metas []*raft.SnapshotMeta
	for _, name := range names {
		id, ok := strings.CutSuffix(name, snapSuffix)
		if !ok {
			continue
		}
		meta, file, err := s.openFile(id)
		if err != nil {
			return nil, err
		}
		if err := file.Close(); err != nil {
			return nil, fmt.Errorf("snapshot %s: %w", id, err)
		}
		metas = append(metas, meta)
	}
	return metas, nil
}

// Open implements raft.SnapshotStore. The whole snapshot is checked before any of
// it is given out.
func (s *snapStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	_, file, err := s.openFile(id)
	if err != nil {
		return nil, nil, err
	}
	_, err = fsm.ReadSnapshot(file, func(_, _ []byte) error { return nil })
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	meta, file, err := s.openFile(id)
	if err != nil {
		return nil, nil, err
	}
	return meta, &snapReader{File: file}, nil
}

// snapReader closes its file once, however often Raft does.
type snapReader struct {
	vfs.File
	once sync.Once
	err  error
}

// Close implements io.Closer.
func (r *snapReader) Close() error {
	r.once.Do(func() { r.err = r.File.Close() })
	return r.err
}

// stateIndex is the index of the last command in a snapshot.
func (s *snapStore) stateIndex(id string) (uint64, error) {
	_, file, err := s.openFile(id)
	if err != nil {
		return 0, err
	}
	index, err := fsm.ReadSnapshotIndex(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return 0, fmt.Errorf("snapshot %s: %w", id, err)
	}
	return index, nil
}

// openFile reads the header; the file stands at the state machine's stream, whose
// length is the meta's Size.
func (s *snapStore) openFile(id string) (_ *raft.SnapshotMeta, _ vfs.File, err error) {
	file, err := s.fs.Open(s.path(id), vfs.SequentialReadsOption)
	if err != nil {
		return nil, nil, fmt.Errorf("snapshot %s: %w", id, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("snapshot %s: %w", id, err), file.Close())
		}
	}()
	meta, n, err := readSnapHeader(file)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, nil, err
	}
	meta.ID, meta.Size = id, info.Size()-n
	return meta, file, nil
}

// readSnapHeader reads a snapshot file's header and returns its length in bytes.
func readSnapHeader(r io.Reader) (*raft.SnapshotMeta, int64, error) {
	fixed := make([]byte, snapFileFixed)
	if _, err := io.ReadFull(r, fixed); err != nil {
		return nil, 0, fmt.Errorf("%w: header is cut off: %w", command.ErrCorrupt, err)
	}
	if !bytes.HasPrefix(fixed, []byte(snapFileMagic)) {
		return nil, 0, fmt.Errorf("%w: begins with %q", command.ErrCorrupt, fixed[:len(snapFileMagic)])
	}
	if v := binary.BigEndian.Uint16(fixed[8:]); v != snapFileVersion {
		return nil, 0, fmt.Errorf("%w: snapshot file version %d, this build knows %d", command.ErrUnknownVersion, v, snapFileVersion)
	}
	n := binary.BigEndian.Uint32(fixed[36:])
	if n > snapMaxConfig {
		return nil, 0, fmt.Errorf("%w: configuration of %d bytes", command.ErrCorrupt, n)
	}
	rest := make([]byte, n+4)
	if _, err := io.ReadFull(r, rest); err != nil {
		return nil, 0, fmt.Errorf("%w: header is cut off: %w", command.ErrCorrupt, err)
	}
	sum := crc32.Update(crc32.Checksum(fixed, castagnoli), castagnoli, rest[:n])
	if binary.BigEndian.Uint32(rest[n:]) != sum {
		return nil, 0, fmt.Errorf("%w: header fails its CRC", command.ErrCorrupt)
	}
	conf, err := decodeConfiguration(rest[:n])
	if err != nil {
		return nil, 0, err
	}
	return &raft.SnapshotMeta{Version: 1, Index: binary.BigEndian.Uint64(fixed[12:]), Term: binary.BigEndian.Uint64(fixed[20:]),
		ConfigurationIndex: binary.BigEndian.Uint64(fixed[28:]), Configuration: conf}, int64(len(fixed) + len(rest)), nil
}

// decodeConfiguration turns the panic of Raft's decoder into an error.
func decodeConfiguration(b []byte) (conf raft.Configuration, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: raft configuration: %v", command.ErrCorrupt, p)
		}
	}()
	return raft.DecodeConfiguration(b), nil
}

// reap removes all but the newest snapshots.
func (s *snapStore) reap() error {
	metas, err := s.List()
	if err != nil {
		return err
	}
	for i := snapshotsKept; i < len(metas); i++ {
		if err := s.fs.Remove(s.path(metas[i].ID)); err != nil {
			return fmt.Errorf("remove snapshot %s: %w", metas[i].ID, err)
		}
	}
	return nil
}

// snapSink writes one snapshot. It belongs to one goroutine.
type snapSink struct {
	store *snapStore
	id    string
	tmp   string
	file  vfs.File // nil once closed or cancelled
}

// ID implements raft.SnapshotSink.
func (s *snapSink) ID() string { return s.id }

// Write implements raft.SnapshotSink.
func (s *snapSink) Write(b []byte) (int, error) {
	n, err := s.file.Write(b)
	if err != nil {
		return n, fmt.Errorf("write snapshot %s: %w", s.id, err)
	}
	return n, nil
}

// Close implements raft.SnapshotSink: the snapshot is durable when it returns nil.
func (s *snapSink) Close() error {
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	fs := s.store.fs
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return errors.Join(fmt.Errorf("sync snapshot %s: %w", s.id, err), fs.Remove(s.tmp))
	}
	if err := fs.Rename(s.tmp, s.store.path(s.id)); err != nil {
		return fmt.Errorf("publish snapshot %s: %w", s.id, err)
	}
	if err := syncDir(fs, s.store.dir); err != nil {
		return fmt.Errorf("publish snapshot %s: %w", s.id, err)
	}
	return s.store.reap()
}

// Cancel implements raft.SnapshotSink.
func (s *snapSink) Cancel() error {
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return errors.Join(file.Close(), s.store.fs.Remove(s.tmp))
}

// makeDir makes a directory and the parents that are missing, and syncs what it
// made into its parent: a directory that power loss can take takes everything in
// it. The last one is synced even if it exists: a process that was killed may have
// made it without.
func makeDir(fs vfs.FS, dir string) error {
	parent := fs.PathDir(dir)
	if _, err := fs.Stat(parent); err != nil && parent != dir {
		if err := makeDir(fs, parent); err != nil {
			return err
		}
	}
	if err := fs.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syncDir(fs, parent)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
