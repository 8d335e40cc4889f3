package archive

import (
	"context"
	"errors"
	"fmt"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
)

// Range is a range of a local log, held open.
type Range struct {
	// Source is all of the run but its chunks, which the object's writer finds.
	Source object.RunSource
	// Release lets go of the files, exactly once.
	Release func() error
}

// Ranges opens ranges of local logs.
type Ranges interface {
	// OpenRange opens [c.Start, c.End) of c.Led.Partition. The files stay
	// readable until Release, also when the log deletes them. ErrSource, or the
	// range's absence under any error, makes the copy wait.
	OpenRange(ctx context.Context, c Copy) (Range, error)
}

// ObjectBuilder builds objects in the format of package object.
type ObjectBuilder struct {
	Ranges Ranges
	// Meta is the part that all objects share; Object, CreatedAt, IntentIndex
	// and Generation are filled in.
	Meta object.Meta
	// Now is the clock for CreatedAt, ms since the Unix epoch.
	Now func() int64
}

// Build implements Builder.
func (b *ObjectBuilder) Build(ctx context.Context, c Copy) (*Built, error) {
	r, err := b.Ranges.OpenRange(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSource, err)
	}
	meta := b.Meta
	meta.Object = c.Object
	meta.Provenance.CreatedAt = b.Now()
	meta.Provenance.IntentIndex = c.Intent
	meta.Provenance.Generation = uint64(c.Led.Generation)
	built, err := object.Build(ctx, object.Source{Runs: []object.RunSource{r.Source}}, meta)
	if err != nil {
		if errors.Is(err, object.ErrSource) {
			err = fmt.Errorf("%w: %w", ErrSource, err)
		}
		return nil, errors.Join(err, r.Release())
	}
	footer := built.Footer()
	minTs, maxTs, ok := footer.Timestamps(0)
	if !ok {
		minTs, maxTs = -1, -1
	}
	bytes := int64(0)
	for _, e := range r.Source.Extents {
		bytes += e.Len
	}
	return &Built{
		Body: built, Size: built.Size(), Checksum: objstore.CRC32C(built.CRC32C()), Footer: footer.Position,
		Entry: manifest.Entry{
			Start: c.Start, End: c.End, Object: c.Object,
			Epochs: entryEpochs(r.Source.Epochs, c.Start, c.End),
			Bytes:  bytes, MinTimestamp: minTs, MaxTimestamp: maxTs,
		},
		Close: func() error { return errors.Join(built.Close(), r.Release()) },
	}, nil
}

// entryEpochs are the epochs in force within [start, end).
func entryEpochs(epochs []object.EpochStart, start, end record.Offset) []manifest.EpochStart {
	var in []manifest.EpochStart
	for i, e := range epochs {
		if e.Start >= end || (i+1 < len(epochs) && epochs[i+1].Start <= start) {
			continue
		}
		in = append(in, manifest.EpochStart{Epoch: e.Epoch, Start: e.Start})
	}
	return in
}
