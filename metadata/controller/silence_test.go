package controller

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/internal/testlog"
)

// A broker without a metadata leader wrote a line every two seconds, none of which said
// what it means to clients, and none when it was over. It is told when it begins, when the
// lease ends, once a minute, and when it ends.
func TestSilenceOfTheLeaderIsToldSparingly(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		_, stop := w.controller(UpkeepOptions{})
		defer stop()
		var log testlog.Buffer
		h := w.heartbeater(1, uuid.New(), func(o *HeartbeaterOptions) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		_, err := h.Register(t.Context())
		require.NoError(t, err)
		defer run(h.Run)()
		require.NoError(t, h.Active(t.Context()))
		said := len(log.String())
		lines := func() (new []string) {
			all := log.String()
			for line := range strings.Lines(all[said:]) {
				new = append(new, line)
			}
			said = len(all)
			return new
		}
		w.setCut("b1", true)
		time.Sleep(2 * time.Second)
		got := lines()
		require.Len(t, got, 1)
		require.Contains(t, got[0], "level=WARN")
		require.Contains(t, got[0], "heartbeat failed, and is tried again")
		time.Sleep(2500 * time.Millisecond)
		got = lines()
		require.Len(t, got, 1)
		require.Contains(t, got[0], "level=WARN")
		require.Contains(t, got[0], "this broker serves no client: its lease has ended, since no broker that leads the metadata has answered for")
		time.Sleep(10*time.Minute - 2*time.Second)
		got = lines()
		require.Len(t, got, 9)
		require.Contains(t, got[0], "heartbeats are still not answered")
		require.Contains(t, got[0], "lease=0s")
		w.setCut("b1", false)
		time.Sleep(2 * time.Second)
		got = lines()
		require.Len(t, got, 1, "%q", got)
		require.Contains(t, got[0], "level=INFO")
		require.Contains(t, got[0], "heartbeats are answered again")
		time.Sleep(time.Hour)
		require.Empty(t, lines())
	})
}
