package objstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// Capabilities are what Probe found out of a store.
type Capabilities struct {
	// Vouches: Head reports a checksum of the store's own. Without it every
	// upload is read back once to be verified.
	Vouches bool
}

// BucketCreator is a Store that can make its own bucket.
type BucketCreator interface {
	// CreateBucket makes the bucket, unless it is there and ours.
	CreateBucket(ctx context.Context) error
}

// Probe tries a store out on a fresh key: it can be written, read and deleted,
// and a conditional PUT is honoured. A store that overwrites in spite of the
// condition is refused (ErrInvalid), for nothing that Firn keeps would be safe
// there. The key is gone afterwards, if the store lets it.
func Probe(ctx context.Context, s Store, key string) (c Capabilities, err error) {
	first, second := []byte("firn was here"), []byte("and here again")
	put := func(b []byte) error {
		_, err := s.Put(ctx, key, bytes.NewReader(b), int64(len(b)), PutOptions{IfAbsent: true})
		return err
	}
	if err := put(first); err != nil {
		return c, fmt.Errorf("probe: %w", err)
	}
	defer func() {
		if delErr := s.Delete(ctx, key)[0]; delErr != nil {
			err = errors.Join(err, fmt.Errorf("probe: %w", delErr))
		}
	}()
	if err := put(second); !errors.Is(err, ErrExists) {
		if err == nil {
			err = &OpError{Op: "put", Store: s.String(), Key: key, Kind: ErrInvalid,
				Err: errors.New("the store ignores If-None-Match and overwrote an object; it needs conditional writes (Amazon S3, MinIO since 2024, Ceph since Squid)")}
		}
		return c, fmt.Errorf("probe: %w", err)
	}
	info, err := Verify(ctx, s, key, int64(len(first)), ChecksumOf(first), true)
	if err != nil {
		return c, fmt.Errorf("probe: %w", err)
	}
	head, err := s.Head(ctx, key)
	if err != nil {
		return c, fmt.Errorf("probe: %w", err)
	}
	c.Vouches = head.Checksum.Valid() && head.Checksum == info.Checksum
	r, err := s.GetRange(ctx, key, 5, 3)
	if err != nil {
		return c, fmt.Errorf("probe: %w", err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err == nil && string(b) != "was" {
		err = &OpError{Op: "get", Store: s.String(), Key: key, Kind: ErrInvalid, Err: fmt.Errorf("the store ignores Range: it sent %q", b)}
	}
	if err != nil {
		return c, fmt.Errorf("probe: %w", err)
	}
	return c, nil
}
