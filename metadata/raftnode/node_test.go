package raftnode

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

var testDirectory = uuid.MustParse("6f1a6b0e-8a52-4f0e-9b5c-0d2f3a4b5c6d")

// alone begins a cluster of the one node of most tests.
var alone = []Server{{DirectoryID: testDirectory, Voter: true}}

func openNode(t testing.TB, opts Options) *Node {
	t.Helper()
	opts.DirectoryID = testDirectory
	opts.Bootstrap = alone
	if opts.ClusterID == "" {
		opts.ClusterID = "AAAAAAAAAAAAAAAAAAAAAA"
	}
	if opts.OnFatal == nil {
		opts.OnFatal = func(err error) { t.Errorf("fatal: %v", err) }
	}
	n, err := Open(opts)
	require.NoError(t, err)
	return n
}

func ready(t testing.TB, n *Node) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	require.NoError(t, n.Ready(ctx))
}

func register(t testing.TB, n *Node) int64 {
	t.Helper()
	res, err := n.Propose(t.Context(), &command.RegisterBroker{BrokerID: 1, DirectoryID: testDirectory, Incarnation: uuid.New()})
	require.NoError(t, err)
	_, err = n.Propose(t.Context(), &command.SetBrokerState{BrokerID: 1, BrokerEpoch: res.BrokerEpoch, State: command.BrokerActive})
	require.NoError(t, err)
	return res.BrokerEpoch
}

func createTopic(t testing.TB, n *Node, name string, partitions int) record.TopicID {
	t.Helper()
	topic := command.NewTopic{ID: record.NewTopicID(), Name: name}
	for range partitions {
		topic.Assignments = append(topic.Assignments, []int32{1})
	}
	res, err := n.Propose(t.Context(), &command.CreateTopics{Topics: []command.NewTopic{topic}})
	require.NoError(t, err)
	require.NoError(t, res.Items[0].Err)
	return topic.ID
}

func TestNodeStartsFastAndRestarts(t *testing.T) {
	dir := t.TempDir()
	start := time.Now()
	n := openNode(t, Options{Dir: dir})
	opened := time.Since(start)
	ready(t, n)
	t.Logf("fresh node: opened in %v, ready in %v", opened, time.Since(start))
	require.Equal(t, "AAAAAAAAAAAAAAAAAAAAAA", n.Image().ClusterID())
	register(t, n)
	require.Equal(t, int32(1), n.Image().ControllerID())
	id := createTopic(t, n, "events", 3)
	index, hash, err := n.StateHash()
	require.NoError(t, err)
	require.NoError(t, n.Close())

	start = time.Now()
	n = openNode(t, Options{Dir: dir, ClusterID: "another"})
	ready(t, n)
	t.Logf("restart: ready in %v", time.Since(start))
	again, hashAgain, err := n.StateHash()
	require.NoError(t, err)
	require.Equal(t, index, again)
	require.Equal(t, hash, hashAgain)
	require.Equal(t, "AAAAAAAAAAAAAAAAAAAAAA", n.Image().ClusterID())
	require.Equal(t, int32(3), n.Image().Topic(id).Partitions)
	require.NoError(t, n.Close())
	_, err = n.Propose(t.Context(), &command.PurgeTopic{Topic: id})
	require.ErrorIs(t, err, metadata.ErrClosed)
}

// TestConcurrentProposals has 64 in flight: each gets a block of its own. The log
// shows what the disk allows.
func TestConcurrentProposals(t *testing.T) {
	n := openNode(t, Options{Dir: t.TempDir()})
	ready(t, n)
	epoch := register(t, n)
	const workers, each = 64, 50
	blocks := make([][]int64, workers)
	start := time.Now()
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for range each {
				res, err := n.Propose(context.Background(), &command.AllocateProducerIDs{BrokerID: 1, BrokerEpoch: epoch})
				if err != nil {
					t.Error(err)
					return
				}
				blocks[w] = append(blocks[w], res.ProducerIDs.First)
			}
		})
	}
	wg.Wait()
	t.Logf("%d in flight: %.0f commits/s", workers, workers*each/time.Since(start).Seconds())
	seen := map[int64]bool{}
	for _, first := range slices.Concat(blocks...) {
		require.False(t, seen[first], "block %d was given twice", first)
		seen[first] = true
	}
	require.Len(t, seen, workers*each)
	require.NoError(t, n.Close())
}

// TestNodeSurvivesCrashAtEveryProposal cuts the power after each acknowledged
// proposal, and in between, and looks for what was acknowledged.
func TestNodeSurvivesCrashAtEveryProposal(t *testing.T) {
	fs := vfs.NewCrashableMem()
	n := openNode(t, Options{FS: fs, Dir: "/data/meta", SnapshotEntries: 8, TrailingEntries: 4, SnapshotInterval: 5 * time.Millisecond})
	ready(t, n)
	register(t, n)
	var acked []string
	for i := range 25 {
		name := fmt.Sprintf("topic-%d", i)
		createTopic(t, n, name, 2)
		acked = append(acked, name)
		for _, keep := range []int{0, 50} {
			clone := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: keep, RNG: testRand(int64(i))})
			crashed := openNode(t, Options{FS: clone, Dir: "/data/meta"})
			ready(t, crashed)
			for _, want := range acked {
				require.NotNil(t, crashed.Image().TopicByName(want), "after proposal %d", i)
			}
			require.NoError(t, crashed.Close())
		}
	}
	require.NoError(t, n.Close())
}

// atSync calls fn before each sync.
type atSync func()

// MaybeError implements errorfs.Injector.
func (fn atSync) MaybeError(op errorfs.Op) error {
	if op.Kind == errorfs.OpFileSync || op.Kind == errorfs.OpFileSyncData || op.Kind == errorfs.OpFileSyncTo {
		fn()
	}
	return nil
}

// String implements errorfs.Injector.
func (atSync) String() string { return "at sync" }

// TestPowerLossWhileItBegins cuts the power at each sync of the first start: a node
// that then counts as begun knows the servers, and leads; any other begins again.
func TestPowerLossWhileItBegins(t *testing.T) {
	var mu sync.Mutex
	var disks []*vfs.MemFS
	disk := vfs.NewCrashableMem()
	n := openNode(t, Options{Dir: "/data/meta", FS: errorfs.Wrap(disk, atSync(func() {
		mu.Lock()
		defer mu.Unlock()
		disks = append(disks, disk.CrashClone(vfs.CrashCloneCfg{}))
	}))})
	ready(t, n)
	require.NoError(t, n.Close())
	begun := 0
	for i, fs := range disks {
		has, err := HasState(fs, "/data/meta")
		require.NoError(t, err)
		opts := Options{FS: fs, Dir: "/data/meta", DirectoryID: testDirectory, ClusterID: testCluster}
		if has {
			begun++
		} else {
			opts.Bootstrap = alone
		}
		n, err := Open(opts)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		require.NoError(t, n.Ready(ctx), "power lost at sync %d, begun: %v", i, has)
		cancel()
		require.NoError(t, n.Close())
	}
	require.Positive(t, begun)
	require.Less(t, begun, len(disks))
}
