package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/archive"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/mem"
)

// files is a local log in memory: one batch of ten records after another.
type files struct {
	data     []byte
	released int
}

func newFiles(batches int) *files {
	f := &files{}
	for i := range batches {
		b := record.NewBuilder(record.BuilderOptions{})
		for j := range 10 {
			b.Append(int64(1000+10*i+j), nil, fmt.Appendf(nil, "value %d", 10*i+j))
		}
		batch, err := record.ReadBatch(b.Build())
		if err != nil {
			panic(err)
		}
		batch.Stamp(record.Offset(10*i), record.Epoch(i/2))
		f.data = append(f.data, batch.Raw...)
	}
	return f
}

func (f *files) OpenRange(_ context.Context, c archive.Copy) (archive.Range, error) {
	run := object.Run{TopicPartition: c.Led.Partition, Start: c.Start, End: c.End, TopicName: "t",
		Epochs: []object.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: 20}, {Epoch: 2, Start: 40}}}
	return archive.Range{
		Source: object.RunSource{Run: run, Producers: []byte("producers"),
			Extents: []object.Extent{{File: bytes.NewReader(f.data), Len: int64(len(f.data))}}},
		Release: func() error { f.released++; return nil },
	}, nil
}

// What the builder makes of a local range is read back from a store by
// nothing but key and size, byte for byte.
func TestObjectBuilder(t *testing.T) {
	f := newFiles(4)
	b := &archive.ObjectBuilder{Ranges: f, Now: func() int64 { return 77 },
		Meta: object.Meta{Provenance: object.Provenance{ClusterID: "cluster", NodeID: 1}}}
	c := archive.Copy{Object: uuid.UUID{15: 1}, Start: 0, End: 40, Intent: 12, Bytes: 5,
		Led: archive.Led{Partition: partition(0), Generation: 3}}
	built, err := b.Build(t.Context(), c)
	require.NoError(t, err)
	require.Equal(t, manifest.Entry{Start: 0, End: 40, Object: c.Object, Bytes: int64(len(f.data)),
		Epochs:       []manifest.EpochStart{{Epoch: 0, Start: 0}, {Epoch: 1, Start: 20}},
		MinTimestamp: 1000, MaxTimestamp: 1039}, built.Entry)
	require.NoError(t, built.Entry.Validate())

	store := mem.New()
	info, err := store.Put(t.Context(), "k", built.Body, built.Size, objstore.PutOptions{Checksum: built.Checksum})
	require.NoError(t, err)
	require.Equal(t, built.Checksum, info.Checksum)
	require.NoError(t, built.Close())
	require.Equal(t, 1, f.released)

	r, err := object.Open(t.Context(), object.OpenOptions{Store: store, Key: "k", Object: c.Object, Size: built.Size, Footer: built.Footer})
	require.NoError(t, err)
	require.Equal(t, object.Provenance{ClusterID: "cluster", NodeID: 1, CreatedAt: 77, IntentIndex: 12, Generation: 3}, r.Footer().Provenance)
	var got []byte
	require.NoError(t, r.ReadChunks(t.Context(), 0, len(r.Footer().Chunks), func(_ int, raw []byte) error {
		got = append(got, raw...)
		return nil
	}))
	require.True(t, bytes.Equal(f.data, got))
}

// Damage in the local log is found before anything is sent, and nothing stays
// open.
func TestObjectBuilderRefusesDamage(t *testing.T) {
	f := newFiles(4)
	f.data[len(f.data)/2] ^= 1
	b := &archive.ObjectBuilder{Ranges: f, Now: func() int64 { return 0 }}
	_, err := b.Build(t.Context(), archive.Copy{Object: uuid.UUID{15: 1}, End: 40, Led: archive.Led{Partition: partition(0)}})
	require.ErrorIs(t, err, archive.ErrSource)
	require.Equal(t, 1, f.released)
}
