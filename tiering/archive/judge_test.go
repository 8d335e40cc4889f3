package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/tiering/objstore"
)

// A race that ends by itself wakes nobody: every change of leaders under load used to be
// a warning. What needs a person is one, and each says why.
func TestOnlyTroubleIsAWarning(t *testing.T) {
	for _, c := range []struct {
		e    Event
		want string
	}{
		{Proposed{}, "DEBUG"},
		{Uploaded{Err: fmt.Errorf("put: %w", context.Canceled)}, "DEBUG"},
		{Proposed{Err: metadata.ErrClosed}, "DEBUG"},
		{Uploaded{Err: fmt.Errorf("%w: read: %w", ErrSource, commitlog.ErrClosed)}, "DEBUG"},
		{Proposed{Err: command.ErrStaleLeaderEpoch}, "INFO"},
		{Proposed{Err: fmt.Errorf("finish: %w", command.ErrStaleBrokerEpoch)}, "INFO"},
		{Proposed{Err: command.ErrNotLeader}, "INFO"},
		{Proposed{Err: command.ErrRange}, "INFO"},
		{Proposed{Err: command.ErrNotFound}, "INFO"},
		{Proposed{Err: metadata.ErrNotLeader}, "INFO"},
		{Proposed{Err: metadata.ErrUnknownOutcome}, "INFO"},
		{Proposed{Err: command.ErrInvalid}, "WARN"},
		{Uploaded{Err: objstore.ErrTransient}, "WARN"},
		{Uploaded{Err: context.DeadlineExceeded}, "WARN"},
		{Uploaded{Err: ErrSource}, "WARN"},
		{Verified{Err: objstore.ErrChecksum}, "WARN"},
		{Verified{Err: errors.New("what nobody thought of")}, "WARN"},
	} {
		var out bytes.Buffer
		a := &Archiver{o: Options{Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}}
		a.log(c.e)
		require.Contains(t, out.String(), "level="+c.want, "%+v", c.e)
		require.Contains(t, out.String(), "step=")
	}
}

// While the store is known not to answer, every partition with something to copy used to
// warn of it again and again. What fails for another reason is told all the same, with
// the topic's name.
func TestAnOutageIsToldOnce(t *testing.T) {
	down := true
	var out bytes.Buffer
	a := &Archiver{o: Options{StoreDown: func() bool { return down },
		Logger: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))}}
	said := func(e Event) string {
		out.Reset()
		a.log(e)
		return out.String()
	}
	c := Copy{Led: Led{Topic: "orders"}}
	require.Contains(t, said(Uploaded{Copy: c, Err: fmt.Errorf("put: %w", objstore.ErrTransient)}), "level=DEBUG")
	require.Contains(t, said(Verified{Copy: c, Err: objstore.ErrDenied}), "level=DEBUG")
	require.Contains(t, said(Verified{Copy: c, Err: objstore.ErrChecksum}), "level=WARN")
	down = false
	line := said(Uploaded{Copy: c, Err: objstore.ErrTransient})
	require.Contains(t, line, "level=WARN")
	require.Contains(t, line, "topic=orders partition=0")
}
