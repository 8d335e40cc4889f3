package api

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/broker/group"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
	"github.com/firnlog/firn/record"
)

// groupMeta is a metadata client of an image that a test sets.
type groupMeta struct {
	metadata.Client
	mu  sync.Mutex
	img *metadata.Image
}

func (m *groupMeta) Image() *metadata.Image {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.img
}

func (m *groupMeta) ReadBarrier(context.Context) error { return nil }

func (m *groupMeta) Propose(context.Context, command.Command) (command.Result, error) {
	return command.Result{}, command.ErrNotLeader
}

// edit changes the image.
func (m *groupMeta) edit(fn func(e *metadata.Editor)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.img.Edit()
	fn(e)
	m.img, _ = e.Commit(m.img.Index() + 1)
}

// addTopic makes a topic whose partitions this broker, 1, leads.
func (m *groupMeta) addTopic(name string, partitions int32) record.TopicID {
	id := record.NewTopicID()
	m.edit(func(e *metadata.Editor) {
		e.PutTopic(&metadata.Topic{ID: id, Name: name, Partitions: partitions})
		for p := range partitions {
			e.PutPartition(record.TopicPartition{Topic: id, Partition: p}, &metadata.Partition{
				Replicas: []int32{1}, ISR: []int32{1}, Leader: 1, LastKnownLeader: -1,
			})
		}
	})
	return id
}

// groupLog keeps nothing: every append succeeds, every load finds no record.
type groupLog struct{}

func (groupLog) Append(_ int32, _ record.Epoch, _ []byte, done func(record.Offset, error)) {
	done(0, nil)
}

func (groupLog) Scan(context.Context, int32, func(*record.Batch) error) error { return nil }

// groupBroker serves the group APIs over a socket.
type groupBroker struct {
	t      *testing.T
	meta   *groupMeta
	groups *group.Coordinator
	addr   string
	id     record.TopicID // of topic "t", 3 partitions
}

func startGroups(t *testing.T) *groupBroker {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	meta := &groupMeta{img: metadata.Empty()}
	meta.edit(func(e *metadata.Editor) {
		e.PutBroker(&metadata.Broker{ID: 1, Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: "firn.test", Port: 9092}}})
	})
	cfg := group.DefaultConfig()
	cfg.InitialRebalanceDelay = 0
	groups, err := group.New(group.Options{Log: groupLog{}, Partitions: func() int32 { return 1 }, Config: cfg, Logger: logger})
	require.NoError(t, err)
	s := New(Options{Config: &config.Config{Node: config.Node{ID: 1}}, Meta: meta, Groups: groups, Logger: logger})
	table, err := Table(100 << 20)
	require.NoError(t, err)
	ws, err := wire.NewServer(wire.Options{
		Listeners: []wire.Listener{{Name: "PLAINTEXT", Addr: "127.0.0.1:0"}}, Handler: s, Table: table, Logger: logger,
	})
	require.NoError(t, err)
	require.NoError(t, ws.Listen())
	ended := make(chan error, 1)
	go func() { ended <- ws.Serve() }()
	t.Cleanup(func() {
		groups.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, ws.Shutdown(ctx))
		requireServed(t, <-ended)
		s.Close()
	})
	b := &groupBroker{t: t, meta: meta, groups: groups, addr: ws.Addr("PLAINTEXT").String()}
	b.id = meta.addTopic("t", 3)
	return b
}

// lead makes the broker coordinate its groups, and waits until it does.
func (b *groupBroker) lead() {
	b.groups.Lead(0, 1)
	require.Eventually(b.t, func() bool { return b.groups.Stats().Partitions == 1 }, 10*time.Second, time.Millisecond)
}

// groupClient is one connection.
type groupClient struct {
	t    *testing.T
	conn net.Conn
}

func (b *groupBroker) dial() *groupClient {
	conn, err := net.Dial("tcp", b.addr)
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = conn.Close() })
	return &groupClient{b.t, conn}
}

func (c *groupClient) send(req kmsg.Request, version int16) {
	c.t.Helper()
	req.SetVersion(version)
	f := kmsg.NewRequestFormatter(kmsg.FormatterClientID("c"))
	_, err := c.conn.Write(f.AppendRequest(nil, req, 7))
	require.NoError(c.t, err)
}

// receive decodes the answer to req and checks that not a byte is left.
func (c *groupClient) receive(req kmsg.Request) kmsg.Response {
	c.t.Helper()
	resp, frame := c.decode(req)
	require.Equal(c.t, frame, resp.AppendTo(nil))
	return resp
}

// receiveAny decodes the answer to req.
func (c *groupClient) receiveAny(req kmsg.Request) kmsg.Response {
	c.t.Helper()
	resp, _ := c.decode(req)
	return resp
}

func (c *groupClient) decode(req kmsg.Request) (resp kmsg.Response, body []byte) {
	c.t.Helper()
	require.NoError(c.t, c.conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	var size [4]byte
	_, err := io.ReadFull(c.conn, size[:])
	require.NoError(c.t, err)
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(c.conn, frame)
	require.NoError(c.t, err)
	require.EqualValues(c.t, 7, binary.BigEndian.Uint32(frame))
	frame = frame[4:]
	if req.IsFlexible() {
		require.Zero(c.t, frame[0], "header tags")
		frame = frame[1:]
	}
	resp = req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	require.NoError(c.t, resp.ReadFrom(frame))
	return resp, frame
}

// ask sends one request and returns its answer.
func ask[R kmsg.Response](c *groupClient, req kmsg.Request, version int16) R {
	c.t.Helper()
	c.send(req, version)
	return c.receive(req).(R)
}

// atMost is the version nearest to v in the served range of a key.
func atMost(key, v int16) int16 {
	for _, r := range routes() {
		if r.key == key {
			return min(max(v, r.min), r.max)
		}
	}
	panic(fmt.Sprintf("key %d is not served", key))
}

// eachVersion runs a subtest for each served version of a key.
func eachVersion(t *testing.T, key int16, f func(t *testing.T, v int16)) {
	for v := atMost(key, -1); v <= atMost(key, 1<<14); v++ {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { f(t, v) })
	}
}

func TestFindCoordinator(t *testing.T) {
	b := startGroups(t)
	c := b.dial()
	find := func(v int16, kind int8, keys ...string) []kmsg.FindCoordinatorResponseCoordinator {
		t.Helper()
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys, req.CoordinatorType = keys[0], keys, kind
		resp := ask[*kmsg.FindCoordinatorResponse](c, req, v)
		if v >= 4 {
			return resp.Coordinators
		}
		one := kmsg.NewFindCoordinatorResponseCoordinator()
		one.Key, one.NodeID, one.Host, one.Port, one.ErrorCode = keys[0], resp.NodeID, resp.Host, resp.Port, resp.ErrorCode
		return []kmsg.FindCoordinatorResponseCoordinator{one}
	}
	eachVersion(t, 10, func(t *testing.T, v int16) {
		got := find(v, 0, "g")[0]
		require.Equal(t, kerr.CoordinatorNotAvailable.Code, got.ErrorCode, "the topic is not there yet")
		require.EqualValues(t, -1, got.NodeID)
		require.EqualValues(t, -1, got.Port)
		if v >= 1 {
			require.Equal(t, kerr.TransactionalIDAuthorizationFailed.Code, find(v, 1, "x")[0].ErrorCode)
			require.Equal(t, kerr.InvalidRequest.Code, find(v, 2, "x")[0].ErrorCode)
			require.Equal(t, kerr.InvalidRequest.Code, find(v, 9, "x")[0].ErrorCode)
		}
	})
	offsets := b.meta.addTopic(offsetsTopic, 50)
	eachVersion(t, 10, func(t *testing.T, v int16) {
		keys := []string{"g"}
		if v >= 4 {
			keys = append(keys, "other")
		}
		got := find(v, 0, keys...)
		require.Len(t, got, len(keys))
		for i, k := range got {
			require.Equal(t, keys[i], k.Key)
			require.Zero(t, k.ErrorCode)
			require.Equal(t, "firn.test 9092 1", fmt.Sprint(k.Host, " ", k.Port, " ", k.NodeID))
		}
	})
	b.meta.edit(func(e *metadata.Editor) {
		tp := record.TopicPartition{Topic: offsets, Partition: group.PartitionFor("g", 50)}
		p := *e.Partition(tp)
		p.Leader = -1
		e.PutPartition(tp, &p)
	})
	require.Equal(t, kerr.CoordinatorNotAvailable.Code, find(6, 0, "g")[0].ErrorCode)
	require.Zero(t, find(6, 0, "other")[0].ErrorCode)
}

// subscription is a consumer's subscription to topic "t".
func groupSubscription() []byte {
	m := kmsg.NewConsumerMemberMetadata()
	m.Topics = []string{"t"}
	return m.AppendTo(nil)
}

func newJoin(id, member string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = id, member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10000, 60000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "range", groupSubscription()
	req.Protocols = append(req.Protocols, p)
	return req
}

// TestGroupLife leads a group through its life at every version of JoinGroup,
// with each other API at the version that is nearest.
func TestGroupLife(t *testing.T) {
	b := startGroups(t)
	b.lead()
	eachVersion(t, 11, func(t *testing.T, v int16) {
		c := b.dial()
		id := fmt.Sprintf("life-%d", v)
		static := v >= 5
		join := newJoin(id, "")
		if static {
			join.InstanceID = ptr("i")
		}
		if v == 4 {
			got := ask[*kmsg.JoinGroupResponse](c, join, v)
			require.Equal(t, kerr.MemberIDRequired.Code, got.ErrorCode)
			require.EqualValues(t, -1, got.Generation)
			require.Empty(t, got.Members)
			require.Equal(t, "", *got.Protocol)
			require.True(t, strings.HasPrefix(got.MemberID, "c-"), got.MemberID)
			join.MemberID = got.MemberID
		}
		joined := ask[*kmsg.JoinGroupResponse](c, join, v)
		require.Zero(t, joined.ErrorCode)
		require.EqualValues(t, 1, joined.Generation)
		require.Equal(t, "range", *joined.Protocol)
		require.Equal(t, joined.MemberID, joined.LeaderID)
		if v >= 7 {
			require.Equal(t, "consumer", *joined.ProtocolType)
		}
		require.Len(t, joined.Members, 1)
		require.Equal(t, groupSubscription(), joined.Members[0].ProtocolMetadata)
		require.Equal(t, static, joined.Members[0].InstanceID != nil)
		member := joined.MemberID

		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = id, member, 1
		sync.ProtocolType, sync.Protocol = ptr("consumer"), ptr("range")
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = member, []byte("all")
		sync.GroupAssignment = append(sync.GroupAssignment, a)
		synced := ask[*kmsg.SyncGroupResponse](c, sync, atMost(14, v))
		require.Zero(t, synced.ErrorCode)
		require.Equal(t, "all", string(synced.MemberAssignment))
		require.Equal(t, v >= 5, synced.Protocol != nil)

		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.MemberID, beat.Generation = id, member, 1
		require.Zero(t, ask[*kmsg.HeartbeatResponse](c, beat, atMost(12, v)).ErrorCode)
		beat.Generation = 2
		require.Equal(t, kerr.IllegalGeneration.Code, ask[*kmsg.HeartbeatResponse](c, beat, atMost(12, v)).ErrorCode)

		describe := kmsg.NewPtrDescribeGroupsRequest()
		describe.Groups, describe.IncludeAuthorizedOperations = []string{id, "none"}, true
		described := ask[*kmsg.DescribeGroupsResponse](c, describe, atMost(15, v)).Groups
		require.Len(t, described, 2)
		require.Equal(t, "Stable consumer range", fmt.Sprint(described[0].State, " ", described[0].ProtocolType, " ", described[0].Protocol))
		require.Equal(t, member+" c /127.0.0.1 all", fmt.Sprint(described[0].Members[0].MemberID, " ", described[0].Members[0].ClientID, " ",
			described[0].Members[0].ClientHost, " ", string(described[0].Members[0].MemberAssignment)))
		require.Equal(t, groupSubscription(), described[0].Members[0].ProtocolMetadata)
		require.Equal(t, static, described[0].Members[0].InstanceID != nil)
		if v >= 3 {
			require.EqualValues(t, groupOperations, described[0].AuthorizedOperations)
		}
		require.Equal(t, "Dead", described[1].State)
		if v >= 6 {
			require.Equal(t, kerr.GroupIDNotFound.Code, described[1].ErrorCode)
			require.NotNil(t, described[1].ErrorMessage)
		} else {
			require.Zero(t, described[1].ErrorCode)
		}

		remove := kmsg.NewPtrDeleteGroupsRequest()
		remove.Groups = []string{id, "none", id}
		removed := ask[*kmsg.DeleteGroupsResponse](c, remove, atMost(42, v)).Groups
		require.Len(t, removed, 2)
		require.Equal(t, kerr.NonEmptyGroup.Code, removed[0].ErrorCode)
		require.Equal(t, kerr.GroupIDNotFound.Code, removed[1].ErrorCode)

		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = id, member
		for _, m := range []string{member, "stranger"} {
			lm := kmsg.NewLeaveGroupRequestMember()
			lm.MemberID = m
			leave.Members = append(leave.Members, lm)
		}
		left := ask[*kmsg.LeaveGroupResponse](c, leave, atMost(13, v))
		require.Zero(t, left.ErrorCode)
		if v >= 3 {
			require.Len(t, left.Members, 2)
			require.Equal(t, member, left.Members[0].MemberID)
			require.Zero(t, left.Members[0].ErrorCode)
			require.Equal(t, kerr.UnknownMemberID.Code, left.Members[1].ErrorCode)
		} else {
			again := ask[*kmsg.LeaveGroupResponse](c, leave, atMost(13, v))
			require.Equal(t, kerr.UnknownMemberID.Code, again.ErrorCode)
		}

		list := kmsg.NewPtrListGroupsRequest()
		list.StatesFilter, list.TypesFilter = []string{"empty"}, []string{"classic"}
		listed := ask[*kmsg.ListGroupsResponse](c, list, atMost(16, v))
		require.Zero(t, listed.ErrorCode)
		require.Len(t, listed.Groups, 1)
		require.Equal(t, id+" consumer", listed.Groups[0].Group+" "+listed.Groups[0].ProtocolType)
		if v >= 4 {
			require.Equal(t, "Empty", listed.Groups[0].GroupState)
		}
		if v >= 5 {
			require.Equal(t, "classic", listed.Groups[0].GroupType)
			list.TypesFilter = []string{"share"}
			require.Empty(t, ask[*kmsg.ListGroupsResponse](c, list, 5).Groups)
		}
		remove.Groups = []string{id}
		require.Zero(t, ask[*kmsg.DeleteGroupsResponse](c, remove, atMost(42, v)).Groups[0].ErrorCode)
	})
}

// Errors look different from version to version.
func TestGroupErrors(t *testing.T) {
	b := startGroups(t) // leads nothing
	c := b.dial()
	not := kerr.NotCoordinator.Code
	eachVersion(t, 11, func(t *testing.T, v int16) {
		got := ask[*kmsg.JoinGroupResponse](c, newJoin("g", "m"), v)
		require.Equal(t, not, got.ErrorCode)
		require.Equal(t, "m", got.MemberID)
		require.Equal(t, v < 7, got.Protocol != nil)
	})
	eachVersion(t, 14, func(t *testing.T, v int16) {
		req := kmsg.NewPtrSyncGroupRequest()
		req.Group = "g"
		want := not
		if v >= 5 {
			want = kerr.InconsistentGroupProtocol.Code // the names are mandatory
		}
		require.Equal(t, want, ask[*kmsg.SyncGroupResponse](c, req, v).ErrorCode)
	})
	eachVersion(t, 13, func(t *testing.T, v int16) {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Group = "g"
		require.Equal(t, not, ask[*kmsg.LeaveGroupResponse](c, req, v).ErrorCode)
	})
	eachVersion(t, 15, func(t *testing.T, v int16) {
		req := kmsg.NewPtrDescribeGroupsRequest()
		req.Groups = []string{"g"}
		got := ask[*kmsg.DescribeGroupsResponse](c, req, v).Groups[0]
		require.Equal(t, not, got.ErrorCode)
		if v >= 3 {
			require.EqualValues(t, noAuthorizedOperations, got.AuthorizedOperations)
		}
	})
	eachVersion(t, 42, func(t *testing.T, v int16) {
		req := kmsg.NewPtrDeleteGroupsRequest()
		require.Empty(t, ask[*kmsg.DeleteGroupsResponse](c, req, v).Groups)
		req.Groups = []string{"g"}
		require.Equal(t, not, ask[*kmsg.DeleteGroupsResponse](c, req, v).Groups[0].ErrorCode)
	})
	eachVersion(t, 16, func(t *testing.T, v int16) {
		got := ask[*kmsg.ListGroupsResponse](c, kmsg.NewPtrListGroupsRequest(), v)
		require.Zero(t, got.ErrorCode)
		require.Empty(t, got.Groups)
	})
	eachVersion(t, 12, func(t *testing.T, v int16) {
		req := kmsg.NewPtrHeartbeatRequest()
		require.Equal(t, kerr.InvalidGroupID.Code, ask[*kmsg.HeartbeatResponse](c, req, v).ErrorCode)
	})
	eachVersion(t, 9, func(t *testing.T, v int16) {
		got := b.fetchOffsets(c, v, "g", "t", 0)
		require.Equal(t, not, got.err)
		require.Equal(t, v < 2, len(got.partitions) == 1, "the error is each partition's, or the answer's")
		if v < 2 {
			require.EqualValues(t, -1, got.partitions[0].Offset)
		}
	})
}

// fetched is an OffsetFetch answer in one shape for all versions.
type fetched struct {
	err        int16
	topics     []string
	partitions []kmsg.OffsetFetchResponseGroupTopicPartition
}

// fetchOffsets asks for one partition, or for all with topic "".
func (b *groupBroker) fetchOffsets(c *groupClient, v int16, id, topic string, partition int32) fetched {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group, req.RequireStable = id, true
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = id
	if topic != "" {
		rt := kmsg.NewOffsetFetchRequestTopic()
		rt.Topic, rt.Partitions = topic, []int32{partition}
		req.Topics = append(req.Topics, rt)
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = topic, rt.Partitions
		if topic == "t" {
			gt.TopicID = b.id
		} else {
			gt.TopicID = record.NewTopicID()
		}
		g.Topics = append(g.Topics, gt)
	}
	req.Groups = append(req.Groups, g)
	resp := ask[*kmsg.OffsetFetchResponse](c, req, v)
	var out fetched
	if v >= 8 {
		require.Len(b.t, resp.Groups, 1)
		require.Equal(b.t, id, resp.Groups[0].Group)
		out.err = resp.Groups[0].ErrorCode
		for _, rt := range resp.Groups[0].Topics {
			if v >= 10 {
				require.Empty(b.t, rt.Topic)
				out.topics = append(out.topics, record.TopicID(rt.TopicID).String())
			} else {
				out.topics = append(out.topics, rt.Topic)
			}
			out.partitions = append(out.partitions, rt.Partitions...)
		}
		return out
	}
	out.err = resp.ErrorCode
	for _, rt := range resp.Topics {
		out.topics = append(out.topics, rt.Topic)
		for _, p := range rt.Partitions {
			k := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			k.Partition, k.Offset, k.LeaderEpoch, k.Metadata, k.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			out.partitions = append(out.partitions, k)
			if v < 2 {
				out.err = p.ErrorCode
			}
		}
	}
	return out
}

// commitOffsets commits one offset and returns the codes of the partitions.
func (b *groupBroker) commitOffsets(c *groupClient, v int16, id, topic string, generation int32, metadata *string, partitions ...int32) []int16 {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = id, generation
	rt := kmsg.NewOffsetCommitRequestTopic()
	rt.Topic, rt.TopicID = topic, record.NewTopicID()
	if topic == "t" {
		rt.TopicID = b.id
	}
	for _, p := range partitions {
		rp := kmsg.NewOffsetCommitRequestTopicPartition()
		rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata = p, 100+int64(v), 5, metadata
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	resp := ask[*kmsg.OffsetCommitResponse](c, req, v)
	require.Len(b.t, resp.Topics, 1)
	if v >= 10 {
		require.Equal(b.t, rt.TopicID, resp.Topics[0].TopicID)
	} else {
		require.Equal(b.t, topic, resp.Topics[0].Topic)
	}
	var codes []int16
	for i, p := range resp.Topics[0].Partitions {
		require.Equal(b.t, partitions[i], p.Partition)
		codes = append(codes, p.ErrorCode)
	}
	return codes
}

func TestOffsetCommitAndFetch(t *testing.T) {
	b := startGroups(t)
	b.lead()
	c := b.dial()
	eachVersion(t, 8, func(t *testing.T, v int16) {
		id := fmt.Sprintf("g%d", v)
		unknown := kerr.UnknownTopicOrPartition.Code
		require.Equal(t, []int16{0, unknown, unknown}, b.commitOffsets(c, v, id, "t", -1, nil, 1, 3, -1))
		require.Equal(t, []int16{kerr.OffsetMetadataTooLarge.Code}, b.commitOffsets(c, v, id, "t", -1, ptr(strings.Repeat("x", 4097)), 2))
		want := unknown
		if v >= 10 {
			want = kerr.UnknownTopicID.Code
		}
		require.Equal(t, []int16{want}, b.commitOffsets(c, v, id, "nowhere", -1, nil, 0))
		want = kerr.IllegalGeneration.Code
		if v >= 9 {
			want = kerr.GroupIDNotFound.Code
		}
		require.Equal(t, []int16{want, want}, b.commitOffsets(c, v, "unknown", "t", 1, nil, 0, 1))

		eachVersion(t, 9, func(t *testing.T, fv int16) {
			got := b.fetchOffsets(c, fv, id, "t", 1)
			require.Zero(t, got.err)
			require.Len(t, got.partitions, 1)
			p := got.partitions[0]
			require.EqualValues(t, 100+v, p.Offset)
			require.Zero(t, p.ErrorCode)
			require.Equal(t, "", *p.Metadata)
			if fv >= 5 && v >= 6 {
				require.EqualValues(t, 5, p.LeaderEpoch)
			} else {
				require.EqualValues(t, -1, p.LeaderEpoch)
			}
			got = b.fetchOffsets(c, fv, id, "t", 2)
			require.EqualValues(t, -1, got.partitions[0].Offset)
			got = b.fetchOffsets(c, fv, "never seen", "t", 0)
			require.Zero(t, got.err)
			require.EqualValues(t, -1, got.partitions[0].Offset)

			got = b.fetchOffsets(c, fv, id, "gone", 2)
			require.EqualValues(t, -1, got.partitions[0].Offset)
			if fv >= 10 {
				require.Equal(t, kerr.UnknownTopicID.Code, got.partitions[0].ErrorCode)
			} else {
				require.Zero(t, got.partitions[0].ErrorCode)
			}
			if fv >= 2 { // all topics
				got = b.fetchOffsets(c, fv, id, "", 0)
				require.Len(t, got.partitions, 1)
				if fv >= 10 {
					require.Equal(t, []string{b.id.String()}, got.topics)
				} else {
					require.Equal(t, []string{"t"}, got.topics)
				}
			}
		})
	})
	// Another topic of the same name has none of the old one's offsets.
	b.meta.edit(func(e *metadata.Editor) { e.DeleteTopic(b.id) })
	b.id = b.meta.addTopic("t", 3)
	require.EqualValues(t, -1, b.fetchOffsets(c, 10, "g10", "t", 1).partitions[0].Offset)
	require.Empty(t, b.fetchOffsets(c, 10, "g10", "", 0).topics)
	require.EqualValues(t, 110, b.fetchOffsets(c, 9, "g10", "t", 1).partitions[0].Offset, "names cannot tell")
}

// One OffsetFetch asks for many groups, by ids known and unknown.
func TestOffsetFetchManyGroups(t *testing.T) {
	b := startGroups(t)
	b.lead()
	c := b.dial()
	require.Equal(t, []int16{0}, b.commitOffsets(c, 10, "a", "t", -1, ptr("m"), 0))
	strange := record.NewTopicID()
	for v := int16(8); v <= 10; v++ {
		req := kmsg.NewPtrOffsetFetchRequest()
		require.Empty(t, ask[*kmsg.OffsetFetchResponse](c, req, v).Groups)
		for _, id := range []string{"a", "b"} {
			g := kmsg.NewOffsetFetchRequestGroup()
			g.Group = id
			for _, topic := range []record.TopicID{strange, b.id, strange} {
				gt := kmsg.NewOffsetFetchRequestGroupTopic()
				gt.Topic, gt.TopicID, gt.Partitions = map[bool]string{true: "t", false: "gone"}[topic == b.id], topic, []int32{0}
				g.Topics = append(g.Topics, gt)
			}
			req.Groups = append(req.Groups, g)
		}
		got := ask[*kmsg.OffsetFetchResponse](c, req, v).Groups
		require.Len(t, got, 2)
		for i, id := range []string{"a", "b"} {
			require.Equal(t, id, got[i].Group)
			require.Len(t, got[i].Topics, 3)
			for j, topic := range got[i].Topics {
				p := topic.Partitions[0]
				want := int64(-1)
				if id == "a" && j == 1 {
					want = 110
				}
				require.Equal(t, want, p.Offset, "v%d %s %d", v, id, j)
				require.Equal(t, v >= 10 && j != 1, p.ErrorCode != 0)
			}
		}
	}
}

func TestOffsetDelete(t *testing.T) {
	b := startGroups(t)
	b.lead()
	c := b.dial()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = "g"
	for _, topic := range []string{"t", "gone"} {
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = topic
		for _, p := range []int32{0, 9, 1} {
			rp := kmsg.NewOffsetDeleteRequestTopicPartition()
			rp.Partition = p
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	got := ask[*kmsg.OffsetDeleteResponse](c, req, 0)
	require.Equal(t, kerr.GroupIDNotFound.Code, got.ErrorCode)
	require.Empty(t, got.Topics)
	require.Equal(t, []int16{0, 0}, b.commitOffsets(c, 9, "g", "t", -1, nil, 0, 2))
	got = ask[*kmsg.OffsetDeleteResponse](c, req, 0)
	require.Zero(t, got.ErrorCode)
	unknown := kerr.UnknownTopicOrPartition.Code
	var codes []int16
	for _, rt := range got.Topics {
		for _, p := range rt.Partitions {
			codes = append(codes, p.ErrorCode)
		}
	}
	require.Equal(t, []int16{0, unknown, 0, unknown, unknown, unknown}, codes)
	require.EqualValues(t, -1, b.fetchOffsets(c, 9, "g", "t", 0).partitions[0].Offset)
	require.EqualValues(t, 109, b.fetchOffsets(c, 9, "g", "t", 2).partitions[0].Offset)

	// A member protects what it subscribes to.
	joined := ask[*kmsg.JoinGroupResponse](c, newJoin("g", ""), 3)
	require.Zero(t, joined.ErrorCode)
	got = ask[*kmsg.OffsetDeleteResponse](c, req, 0)
	require.Equal(t, kerr.GroupSubscribedToTopic.Code, got.Topics[0].Partitions[0].ErrorCode)
}

// A JoinGroup that waits answers when the others have come, on its own
// connection, and a static leader that returns is told to keep its assignment.
func TestJoinWaitsForOthers(t *testing.T) {
	b := startGroups(t)
	b.lead()
	one, two := b.dial(), b.dial()
	first := newJoin("g", "")
	first.InstanceID = ptr("i1")
	led := ask[*kmsg.JoinGroupResponse](one, first, 9)
	require.Zero(t, led.ErrorCode)
	second := newJoin("g", "")
	two.send(second, 3)
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Group, beat.MemberID, beat.Generation = "g", led.MemberID, 1
	require.Eventually(t, func() bool {
		return ask[*kmsg.HeartbeatResponse](one, beat, 4).ErrorCode == kerr.RebalanceInProgress.Code
	}, 10*time.Second, time.Millisecond)
	first.MemberID = led.MemberID
	led = ask[*kmsg.JoinGroupResponse](one, first, 9)
	require.Len(t, led.Members, 2)
	require.False(t, led.SkipAssignment)
	follower := two.receive(second).(*kmsg.JoinGroupResponse)
	require.Zero(t, follower.ErrorCode)
	require.Empty(t, follower.Members)
	require.Equal(t, led.MemberID, follower.LeaderID)

	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Group, sync.MemberID, sync.Generation = "g", led.MemberID, 2
	sync.ProtocolType, sync.Protocol = ptr("consumer"), ptr("range")
	require.Zero(t, ask[*kmsg.SyncGroupResponse](one, sync, 5).ErrorCode)
	first.MemberID = ""
	back := ask[*kmsg.JoinGroupResponse](one, first, 9)
	require.Zero(t, back.ErrorCode)
	require.True(t, back.SkipAssignment)
	require.Len(t, back.Members, 2)
	require.EqualValues(t, 2, back.Generation)
}

// An admin client that knows nothing of us works with groups.
func TestGroupsWithKadm(t *testing.T) {
	b := startGroups(t)
	b.lead()
	b.meta.addTopic(offsetsTopic, 1)
	b.meta.edit(func(e *metadata.Editor) {
		at := netip.MustParseAddrPort(b.addr)
		e.PutBroker(&metadata.Broker{ID: 1, Endpoints: []metadata.Endpoint{{Listener: "PLAINTEXT", Host: at.Addr().String(), Port: int32(at.Port())}}})
	})
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addr))
	require.NoError(t, err)
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()

	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: "t", Partition: 2, At: 42, LeaderEpoch: 3, Metadata: "m"})
	require.NoError(t, adm.CommitAllOffsets(ctx, "g", offsets))
	got, err := adm.FetchOffsets(ctx, "g")
	require.NoError(t, err)
	o, ok := got.Lookup("t", 2)
	require.True(t, ok)
	require.EqualValues(t, 42, o.At)
	require.Equal(t, "m", o.Metadata)
	listed, err := adm.ListGroups(ctx)
	require.NoError(t, err)
	require.Equal(t, []string{"g"}, listed.Groups())
	described, err := adm.DescribeGroups(ctx, "g")
	require.NoError(t, err)
	require.Equal(t, "Empty", described["g"].State)
	many := adm.FetchManyOffsets(ctx, "g", "h")
	require.NoError(t, many.Error())
	var gone kadm.TopicsSet
	gone.Add("t", 2)
	deleted, err := adm.DeleteOffsets(ctx, "g", gone)
	require.NoError(t, err)
	require.NoError(t, deleted.Error())
	_, err = adm.DeleteGroup(ctx, "g")
	require.NoError(t, err)
	listed, err = adm.ListGroups(ctx)
	require.NoError(t, err)
	require.Empty(t, listed)
}
