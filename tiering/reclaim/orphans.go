package reclaim

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/firnlog/firn/tiering/objstore"
)

// orphans deletes objects that the metadata does not know: PUTs that landed
// after their object was deleted. The order of steps is what makes it safe:
//
//  1. list, and keep what is old by the store's clock;
//  2. read barrier;
//  3. keep what the metadata does not know.
//
// An object's intent commits before its first byte is sent, so whatever was
// listed and is unknown after the barrier was named once and forgotten, or
// never belonged to this cluster's metadata; OrphanAge covers the rest.
func (s *Sweeper) orphans(ctx context.Context, p *Pass) error {
	listed := map[string]bool{} // stores may share a bucket
	for _, store := range s.o.Stores {
		if listed[store.String()] {
			continue
		}
		listed[store.String()] = true
		if err := s.orphansIn(ctx, p, store); err != nil {
			return fmt.Errorf("look for orphans: %w", err)
		}
	}
	return nil
}

func (s *Sweeper) orphansIn(ctx context.Context, p *Pass, store objstore.Store) error {
	var suspects []uuid.UUID
	for info, err := range store.List(ctx, s.o.Layout.DataPrefix(), "") {
		if err != nil {
			return err
		}
		p.OrphansListed++
		id, ours := s.o.Layout.ParseObject(info.Key)
		switch {
		case !ours:
			p.Foreign++
			continue
		case info.Age() < s.o.OrphanAge:
			continue
		}
		suspects = append(suspects, id)
		if len(suspects) == batch {
			if err := s.deleteUnknown(ctx, p, store, suspects); err != nil {
				return err
			}
			suspects = suspects[:0]
		}
	}
	return s.deleteUnknown(ctx, p, store, suspects)
}

func (s *Sweeper) deleteUnknown(ctx context.Context, p *Pass, store objstore.Store, suspects []uuid.UUID) error {
	if len(suspects) == 0 {
		return nil
	}
	if err := s.o.Metadata.ReadBarrier(ctx); err != nil {
		return err
	}
	var keys []string
	for _, id := range suspects {
		_, known, err := s.o.Metadata.Object(ctx, id)
		if err != nil {
			return err
		}
		if !known {
			keys = append(keys, s.o.Layout.Object(id))
		}
	}
	if len(keys) == 0 {
		return nil
	}
	if err := s.o.Owner.Check(ctx); err != nil { // the listing may have taken long
		return err
	}
	errs := store.Delete(ctx, keys...)
	for _, err := range errs {
		if err == nil {
			p.Orphans++
		}
	}
	return errors.Join(errs...)
}
