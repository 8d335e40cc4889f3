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
)

// The file format: docs/format/cache-file.md.
const (
	fileHeaderSize = 64
	fileVersion    = 1
	tempSuffix     = ".tmp"
)

var (
	fileMagic  = [8]byte{'F', 'I', 'R', 'N', 'C', 'C', 'H', '\n'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)

	errDamaged = errors.New("cache: damaged file")
)

// encodeFileHeader describes a chunk whose bytes follow.
func encodeFileHeader(key Key, data []byte) [fileHeaderSize]byte {
	var b [fileHeaderSize]byte
	copy(b[:], fileMagic[:])
	binary.BigEndian.PutUint16(b[8:], fileVersion)
	copy(b[12:], key.Object[:])
	binary.BigEndian.PutUint32(b[28:], key.Chunk)
	binary.BigEndian.PutUint64(b[32:], uint64(len(data)))
	binary.BigEndian.PutUint32(b[40:], crc32.Checksum(data, castagnoli))
	binary.BigEndian.PutUint32(b[60:], crc32.Checksum(b[:60], castagnoli))
	return b
}

// decodeFileHeader returns key, length and checksum of the bytes that follow.
func decodeFileHeader(b []byte) (key Key, size int64, crc uint32, err error) {
	switch {
	case len(b) < fileHeaderSize || [8]byte(b[:8]) != fileMagic:
		return key, 0, 0, fmt.Errorf("%w: no magic", errDamaged)
	case crc32.Checksum(b[:60], castagnoli) != binary.BigEndian.Uint32(b[60:]):
		return key, 0, 0, fmt.Errorf("%w: header checksum", errDamaged)
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

// verifyFile checks all of a file against its header, in bounded memory.
func verifyFile(f io.ReaderAt, key Key, size int64) error {
	var header [fileHeaderSize]byte
	if _, err := f.ReadAt(header[:], 0); err != nil {
		return fmt.Errorf("%w: header: %w", errDamaged, err)
	}
	gotKey, gotSize, want, err := decodeFileHeader(header[:])
	if err != nil {
		return err
	}
	if gotKey != key || gotSize != size {
		return fmt.Errorf("%w: it holds %d bytes of %s", errDamaged, gotSize, gotKey)
	}
	h := crc32.New(castagnoli)
	n, err := io.Copy(h, io.NewSectionReader(f, fileHeaderSize, size))
	if err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	if n != size || h.Sum32() != want {
		return fmt.Errorf("%w: checksum", errDamaged)
	}
	return nil
}

// fileName is <first byte of the object>/<object>-<chunk>-<seq>. The sequence
// number is different for each file ever written, so a file that is being
// removed and its successor never meet, and files sort by age.
func fileName(key Key, seq uint64) string {
	id := hex.EncodeToString(key.Object[:])
	return filepath.Join(id[:2], fmt.Sprintf("%s-%08x-%016x", id, key.Chunk, seq))
}

func parseFileName(name string) (key Key, seq uint64, ok bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 || len(parts[0]) != 32 || len(parts[1]) != 8 || len(parts[2]) != 16 {
		return key, 0, false
	}
	if _, err := hex.Decode(key.Object[:], []byte(parts[0])); err != nil {
		return key, 0, false
	}
	chunk, err := strconv.ParseUint(parts[1], 16, 32)
	if err != nil {
		return key, 0, false
	}
	seq, err = strconv.ParseUint(parts[2], 16, 64)
	key.Chunk = uint32(chunk)
	return key, seq, err == nil
}

func createFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		}
	}
	return f, err
}

// writeFile writes a chunk under a temporary name and renames it. It is not
// synced: what a power loss tears is found by the checksum at first use.
func writeFile(create func(string) (*os.File, error), path string, key Key, data []byte) error {
	temp := path + tempSuffix
	f, err := create(temp)
	if err != nil {
		return err
	}
	header := encodeFileHeader(key, data)
	_, err = f.Write(header[:])
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = startWriteback(f)
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}

func closeAll(files []*os.File) error {
	var err error
	for _, f := range files {
		err = errors.Join(err, f.Close())
	}
	return err
}
