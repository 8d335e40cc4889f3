package broker

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/commitlog"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// A process that is started under a low soft limit has the hard one.
func TestSoftLimitIsRaised(t *testing.T) {
	const child = "FIRN_TEST_SHOW_FILES"
	if os.Getenv(child) != "" {
		fmt.Printf("files=%d\n", logFiles())
		return
	}
	cmd := exec.Command("sh", "-c", `ulimit -Sn 100 && ulimit -Hn 2000 && exec "$0" -test.run=^TestSoftLimitIsRaised$`, os.Args[0])
	cmd.Env = append(os.Environ(), child+"=1")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "files=999\n", "half of one less than the hard limit")
}

// Under ulimit -n 256 a topic of 600 partitions took every descriptor: 4096 were
// kept for logs whatever the process might have. Half of the partitions did not
// open, and no client could connect to learn of it; an append that found no
// descriptor would have stopped the broker.
func TestLogsLeaveDescriptorsToOthers(t *testing.T) {
	var was unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &was))
	low := was
	low.Cur = 256
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &low))
	defer func() { require.NoError(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &was)) }()
	require.Equal(t, 128, logFiles())

	dir, err := commitlog.OpenDir(vfs.Default, t.TempDir(), commitlog.DirOptions{})
	require.NoError(t, err)
	set := partition.NewSet(partition.SetOptions{NodeID: 1, FS: vfs.Default, Dir: dir, FlushWorkers: 4, MaxFiles: logFiles(),
		LagMax: time.Second, OnFatal: func(err error) { t.Errorf("fatal: %v", err) }, Logger: slog.New(slog.DiscardHandler)})
	const partitions = 300
	id := record.NewTopicID()
	e := metadata.Empty().Edit()
	e.PutTopic(&metadata.Topic{ID: id, Name: "many", Partitions: partitions})
	for n := range int32(partitions) {
		e.PutPartition(record.TopicPartition{Topic: id, Partition: n},
			&metadata.Partition{Replicas: []int32{1}, ISR: []int32{1}, Leader: 1, RemoteEpoch: -1, LastKnownLeader: -1})
	}
	img, delta := e.Commit(1)
	set.Apply(metadata.Empty(), img, delta)
	require.Empty(t, set.Failed())
	for p := range set.All() {
		b := record.NewBuilder(record.BuilderOptions{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1})
		b.Append(1, nil, fmt.Append(nil, p.TP()))
		done := make(appendDone, 1)
		p.Append(&partition.Append{Raw: b.Build(), LeaderEpoch: -1, AcksAll: true, Owner: done})
		require.NoError(t, <-done)
		require.NoError(t, p.Log().Flush(context.Background()))
	}
	require.LessOrEqual(t, set.FDs().Open(), 128)
	require.NoError(t, set.Close(true))
	require.NoError(t, dir.Close(true))
}

type appendDone chan error

func (appendDone) AppendWritten(*partition.Append)  {}
func (c appendDone) AppendDone(a *partition.Append) { c <- a.Err }
