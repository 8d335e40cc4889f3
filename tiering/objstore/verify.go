package objstore

import (
	"context"
	"errors"
	"fmt"
)

// Verify checks that the object exists with this size and checksum. The
// store's own checksum is believed where it keeps one; otherwise, or when
// deep is set, all bytes are read back and hashed. A difference is
// ErrChecksum.
func Verify(ctx context.Context, s Store, key string, size int64, sum Checksum, deep bool) (ObjectInfo, error) {
	info, err := s.Head(ctx, key)
	if err != nil {
		return ObjectInfo{}, err
	}
	if info.Size != size {
		return info, &OpError{Op: "verify", Store: s.String(), Key: key, Kind: ErrChecksum,
			Err: fmt.Errorf("size is %d, want %d", info.Size, size)}
	}
	got := info.Checksum
	if deep || !got.Valid() {
		if got, err = readBack(ctx, s, key, size); err != nil {
			return info, err
		}
		info.Checksum = got
	}
	if sum.Valid() && got != sum {
		return info, &OpError{Op: "verify", Store: s.String(), Key: key, Kind: ErrChecksum,
			Err: fmt.Errorf("checksum is %v, want %v", got, sum)}
	}
	return info, nil
}

func readBack(ctx context.Context, s Store, key string, size int64) (sum Checksum, err error) {
	r, err := s.GetRange(ctx, key, 0, size)
	if err != nil {
		return Checksum{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	sum, _, err = ChecksumReader(r)
	return sum, err
}
