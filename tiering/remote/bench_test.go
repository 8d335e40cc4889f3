package remote

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/internal/testminio"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
	"github.com/firnlog/firn/tiering/object"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/fs"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/objstore/minio"
)

func TestMain(m *testing.M) { testminio.Main(m) }

const (
	benchObjects = 4
	benchObject  = 64 << 20
)

// benchWorld is four objects of 64 MiB in batches of 16 KiB.
func benchWorld(b *testing.B, store objstore.Store, codec object.Codec) *world {
	w := &world{t: b, store: store, sizes: map[uuid.UUID]int64{}}
	value := make([]byte, 1024)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range value {
		value[i] = byte(r.IntN(64))
	}
	bb := record.NewBuilder(record.BuilderOptions{})
	for range 16 {
		bb.Append(1, nil, value)
	}
	raw := bb.Build()
	var off record.Offset
	var entries []manifest.Entry
	for range benchObjects {
		var file []byte
		first := off
		for len(file) < benchObject {
			batch, err := record.ReadBatch(bytes.Clone(raw))
			require.NoError(b, err)
			batch.Stamp(off, 1)
			file = append(file, batch.Raw...)
			off = batch.NextOffset()
		}
		id := uuid.New()
		built, err := object.Build(b.Context(), object.Source{Runs: []object.RunSource{{
			Run:     object.Run{TopicPartition: testTP, Start: first, End: off},
			Extents: []object.Extent{{File: bytes.NewReader(file), Len: int64(len(file))}},
		}}}, object.Meta{Object: id, Codec: codec, SpoolDir: b.TempDir()})
		require.NoError(b, err)
		_, err = store.Put(b.Context(), objectKey(id), built, built.Size(), objstore.PutOptions{})
		require.NoError(b, err)
		w.sizes[id] = built.Size()
		require.NoError(b, built.Close())
		entries = append(entries, manifest.Entry{Start: first, End: off, Object: id, Epochs: []manifest.EpochStart{{Epoch: 1, Start: first}}})
	}
	m, err := manifest.New(0, off, entries)
	require.NoError(b, err)
	w.manifest = m
	return w
}

// cpu is the time that the process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(b *testing.B, began time.Duration, bytes int64) {
	b.ReportMetric(float64(cpu()-began)/1e6/(float64(bytes)/1e9), "cpu-ms/GB")
	b.SetBytes(bytes / int64(b.N))
}

// BenchmarkCatchUp reads all of a partition sequentially from a cold cache, and
// beside it the same objects with bare parallel GETs.
func BenchmarkCatchUp(b *testing.B) {
	stores := map[string]func() objstore.Store{
		"mem": func() objstore.Store { return mem.New() },
		"fs": func() objstore.Store {
			s, err := fs.Open(b.TempDir())
			require.NoError(b, err)
			return s
		},
		"minio": func() objstore.Store {
			server := testminio.Shared(b)
			s, err := minio.Open(minio.Options{
				Endpoint: server.Addr, Bucket: server.Bucket(b), AccessKey: server.AccessKey, SecretKey: server.SecretKey,
			})
			require.NoError(b, err)
			return s
		},
	}
	for name, open := range stores {
		for _, codec := range []object.Codec{object.CodecNone, object.CodecZstd} {
			w := benchWorld(b, objstore.WithRetries(open(), objstore.RetryOptions{}), codec)
			b.Run(fmt.Sprintf("%s/%s/raw", name, codec), func(b *testing.B) { benchRaw(b, w) })
			b.Run(fmt.Sprintf("%s/%s/read", name, codec), func(b *testing.B) { benchRead(b, w, cache.Options{MemoryBytes: 256 << 20}) })
			b.Run(fmt.Sprintf("%s/%s/small-memory", name, codec), func(b *testing.B) { benchRead(b, w, cache.Options{MemoryBytes: 32 << 20}) })
			b.Run(fmt.Sprintf("%s/%s/disk", name, codec), func(b *testing.B) {
				benchRead(b, w, cache.Options{MemoryBytes: 32 << 20, DiskBytes: 1 << 30, Dir: b.TempDir()})
			})
		}
	}
}

func benchRaw(b *testing.B, w *world) {
	began, total := cpu(), int64(0)
	for range b.N {
		var g errgroup.Group
		g.SetLimit(8)
		for id, size := range w.sizes {
			for off := int64(0); off < size; off += 8 << 20 {
				n := min(8<<20, size-off)
				total += n
				g.Go(func() error {
					body, err := w.store.GetRange(b.Context(), objectKey(id), off, n)
					if err == nil {
						_, err = io.ReadFull(body, make([]byte, n))
						err = firstErr(err, body.Close())
					}
					return err
				})
			}
		}
		require.NoError(b, g.Wait())
	}
	report(b, began, total)
}

func firstErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func benchRead(b *testing.B, w *world, o cache.Options) {
	began, total, fetched := cpu(), int64(0), int64(0)
	for range b.N {
		if o.Dir != "" {
			o.Dir = b.TempDir() // cold again
		}
		c, err := cache.Open(o)
		require.NoError(b, err)
		r, err := New(Options{Entries: w, Locate: w.locate, Cache: c})
		require.NoError(b, err)
		for at := record.Offset(0); at < w.manifest.RemoteEnd(); {
			res, err := r.Read(b.Context(), Request{TP: testTP, From: at, UpTo: 1 << 40, MaxBytes: 1 << 20, Stream: 1, AtLeastOne: true})
			if err != nil {
				b.Fatal(err)
			}
			total += res.Bytes
			at = res.Next
			res.Release()
		}
		fetched += r.Stats().GetBytes
		require.NoError(b, r.Close())
		require.NoError(b, c.Close())
	}
	b.ReportMetric(float64(fetched)/float64(total), "fetched/read")
	report(b, began, total)
}
