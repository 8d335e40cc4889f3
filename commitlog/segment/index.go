package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sort"
	"sync"

	"github.com/firnlog/firn/record"
)

// Layouts: docs/format/offset-index.md and docs/format/time-index.md.
const (
	indexMagic     = "FOIX"
	timeIndexMagic = "FTIX"
	indexVersion   = 1

	indexHeader     = 4 + 2 + 2 + 8 + 8 + 4 + 4
	indexEntry      = 4 + 4
	timeIndexHeader = 4 + 2 + 2 + MetaSize + 4 + 4
	timeIndexEntry  = 8 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// entry is a sparse index entry in memory: it names the start of a batch.
type entry struct {
	// before is the newest timestamp of all batches of the segment before this
	// one; it never goes down from entry to entry.
	before int64
	rel    uint32 // the batch's base offset less the segment's
	pos    uint32
}

// appendIndex encodes the offset index of a segment whose log has logBytes.
func appendIndex(dst []byte, base record.Offset, logBytes int64, entries []entry) []byte {
	be := binary.BigEndian
	begin := len(dst)
	dst = append(dst, indexMagic...)
	dst = be.AppendUint16(dst, indexVersion)
	dst = be.AppendUint16(dst, 0)
	dst = be.AppendUint64(dst, uint64(base))
	dst = be.AppendUint64(dst, uint64(logBytes))
	dst = be.AppendUint32(dst, uint32(len(entries)))
	dst = be.AppendUint32(dst, 0)
	for i := range entries {
		dst = be.AppendUint32(dst, entries[i].rel)
		dst = be.AppendUint32(dst, entries[i].pos)
	}
	setSum(dst[begin:], indexHeader)
	return dst
}

// appendTimeIndex encodes the time index of the segment that m describes.
func appendTimeIndex(dst []byte, m *Meta, entries []entry) []byte {
	be := binary.BigEndian
	begin := len(dst)
	dst = append(dst, timeIndexMagic...)
	dst = be.AppendUint16(dst, indexVersion)
	dst = be.AppendUint16(dst, 0)
	dst = m.Append(dst)
	dst = be.AppendUint32(dst, uint32(len(entries)))
	dst = be.AppendUint32(dst, 0)
	for i := range entries {
		dst = be.AppendUint64(dst, uint64(entries[i].before))
		dst = be.AppendUint32(dst, entries[i].pos)
	}
	setSum(dst[begin:], timeIndexHeader)
	return dst
}

// setSum puts the checksum of everything else into the last 4 header bytes.
func setSum(b []byte, header int) {
	binary.BigEndian.PutUint32(b[header-4:], fileSum(b, header))
}

func fileSum(b []byte, header int) uint32 {
	return crc32.Update(crc32.Checksum(b[:header-4], castagnoli), castagnoli, b[header:])
}

// checkFrame checks what both formats share and answers the entry count.
func checkFrame(b []byte, magic string, header, size int) (int, error) {
	be := binary.BigEndian
	if len(b) < header || string(b[:4]) != magic {
		return 0, fmt.Errorf("%w: not an index of type %s", ErrCorrupt, magic)
	}
	if v := be.Uint16(b[4:]); v != indexVersion {
		return 0, fmt.Errorf("%w: index of unknown version %d", ErrCorrupt, v)
	}
	count := int64(be.Uint32(b[header-8:]))
	if int64(len(b)) != int64(header)+count*int64(size) {
		return 0, fmt.Errorf("%w: index claims %d entries in %d bytes", ErrCorrupt, count, len(b))
	}
	if fileSum(b, header) != be.Uint32(b[header-4:]) {
		return 0, fmt.Errorf("%w: index checksum does not match", ErrCorrupt)
	}
	return int(count), nil
}

// parseIndex checks an offset index whole and hands its entries to fn.
func parseIndex(b []byte, fn func(i int, rel, pos uint32)) (base record.Offset, logBytes int64, count int, err error) {
	count, err = checkFrame(b, indexMagic, indexHeader, indexEntry)
	if err != nil {
		return 0, 0, 0, err
	}
	be := binary.BigEndian
	base, logBytes = record.Offset(be.Uint64(b[8:])), int64(be.Uint64(b[16:]))
	var rel, pos uint32
	for i := range count {
		e := b[indexHeader+i*indexEntry:]
		r, p := be.Uint32(e), be.Uint32(e[4:])
		if int64(p) >= logBytes || i > 0 && (r <= rel || p <= pos) {
			return 0, 0, 0, fmt.Errorf("%w: index entry %d is out of order", ErrCorrupt, i)
		}
		rel, pos = r, p
		fn(i, rel, pos)
	}
	return base, logBytes, count, nil
}

// parseTimeIndex checks a time index whole and hands its entries to fn.
func parseTimeIndex(b []byte, fn func(i int, before int64, pos uint32)) (m Meta, count int, err error) {
	count, err = checkFrame(b, timeIndexMagic, timeIndexHeader, timeIndexEntry)
	if err != nil {
		return Meta{}, 0, err
	}
	m, err = ParseMeta(b[8:])
	if err != nil {
		return Meta{}, 0, err
	}
	be := binary.BigEndian
	var before int64
	var pos uint32
	for i := range count {
		e := b[timeIndexHeader+i*timeIndexEntry:]
		t, p := int64(be.Uint64(e)), be.Uint32(e[8:])
		if int64(p) >= m.Bytes || i > 0 && (t < before || p <= pos) {
			return Meta{}, 0, fmt.Errorf("%w: time index entry %d is out of order", ErrCorrupt, i)
		}
		before, pos = t, p
		fn(i, before, pos)
	}
	return m, count, nil
}

// parseBoth decodes the pair of index files of one segment, which must
// describe the same log.
func parseBoth(index, timeIndex []byte) (Meta, []entry, error) {
	n, err := checkFrame(index, indexMagic, indexHeader, indexEntry)
	if err != nil {
		return Meta{}, nil, err
	}
	entries := make([]entry, n)
	base, logBytes, _, err := parseIndex(index, func(i int, rel, pos uint32) { entries[i] = entry{rel: rel, pos: pos} })
	if err != nil {
		return Meta{}, nil, err
	}
	same := true
	m, tn, err := parseTimeIndex(timeIndex, func(i int, before int64, pos uint32) {
		if i >= len(entries) || entries[i].pos != pos {
			same = false
			return
		}
		entries[i].before = before
	})
	if err != nil {
		return Meta{}, nil, err
	}
	if !same || tn != n || m.Base != base || m.Bytes != logBytes {
		return Meta{}, nil, fmt.Errorf("%w: offset and time index do not belong together", ErrCorrupt)
	}
	return m, entries, nil
}

// window is the number of entries that a search on disk reads at once.
const window = 64

var windows = sync.Pool{New: func() any { return new([window * timeIndexEntry]byte) }}

// diskIndex is the entries of an index file.
type diskIndex struct {
	file                *File
	header, size, count int
}

// search finds the last entry that satisfies pred, which must hold for a
// prefix of them, and hands it to found, which is not called when none does. It
// reads around guess first: entries lie evenly in most logs.
//
// REQUIRES: a reference on the file is held.
func (d *diskIndex) search(guess int, pred func(e []byte) bool, found func(e []byte)) error {
	buf := windows.Get().(*[window * timeIndexEntry]byte)
	defer windows.Put(buf)
	// Entries before lo satisfy, entries from hi on do not; the last one before
	// lo was handed to found.
	lo, hi := 0, d.count
	for mid := guess; lo < hi; mid = lo + (hi-lo)/2 {
		first := min(max(mid-window/2, lo), max(hi-window, lo))
		n := min(window, hi-first)
		b := buf[:n*d.size]
		if _, err := d.file.ReadAt(b, int64(d.header+first*d.size)); err != nil {
			return fmt.Errorf("segment: read %s: %w", d.file.Path(), noEOF(err))
		}
		good := sort.Search(n, func(i int) bool { return !pred(b[i*d.size : (i+1)*d.size]) })
		if good > 0 {
			found(b[(good-1)*d.size : good*d.size])
		}
		switch good {
		case 0:
			hi = first
		case n:
			lo = first + n
		default:
			return nil
		}
	}
	return nil
}
