package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/cache"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/objstore/faulty"
)

// narrator writes down each GET that reaches the store, in terms of the
// objects' parts.
type narrator struct {
	w     *world
	names map[string]string // by key

	mu    sync.Mutex
	lines []string
}

func (n *narrator) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	body, err := n.w.store.GetRange(ctx, key, off, length)
	n.mu.Lock()
	defer n.mu.Unlock()
	line := fmt.Sprintf("  get %s bytes %d to %d", n.names[key], off, off+length)
	if err != nil {
		line += ": failed"
	}
	n.lines = append(n.lines, line)
	return body, err
}

// told returns what was written down since the last time. GETs side by side
// have no order, so they are sorted.
func (n *narrator) told() string {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	slices.Sort(n.lines)
	text := strings.Join(n.lines, "\n")
	n.lines = nil
	if text == "" {
		return "  no get\n"
	}
	return text + "\n"
}

// TestTranscript reads as prose: what is asked, and each call that the store
// gets for it.
func TestTranscript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Two objects, each of 60 batches of 1000 bytes, 10 in a chunk.
		w := newWorld(t, rand.New(rand.NewPCG(1, 1)), shape{objects: 2, batches: 60, body: 927, chunk: 10_000, fixed: true})
		require.Equal(t, 1000, len(w.batches[0].Raw))
		n := &narrator{w: w, names: map[string]string{}}
		for i, e := range w.manifest.Entries() {
			n.names[objectKey(e.Object)] = string(rune('A' + i))
		}
		var rd *Reader
		datadriven.RunTest(t, "testdata/transcript", func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "open":
				rd = w.reader(Options{GetBytes: 20_000, ReadAheadWindow: 30_000}, cache.Options{})
				rd.o.Locate = func(ctx context.Context, id uuid.UUID) (Location, error) {
					at, err := w.locate(ctx, id)
					at.Store = n
					return at, err
				}
				return ""
			case "hint":
				var from, max int
				d.ScanArgs(t, "from", &from)
				d.ScanArgs(t, "max", &max)
				rd.Hint(Request{TP: testTP, From: 1000 + record.Offset(from), MaxBytes: int64(max)})
				return n.told()
			case "read":
				var from, max, stream int
				d.ScanArgs(t, "from", &from)
				d.ScanArgs(t, "max", &max)
				d.MaybeScanArgs(t, "stream", &stream)
				timeout := time.Minute
				if d.HasArg("impatient") {
					timeout = time.Second
				}
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				res, err := rd.Read(ctx, Request{TP: testTP, From: 1000 + record.Offset(from), UpTo: 1 << 40, MaxBytes: int64(max), AtLeastOne: true, Stream: uint64(stream)})
				switch {
				case errors.Is(err, ErrNotFound):
					return n.told() + "not found\n"
				case errors.Is(err, ErrUnavailable):
					return n.told() + "unavailable\n"
				case err != nil:
					return n.told() + err.Error() + "\n"
				}
				defer res.Release()
				return fmt.Sprintf("%s%d bytes in %d pieces, next %d\n", n.told(), res.Bytes, len(res.Pieces), res.Next-1000)
			case "store":
				kinds := map[string]faulty.Kind{"well": faulty.None, "down": faulty.Unavailable, "slow": faulty.Slow}
				kind, ok := kinds[d.CmdArgs[0].Key]
				require.True(t, ok, "%s", d.Pos)
				w.faulty.SetPlan(func(faulty.Call) faulty.Fault { return faulty.Fault{Kind: kind, Delay: 5 * time.Second} })
				return ""
			case "wait":
				time.Sleep(time.Minute) // in the test's own time
				return n.told()
			}
			t.Fatalf("%s: unknown command %q", d.Pos, d.Cmd)
			return ""
		})
	})
}
