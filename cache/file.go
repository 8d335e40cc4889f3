package cache

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"
)

// The file format: docs/format/cache-file.md.
const (
	trailerSize = 64 // at the beginning of a file's last block
	fileVersion = 2
	tempSuffix  = ".tmp" // of files that version 1 was writing
)

var (
	fileMagic  = [8]byte{'F', 'I', 'R', 'N', 'C', 'C', 'H', '\n'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errDamaged = errors.New("cache: damaged file")
)

// fileSize is the length of the file of a chunk of so many bytes.
func fileSize(n int64) int64 { return blocks(n) + blockBytes }

// encodeTrailer describes a chunk of n bytes with this CRC-32C.
func encodeTrailer(key Key, n int64, crc uint32) [trailerSize]byte {
	var b [trailerSize]byte
	copy(b[:], fileMagic[:])
	binary.BigEndian.PutUint16(b[8:], fileVersion)
	copy(b[12:], key.Object[:])
	binary.BigEndian.PutUint32(b[28:], key.Chunk)
	binary.BigEndian.PutUint64(b[32:], uint64(n))
	binary.BigEndian.PutUint32(b[40:], crc)
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// decodeTrailer returns key, length and checksum of the chunk.
func decodeTrailer(b []byte) (key Key, size int64, crc uint32, err error) {
	switch {
	case len(b) < trailerSize || [8]byte(b[:8]) != fileMagic:
		return key, 0, 0, fmt.Errorf("%w: no magic", errDamaged)
	case crc32.Checksum(b[:60], castagnoli) != binary.BigEndian.Uint32(b[60:]):
		return key, 0, 0, fmt.Errorf("%w: trailer checksum", errDamaged)
	case binary.BigEndian.Uint16(b[8:]) != fileVersion:
		return key, 0, 0, fmt.Errorf("%w: version %d", errDamaged, binary.BigEndian.Uint16(b[8:]))
	}
	copy(key.Object[:], b[12:])
	key.Chunk = binary.BigEndian.Uint32(b[28:])
	size = int64(binary.BigEndian.Uint64(b[32:]))
	if size <= 0 {
		return key, 0, 0, fmt.Errorf("%w: length %d", errDamaged, size)
	}
	return key, size, binary.BigEndian.Uint32(b[40:]), nil
}

// checkImage checks that a file's bytes are those of a chunk of size bytes, and
// the chunk's checksum, which it returns, unless they are trusted.
func checkImage(image []byte, key Key, size int64, trusted bool) (crc uint32, err error) {
	if int64(len(image)) != fileSize(size) {
		return 0, fmt.Errorf("%w: it has %d bytes", errDamaged, len(image))
	}
	gotKey, gotSize, want, err := decodeTrailer(image[blocks(size):])
	switch {
	case err != nil:
		return 0, err
	case gotKey != key || gotSize != size:
		return 0, fmt.Errorf("%w: it holds %d bytes of %s", errDamaged, gotSize, gotKey)
	case !trusted && crc32.Checksum(image[:size], castagnoli) != want:
		return 0, fmt.Errorf("%w: checksum", errDamaged)
	}
	return want, nil
}

// imageOf returns what the file of a chunk holds: the chunk's own memory where
// Buffer has left room behind it, else a copy.
func imageOf(key Key, data []byte, crc uint32) []byte {
	n := int64(len(data))
	if int64(cap(data)) < fileSize(n) {
		data = append(make([]byte, 0, fileSize(n)), data...)
	}
	image := data[:fileSize(n)]
	clear(image[n:])
	trailer := encodeTrailer(key, n, crc)
	copy(image[blocks(n):], trailer[:])
	return image
}

// aligned reports whether O_DIRECT takes these bytes.
func aligned(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%blockBytes == 0 && len(b)%blockBytes == 0
}

// fileName is <first byte of the object>/<object>-<chunk>-<seq>-<length>. The
// sequence number is different for each file ever written, so a file that is being
// removed and its successor never meet, and files sort by age.
func fileName(key Key, seq uint64, size int64) string {
	id := hex.EncodeToString(key.Object[:])
	return filepath.Join(id[:2], fmt.Sprintf("%s-%08x-%016x-%08x", id, key.Chunk, seq, size))
}

func parseFileName(name string) (key Key, seq uint64, size int64, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 4 || len(parts[0]) != 32 || len(parts[1]) != 8 || len(parts[2]) != 16 || len(parts[3]) != 8 {
		return key, 0, 0, false
	}
	if _, err := hex.Decode(key.Object[:], []byte(parts[0])); err != nil {
		return key, 0, 0, false
	}
	var numbers [3]uint64
	for i := range numbers {
		var err error
		if numbers[i], err = strconv.ParseUint(parts[i+1], 16, 64); err != nil {
			return key, 0, 0, false
		}
	}
	key.Chunk = uint32(numbers[0])
	return key, numbers[1], int64(numbers[2]), numbers[2] > 0
}

// isFormer recognises names of version 1, which had no length.
func isFormer(name string) bool {
	_, _, _, ok := parseFileName(strings.TrimSuffix(name, tempSuffix) + "-00000001")
	return ok
}

// openFunc opens a file of the cache, or creates one with os.O_CREATE.
type openFunc func(path string, flag int) (*os.File, error)

func openFile(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if flag&os.O_CREATE != 0 && errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, flag, 0o600)
		}
	}
	return f, err
}

// openPast opens a file past the page cache if it can be.
func openPast(open openFunc, path string, flag int, past bool) (f *os.File, direct bool, err error) {
	if past {
		f, err = open(path, flag|openDirect)
		if err == nil || !refused(err) {
			return f, openDirect != 0, err
		}
		flag &^= os.O_EXCL // it may have been created all the same
	}
	f, err = open(path, flag)
	return f, false, err
}

// writeFile writes a chunk with one write past the page cache, which would take a
// copy and room that the log has better use for. It needs neither a temporary name
// nor a sync: what is cut off has not the length of its name, and what a power loss
// tears is found by the checksum at first use.
func writeFile(open openFunc, path string, image []byte) error {
	f, direct, err := openPast(open, path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, aligned(image))
	if err != nil {
		return err
	}
	_, err = f.Write(image)
	if err == nil && !direct {
		err = startWriteback(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// readFile fills image with a whole file.
func readFile(open openFunc, path string, image []byte) error {
	f, _, err := openPast(open, path, os.O_RDONLY, aligned(image))
	if err != nil {
		return err
	}
	// One byte more would not be aligned: a longer file has another name.
	_, err = io.ReadFull(f, image)
	return errors.Join(err, f.Close())
}
