package commitlog

import (
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// A topic went from durability=replicated to fsync while an append was being
// written. The flush that the change asks for came before the append was in the
// log, and the append, by the settings it had begun with, asked for none: with
// acks=all it was answered half a minute later, by the next checkpoint.
func TestAnAppendUnderWaySeesTheNewDurability(t *testing.T) {
	var armed atomic.Bool
	var change func()
	e := newEnv(t, errorfs.Wrap(memFS(t), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWriteAt && strings.HasSuffix(op.Path, segment.LogSuffix) && armed.CompareAndSwap(true, false) {
			change()
		}
		return nil
	})), "/data/topic/0")
	e.cfg.Lazy = true
	l := e.open()
	idle := func() {
		for {
			e.flusher.mu.Lock()
			workers := e.flusher.workers
			e.flusher.mu.Unlock()
			if workers == 0 {
				return
			}
			runtime.Gosched()
		}
	}
	change = func() {
		cfg := e.cfg
		cfg.Lazy = false
		l.SetConfig(cfg)
		idle()
	}
	armed.Store(true)
	require.NoError(t, l.Append([]record.Batch{batch(0, 0, 0, "v")}))
	require.False(t, armed.Load())
	idle()
	require.EqualValues(t, 1, l.FlushedEnd())
	require.NoError(t, l.Close(true))
}
