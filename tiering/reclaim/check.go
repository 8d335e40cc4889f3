package reclaim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/layout"
)

// CheckOptions say what Check looks at. Those without a default are required.
type CheckOptions struct {
	Metadata Metadata
	Stores   map[string]objstore.Store
	Layout   layout.Layout
	// Deep reads every byte back; else the store's own word is taken.
	Deep bool
	// Partitions limits the check; nil is all.
	Partitions []record.TopicPartition
	// Concurrency of requests; default 8.
	Concurrency int
	// Progress hears of every object that was checked, one at a time.
	Progress func(objects int, bytes int64)
}

// Finding is a reference whose object is not as it should be.
type Finding struct {
	Partition  record.TopicPartition
	Start, End record.Offset
	Object     uuid.UUID
	// Err wraps objstore.ErrNotExist (it is gone), objstore.ErrChecksum (it is
	// damaged), ErrDangling (the metadata refers to an object that it does not
	// know), or why it could not be checked.
	Err error
}

// ErrDangling says that an entry names an object that the metadata does not know as
// finished.
var ErrDangling = errors.New("entry refers to an object that is not finished")

// CheckReport is what Check found.
type CheckReport struct {
	Objects  int
	Bytes    int64
	Findings []Finding // sorted by partition and offset
}

// Check holds the bucket against the metadata: every object that an entry
// refers to exists, with its size and checksum. It changes nothing, and may
// run while the cluster works: what was deleted meanwhile is no finding.
func Check(ctx context.Context, o CheckOptions) (CheckReport, error) {
	if o.Concurrency <= 0 {
		o.Concurrency = 8
	}
	c := checker{o: o}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(o.Concurrency)
	err := c.each(groupCtx, func(tp record.TopicPartition, e manifest.Entry) {
		group.Go(func() error { return c.check(groupCtx, tp, e) })
	})
	err = errors.Join(err, group.Wait())
	slices.SortFunc(c.report.Findings, func(a, b Finding) int {
		if a.Partition != b.Partition {
			return slices.Compare([]byte(a.Partition.String()), []byte(b.Partition.String()))
		}
		return int(a.Start - b.Start)
	})
	return c.report, err
}

type checker struct {
	o CheckOptions

	mu     sync.Mutex // guards report, and orders Progress
	report CheckReport
}

// each calls fn for every live entry.
func (c *checker) each(ctx context.Context, fn func(record.TopicPartition, manifest.Entry)) error {
	visit := func(tp record.TopicPartition) error {
		m, err := c.o.Metadata.Entries(ctx, tp)
		if err != nil {
			return fmt.Errorf("entries of %v: %w", tp, err)
		}
		for _, e := range m.Live() {
			fn(tp, e)
		}
		return ctx.Err()
	}
	if c.o.Partitions != nil {
		for _, tp := range c.o.Partitions {
			if err := visit(tp); err != nil {
				return err
			}
		}
		return nil
	}
	for tp := range c.o.Metadata.LogStarts() {
		if err := visit(tp); err != nil {
			return err
		}
	}
	return nil
}

// check looks at one entry's object. Its error ends the whole check; what is
// wrong with the object is a finding.
func (c *checker) check(ctx context.Context, tp record.TopicPartition, e manifest.Entry) error {
	size, err := c.object(ctx, e.Object)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		still, metaErr := c.stillLive(ctx, tp, e)
		if metaErr != nil {
			return metaErr
		}
		if !still {
			err = nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Objects++
	c.report.Bytes += size
	if err != nil {
		c.report.Findings = append(c.report.Findings, Finding{tp, e.Start, e.End, e.Object, err})
	}
	if c.o.Progress != nil {
		c.o.Progress(c.report.Objects, c.report.Bytes)
	}
	return nil
}

func (c *checker) object(ctx context.Context, id uuid.UUID) (size int64, err error) {
	o, known, err := c.o.Metadata.Object(ctx, id)
	switch {
	case err != nil:
		return 0, err
	case !known || o.State != metadata.ObjectFinished:
		return 0, ErrDangling
	case len(o.Checksum) != 4:
		return 0, fmt.Errorf("%w: its checksum has %d bytes, not 4", ErrDangling, len(o.Checksum))
	}
	store := c.o.Stores[o.Store]
	if store == nil {
		return 0, fmt.Errorf("no store is named %q in this broker's configuration", o.Store)
	}
	sum := objstore.CRC32C(binary.BigEndian.Uint32(o.Checksum))
	_, err = objstore.Verify(ctx, store, c.o.Layout.Object(id), o.Size, sum, c.o.Deep)
	return o.Size, err
}

// stillLive says whether the entry is there after all that was decided until
// now: a segment may have been deleted under the check.
func (c *checker) stillLive(ctx context.Context, tp record.TopicPartition, e manifest.Entry) (bool, error) {
	if err := c.o.Metadata.ReadBarrier(ctx); err != nil {
		return false, err
	}
	m, err := c.o.Metadata.Entries(ctx, tp)
	if err != nil {
		return false, err
	}
	found, ok := m.Find(e.End - 1)
	return ok && found.Object == e.Object, nil
}
