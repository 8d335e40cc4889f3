package cluster

import (
	"crypto/rand"
	"encoding/base64"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// files are the files below a directory and their sizes; those of Raft and of logs
// that a refused start might have touched are among them.
func files(t *testing.T, dir string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		all[path] = info.Size()
		return err
	})
	if os.IsNotExist(err) {
		return all
	}
	require.NoError(t, err)
	return all
}

// refused starts a broker that must not come up, and holds that it says why and
// leaves its data directory as it was.
func refused(t *testing.T, b *fleet.Broker, reasons ...string) {
	t.Helper()
	before := files(t, b.DataDir)
	require.NoError(t, b.Launch())
	select {
	case <-b.Exited():
	case <-time.After(harnessLimit):
		require.NoError(t, b.Kill())
		t.Errorf("broker %d (%v) was not refused within %v; its log:\n%s", b.ID, b.Set, harnessLimit, logOf(t, b))
		return
	}
	require.Positive(t, b.ExitCode())
	require.NoError(t, b.Kill()) // nobody waits for it any more
	log := logOf(t, b)
	for _, reason := range reasons {
		assert.Contains(t, log, reason)
	}
	after := files(t, b.DataDir)
	delete(after, filepath.Join(b.DataDir, "LOCK")) // empty
	delete(before, filepath.Join(b.DataDir, "LOCK"))
	assert.Equal(t, before, after, "a refused start wrote")
}

func logOf(t *testing.T, b *fleet.Broker) string {
	t.Helper()
	log, err := os.ReadFile(b.LogFile)
	require.NoError(t, err)
	return string(log)
}

// TestStrangersAreRefused starts brokers that must not be in the cluster beside
// one that works.
func TestStrangersAreRefused(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Set: settings()})
	stranger := func(set ...string) *fleet.Broker {
		b, err := c.Add()
		require.NoError(t, err)
		b.Set, b.Stranger = set, true
		return b
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	refused(t, stranger("node.id=2"), "node.id 2")
	refused(t, stranger("gossip.key="+base64.StdEncoding.EncodeToString(key)), "gossip.key")
	refused(t, stranger("cluster.id=AAAAAAAAAAAAAAAAAAAAAQ"), "cluster")

	// Nothing is in the store yet: it would be, half in one bucket and half in another.
	refused(t, stranger("object.store.url=fs://"+filepath.Join(t.TempDir(), "another")), "object.store.url")

	// One that was in another cluster before.
	other := harness.StartCluster(t, harness.ClusterOptions{Brokers: 1, Set: settings()})
	other.StopBroker(other.Brokers[0])
	moved := stranger()
	moved.DataDir = other.Brokers[0].DataDir
	moved.Set = []string{"node.id=1"}
	refused(t, moved)

	// One of the cluster's own that changed.
	b := c.Brokers[2]
	w := startWorkload(t, c)
	w.awaitTiered()
	w.finish()
	c.StopBroker(b)
	b.Set = []string{"node.id=9"}
	refused(t, b, "node.id")
	b.Set = []string{"object.store.url=fs://" + filepath.Join(t.TempDir(), "elsewhere")}
	refused(t, b, "object.store.url")
	b.Set = nil
	c.StartBroker(b)
	c.AwaitWhole()
	topics, err := kadm.NewClient(c.Client()).ListTopics(t.Context())
	require.NoError(t, err)
	require.True(t, topics.Has(topicName))
}
