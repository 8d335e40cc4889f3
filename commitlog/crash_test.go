package commitlog

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog/segment"
	"github.com/firnlog/firn/record"
)

// outcome is what a restart may find: the batches of a history from a start
// in [startMin, startMax] on, to an end in [endMin, endMax].
type outcome struct {
	history            []record.Batch
	startMin, startMax record.Offset
	endMin, endMax     record.Offset
	// emptyAt is where the log may also be found empty, NoOffset for nowhere.
	emptyAt record.Offset
}

// check opens a log after a crash and compares it with what may be there.
func (o *outcome) check(t *testing.T, fs vfs.FS, what string) {
	t.Helper()
	e := newEnv(t, fs, "/data/topic/0")
	l, err := Open(e.options())
	require.NoError(t, err, what)
	if l.Start() != o.emptyAt || l.End() != o.emptyAt {
		require.GreaterOrEqual(t, l.Start(), o.startMin, what)
		require.LessOrEqual(t, l.Start(), o.startMax, what)
		require.GreaterOrEqual(t, l.End(), o.endMin, what)
		require.LessOrEqual(t, l.End(), o.endMax, what)
	}
	var want []byte
	for i := range o.history {
		if b := &o.history[i]; b.BaseOffset >= l.Start() && b.BaseOffset < l.End() {
			want = append(want, b.Raw...)
			at := record.NoEpoch
			for _, e := range l.Epochs() {
				if e.Start <= b.BaseOffset {
					at = e.Epoch
				}
			}
			require.Equal(t, b.LeaderEpoch, at, "%s: epoch of offset %d", what, b.BaseOffset)
		}
	}
	got := readAll(t, l, l.Start(), 1<<16)
	require.Equal(t, want, got, what)
	// It goes on from there.
	fill(t, l, 3)
	flush(t, l)
	end := l.End()
	require.NoError(t, l.Close(false), what)
	l, err = Open(e.options())
	require.NoError(t, err, what)
	require.Equal(t, end, l.End(), what)
	require.NoError(t, l.Close(true), what)
}

// crasher takes clones of a file system as power loss would leave it, at each
// operation that changes it.
type crasher struct {
	mem *vfs.MemFS

	mu     sync.Mutex
	rng    *rand.Rand
	on     bool
	clones []*vfs.MemFS
	ops    []string
}

func (c *crasher) hook(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() == errorfs.OpIsRead || op.Kind == errorfs.OpFileClose {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.on {
		percent := c.rng.IntN(4) * 33
		c.clones = append(c.clones, c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: c.rng}))
		c.ops = append(c.ops, fmt.Sprintf("%d %s, %d%%", op.Kind, op.Path, percent))
	}
	return nil
}

// during runs fn and answers the file systems that a crash inside would leave.
func (c *crasher) during(l *Log, fn func()) (clones []*vfs.MemFS, ops []string, flushed record.Offset) {
	c.mu.Lock()
	c.on, c.clones, c.ops = true, nil, nil
	c.mu.Unlock()
	fn()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = false
	flushed = l.FlushedEnd()
	c.clones = append(c.clones, c.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: c.rng}))
	c.ops = append(c.ops, "after it")
	return c.clones, c.ops, flushed
}

// TestCrashAtEachStep runs random changes and, for each file operation of each
// change, opens what a power loss there would leave.
func TestCrashAtEachStep(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { crashRun(t, seed) })
	}
}

func crashRun(t *testing.T, seed uint64) {
	mem := memFS(t)
	c := &crasher{mem: mem, rng: rand.New(rand.NewPCG(seed, 1))}
	rng := rand.New(rand.NewPCG(seed, 2))
	e := newEnv(t, errorfs.Wrap(mem, errorfs.InjectorFunc(c.hook)), "/data/topic/0")
	e.cfg.Lazy = seed%2 == 0
	l := e.open()
	var history []record.Batch // what the log holds, and what was trimmed from it
	for step := range 12 {
		o := outcome{startMin: l.Start(), startMax: l.Start(), endMin: l.FlushedEnd(), endMax: l.End(), emptyAt: record.NoOffset}
		var name string
		var after []record.Batch
		clones, ops, flushed := c.during(l, func() {
			switch rng.IntN(7) {
			case 0, 1, 2:
				n := 1 + rng.IntN(12)
				name = fmt.Sprintf("append %d", n)
				after = slices.Clone(history)
				for range n {
					b := batch(l.End(), record.Epoch(step), int64(step), "some value", fmt.Sprint(rng.Uint64()))
					after = append(after, b)
					require.NoError(t, l.Append([]record.Batch{b}))
				}
				o.endMax = l.End()
				if rng.IntN(2) == 0 {
					flush(t, l)
				}
			case 3:
				name = "roll"
				_, err := l.MaybeRoll(time.Now().Add(1000 * time.Hour))
				require.NoError(t, err)
				flush(t, l)
				after = history
			case 4:
				name = "trim"
				off := l.Start() + record.Offset(rng.Int64N(int64(l.End()-l.Start())+1))
				_, err := l.TrimTo(off)
				require.NoError(t, err)
				o.startMax = l.Start()
				after = history
			case 5:
				off := l.Start() + record.Offset(rng.Int64N(int64(l.End()-l.Start())+1))
				name = fmt.Sprintf("truncate %d to %d", l.End(), off)
				require.NoError(t, l.TruncateTo(off))
				o.endMin = min(o.endMin, l.End())
				for _, b := range history {
					if b.BaseOffset < l.End() {
						after = append(after, b)
					}
				}
			case 6:
				o.emptyAt = record.Offset(rng.Int64N(int64(l.End()) + 20))
				if infos := l.Segments(); rng.IntN(2) == 0 { // where a file of that name is
					o.emptyAt = infos[rng.IntN(len(infos))].Base
				}
				name = fmt.Sprintf("reset to %d", o.emptyAt)
				require.NoError(t, l.ResetTo(o.emptyAt, []EpochStart{{1, 0}}, nil))
			}
		})
		for i, clone := range clones {
			o := o
			o.history = history
			if len(after) > len(history) {
				o.history = after
			}
			if i == len(clones)-1 { // the call has returned: what it did must last
				o.history, o.startMin = after, l.Start()
				o.endMin, o.endMax = flushed, l.End()
			}
			o.check(t, clone, fmt.Sprintf("step %d, %s, before operation %d: %s", step, name, i, ops[i]))
		}
		history = after
	}
	require.NoError(t, l.Close(true))
	clone := mem.CrashClone(vfs.CrashCloneCfg{})
	o := outcome{history: history, startMin: l.Start(), startMax: l.Start(), endMin: l.End(), endMax: l.End(), emptyAt: record.NoOffset}
	o.check(t, clone, "after a clean close")
}

// TestResetIsFinishedOnce: a reset that a crash interrupted is carried out by the next
// start, and over by the time that the log can be used: what is acknowledged after that
// must not go with another start, however soon that comes.
func TestResetIsFinishedOnce(t *testing.T) {
	mem := memFS(t)
	c := &crasher{mem: mem, rng: rand.New(rand.NewPCG(1, 1))}
	e := newEnv(t, errorfs.Wrap(mem, errorfs.InjectorFunc(c.hook)), "/data/topic/0")
	l := e.open()
	fill(t, l, 5)
	flush(t, l)
	clones, _, _ := c.during(l, func() { require.NoError(t, l.ResetTo(50, []EpochStart{{1, 0}}, nil)) })
	require.NoError(t, l.Close(true))
	interrupted := 0
	for _, clone := range clones {
		found := func(fs vfs.FS) bool {
			b, err := segment.ReadFile(fs, "/data/topic/0/"+checkpointName, checkpointLimit)
			if segment.IsNotExist(err) {
				return false
			}
			require.NoError(t, err)
			cp, err := parseCheckpoint(b)
			require.NoError(t, err)
			return cp.reset
		}
		if !found(clone) {
			continue
		}
		interrupted++
		e := newEnv(t, clone, "/data/topic/0")
		l := e.open()
		require.Equal(t, record.Offset(50), l.End())
		require.Equal(t, []EpochStart{{1, 0}}, l.Epochs())
		require.False(t, found(clone), "the next start would reset the log again")
		require.False(t, found(clone.CrashClone(vfs.CrashCloneCfg{})), "a start after a loss of power would")
		require.NoError(t, l.Close(false))
	}
	require.Positive(t, interrupted)
}
