package storetest

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/tiering/objstore"
)

// BenchmarkGet reads ranges of 4 MiB in parallel through the retrying store,
// and reports this process's CPU per GB beside the throughput.
func BenchmarkGet(b *testing.B, s objstore.Store) {
	const size, objects = 4 << 20, 8
	for i := range objects {
		Put(b, s, fmt.Sprint("k", i), Body(uint64(i), size))
	}
	s = objstore.WithRetries(s, objstore.RetryOptions{})
	b.SetBytes(size)
	b.SetParallelism(4)
	before := cpu(b)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		buf := make([]byte, size)
		for i := 0; pb.Next(); i++ {
			r, err := s.GetRange(b.Context(), fmt.Sprint("k", i%objects), 0, size)
			if err == nil {
				_, err = io.ReadFull(r, buf)
				err = errors.Join(err, r.Close())
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric((cpu(b)-before).Seconds()/(float64(b.N)*size/1e9), "cpu-s/GB")
}

// cpu is the time that this process has spent, user and system.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
