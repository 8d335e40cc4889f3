package peer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/firnlog/firn/record"
)

// BenchmarkReplicate is acks=all at factor 2, in one process and on the disk: 16
// KiB batches into 8 partitions, with 8 of each under way.
func BenchmarkReplicate(b *testing.B) {
	for _, durability := range []string{"replicated", "fsync"} {
		b.Run(durability, func(b *testing.B) {
			const parts, depth = 8, 8
			c := newClusterOn(b, func(id int32) (vfs.FS, string) { return vfs.Default, fmt.Sprintf("%s/%d", b.TempDir(), id) }, nil, 1, 2)
			c.create(parts, map[string]string{"durability": durability}, 1)
			for n := range parts {
				c.join(n, 2)
			}
			bb := record.NewBuilder(plain())
			bb.Append(time.Now().UnixMilli(), nil, make([]byte, 16<<10))
			raw := bb.Build()
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			var under [parts][]<-chan struct{}
			for i := 0; b.Loop(); i++ {
				n := i % parts
				if len(under[n]) == depth {
					<-under[n][0]
					under[n] = append(under[n][:0], under[n][1:]...)
				}
				_, done := c.produce(1, n, append([]byte(nil), raw...))
				under[n] = append(under[n], done)
			}
			for n := range parts {
				for _, done := range under[n] {
					<-done
				}
			}
		})
	}
}
