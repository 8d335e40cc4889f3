package api

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/partition"
	"github.com/firnlog/firn/broker/wire"
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/record"
)

// adminClient is the client id that Kafka lets write to internal topics.
const adminClient = "__admin_client"

// produceCall is one Produce request under way. It is the owner of its appends.
type produceCall struct {
	s      *Server
	r      *wire.Request
	acks   int16
	topics []produceTopic
	slots  []produceSlot // of all topics, in the order of the request

	mu        sync.Mutex
	unwritten int
	pending   int
	answered  bool
	timer     *time.Timer
}

type produceTopic struct {
	name  string
	id    record.TopicID
	slots []produceSlot
}

// produceSlot is one partition of the request.
type produceSlot struct {
	partition int32
	part      *partition.Partition // nil if it could not be found
	append    partition.Append
	done      bool
}

// produce appends what a client sends. Batches of one connection are queued in
// the order of arrival, on its reader's goroutine; answers come when the
// watermark has passed (acks=all) or the write is done (acks=1).
func (s *Server) produce(r *wire.Request, req *kmsg.ProduceRequest) {
	c := &produceCall{s: s, r: r, acks: req.Acks}
	img := s.Meta.Image()
	n := 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	c.slots = make([]produceSlot, n)
	c.topics = make([]produceTopic, len(req.Topics))
	c.unwritten, c.pending = n, n
	badRequest := checkProduce(req)
	free := c.slots
	for i := range req.Topics {
		rt := &req.Topics[i]
		ct := &c.topics[i]
		ct.slots, free = free[:len(rt.Partitions):len(rt.Partitions)], free[len(rt.Partitions):]
		topic, err := produceTopicOf(img, r, rt, ct)
		if badRequest != nil {
			err = badRequest
		}
		for j := range rt.Partitions {
			rp, slot := &rt.Partitions[j], &ct.slots[j]
			slot.partition = rp.Partition
			slot.append = partition.Append{Raw: rp.Records, AcksAll: req.Acks == -1, LeaderEpoch: -1,
				ZstdOK: r.Version >= 7, Owner: c, Tag: n - len(free) - len(rt.Partitions) + j,
				Base: -1, AppendTime: -1}
			if err == nil {
				slot.part, slot.append.Err = s.producePartition(topic, rp.Partition)
			} else {
				slot.append.Err = err
			}
		}
	}
	if n == 0 {
		c.reply()
		return
	}
	for i := range c.slots {
		slot := &c.slots[i]
		if slot.append.Err != nil {
			c.AppendWritten(&slot.append)
			c.AppendDone(&slot.append)
			continue
		}
		slot.part.Append(&slot.append)
	}
	c.armTimeout(req.TimeoutMillis)
}

// checkProduce checks what holds for the whole request. Transactions are not
// served yet, and refused as InitProducerId does.
func checkProduce(req *kmsg.ProduceRequest) error {
	if req.Acks < -1 || req.Acks > 1 {
		return kerr.InvalidRequiredAcks
	}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			if isTransactional(req.Topics[i].Partitions[j].Records) {
				return kerr.TransactionalIDAuthorizationFailed
			}
		}
	}
	return nil
}

// isTransactional looks at the attributes of a batch that is long enough to have
// some; Validate judges the rest.
func isTransactional(raw []byte) bool {
	h, err := record.ReadHeader(raw)
	return err == nil && h.IsTransactional()
}

// produceTopicOf finds the topic and notes under which name the answer goes. The
// name in the request aliases the frame and must not be kept.
func produceTopicOf(img *metadata.Image, r *wire.Request, rt *kmsg.ProduceRequestTopic, ct *produceTopic) (*metadata.Topic, error) {
	var topic *metadata.Topic
	missing := kerr.UnknownTopicOrPartition
	if r.Version >= 13 {
		ct.id = rt.TopicID
		topic, missing = img.Topic(ct.id), kerr.UnknownTopicID
	} else {
		topic = img.TopicByName(rt.Topic)
	}
	if topic == nil {
		ct.name = strings.Clone(rt.Topic)
		return nil, missing
	}
	ct.name, ct.id = topic.Name, topic.ID
	if topic.Internal && r.ClientID != adminClient {
		return nil, kerr.InvalidTopicException
	}
	return topic, nil
}

func (s *Server) producePartition(topic *metadata.Topic, number int32) (*partition.Partition, error) {
	if number < 0 || number >= topic.Partitions {
		return nil, kerr.UnknownTopicOrPartition
	}
	return s.Partitions.Lookup(record.TopicPartition{Topic: topic.ID, Partition: number})
}

// AppendWritten frees the frame when the last batch was written.
func (c *produceCall) AppendWritten(*partition.Append) {
	c.mu.Lock()
	c.unwritten--
	last := c.unwritten == 0
	c.mu.Unlock()
	if last {
		c.r.DoneWithBody()
	}
}

// AppendDone answers when the last partition is done.
func (c *produceCall) AppendDone(a *partition.Append) {
	c.mu.Lock()
	c.slots[a.Tag].done = true
	c.pending--
	last := c.pending == 0 && !c.answered
	if last {
		c.answered = true
		if c.timer != nil {
			c.timer.Stop()
		}
	}
	c.mu.Unlock()
	if last {
		c.reply()
	}
}

// armTimeout answers REQUEST_TIMED_OUT for what is not done in time. The records
// stay.
func (c *produceCall) armTimeout(ms int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered {
		return
	}
	c.timer = time.AfterFunc(millis(ms), func() {
		c.mu.Lock()
		late := !c.answered && c.unwritten == 0
		if late {
			c.answered = true
		} else if !c.answered {
			c.timer.Reset(time.Second) // the disk still reads from the frame
		}
		c.mu.Unlock()
		if late {
			c.reply()
		}
	})
}

// reply answers the request. What is not done by now has timed out.
func (c *produceCall) reply() {
	if c.acks == 0 {
		for i := range c.slots {
			if slot := &c.slots[i]; c.isDone(slot) && slot.append.Err != nil {
				err := slot.append.Err
				c.r.CloseConn(fmt.Errorf("produce with acks=0 failed: %w", err))
				return
			}
		}
		c.r.ReplyNone()
		return
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.Topics = make([]kmsg.ProduceResponseTopic, 0, len(c.topics))
	parts := make([]kmsg.ProduceResponseTopicPartition, len(c.slots))
	for i := range c.topics {
		ct, rt := &c.topics[i], kmsg.NewProduceResponseTopic()
		if len(ct.slots) == 0 {
			continue
		}
		rt.Topic, rt.TopicID = ct.name, ct.id
		rt.Partitions, parts = parts[:len(ct.slots):len(ct.slots)], parts[len(ct.slots):]
		for j := range ct.slots {
			c.fill(resp, &rt.Partitions[j], ct, &ct.slots[j])
		}
		resp.Topics = append(resp.Topics, rt)
	}
	c.r.Reply(resp)
}

// isDone reports whether a slot's answer stands; before, it is the partition's to
// write.
func (c *produceCall) isDone(slot *produceSlot) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slot.done
}

func (c *produceCall) fill(resp *kmsg.ProduceResponse, rp *kmsg.ProduceResponseTopicPartition, ct *produceTopic, slot *produceSlot) {
	*rp = kmsg.NewProduceResponseTopicPartition()
	rp.Partition, rp.BaseOffset, rp.LogAppendTime = slot.partition, -1, -1
	if !c.isDone(slot) {
		rp.ErrorCode = kerr.RequestTimedOut.Code
		return
	}
	a := &slot.append
	if a.Err != nil {
		c.fillError(resp, rp, ct, slot)
		return
	}
	rp.BaseOffset, rp.LogAppendTime = int64(a.Base), a.AppendTime
	rp.LogStartOffset = int64(slot.part.LogStart())
}

func (c *produceCall) fillError(resp *kmsg.ProduceResponse, rp *kmsg.ProduceResponseTopicPartition, ct *produceTopic, slot *produceSlot) {
	err := slot.append.Err
	rp.ErrorCode, rp.ErrorMessage = codeOf(err), messageOf(err)
	if rp.ErrorCode == kerr.UnknownServerError.Code {
		c.s.Logger.Error("produce failed", "partition", slot.partition, "err", err)
	}
	var invalid *record.InvalidError
	if errors.As(err, &invalid) {
		for _, re := range invalid.Records {
			k := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			k.RelativeOffset, k.ErrorMessage = re.Index, ptr(re.Message)
			rp.ErrorRecords = append(rp.ErrorRecords, k)
		}
	}
	if leadershipError(err) && c.r.Version >= 10 {
		leader, epoch := c.s.currentLeader(record.TopicPartition{Topic: ct.id, Partition: slot.partition}, slot.part)
		rp.CurrentLeader.LeaderID, rp.CurrentLeader.LeaderEpoch = leader, int32(epoch)
		told := slices.ContainsFunc(resp.Brokers, func(b kmsg.ProduceResponseBroker) bool { return b.NodeID == leader })
		if host, port, rack, ok := c.s.brokerAddr(c.r, leader); ok && !told {
			b := kmsg.NewProduceResponseBroker()
			b.NodeID, b.Host, b.Port, b.Rack = leader, host, port, rack
			resp.Brokers = append(resp.Brokers, b)
		}
	}
}

// currentLeader is who leads a partition: by the replica here if there is one, or
// by the metadata where that knows of a newer epoch. A client takes no leader of an
// older epoch than it has seen. −1 is nobody.
func (s *Server) currentLeader(tp record.TopicPartition, here *partition.Partition) (int32, record.Epoch) {
	leader, epoch := int32(-1), record.NoEpoch
	if here != nil {
		st := here.State()
		leader, epoch = st.Leader, st.LeaderEpoch
	}
	if p := s.Meta.Image().Partition(tp); p != nil && p.LeaderEpoch > epoch {
		return p.Leader, p.LeaderEpoch
	}
	return leader, epoch
}

// leadershipError reports whether the answer should carry the current leader
// (KIP-951).
func leadershipError(err error) bool {
	return errors.Is(err, kerr.NotLeaderForPartition) || errors.Is(err, kerr.FencedLeaderEpoch)
}

// brokerAddr is a broker's address on the listener that the client used.
func (s *Server) brokerAddr(r *wire.Request, id int32) (host string, port int32, rack *string, ok bool) {
	b := s.Meta.Image().Broker(id)
	if b == nil {
		return "", 0, nil, false
	}
	e := endpoint(b, r.Conn.Listener())
	if e == nil {
		return "", 0, nil, false
	}
	if b.Rack != "" {
		rack = &b.Rack
	}
	return e.Host, e.Port, rack, true
}

// endpoint is where a broker listens under a listener's name, nil if it does not.
func endpoint(b *metadata.Broker, listener string) *metadata.Endpoint {
	for i := range b.Endpoints {
		if b.Endpoints[i].Listener == listener {
			return &b.Endpoints[i]
		}
	}
	return nil
}
