package commitlog

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/firnlog/firn/commitlog/producer"
	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// Layout: docs/format/recovery-checkpoint.md.
const (
	checkpointName    = "recovery.checkpoint"
	checkpointMagic   = "FRCP"
	checkpointVersion = 1
	checkpointHeader  = 4 + 2 + 2 + 8 + 8
	// checkpointLimit bounds what is read of a file of that name, in bytes.
	checkpointLimit = 1 << 30

	flagClean = 1 << 0 // written by a clean close, with nothing above it
	flagReset = 1 << 1 // all segments on disk are to be deleted
	flagSwap  = 1 << 2 // a cleaned segment may be waiting to take its place
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checkpoint is all that a restart needs to know of a log, so that it reads no
// more than this one file, a directory listing and what was written since.
type checkpoint struct {
	clean bool
	// reset: a ResetTo to start was under way; no segment is worth keeping.
	reset bool
	// start is where an empty log begins.
	start record.Offset
	// cleaned is the offset up to which compaction has come.
	cleaned record.Offset
	// segments are those that hold data at or below the recovery point. The
	// last one was active: its Bytes and End are the recovery point, below which
	// all is durable. The others are sealed.
	segments []segment.Meta
	// swap is a cleaned segment that replaces those of segments which lie in
	// [swap.Base, swap.End), if its file is found.
	swap *segment.Meta
	// epochs are the leader epochs.
	epochs EpochCache
	// aborted is the transaction index of the active segment so far.
	aborted []producer.Aborted
	// producers is the snapshot of the producer state at the recovery point.
	producers []byte
}

// end is the recovery point.
func (c *checkpoint) end() record.Offset {
	if len(c.segments) == 0 {
		return c.start
	}
	return c.segments[len(c.segments)-1].End
}

func (c *checkpoint) encode() []byte {
	be := binary.BigEndian
	var flags uint16
	if c.clean {
		flags |= flagClean
	}
	if c.reset {
		flags |= flagReset
	}
	if c.swap != nil {
		flags |= flagSwap
	}
	dst := []byte(checkpointMagic)
	dst = be.AppendUint16(dst, checkpointVersion)
	dst = be.AppendUint16(dst, flags)
	dst = be.AppendUint64(dst, uint64(c.start))
	dst = be.AppendUint64(dst, uint64(c.cleaned))
	dst = be.AppendUint32(dst, uint32(len(c.segments)))
	for i := range c.segments {
		dst = c.segments[i].Append(dst)
	}
	if c.swap != nil {
		dst = c.swap.Append(dst)
	}
	dst = appendEpochs(dst, c.epochs)
	dst = appendBlob(dst, producer.AppendTxnIndex(nil, c.aborted))
	dst = appendBlob(dst, c.producers)
	return be.AppendUint32(dst, crc32.Checksum(dst, castagnoli))
}

func appendBlob(dst, blob []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(blob)))
	return append(dst, blob...)
}

func parseBlob(b []byte) (blob, rest []byte, err error) {
	if len(b) < 4 || int64(binary.BigEndian.Uint32(b)) > int64(len(b)-4) {
		return nil, nil, fmt.Errorf("%w: recovery checkpoint is cut off", ErrCorrupt)
	}
	n := int(binary.BigEndian.Uint32(b))
	return b[4 : 4+n], b[4+n:], nil
}

// parseCheckpoint decodes a recovery checkpoint. It keeps a reference to b.
func parseCheckpoint(b []byte) (*checkpoint, error) {
	be := binary.BigEndian
	if len(b) < checkpointHeader+8 || string(b[:4]) != checkpointMagic {
		return nil, fmt.Errorf("%w: not a recovery checkpoint", ErrCorrupt)
	}
	if v := be.Uint16(b[4:]); v != checkpointVersion {
		return nil, fmt.Errorf("%w: recovery checkpoint of unknown version %d", ErrCorrupt, v)
	}
	if crc32.Checksum(b[:len(b)-4], castagnoli) != be.Uint32(b[len(b)-4:]) {
		return nil, fmt.Errorf("%w: recovery checkpoint's checksum does not match", ErrCorrupt)
	}
	b = b[:len(b)-4]
	flags := be.Uint16(b[6:])
	c := &checkpoint{
		clean: flags&flagClean != 0, reset: flags&flagReset != 0,
		start: record.Offset(be.Uint64(b[8:])), cleaned: record.Offset(be.Uint64(b[16:])),
	}
	n := int64(be.Uint32(b[checkpointHeader:]))
	b = b[checkpointHeader+4:]
	if c.start < 0 || n*segment.MetaSize > int64(len(b)) {
		return nil, fmt.Errorf("%w: recovery checkpoint claims %d segments in %d bytes", ErrCorrupt, n, len(b))
	}
	var err error
	c.segments = make([]segment.Meta, n)
	for i := range c.segments {
		if c.segments[i], err = segment.ParseMeta(b); err != nil {
			return nil, fmt.Errorf("%w: recovery checkpoint: %w", ErrCorrupt, err)
		}
		if i > 0 && c.segments[i].Base != c.segments[i-1].End {
			return nil, fmt.Errorf("%w: recovery checkpoint has a gap before segment %d", ErrCorrupt, c.segments[i].Base)
		}
		b = b[segment.MetaSize:]
	}
	if flags&flagSwap != 0 {
		if len(b) < segment.MetaSize {
			return nil, fmt.Errorf("%w: recovery checkpoint is cut off", ErrCorrupt)
		}
		m, err := segment.ParseMeta(b)
		if err != nil {
			return nil, fmt.Errorf("%w: recovery checkpoint: %w", ErrCorrupt, err)
		}
		c.swap, b = &m, b[segment.MetaSize:]
	}
	if c.epochs, b, err = parseEpochs(b); err != nil {
		return nil, err
	}
	blob, b, err := parseBlob(b)
	if err != nil {
		return nil, err
	}
	if c.aborted, err = producer.ParseTxnIndex(blob); err != nil {
		return nil, fmt.Errorf("%w: recovery checkpoint: %w", ErrCorrupt, err)
	}
	if c.producers, b, err = parseBlob(b); err != nil {
		return nil, err
	}
	if len(b) != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the recovery checkpoint's end", ErrCorrupt, len(b))
	}
	return c, nil
}
