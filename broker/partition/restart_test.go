package partition

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
)

// After kill -9 the log's tail is in the page cache alone. A fetch that came
// before the flusher had synced it was shown a watermark below what had been
// acknowledged and read; so it is synced before the partition is served.
func TestARecoveredTailIsSyncedBeforeItIsServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gate chan struct{}
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
			sync := op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData
			if gate != nil && sync && strings.HasSuffix(op.Path, ".log") {
				<-gate
			}
			return nil
		}))
		b := newBenchOn(t, fs, map[string]string{"durability": "fsync"})
		b.append(batch(5, plain()), true)
		require.NoError(t, b.set.Close(false)) // no checkpoint: as a killed process leaves it
		b.shut()
		gate = make(chan struct{})
		open := sync.OnceFunc(func() { close(gate) })
		defer open()
		b.open()
		applied := make(chan struct{})
		go func() {
			defer close(applied)
			b.set.Apply(metadata.Empty(), b.img, b.img.Everything())
		}()
		synctest.Wait()
		select {
		case <-applied:
			t.Fatalf("served at %+v", b.part().State())
		default:
		}
		open()
		<-applied
		st := b.part().State()
		require.EqualValues(t, 5, st.LogEnd)
		require.EqualValues(t, 5, st.HighWatermark)
	})
}
