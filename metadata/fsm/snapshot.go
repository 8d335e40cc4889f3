package fsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// The snapshot stream, docs/format/metadata-snapshot.md: a header, frames of
// key-value pairs each under its CRC, and an end frame with the count.
const (
	snapshotMagic   = "FIRNMETA"
	snapshotVersion = 1
	// snapshotFrame is the size in bytes at which a frame is closed;
	// snapshotMaxFrame is what a reader accepts.
	snapshotFrame    = 256 << 10
	snapshotMaxFrame = 128 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Snapshot is the state at one index, held open until Release.
type Snapshot struct {
	index uint64
	snap  *pebble.Snapshot
	flush func() error
}

// Snapshot takes the state as it is. It is cheap: what it costs is in WriteTo.
//
// REQUIRES: the applying goroutine.
func (f *FSM) Snapshot() (*Snapshot, error) {
	if err := f.Failed(); err != nil {
		return nil, err
	}
	return &Snapshot{index: f.Applied(), snap: f.db.NewSnapshot(), flush: f.Flush}, nil
}

// Index is the applied index of the snapshot.
func (s *Snapshot) Index() uint64 { return s.index }

// Release gives the snapshot up.
func (s *Snapshot) Release() error { return s.snap.Close() }

// WriteTo flushes the state machine, so that the log below the snapshot may be
// cut once the snapshot is stored, and streams the snapshot.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	if err := s.flush(); err != nil {
		return 0, err
	}
	sw := &snapshotWriter{w: bufio.NewWriterSize(w, 64<<10)}
	header := append([]byte(snapshotMagic), 0, snapshotVersion, 0, 0)
	sw.write(binary.BigEndian.AppendUint64(header, s.index))
	err := scanRange(s.snap, []byte{0}, []byte{0xff}, func(key, value []byte) error {
		if string(key) == keyRestoring {
			return nil
		}
		sw.add(key, value)
		return sw.err
	})
	if err != nil {
		return sw.n, err
	}
	sw.end()
	if sw.err == nil {
		sw.err = sw.w.Flush()
	}
	return sw.n, sw.err
}

type snapshotWriter struct {
	w     *bufio.Writer
	frame []byte
	count uint64
	n     int64
	err   error
}

func (w *snapshotWriter) write(b []byte) {
	if w.err == nil {
		var n int
		n, w.err = w.w.Write(b)
		w.n += int64(n)
	}
}

func (w *snapshotWriter) add(key, value []byte) {
	w.frame = binary.AppendUvarint(w.frame, uint64(len(key)))
	w.frame = binary.AppendUvarint(w.frame, uint64(len(value)))
	w.frame = append(append(w.frame, key...), value...)
	w.count++
	if len(w.frame) >= snapshotFrame {
		w.closeFrame()
	}
}

func (w *snapshotWriter) closeFrame() {
	if len(w.frame) == 0 {
		return
	}
	var h [8]byte
	binary.BigEndian.PutUint32(h[:4], uint32(len(w.frame)))
	binary.BigEndian.PutUint32(h[4:], crc32.Checksum(w.frame, castagnoli))
	w.write(h[:])
	w.write(w.frame)
	w.frame = w.frame[:0]
}

// end writes the end frame: length 0, the CRC of the count, the count.
func (w *snapshotWriter) end() {
	w.closeFrame()
	count := putUint(w.count)
	h := make([]byte, 4, 16)
	h = binary.BigEndian.AppendUint32(h, crc32.Checksum(count, castagnoli))
	w.write(append(h, count...))
}

// ReadSnapshot reads a stream that Snapshot.WriteTo wrote and calls fn for each
// pair; key and value are valid only during the call. It returns the index of the
// snapshot. The error wraps command.ErrUnknownVersion or command.ErrCorrupt.
// Memory is bounded by what the stream really holds, frame by frame.
func ReadSnapshot(r io.Reader, fn func(key, value []byte) error) (uint64, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	index, err := ReadSnapshotIndex(br)
	if err != nil {
		return 0, err
	}
	var count uint64
	var frame bytes.Buffer
	for {
		var fh [8]byte
		if err := readFull(br, fh[:]); err != nil {
			return 0, err
		}
		size, sum := binary.BigEndian.Uint32(fh[:4]), binary.BigEndian.Uint32(fh[4:])
		if size == 0 {
			return index, readEnd(br, sum, count)
		}
		if size > snapshotMaxFrame {
			return 0, fmt.Errorf("%w: snapshot frame of %d bytes", command.ErrCorrupt, size)
		}
		frame.Reset()
		if n, err := io.CopyN(&frame, br, int64(size)); err != nil {
			return 0, fmt.Errorf("%w: snapshot frame has %d of %d bytes: %w", command.ErrCorrupt, n, size, err)
		}
		if crc32.Checksum(frame.Bytes(), castagnoli) != sum {
			return 0, fmt.Errorf("%w: snapshot frame fails its CRC", command.ErrCorrupt)
		}
		n, err := readPairs(frame.Bytes(), fn)
		if err != nil {
			return 0, err
		}
		count += n
	}
}

// ReadSnapshotIndex reads the header alone: the index of the snapshot's last
// command.
func ReadSnapshotIndex(r io.Reader) (uint64, error) {
	var h [20]byte
	if err := readFull(r, h[:]); err != nil {
		return 0, err
	}
	if string(h[:8]) != snapshotMagic {
		return 0, fmt.Errorf("%w: snapshot begins with %q", command.ErrCorrupt, h[:8])
	}
	if v := binary.BigEndian.Uint16(h[8:]); v != snapshotVersion {
		return 0, fmt.Errorf("%w: snapshot version %d, this build knows %d", command.ErrUnknownVersion, v, snapshotVersion)
	}
	return binary.BigEndian.Uint64(h[12:]), nil
}

func readFull(r io.Reader, b []byte) error {
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("%w: snapshot is cut off: %w", command.ErrCorrupt, err)
	}
	return nil
}

func readEnd(r io.Reader, sum uint32, count uint64) error {
	var b [8]byte
	if err := readFull(r, b[:]); err != nil {
		return err
	}
	if crc32.Checksum(b[:], castagnoli) != sum || binary.BigEndian.Uint64(b[:]) != count {
		return fmt.Errorf("%w: snapshot has %d pairs, its end says %d", command.ErrCorrupt, count, binary.BigEndian.Uint64(b[:]))
	}
	return nil
}

// readPairs calls fn for each pair of a frame.
func readPairs(b []byte, fn func(key, value []byte) error) (uint64, error) {
	var count uint64
	for len(b) > 0 {
		klen, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, fmt.Errorf("%w: snapshot pair has no key length", command.ErrCorrupt)
		}
		b = b[n:]
		vlen, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, fmt.Errorf("%w: snapshot pair has no value length", command.ErrCorrupt)
		}
		b = b[n:]
		if klen > uint64(len(b)) || vlen > uint64(len(b))-klen {
			return 0, fmt.Errorf("%w: snapshot pair of %d+%d bytes in %d", command.ErrCorrupt, klen, vlen, len(b))
		}
		if err := fn(b[:klen:klen], b[klen:klen+vlen:klen+vlen]); err != nil {
			return 0, err
		}
		b = b[klen+vlen:]
		count++
	}
	return count, nil
}

// restoreBatch is the size in bytes of the batches that Restore writes.
const restoreBatch = 1 << 20

// Restore replaces the state by a snapshot. A crash half way leaves a mark, so
// that Open comes up empty and the caller restores again. An error fails the FSM:
// its old state is gone.
//
// REQUIRES: the applying goroutine.
func (f *FSM) Restore(r io.Reader) error {
	img, err := f.restore(r)
	if err != nil {
		err = fmt.Errorf("restore metadata state: %w", err)
		f.fail(err)
		return err
	}
	f.manifests.forgetAll()
	f.publish(img, metadata.Diff(f.Image(), img))
	return nil
}

func (f *FSM) restore(r io.Reader) (_ *metadata.Image, err error) {
	b := f.db.NewBatch()
	if err := errors.Join(clearAll(b), b.Set([]byte(keyRestoring), nil, nil), b.Commit(pebble.Sync)); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	b.Reset()
	defer func() { err = errors.Join(err, b.Close()) }()
	index, err := ReadSnapshot(r, func(key, value []byte) error {
		if len(key) == 0 || key[0] == 0xff || string(key) == keyRestoring {
			return fmt.Errorf("%w: snapshot holds the key %q", command.ErrCorrupt, key)
		}
		if err := b.Set(key, value, nil); err != nil {
			return err
		}
		if b.Len() < restoreBatch {
			return nil
		}
		err := b.Commit(pebble.NoSync)
		b.Reset()
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(b.Delete([]byte(keyRestoring), nil), b.Commit(pebble.Sync)); err != nil {
		return nil, err
	}
	img, err := f.load()
	if err != nil {
		return nil, err
	}
	if img.Index() != index {
		return nil, fmt.Errorf("%w: snapshot of index %d holds the state of %d", command.ErrCorrupt, index, img.Index())
	}
	return img, nil
}

// wipe empties the database.
func (f *FSM) wipe() error {
	b := f.db.NewBatch()
	return errors.Join(clearAll(b), b.Commit(pebble.Sync), b.Close())
}

func clearAll(b *pebble.Batch) error { return b.DeleteRange([]byte{0}, []byte{0xff}, nil) }
