package reclaim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/layout"
)

// ErrNotOwner says that another generation of this cluster owns the bucket. A person
// has to decide which of the two lives.
var ErrNotOwner = errors.New("another recovery of this cluster owns the bucket")

// Owner holds a cluster's claim to delete objects below its prefix.
//
// The claim is an object per recovery generation, <prefix>/<cluster id>/owner/
// <generation>, taken by a conditional PUT, so two recoveries cannot both hold
// one generation. The highest generation owns the bucket: a cluster that was
// recovered elsewhere takes the next one, and its undead ancestor sees that
// with its next Check and deletes nothing more.
//
// Safe for concurrent use.
type Owner struct {
	store      objstore.Store
	layout     layout.Layout
	generation int64
	claim      string
}

// NewOwner describes a claim. Generation counts from 1. Claim is the same for
// all nodes of a cluster and for no other recovery of it.
func NewOwner(store objstore.Store, l layout.Layout, generation int64, claim string) (*Owner, error) {
	if store == nil || generation < 1 || claim == "" {
		return nil, fmt.Errorf("reclaim: a claim needs a store, a generation from 1 on (not %d) and a name", generation)
	}
	return &Owner{store: store, layout: l, generation: generation, claim: claim}, nil
}

// ownerFile is the content of the object; docs/format/bucket-layout.md.
type ownerFile struct {
	Version    int    `json:"version"`
	Generation int64  `json:"generation"`
	Claim      string `json:"claim"`
}

const (
	ownerVersion = 1
	ownerMaxSize = 4 << 10 // bytes; ours has under 200
)

func encodeOwner(f ownerFile) []byte {
	b, err := json.Marshal(f)
	if err != nil {
		panic(err) // three plain fields
	}
	return append(b, '\n')
}

func decodeOwner(b []byte) (ownerFile, error) {
	var f ownerFile
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return f, fmt.Errorf("owner object is no claim: %w", err)
	}
	if f.Version != ownerVersion {
		return f, fmt.Errorf("owner object has version %d; this firn knows %d", f.Version, ownerVersion)
	}
	return f, nil
}

// Check takes the claim if nobody has, and says whether it holds: nil, or
// ErrNotOwner, or that the store could not be asked.
func (o *Owner) Check(ctx context.Context) error {
	newest, err := o.newest(ctx)
	if err != nil {
		return err
	}
	if newest > o.generation {
		return fmt.Errorf("%w: generation %d has taken it, this is %d", ErrNotOwner, newest, o.generation)
	}
	if newest < o.generation {
		body := encodeOwner(ownerFile{ownerVersion, o.generation, o.claim})
		_, err := o.store.Put(ctx, o.layout.Owner(o.generation), bytes.NewReader(body), int64(len(body)), objstore.PutOptions{IfAbsent: true})
		if err != nil && !errors.Is(err, objstore.ErrExists) {
			return fmt.Errorf("claim the bucket: %w", err)
		}
	}
	return o.checkClaim(ctx)
}

// newest is the highest generation that was claimed, 0 if none was. Keys sort
// by generation.
func (o *Owner) newest(ctx context.Context) (int64, error) {
	newest := int64(0)
	for info, err := range o.store.List(ctx, o.layout.OwnerPrefix(), "") {
		if err != nil {
			return 0, fmt.Errorf("list claims: %w", err)
		}
		if g, ok := o.layout.ParseOwner(info.Key); ok {
			newest = max(newest, g)
		}
	}
	return newest, nil
}

// checkClaim reads our generation's object: is it ours?
func (o *Owner) checkClaim(ctx context.Context) error {
	key := o.layout.Owner(o.generation)
	info, err := o.store.Head(ctx, key)
	if err != nil {
		return fmt.Errorf("read claim: %w", err)
	}
	if info.Size > ownerMaxSize {
		return fmt.Errorf("read claim: %s has %d bytes", key, info.Size)
	}
	r, err := o.store.GetRange(ctx, key, 0, info.Size)
	if err != nil {
		return fmt.Errorf("read claim: %w", err)
	}
	b, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("read claim: %w", err)
	}
	f, err := decodeOwner(b)
	if err != nil {
		return fmt.Errorf("%w; if no other recovery of this cluster lives, delete %s, and it is written anew", err, key)
	}
	if f.Generation != o.generation || f.Claim != o.claim {
		return fmt.Errorf("%w: generation %d is claimed by %s, this is %s", ErrNotOwner, f.Generation, f.Claim, o.claim)
	}
	return nil
}
