package fsm

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// story applies commands one by one and holds the invariants after each.
type story struct {
	t     testing.TB
	f     *FSM
	index uint64
	dirs  map[int32]uuid.UUID
	tp    record.TopicPartition
}

// newStory begins with active brokers 1 … brokers and a topic "a" of one partition
// on the replicas.
func newStory(t testing.TB, brokers int, configs map[string]string, replicas ...int32) *story {
	s := &story{t: t, f: openFSM(t, vfs.NewMem(), nil), dirs: map[int32]uuid.UUID{}}
	for id := range int32(brokers) {
		s.dirs[id+1] = uuid.New()
		s.register(id+1, nil)
		s.active(id + 1)
	}
	s.tp.Topic = record.NewTopicID()
	s.must(&command.CreateTopics{Topics: []command.NewTopic{{ID: s.tp.Topic, Name: "a", Assignments: [][]int32{replicas}, Configs: configs}}})
	t.Cleanup(func() { require.NoError(t, s.f.Close()) })
	return s
}

func (s *story) apply(cmd command.Command) (command.Result, error) {
	s.t.Helper()
	old := s.f.Image()
	s.index++
	o := s.f.ApplyBatch([]Entry{encode(s.t, s.index, cmd)})[0]
	require.NoError(s.t, metadata.Check(s.f.Image()))
	require.NoError(s.t, metadata.CheckStep(old, s.f.Image()))
	err := o.Err
	for _, it := range o.Result.Items {
		if err == nil {
			err = it.Err
		}
	}
	return o.Result, err
}

func (s *story) must(cmd command.Command) command.Result {
	s.t.Helper()
	res, err := s.apply(cmd)
	require.NoError(s.t, err)
	return res
}

func (s *story) register(id int32, edit func(*command.RegisterBroker)) {
	s.t.Helper()
	c := &command.RegisterBroker{BrokerID: id, DirectoryID: s.dirs[id], Incarnation: uuid.New()}
	if edit != nil {
		edit(c)
	}
	s.must(c)
}

func (s *story) state(id int32, state command.BrokerState) {
	s.t.Helper()
	s.must(&command.SetBrokerState{BrokerID: id, BrokerEpoch: s.f.Image().Broker(id).Epoch, State: state})
}

func (s *story) active(id int32) { s.t.Helper(); s.state(id, command.BrokerActive) }

func (s *story) fence(ids ...int32) {
	s.t.Helper()
	for _, id := range ids {
		s.state(id, command.BrokerFenced)
	}
}

// isr has the leader set the ISR.
func (s *story) isr(ids ...int32) {
	s.t.Helper()
	_, err := s.tryISR(ids...)
	require.NoError(s.t, err)
}

func (s *story) tryISR(ids ...int32) (command.Result, error) {
	s.t.Helper()
	p := s.p()
	ch := command.ISRChange{Partition: s.tp, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, id := range ids {
		ch.ISR = append(ch.ISR, command.ISRMember{BrokerID: id, BrokerEpoch: s.f.Image().Broker(id).Epoch})
	}
	return s.apply(&command.AlterPartition{BrokerID: p.Leader, BrokerEpoch: s.f.Image().Broker(p.Leader).Epoch, Partitions: []command.ISRChange{ch}})
}

func (s *story) p() *metadata.Partition { return s.f.Image().Partition(s.tp) }

// is holds the partition's state against "leader/leader epoch isr elr last known".
func (s *story) is(want string) {
	s.t.Helper()
	p := s.p()
	got := fmt.Sprintf("%d/%d isr%v", p.Leader, p.LeaderEpoch, p.ISR)
	if len(p.ELR) > 0 {
		got += fmt.Sprintf(" elr%v", p.ELR)
	}
	if p.LastKnownLeader >= 0 {
		got += fmt.Sprintf(" known %d", p.LastKnownLeader)
	}
	if p.Reassigning() {
		got += fmt.Sprintf(" replicas%v +%v -%v", p.Replicas, p.Adding, p.Removing)
	}
	require.Equal(s.t, want, got)
}

func (s *story) reassign(replicas ...int32) error {
	s.t.Helper()
	_, err := s.apply(&command.AlterReassignments{Items: []command.Reassignment{{Partition: s.tp, Replicas: replicas}}})
	return err
}

func (s *story) elect(kind command.ElectionKind, leader int32) error {
	s.t.Helper()
	_, err := s.apply(&command.ElectLeaders{Elections: []command.Election{{Partition: s.tp, PartitionEpoch: -1, Leader: leader, Kind: kind}}})
	return err
}

func (s *story) configs(kind metadata.ResourceKind, name string, kv ...string) {
	s.t.Helper()
	set := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		set[kv[i]] = kv[i+1]
	}
	s.must(&command.AlterConfigs{Changes: []command.ConfigChange{{Resource: metadata.ConfigResource{Kind: kind, Name: name}, Set: set}}})
}

// TestFailover: one after the other goes; below the minimum those who went stay
// eligible, since the watermark stood still; they come back in any order and nothing
// is lost.
func TestFailover(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.is("1/0 isr[1 2 3]")
	s.fence(1)
	s.is("2/1 isr[2 3]")
	s.fence(2)
	s.is("3/2 isr[3] elr[2]")
	s.fence(3)
	s.is("-1/3 isr[3] elr[2] known 3")
	s.active(1)
	s.is("-1/3 isr[3] elr[2] known 3") // it left while the minimum was there: it may lack records
	s.active(2)
	s.is("2/4 isr[2] elr[3]")
	s.active(3)
	s.is("2/4 isr[2] elr[3]")
	s.isr(2, 3)
	s.is("2/4 isr[2 3]")
	s.isr(1, 2, 3)
	require.NoError(t, s.elect(command.ElectPreferred, -1))
	s.is("1/5 isr[1 2 3]")
}

// TestLaggingMembersAreEligible: a leader that shrinks the ISR below the minimum
// leaves who left eligible; the one that goes while the minimum is there is not.
func TestLaggingMembersAreEligible(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.isr(1, 2)
	s.is("1/0 isr[1 2]")
	s.isr(1)
	s.is("1/0 isr[1] elr[2]")
	s.fence(1)
	s.is("2/1 isr[2] elr[1]")
}

// TestMinimumMovesEligibility: once the minimum is lowered the watermark may pass
// those who are only eligible, so they are not any more; a raised one makes nobody
// eligible who left before.
func TestMinimumMovesEligibility(t *testing.T) {
	for _, by := range []string{"topic", "default"} {
		s := newStory(t, 3, nil, 1, 2, 3)
		set := func(value string) {
			if by == "topic" {
				s.configs(metadata.ResourceTopic, "a", "min.insync.replicas", value)
			} else {
				s.configs(metadata.ResourceBroker, "", "min.insync.replicas", value)
			}
		}
		s.isr(1)
		s.is("1/0 isr[1] elr[2 3]")
		set("1")
		s.is("1/0 isr[1]")
		set("3")
		s.is("1/0 isr[1]")
		s.isr(1, 2)
		s.isr(1)
		s.is("1/0 isr[1] elr[2]")
	}
}

// TestRestart: a process that restarts before anybody fenced it leads again, under
// another epoch.
func TestRestart(t *testing.T) {
	s := newStory(t, 1, nil, 1)
	s.register(1, nil)
	s.is("-1/1 isr[1] known 1")
	s.active(1)
	s.is("1/2 isr[1]")

	s = newStory(t, 2, nil, 1, 2)
	s.register(1, nil)
	s.is("2/1 isr[2]")
	old := s.f.Image().Broker(1).Epoch
	s.register(1, nil)
	s.active(1)
	_, err := s.apply(&command.AlterPartition{BrokerID: 2, BrokerEpoch: s.f.Image().Broker(2).Epoch, Partitions: []command.ISRChange{{Partition: s.tp, LeaderEpoch: 1,
		PartitionEpoch: s.p().PartitionEpoch, ISR: []command.ISRMember{{BrokerID: 2, BrokerEpoch: -1}, {BrokerID: 1, BrokerEpoch: old}}}}})
	require.ErrorIs(t, err, command.ErrIneligibleReplica, "what the last process fetched counted")
}

// TestWipedDisk: what a broker with another directory had counts for nothing, even
// where nobody else has it.
func TestWipedDisk(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.isr(1)
	s.fence(3, 2, 1)
	s.is("-1/1 isr[1] elr[2 3] known 1")
	wipe := func(id int32) {
		s.dirs[id] = uuid.New()
		s.register(id, nil)
		s.active(id)
	}
	wipe(1)
	s.is("-1/1 isr[] elr[2 3]")
	wipe(2)
	s.is("-1/1 isr[] elr[3]")
	s.active(3)
	s.is("3/2 isr[3]")
	s.isr(1, 2, 3)
	s.fence(1, 2, 3)
	wipe(3)
	wipe(2)
	wipe(1)
	s.is("-1/3 isr[]")
	require.ErrorIs(t, s.elect(command.ElectClean, -1), command.ErrNoEligibleLeader)
	require.ErrorIs(t, s.elect(command.ElectClean, 2), command.ErrNoEligibleLeader)
	require.NoError(t, s.elect(command.ElectUnclean, 2))
	s.is("2/4 isr[2]")
}

// TestWipedWhileAlive: the id is not given to another directory while its holder is
// not fenced.
func TestWipedWhileAlive(t *testing.T) {
	s := newStory(t, 2, nil, 1, 2)
	_, err := s.apply(&command.RegisterBroker{BrokerID: 1, DirectoryID: uuid.New(), Incarnation: uuid.New()})
	require.ErrorIs(t, err, command.ErrDuplicateBroker)
	s.is("1/0 isr[1 2]")
}

// TestPowerLoss: every machine lost its page cache. Topics that were flushed go on
// cleanly; of the others the last known leader leads, with what it had flushed.
func TestPowerLoss(t *testing.T) {
	for name, c := range map[string]struct {
		configs   map[string]string
		byDefault bool
		lost      bool
	}{
		"fsync":                   {configs: map[string]string{"durability": "fsync"}, byDefault: true},
		"flush.messages":          {configs: map[string]string{"flush.messages": "1"}, byDefault: true},
		"fsync by the file":       {},
		"replicated":              {configs: map[string]string{"durability": "replicated"}, lost: true},
		"replicated by the file":  {byDefault: true, lost: true},
		"replicated and flushing": {configs: map[string]string{"durability": "replicated", "flush.messages": "1"}, lost: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStory(t, 3, c.configs, 1, 2, 3)
			back := func(id int32) {
				s.register(id, func(r *command.RegisterBroker) { r.Untrusted, r.ReplicatedByDefault = true, c.byDefault })
			}
			back(1)
			s.is("2/1 isr[2 3]")
			back(3)
			if !c.lost {
				s.is("2/1 isr[2] elr[3]")
				back(2)
				s.is("-1/2 isr[2] elr[3] known 2")
				s.active(3)
				s.is("3/3 isr[3] elr[2]")
				return
			}
			s.is("2/1 isr[2]")
			back(2)
			s.is("-1/2 isr[] known 2")
			s.active(1)
			s.active(3)
			s.is("-1/2 isr[] known 2")
			s.active(2)
			s.is("2/3 isr[2]")
		})
	}
}

// TestUncleanElection: by the topic's config, the default of all, a change of either,
// or by hand; clean ones come first.
func TestUncleanElection(t *testing.T) {
	dead := func(configs map[string]string) *story {
		s := newStory(t, 3, configs, 1, 2, 3)
		s.fence(3)
		s.isr(1)
		s.fence(2, 1)
		s.is("-1/1 isr[1] elr[2] known 1")
		return s
	}
	s := dead(nil)
	s.active(3)
	s.is("-1/1 isr[1] elr[2] known 1")
	require.ErrorIs(t, s.elect(command.ElectUnclean, 1), command.ErrIneligibleReplica)
	require.NoError(t, s.elect(command.ElectUnclean, -1))
	s.is("3/2 isr[3]") // what the others have is no longer what counts
	require.ErrorIs(t, s.elect(command.ElectUnclean, -1), command.ErrElectionNotNeeded)

	s = dead(map[string]string{"unclean.leader.election.enable": "true"})
	s.active(3)
	s.is("3/2 isr[3]")

	s = dead(nil)
	s.active(3)
	s.configs(metadata.ResourceTopic, "a", "unclean.leader.election.enable", "true")
	s.is("3/2 isr[3]")

	s = dead(map[string]string{"unclean.leader.election.enable": "false"})
	s.active(3)
	s.configs(metadata.ResourceBroker, "", "unclean.leader.election.enable", "true")
	s.is("-1/1 isr[1] elr[2] known 1")

	s = dead(nil)
	s.configs(metadata.ResourceBroker, "", "unclean.leader.election.enable", "true")
	s.active(2)
	s.is("2/2 isr[2] elr[1]") // clean: it is eligible
}

// TestElectionByHand: what Kafka's ElectLeaders answers.
func TestElectionByHand(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	require.ErrorIs(t, s.elect(command.ElectPreferred, -1), command.ErrElectionNotNeeded)
	require.ErrorIs(t, s.elect(command.ElectClean, -1), command.ErrElectionNotNeeded)
	require.ErrorIs(t, s.elect(command.ElectClean, 1), command.ErrElectionNotNeeded)
	require.NoError(t, s.elect(command.ElectClean, 3))
	s.is("3/1 isr[1 2 3]")
	s.isr(2, 3)
	require.ErrorIs(t, s.elect(command.ElectPreferred, -1), command.ErrPreferredUnavailable)
	require.ErrorIs(t, s.elect(command.ElectClean, 1), command.ErrIneligibleReplica)
	require.ErrorIs(t, s.elect(command.ElectClean, 9), command.ErrIneligibleReplica)
	require.ErrorIs(t, s.elect(9, 1), command.ErrInvalid)
	_, err := s.apply(&command.ElectLeaders{Elections: []command.Election{{Partition: s.tp, PartitionEpoch: 0, Leader: 2}}})
	require.ErrorIs(t, err, command.ErrStalePartitionEpoch)
	_, err = s.apply(&command.ElectLeaders{Elections: []command.Election{{Partition: record.TopicPartition{}, PartitionEpoch: -1}}})
	require.ErrorIs(t, err, command.ErrNotFound)
	s.is("3/1 isr[2 3]")
}

// TestShutdown: a broker that shuts down leaves the ISR and leads only where nobody
// else can; it does not come back but by a registration.
func TestShutdown(t *testing.T) {
	s := newStory(t, 2, nil, 1, 2)
	s.state(1, command.BrokerShuttingDown)
	s.is("2/1 isr[2]")
	_, err := s.tryISR(1, 2)
	require.ErrorIs(t, err, command.ErrIneligibleReplica)
	s.state(2, command.BrokerShuttingDown)
	s.is("2/1 isr[2]")
	_, err = s.apply(&command.SetBrokerState{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, State: command.BrokerActive})
	require.ErrorIs(t, err, command.ErrInvalid)
	s.register(1, nil)
	s.active(1)
	s.is("2/1 isr[2]")
	s.isr(1, 2)
	s.is("1/2 isr[1]") // the one that shuts down goes in the step that brings another
}

// TestFullDisk: a broker whose disk is full leaves the ISR and leads only where nobody
// else can, and comes back when it has room.
func TestFullDisk(t *testing.T) {
	s := newStory(t, 3, map[string]string{"min.insync.replicas": "2"}, 1, 2, 3)
	s.state(1, command.BrokerFull)
	s.is("2/1 isr[2 3]")
	_, err := s.tryISR(1, 2, 3)
	require.ErrorIs(t, err, command.ErrIneligibleReplica)
	require.ErrorIs(t, s.elect(command.ElectPreferred, -1), command.ErrPreferredUnavailable)
	s.state(2, command.BrokerFull)
	s.is("3/2 isr[3] elr[2]")
	s.state(3, command.BrokerFenced)
	s.is("2/3 isr[2] elr[3]") // it has all records, and can be read
	s.state(2, command.BrokerFenced)
	s.is("-1/4 isr[2] elr[3] known 2")
	s.state(2, command.BrokerFull) // it came back no better
	s.is("2/5 isr[2] elr[3]")
	s.active(3)
	s.is("2/5 isr[2] elr[3]")
	s.isr(2, 3)
	s.is("3/6 isr[3] elr[2]") // it goes in the step that brings another
	s.active(2)
	s.isr(3, 2)
	s.is("3/6 isr[2 3]")

	s.state(2, command.BrokerShuttingDown)
	_, err = s.apply(&command.SetBrokerState{BrokerID: 2, BrokerEpoch: s.f.Image().Broker(2).Epoch, State: command.BrokerFull})
	require.ErrorIs(t, err, command.ErrInvalid)
	s.register(1, nil)
	require.False(t, s.f.Image().Broker(1).Full, "a new life knows nothing of it")
}

// TestTheLastWithRoomStops: when it is gone, one whose disk is full is read from.
func TestTheLastWithRoomStops(t *testing.T) {
	s := newStory(t, 3, map[string]string{"min.insync.replicas": "2"}, 1, 2, 3)
	s.state(2, command.BrokerFull)
	s.state(3, command.BrokerFull)
	s.is("1/0 isr[1] elr[3]") // what 1 and 3 committed since, 2 may lack
	s.state(1, command.BrokerShuttingDown)
	s.is("1/0 isr[1] elr[3]")
	s.state(1, command.BrokerFenced)
	s.is("3/1 isr[3] elr[1]")
}

// TestFullDiskUncleanly: one with room is preferred, the last resort is one without.
func TestFullDiskUncleanly(t *testing.T) {
	s := newStory(t, 3, map[string]string{"unclean.leader.election.enable": "true", "min.insync.replicas": "1"}, 1, 2, 3)
	s.isr(1)
	s.state(2, command.BrokerFull)
	s.state(1, command.BrokerFenced)
	s.is("3/1 isr[3]")
	s.state(3, command.BrokerFenced)
	s.is("2/2 isr[2]")
}

// TestReassignment: the target joins, the rest goes in the same step; cancelled and
// changed on the way.
func TestReassignment(t *testing.T) {
	s := newStory(t, 5, nil, 1, 2, 3)
	require.NoError(t, s.reassign(4, 2, 3))
	s.is("1/0 isr[2 3 1] replicas[4 2 3 1] +[4] -[1]")
	s.isr(1, 2, 3, 4)
	require.Equal(t, []int32{4, 2, 3}, s.p().Replicas)
	s.is("4/1 isr[4 2 3]")

	require.NoError(t, s.reassign(4, 2, 5))
	s.isr(4, 2, 5)
	require.Equal(t, []int32{4, 2, 5}, s.p().Replicas)
	require.NoError(t, s.reassign(4, 2, 1))
	require.NoError(t, s.reassign(4, 2, 3)) // elsewhere after all
	s.is("4/1 isr[4 2 5] replicas[4 2 3 5] +[3] -[5]")
	require.NoError(t, s.reassign()) // nil: cancel
	s.is("4/1 isr[4 2 5]")
	require.Equal(t, []int32{4, 2, 5}, s.p().Replicas)
	require.ErrorIs(t, s.reassign(), command.ErrNoReassignment)

	epoch := s.p().PartitionEpoch
	require.NoError(t, s.reassign(4, 2, 5)) // nothing to do
	require.Equal(t, epoch, s.p().PartitionEpoch)
	require.NoError(t, s.reassign(2, 4, 5)) // order alone
	s.is("4/1 isr[2 4 5]")
	require.NoError(t, s.reassign(2)) // fewer
	s.is("2/2 isr[2]")
	require.NoError(t, s.reassign(2, 1, 3)) // more: the minimum stays until they are there
	s.is("2/2 isr[2] replicas[2 1 3] +[1 3] -[]")
	s.isr(2, 1, 3)
	s.isr(2)
	s.is("2/2 isr[2] elr[1 3]")

	for _, bad := range [][]int32{{}, {1, 1}, {9}} {
		_, err := s.apply(&command.AlterReassignments{Items: []command.Reassignment{{Partition: s.tp, Replicas: bad}}})
		require.ErrorIs(t, err, command.ErrInvalidAssignment)
	}
	_, err := s.apply(&command.AlterReassignments{KeepFactor: true, Items: []command.Reassignment{{Partition: s.tp, Replicas: []int32{1, 2}}}})
	require.ErrorIs(t, err, command.ErrInvalidAssignment)
	_, err = s.apply(&command.AlterReassignments{Items: []command.Reassignment{{Partition: record.TopicPartition{}, Replicas: []int32{1}}}})
	require.ErrorIs(t, err, command.ErrNotFound)
}

// TestReassignmentKeepsTheRecords: a cancel, or another target, would drop the only
// replica that has all records.
func TestReassignmentKeepsTheRecords(t *testing.T) {
	s := newStory(t, 3, nil, 1)
	require.NoError(t, s.reassign(2, 3))
	s.isr(1, 2)
	s.isr(1) // it went once more
	s.fence(1)
	s.is("-1/1 isr[1] known 1 replicas[2 3 1] +[2 3] -[1]")
	s.active(1)
	s.isr(1, 2)
	s.fence(1)
	s.is("2/3 isr[2] replicas[2 3 1] +[2 3] -[1]")
	require.ErrorIs(t, s.reassign(), command.ErrInvalidAssignment, "2 alone has what it acknowledged")
	require.ErrorIs(t, s.reassign(1), command.ErrInvalidAssignment)
	s.isr(2, 3)
	s.is("2/3 isr[2 3]")
	require.Equal(t, []int32{2, 3}, s.p().Replicas)
}

// TestUnregister: a broker that is gone is forgotten, unless it alone has all records.
func TestUnregister(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2)
	unregister := func(id int32) error {
		_, err := s.apply(&command.UnregisterBroker{BrokerID: id, BrokerEpoch: -1})
		return err
	}
	require.ErrorIs(t, unregister(9), command.ErrNotFound)
	require.ErrorIs(t, unregister(1), command.ErrInvalid, "it is alive")
	s.fence(1)
	_, err := s.apply(&command.UnregisterBroker{BrokerID: 1, BrokerEpoch: 77})
	require.ErrorIs(t, err, command.ErrStaleBrokerEpoch)
	require.NoError(t, unregister(1))
	s.is("2/1 isr[2]")
	require.Equal(t, []int32{1, 2}, s.p().Replicas)
	require.Nil(t, s.f.Image().Broker(1))
	s.fence(2)
	require.ErrorIs(t, unregister(2), command.ErrLastReplica)
	s.register(1, nil)
	s.active(1)
	s.is("-1/2 isr[2] known 2") // what it had counts for nothing
	s.active(2)
	require.NoError(t, s.reassign(2, 3))
	s.isr(2, 3)
	s.fence(1)
	require.NoError(t, unregister(1))
	s.is("2/3 isr[2 3]")
}

// TestConfigsCompareAndSet: two brokers append to a list; the second one finds that
// it worked from an old value.
func TestConfigsCompareAndSet(t *testing.T) {
	s := newStory(t, 1, nil, 1)
	r := metadata.ConfigResource{Kind: metadata.ResourceTopic, Name: "a"}
	const key = "leader.replication.throttled.replicas"
	set := func(value string, expect command.ConfigExpectation) error {
		expect.Name = key
		_, err := s.apply(&command.AlterConfigs{Changes: []command.ConfigChange{{Resource: r, Set: map[string]string{key: value}, Expect: []command.ConfigExpectation{expect}}}})
		return err
	}
	require.NoError(t, set("0:1", command.ConfigExpectation{}))
	require.ErrorIs(t, set("0:2", command.ConfigExpectation{}), command.ErrConflict)
	require.ErrorIs(t, set("0:2", command.ConfigExpectation{Set: true}), command.ErrConflict)
	require.NoError(t, set("0:1,0:2", command.ConfigExpectation{Value: "0:1", Set: true}))
	require.Equal(t, map[string]string{key: "0:1,0:2"}, maps.Clone(s.f.Image().Configs(r.Kind, r.Name)))
}

// TestFormatSetsDefaults: what the first node's file says of the minimum counts for
// everybody.
func TestFormatSetsDefaults(t *testing.T) {
	s := newStory(t, 3, nil, 1, 2, 3)
	s.isr(1)
	s.is("1/0 isr[1] elr[2 3]")
	s.must(&command.FormatCluster{ClusterID: "c", Configs: map[string]string{"min.insync.replicas": "1"}})
	s.is("1/0 isr[1]")
	require.Equal(t, 1, metadata.MinISR(s.f.Image(), s.f.Image().Topic(s.tp.Topic), 3))
	s.configs(metadata.ResourceTopic, "a", "min.insync.replicas", "7")
	require.Equal(t, 3, metadata.MinISR(s.f.Image(), s.f.Image().Topic(s.tp.Topic), 3))
}

// failover is a cluster of three brokers with ten thousand partitions, a third of
// which broker 1 leads.
func failover(t testing.TB) (f *FSM, fence Entry) {
	s := newStory(t, 3, nil, 1)
	topic := command.NewTopic{ID: record.NewTopicID(), Name: "wide"}
	order := []int32{1, 2, 3}
	for i := range 10_000 {
		topic.Assignments = append(topic.Assignments, append(slices.Clone(order[i%3:]), order[:i%3]...))
	}
	s.must(&command.CreateTopics{Topics: []command.NewTopic{topic}})
	return s.f, encode(t, s.index+1, &command.SetBrokerState{BrokerID: 1, BrokerEpoch: s.f.Image().Broker(1).Epoch, State: command.BrokerFenced})
}

// TestFailoverOfAThird: one command moves a third of ten thousand partitions, and
// says so in its delta.
func TestFailoverOfAThird(t *testing.T) {
	f, fence := failover(t)
	var delta metadata.Delta
	f.opts.OnApplied = func(_ *metadata.Image, d metadata.Delta) { delta = d }
	start := time.Now()
	o := f.ApplyBatch([]Entry{fence})[0]
	took := time.Since(start)
	require.NoError(t, o.Err)
	t.Logf("failover of a third of 10000 partitions: %v", took)
	require.Less(t, took, time.Second)
	require.Len(t, delta.Partitions, 10_001) // all of them had it in the ISR
	moved := map[int32]int{}
	for _, p := range f.Image().AllPartitions() {
		moved[p.Leader]++
	}
	require.Equal(t, 1, moved[-1]) // the topic of factor 1
	require.Zero(t, moved[1])
	require.InDelta(t, 6667, moved[2], 2)
}

// BenchmarkFailoverOfAThird fences a broker that leads a third of ten thousand
// partitions and is in the ISR of all.
func BenchmarkFailoverOfAThird(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		f, fence := failover(b)
		b.StartTimer()
		if o := f.ApplyBatch([]Entry{fence})[0]; o.Err != nil {
			b.Fatal(o.Err)
		}
	}
}
