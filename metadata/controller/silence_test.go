package controller

import (
	"context"
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

// That a broker is lost is a warning, with the reason; that one stops is none. Both were
// one line among the others.
func TestALostBrokerIsAWarning(t *testing.T) {
	inBubble(t, func(t *testing.T, w *world) {
		var log testlog.Buffer
		c := New(Options{Meta: w, Calls: node{w, "leader"}, Verify: func(context.Context) (uint64, error) { return 0, nil },
			Logger: slog.New(slog.NewTextHandler(&log, nil))})
		defer run(c.Run)()
		all, leave := w.join(t, 3)
		defer leave()
		require.NoError(t, all[2].Shutdown(t.Context()))
		w.setCut("b2", true)
		time.Sleep(5 * time.Second)
		var fenced []string
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, "broker is fenced") {
				fenced = append(fenced, line)
			}
		}
		require.Len(t, fenced, 2, log.String())
		require.Contains(t, fenced[0], "level=INFO")
		require.Contains(t, fenced[0], `broker=3`)
		require.Contains(t, fenced[0], `because="it asked to stop"`)
		require.Contains(t, fenced[1], "level=WARN")
		require.Contains(t, fenced[1], `broker=2`)
		require.Contains(t, fenced[1], `because="its heartbeats stay away"`)
	})
}
