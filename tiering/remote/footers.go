package remote

import (
	"container/list"
	"context"
	"errors"

	"github.com/google/uuid"

	"github.com/firnlog/firn/tiering/object"
)

// footers are the objects opened last, bounded by the memory of their footers.
// Guarded by Reader.mu.
type footers struct {
	limit int64
	bytes int64
	slots map[uuid.UUID]*footerSlot
	order list.List // of *footerSlot, used last first
}

// footerSlot is one object, open or being opened.
type footerSlot struct {
	object uuid.UUID
	ready  chan struct{} // closed when reader or err is set
	reader *object.Reader
	err    error
	bytes  int64
	elem   *list.Element
}

func newFooters(limit int64) footers {
	return footers{limit: limit, slots: make(map[uuid.UUID]*footerSlot)}
}

func (f *footers) drop(s *footerSlot) {
	if f.slots[s.object] == s {
		delete(f.slots, s.object)
		f.order.Remove(s.elem)
		f.bytes -= s.bytes
	}
}

// open returns an opened object, opening it if need be: once for all who ask,
// and to the end even if they give up.
func (r *Reader) open(ctx context.Context, id uuid.UUID) (*object.Reader, error) {
	r.mu.Lock()
	s := r.footers.slots[id]
	if s != nil {
		r.footers.order.MoveToFront(s.elem)
		r.mu.Unlock()
	} else {
		s = &footerSlot{object: id, ready: make(chan struct{})}
		r.footers.slots[id] = s
		s.elem = r.footers.order.PushFront(s)
		r.mu.Unlock()
		if !r.spawn(func(ctx context.Context) { r.fillSlot(ctx, s) }) {
			r.endSlot(s, nil, ErrClosed)
		}
	}
	select {
	case <-s.ready:
	default:
		select {
		case <-s.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return s.reader, s.err
}

func (r *Reader) fillSlot(ctx context.Context, s *footerSlot) {
	rd, err := r.openObject(ctx, s.object)
	if errors.Is(err, object.ErrCorrupt) {
		if rd, err = r.openObject(ctx, s.object); err == nil {
			r.stats.corruptRepaired.Add(1)
		} else if errors.Is(err, object.ErrCorrupt) {
			r.stats.corrupt.Add(1)
			r.o.Logger.Error("remote: corrupt object", "object", s.object, "error", err)
		}
	}
	r.endSlot(s, rd, r.classify(err))
}

// endSlot publishes what came of an opening. A failure is not kept.
func (r *Reader) endSlot(s *footerSlot, rd *object.Reader, err error) {
	s.reader, s.err = rd, err
	r.mu.Lock()
	f := &r.footers
	if err != nil {
		f.drop(s)
	} else if f.slots[s.object] == s {
		s.bytes = rd.Footer().Memory()
		f.bytes += s.bytes
		for e := f.order.Back(); f.bytes > f.limit && e != nil && e != s.elem; {
			old := e.Value.(*footerSlot)
			e = e.Prev()
			f.drop(old)
		}
	}
	r.mu.Unlock()
	close(s.ready)
}

func (r *Reader) openObject(ctx context.Context, id uuid.UUID) (*object.Reader, error) {
	at, err := r.o.Locate(ctx, id)
	if err != nil {
		return nil, err
	}
	r.stats.footerOpens.Add(1)
	return object.Open(ctx, object.OpenOptions{
		Store: at.Store, Key: at.Key, Object: id, Size: at.Size, Footer: at.Footer, Keys: r.o.Keys,
		Buffer: r.o.Cache.Buffer, Recycle: r.o.Cache.Recycle,
	})
}

// forget makes the next open of an object look for it anew.
func (r *Reader) forget(id uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.footers.slots[id]; s != nil {
		r.footers.drop(s)
	}
}

// DropObject forgets an object that was deleted, here and in the cache.
func (r *Reader) DropObject(id uuid.UUID) error {
	r.forget(id)
	return r.o.Cache.DropObject(id)
}
