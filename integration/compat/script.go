package main

import (
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/record"
)

// chapter is one part of the conversation: it asks a broker and notes the
// answers. Chapters are independent of one another.
type chapter struct {
	name string
	tell func(*script)
}

// step is one request and what came of it.
type step struct {
	name   string
	fate   fate
	answer answer
	err    error // the answer could not be understood
}

// script runs the chapters against one broker.
type script struct {
	addr   string
	suffix string
	namer  namer

	chapter string
	conn    *conn
	client  *string
	steps   []step
	seen    map[string]int // how often a step's name was used
}

// failure ends a chapter: something that must work did not.
type failure struct{ err error }

func newScript(addr, suffix string) (*script, error) {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p, err := strconv.ParseInt(port, 10, 32)
	if err != nil {
		return nil, err
	}
	client := "compat"
	return &script{addr: addr, suffix: "-" + suffix, client: &client, seen: make(map[string]int),
		namer: namer{names: make(map[string]string), port: int32(p), drop: "-" + suffix}}, nil
}

// run tells one chapter on a connection of its own. What ends it early is noted,
// as a step that the other broker should not have.
func (s *script) run(c chapter) {
	s.chapter = c.name
	defer func() {
		if s.conn != nil {
			s.conn.close()
			s.conn = nil
		}
		switch f := recover().(type) {
		case nil:
		case failure:
			s.note("the end of the chapter", -1, silent, nil, f.err)
		default:
			panic(f)
		}
	}()
	c.tell(s)
}

func (s *script) fail(format string, args ...any) {
	panic(failure{fmt.Errorf(format, args...)})
}

// warmLimit bounds the wait for a broker that has just been started.
const warmLimit = 3 * time.Minute

// warmUp waits until the broker makes topics, gives producer ids and coordinates
// groups, which a Kafka does some time after it has begun to listen.
func (s *script) warmUp() error {
	end := time.Now().Add(warmLimit)
	for try := 0; ; try++ {
		s.run(chapter{"warm-up", func(s *script) {
			s.topic(fmt.Sprintf("warm-up-%d", try), 1)
			fresh := kmsg.NewPtrInitProducerIDRequest()
			fresh.ProducerID, fresh.ProducerEpoch = -1, -1
			s.until(4, fresh, func(r kmsg.Response) bool { return r.(*kmsg.InitProducerIDResponse).ErrorCode == 0 })
			s.coordinate(s.name("warm-up"))
		}})
		if len(s.steps) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready: %w", s.addr, s.steps[0].err)
		}
		s.steps = nil
	}
}

// name makes a topic or group name of this run.
func (s *script) name(base string) string { return base + s.suffix }

// connected returns the open connection, or a new one.
func (s *script) connected() *conn {
	if s.conn == nil {
		c, err := dial(s.addr)
		if err != nil {
			s.fail("%w", err)
		}
		s.conn = c
	}
	return s.conn
}

func (s *script) hangUp() {
	s.connected().close()
	s.conn = nil
}

// note keeps a step under a name that no other has.
func (s *script) note(label string, version int16, f fate, a answer, err error) {
	name := s.chapter + "/" + label
	if version >= 0 {
		name += fmt.Sprintf(" v%d", version)
	}
	if s.seen[name]++; s.seen[name] > 1 {
		name += fmt.Sprintf(" (%d)", s.seen[name])
	}
	s.steps = append(s.steps, step{name: name, fate: f, answer: a, err: err})
}

// ask sends a request, notes its answer under a label, and returns it, nil where
// there is none.
func (s *script) ask(label string, version int16, req kmsg.Request) kmsg.Response {
	return s.askFor(label, version, req, answerLimit)
}

// askSilently is for requests that should get no answer.
func (s *script) askSilently(label string, version int16, req kmsg.Request) {
	s.askFor(label, version, req, silence)
}

func (s *script) askFor(label string, version int16, req kmsg.Request, wait time.Duration) kmsg.Response {
	resp, f, err := s.connected().send(req, version, s.client, wait)
	var a answer
	if resp != nil {
		if fetched, ok := resp.(*kmsg.FetchResponse); ok {
			mergeTopics(fetched)
		}
		a = s.namer.flatten(resp)
	}
	s.note(label, version, f, a, err)
	if f == closed || err != nil || (f == silent && wait == answerLimit) {
		s.hangUp()
	}
	return resp
}

// mergeTopics puts the partitions of a topic together. A session moves what had
// data to its end, so that one topic may stand in an answer several times; how
// often depends on the order of Kafka's hash tables.
func mergeTopics(r *kmsg.FetchResponse) {
	at := make(map[string]int)
	var out []kmsg.FetchResponseTopic
	for _, t := range r.Topics {
		key := t.Topic + string(t.TopicID[:])
		if i, ok := at[key]; ok {
			out[i].Partitions = append(out[i].Partitions, t.Partitions...)
			continue
		}
		at[key] = len(out)
		out = append(out, t)
	}
	if out != nil {
		r.Topics = out
	}
}

// each asks at every version of a range.
func (s *script) each(label string, from, to int16, req func(version int16) kmsg.Request) {
	for v := from; v <= to; v++ {
		s.ask(label, v, req(v))
	}
}

// must sends a request that is not noted and must be answered.
func (s *script) must(version int16, req kmsg.Request) kmsg.Response {
	resp, f, err := s.connected().send(req, version, s.client, answerLimit)
	if err != nil || resp == nil {
		s.hangUp()
		s.fail("%T version %d: %s, %v", req, version, f, err)
	}
	return resp
}

// until repeats a request that is not noted until its answer is good.
func (s *script) until(version int16, req kmsg.Request, good func(kmsg.Response) bool) kmsg.Response {
	end := time.Now().Add(answerLimit)
	for {
		resp := s.must(version, req)
		if good(resp) {
			return resp
		}
		if time.Now().After(end) {
			s.fail("%T version %d: never good, last %v", req, version, s.namer.flatten(resp))
		}
		time.Sleep(50 * time.Millisecond) // a poll of another process
	}
}

// frame sends bytes as they are and notes only what became of them.
func (s *script) frame(label string, frame []byte) {
	s.frameFor(label, frame, answerLimit)
}

func (s *script) frameFor(label string, frame []byte, wait time.Duration) {
	c := s.connected()
	if err := c.write(frame); err != nil {
		s.fail("%w", err)
	}
	_, f, err := c.read(wait)
	s.note(label, -1, f, nil, err)
	s.hangUp()
}

// topic makes a topic and returns its name and id.
func (s *script) topic(base string, partitions int32, configs ...string) (string, [16]byte) {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 30_000
	req.Topics = []kmsg.CreateTopicsRequestTopic{newTopic(s.name(base), partitions, 1, configs...)}
	resp := s.must(7, req).(*kmsg.CreateTopicsResponse)
	if code := resp.Topics[0].ErrorCode; code != 0 {
		s.fail("create topic %s: error %d", base, code)
	}
	id := resp.Topics[0].TopicID
	s.namer.names[record.TopicID(id).String()] = "id of " + base
	// Kafka answers before its partitions lead.
	meta := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(s.name(base))
	meta.Topics = append(meta.Topics, rt)
	s.until(12, meta, func(r kmsg.Response) bool {
		t := r.(*kmsg.MetadataResponse).Topics[0]
		if t.ErrorCode != 0 || len(t.Partitions) != int(partitions) {
			return false
		}
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return false
			}
		}
		return true
	})
	ends := make([]int64, partitions)
	for i := range ends {
		ends[i] = -1
	}
	s.until(4, listing(s.name(base), -1, ends...), func(r kmsg.Response) bool {
		for _, p := range r.(*kmsg.ListOffsetsResponse).Topics[0].Partitions {
			if p.ErrorCode != 0 {
				return false
			}
		}
		return true
	})
	return s.name(base), id
}

// newTopic describes a topic for CreateTopics; configs are names and values in
// turn.
func newTopic(name string, partitions int32, replicas int16, configs ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, replicas
	for i := 0; i+1 < len(configs); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = configs[i], kmsg.StringPtr(configs[i+1])
		t.Configs = append(t.Configs, c)
	}
	return t
}
