package commitlog

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

func benchEnv(b *testing.B) *env {
	e := newEnv(b, vfs.Default, b.TempDir()+"/topic/0")
	e.cfg = Config{Lazy: true}
	e.fds = segment.NewFDCache(0)
	return e
}

// bigBatch is a batch of 16 records of 1 KiB that do not compress.
func bigBatch() record.Batch {
	rng := rand.New(rand.NewPCG(1, 1))
	bb := record.NewBuilder(record.BuilderOptions{})
	v := make([]byte, 1000)
	for range 16 {
		for i := range v {
			v[i] = byte(rng.Uint32())
		}
		bb.Append(1, nil, v)
	}
	return stamped(bb.Build(), 0, 0)
}

func BenchmarkAppend16KiB(b *testing.B) {
	for _, gather := range []int{1, 8} {
		b.Run(fmt.Sprintf("gather=%d", gather), func(b *testing.B) {
			e := benchEnv(b)
			l := e.open()
			batches := make([]record.Batch, gather)
			for i := range batches {
				batches[i] = bigBatch()
			}
			b.SetBytes(int64(gather * len(batches[0].Raw)))
			b.ReportAllocs()
			for b.Loop() {
				at := l.End()
				for i := range batches {
					batches[i].Stamp(at, 0)
					at = batches[i].NextOffset()
				}
				if err := l.Append(batches); err != nil {
					b.Fatal(err)
				}
				if l.Size() > 2<<30 {
					b.StopTimer()
					if _, err := l.TrimTo(l.End()); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
			b.StopTimer()
			require.NoError(b, l.Close(false))
		})
	}
}

func BenchmarkRead1MiB(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		b.Run(fmt.Sprintf("sealed=%v", sealed), func(b *testing.B) {
			e := benchEnv(b)
			e.cfg.SegmentBytes = 1 << 30
			l := e.open()
			batch := bigBatch()
			for range 16 << 10 {
				batch.Stamp(l.End(), 0)
				require.NoError(b, l.Append([]record.Batch{batch}))
			}
			if sealed {
				fill := l.config.Load()
				c := *fill
				c.SegmentBytes = 1
				l.SetConfig(c)
				batch.Stamp(l.End(), 0)
				require.NoError(b, l.Append([]record.Batch{batch}))
				flush(b, l)
			}
			b.ReportAllocs()
			from := record.Offset(0)
			var bytes int64
			b.ResetTimer()
			for b.Loop() {
				s, err := l.Read(from, l.End(), 1<<20, true)
				if err != nil {
					b.Fatal(err)
				}
				bytes += s.Bytes
				from = s.Next
				s.Release()
				if from >= l.End() {
					from = 0
				}
			}
			b.SetBytes(bytes / int64(b.N))
			b.StopTimer()
			require.NoError(b, l.Close(false))
		})
	}
}

func BenchmarkOpen1000Logs(b *testing.B) {
	e := benchEnv(b)
	root := b.TempDir()
	batch := bigBatch()
	each := func(fn func()) {
		for i := range 1000 {
			e.dir = fmt.Sprintf("%s/topic/%d", root, i)
			fn()
		}
	}
	each(func() {
		l := e.open()
		for range 4 {
			batch.Stamp(l.End(), 0)
			require.NoError(b, l.Append([]record.Batch{batch}))
		}
		require.NoError(b, l.Close(true))
	})
	for b.Loop() {
		var logs []*Log
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		each(func() { logs = append(logs, e.open()) })
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1000, "heap-B/log")
		b.ReportMetric(float64(e.fds.Open())/1000, "fds/log")
		for _, l := range logs {
			require.NoError(b, l.Close(false))
		}
		b.StartTimer()
	}
}

// BenchmarkRecoverTail opens a log of 1 GiB after a kill -9 with 64 MiB above
// the checkpoint.
func BenchmarkRecoverTail(b *testing.B) {
	e := benchEnv(b)
	l := e.open()
	batch := bigBatch()
	for range 60 << 10 {
		batch.Stamp(l.End(), 0)
		require.NoError(b, l.Append([]record.Batch{batch}))
	}
	flush(b, l)
	require.NoError(b, l.Close(true))
	l = e.open()
	for range 4 << 10 {
		batch.Stamp(l.End(), 0)
		require.NoError(b, l.Append([]record.Batch{batch}))
	}
	require.NoError(b, l.Close(false))
	checkpoint, err := segment.ReadFile(e.fs, e.dir+"/"+checkpointName, 1<<20)
	require.NoError(b, err)
	for b.Loop() {
		l := e.open()
		b.StopTimer()
		require.NoError(b, l.Close(false))
		require.NoError(b, segment.WriteFile(e.fs, e.dir+"/"+checkpointName, bytes.Clone(checkpoint), true))
		b.StartTimer()
	}
}
