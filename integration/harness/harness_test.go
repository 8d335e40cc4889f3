package harness

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"
)

func TestMain(m *testing.M) { Main(m) }

// TestLives takes a broker through an orderly stop and a kill, and finds each
// life at the same addresses with the same data.
func TestLives(t *testing.T) {
	t.Parallel()
	b := Start(t, Options{Set: []string{"num.partitions=3"}})
	c := b.Client(t, kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("snow"))
	produce := func() {
		t.Helper()
		require.NoError(t, c.ProduceSync(t.Context(), kgo.StringRecord("flake")).FirstErr())
	}
	produce()
	first := b.Pid()
	b.Restart()
	require.NotEqual(t, first, b.Pid())
	produce()
	b.Kill()
	b.Start()
	produce()

	_, ends := b.Ends(t, "snow")
	require.Len(t, ends, 3)
	require.EqualValues(t, 3, ends[0]+ends[1]+ends[2])
	status, _ := b.Get("/livez")
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 1, b.Metric("firn_ready"))
	require.Positive(t, b.RSS())
	require.True(t, b.LogContains("broker is ready"))
}

// TestABrokerThatCannotStartIsReported holds that AwaitReady does not wait for
// a process that has ended, and says why.
func TestABrokerThatCannotStartIsReported(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	b := New(t, Options{DataDir: filepath.Join(file, "data")})
	b.Launch()
	started := time.Now()
	require.ErrorContains(t, b.AwaitReady(startLimit), "ended while it started")
	require.Less(t, time.Since(started), startLimit/2)
	require.True(t, b.LogContains("not a directory"))
}
