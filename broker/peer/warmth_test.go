package peer_test

import (
	"context"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/metadata/fsm"
	"github.com/firnlog/firn/record"
	"github.com/firnlog/firn/tiering/manifest"
)

// newStateCluster is a cluster whose metadata is the real state machine, at a level.
func newStateCluster(t testing.TB, level command.Level, ids ...int32) *cluster {
	c := newCluster(t, nil)
	state, err := fsm.Open(fsm.Options{FS: vfs.NewMem(), Dir: "state", OnApplied: c.publishLocked,
		OnFatal: func(err error) { t.Errorf("fatal: %v", err) }})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, state.Close()) })
	c.state = state
	c.must(&command.FormatCluster{ClusterID: "c", Features: map[string]int16{command.Feature: int16(level)}})
	for _, id := range ids {
		c.mu.Lock()
		c.nodes[id] = &broker{c: c, id: id, fs: vfs.NewMem(), path: "data", cut: make(map[int32]bool), down: true}
		c.mu.Unlock()
		c.start(id)
		c.become(id, command.BrokerActive)
	}
	return c
}

// commit applies a command as a node of the cluster would write it.
func (c *cluster) commit(cmd command.Command) (command.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.commitLocked(cmd)
}

func (c *cluster) commitLocked(cmd command.Command) (command.Result, error) {
	data, err := command.EncodeAt(cmd, c.img.Level().CommandVersion())
	if err != nil {
		return command.Result{}, err
	}
	o := c.state.ApplyBatch([]fsm.Entry{{Index: c.img.Index() + 1, Data: data}})[0]
	return o.Result, o.Err
}

func (c *cluster) must(cmd command.Command) command.Result {
	c.t.Helper()
	res, err := c.commit(cmd)
	require.NoError(c.t, err)
	for _, it := range res.Items {
		require.NoError(c.t, it.Err)
	}
	return res
}

// registerLocked registers the process that begins on a broker.
func (c *cluster) registerLocked(b *broker) (epoch int64) {
	res, err := c.commitLocked(&command.RegisterBroker{BrokerID: b.id, DirectoryID: b.dir.DirectoryID(), Incarnation: uuid.New(),
		Features: map[string]metadata.VersionRange{command.Feature: {Min: 1, Max: int16(command.MaxLevel)}}})
	require.NoError(c.t, err)
	return res.BrokerEpoch
}

func (c *cluster) become(id int32, state command.BrokerState) {
	c.t.Helper()
	c.must(&command.SetBrokerState{BrokerID: id, BrokerEpoch: c.newest.Load().Broker(id).Epoch, State: state})
}

// kill ends a broker and fences it.
func (c *cluster) kill(id int32) {
	c.t.Helper()
	c.stop(id, false)
	c.become(id, command.BrokerFenced)
}

// revive starts a broker and waits until it is in sync.
func (c *cluster) revive(id int32) {
	c.t.Helper()
	c.start(id)
	c.become(id, command.BrokerActive)
	c.inSync(0, 3)
}

func (c *cluster) state0() *metadata.Partition { return c.newest.Load().Partition(c.tp(0)) }

// coldIs waits until these are cold.
func (c *cluster) coldIs(ids ...int32) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		have := c.state0().Cold
		if len(have) != len(ids) {
			return false
		}
		for i, id := range ids {
			if have[i] != id {
				return false
			}
		}
		return true
	}, 20*time.Second, time.Millisecond, "cold: want %v", ids)
}

// tiered makes a topic of one partition on brokers 1, 2 and 3, led by 1, with 100
// records in 20 segments, of which all but the last 10 records are in the bucket.
func (c *cluster) tiered() {
	c.t.Helper()
	c.must(&command.CreateTopics{Topics: []command.NewTopic{{ID: c.topic, Name: "t", Assignments: [][]int32{{1, 2, 3}},
		Configs: map[string]string{"remote.storage.enable": "true"}}}})
	for i := range 20 {
		c.acked(1, 0, batch(5, record.BuilderOptions{ProducerID: 7, BaseSequence: int32(5 * i)}))
		for _, id := range []int32{1, 2, 3} { // all have it
			_, err := c.part(id, 0).Log().Roll()
			require.NoError(c.t, err)
		}
	}
	producers, err := c.part(1, 0).Log().ProducerSnapshotAt(90)
	require.NoError(c.t, err)
	state := partition.RemoteState(func(context.Context, record.TopicPartition) (record.Offset, []manifest.EpochStart, []byte, error) {
		return 90, []manifest.EpochStart{{Epoch: 0, Start: 0}}, producers, nil
	})
	for _, b := range c.nodes {
		b.remote.Store(&state)
	}
	fence := command.Fence{BrokerID: 1, BrokerEpoch: c.newest.Load().Broker(1).Epoch}
	object := uuid.New()
	c.must(&command.CopyStarted{Fence: fence, Partition: c.tp(0), Object: object, End: 90})
	c.must(&command.CopyFinished{Fence: fence, Partition: c.tp(0), Object: object, Size: 1,
		Entry: manifest.Entry{End: 90, Epochs: []manifest.EpochStart{{}}}})
}

// wipe gives a broker that is down an empty disk.
func (c *cluster) wipe(id int32) { c.nodes[id].fs = vfs.NewMem() }

// A broker whose disk was lost is soon in sync, with the tail alone. When the leader
// goes, the third takes over, though the wiped one comes first in the list; once the
// leader holds no more than it, it leads.
func TestAWipedReplicaLeadsOnceItIsWarm(t *testing.T) {
	c := newStateCluster(t, command.Level2, 1, 2, 3)
	c.tiered()
	c.kill(2)
	c.wipe(2)
	c.revive(2)
	require.EqualValues(t, 90, c.part(2, 0).LocalStart())
	require.Equal(t, []int32{2}, c.state0().Cold, "in sync, but cold")

	c.kill(1)
	require.EqualValues(t, 3, c.state0().Leader)
	c.acked(3, 0, batch(5, plain()))
	c.revive(1)
	c.same(0, 90, 1, 2, 3)
	require.Equal(t, []int32{2}, c.state0().Cold, "whoever leads")

	// The leader trims, as local.retention has it.
	_, err := c.part(1, 0).Trim(90)
	require.NoError(t, err)
	require.EqualValues(t, 90, c.part(1, 0).LocalStart())
	require.NoError(t, c.elect(1))
	c.coldIs()
	c.same(0, 90, 1, 2, 3)
	c.kill(1)
	require.EqualValues(t, 2, c.state0().Leader)
	c.acked(2, 0, batch(5, plain()))
}

// elect has the preferred broker lead, and waits until it serves.
func (c *cluster) elect(leader int32) error {
	_, err := c.commit(&command.ElectLeaders{Elections: []command.Election{{Partition: c.tp(0), PartitionEpoch: -1, Leader: -1, Kind: command.ElectPreferred}}})
	if err == nil {
		require.EqualValues(c.t, leader, c.state0().Leader)
	}
	return err
}

// With nobody else left a cold one leads, and is as warm as anybody.
func TestAColdReplicaLeadsWhereNoWarmOneCan(t *testing.T) {
	c := newStateCluster(t, command.Level2, 1, 2, 3)
	c.tiered()
	c.kill(2)
	c.wipe(2)
	c.revive(2)
	c.kill(3)
	c.kill(1)
	require.EqualValues(t, 2, c.state0().Leader)
	require.Equal(t, []int32{2}, c.state0().Cold)
	c.coldIs()
	// The others come back with more than it has: they are warm.
	c.start(1)
	c.become(1, command.BrokerActive)
	c.start(3)
	c.become(3, command.BrokerActive)
	c.inSync(0, 3)
	require.Empty(t, c.state0().Cold)
}

// A replica that is added is cold from the moment it is in sync: a reassignment may end
// with that.
func TestAReassignmentEndsWithAWarmLeader(t *testing.T) {
	c := newStateCluster(t, command.Level2, 1, 2, 3, 4)
	c.tiered()
	c.must(&command.AlterReassignments{Items: []command.Reassignment{{Partition: c.tp(0), Replicas: []int32{4, 2, 3}}}})
	require.Eventually(t, func() bool { return !c.state0().Reassigning() }, 20*time.Second, time.Millisecond)
	require.Equal(t, []int32{4, 2, 3}, c.state0().Replicas)
	require.Equal(t, []int32{4}, c.state0().Cold)
	require.EqualValues(t, 2, c.state0().Leader)
	require.EqualValues(t, 90, c.part(4, 0).LocalStart())
}

// At level 1 nobody is cold. Once the level is raised the leader looks.
func TestNobodyIsColdBeforeTheLevelIsRaised(t *testing.T) {
	c := newStateCluster(t, command.Level1, 1, 2, 3)
	c.tiered()
	c.kill(2)
	c.wipe(2)
	c.revive(2)
	require.Empty(t, c.state0().Cold)
	c.kill(1)
	require.EqualValues(t, 2, c.state0().Leader, "the order of the replicas alone")
	c.revive(1)
	c.must(&command.UpdateFeatures{Updates: []command.FeatureUpdate{{Name: command.Feature, Level: int16(command.Level2)}}})
	require.NoError(t, c.elect(1))
	c.kill(2)
	c.wipe(2)
	c.revive(2)
	require.Equal(t, []int32{2}, c.state0().Cold)
	c.kill(1)
	require.EqualValues(t, 3, c.state0().Leader)
}
