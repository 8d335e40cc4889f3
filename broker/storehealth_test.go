package broker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/tiering/objstore"
)

// An outage of the store is one line when it begins and one when it ends, however many
// calls meet it; what a retry mends is none.
func TestAnOutageOfTheStoreIsTwoLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		h := newStoreHealth(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), "s3://logs")
		said := func() (lines []string) {
			for line := range strings.Lines(out.String()) {
				lines = append(lines, line)
			}
			out.Reset()
			return lines
		}
		away := fmt.Errorf("put: %w", objstore.ErrTransient)
		fail := func(try int, retrying bool) {
			h.observe(objstore.Attempt{Op: "put", Try: try, Err: away, Retrying: retrying})
		}
		h.observe(objstore.Attempt{Op: "get", Try: 1})
		fail(1, true)
		fail(2, true)
		h.observe(objstore.Attempt{Op: "put", Try: 3})
		fail(1, false) // the budget of retries is used up
		h.observe(objstore.Attempt{Op: "head", Try: 1, Err: objstore.ErrNotExist})
		require.Empty(t, said())
		require.False(t, h.down())

		for range 20 { // calls that are given up
			fail(1, true)
			fail(2, true)
			fail(3, false)
			time.Sleep(time.Second)
		}
		h.observe(objstore.Attempt{Op: "get", Try: 1, Err: context.Canceled}) // a client went; this is no answer
		lines := said()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=WARN")
		require.Contains(t, lines[0], "the object store does not answer: records stay on disk until it does")
		require.Contains(t, lines[0], "store=s3://logs")
		since, last, down := h.outage()
		require.True(t, down)
		require.ErrorIs(t, last, objstore.ErrTransient)
		require.Equal(t, 20*time.Second, time.Since(since))
		require.Equal(t, adminapi.StoreUnreachable, h.status().State)

		h.observe(objstore.Attempt{Op: "list", Try: 1})
		lines = said()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=INFO")
		require.Contains(t, lines[0], "the object store answers again")
		require.Contains(t, lines[0], "after=20s")
		require.False(t, h.down())

		// One attempt after another that hangs, with nothing in between.
		for range 3 {
			time.Sleep(storePatience)
			fail(1, true)
		}
		require.Len(t, said(), 1)
		h.observe(objstore.Attempt{Op: "put", Try: 2})
		require.Len(t, said(), 1)

		h.observe(objstore.Attempt{Op: opProbe, Err: objstore.ErrDenied})
		h.observe(objstore.Attempt{Op: opProbe, Err: objstore.ErrDenied})
		lines = said()
		require.Len(t, lines, 1)
		require.Contains(t, lines[0], "level=ERROR")
		require.Contains(t, lines[0], "denies access")
	})
}
