package main

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/adminapi"
)

// members is a fake cluster: four brokers, one of them dead with a replica, and
// what was asked of it.
type members struct {
	*cli
	health  adminapi.ClusterHealth
	brokers []adminapi.ClusterBroker
	moves   []adminapi.Move
	leads   int32    // the metadata
	asked   []string // requests that change something, in order
	refusal string   // of a decommission
	stalls  bool     // a decommission is not answered
}

func startMembers(t *testing.T) *members {
	m := &members{cli: startCluster(t), leads: 3,
		brokers: []adminapi.ClusterBroker{
			{ID: 1, State: adminapi.BrokerUp, Rack: "a", Leaders: 1, Replicas: 1, Voter: true, Version: "v1", Endpoints: []string{"PLAINTEXT://b1:9092"}},
			{ID: 2, State: adminapi.BrokerFenced, Replicas: 1, OutOfSync: 1, Voter: true, Version: "v1", Endpoints: []string{"PLAINTEXT://b2:9092"}},
			{ID: 3, State: adminapi.BrokerUp, Rack: "c", Replicas: 1, Voter: true, Version: "v1", Endpoints: []string{"PLAINTEXT://b3:9092"}},
			{ID: 4, State: adminapi.BrokerFenced, Version: "v1", Endpoints: []string{"PLAINTEXT://b4:9092"}},
		},
		moves: []adminapi.Move{{Topic: "orders", Partition: 0, From: []int32{1, 2}, To: []int32{1, 3}}},
	}
	mux := http.NewServeMux()
	for path, value := range map[string]func(*http.Request) any{
		adminapi.PathClusterHealth: func(*http.Request) any { return m.health },
		adminapi.PathClusterBrokers: func(*http.Request) any {
			return adminapi.ClusterBrokers{ClusterID: "cluster", Controller: m.leads, Brokers: m.brokers}
		},
		adminapi.PathClusterPlan: func(r *http.Request) any {
			require.Equal(t, "2", r.URL.Query().Get("broker"))
			return adminapi.MovePlan{Kind: r.URL.Query().Get("kind"), Moves: m.moves}
		},
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if err := json.NewEncoder(w).Encode(value(r)); err != nil {
				t.Errorf("answer: %v", err)
			}
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	m.admin = strings.TrimPrefix(server.URL, "http://")

	m.control(kmsg.ApiVersions, func(r kmsg.Request) kmsg.Response {
		resp := r.ResponseKind().(*kmsg.ApiVersionsResponse)
		for key, newest := range map[kmsg.Key]int16{kmsg.ApiVersions: 3, kmsg.Metadata: 12, kmsg.AlterPartitionAssignments: 0,
			kmsg.ListPartitionReassignments: 0, kmsg.UnregisterBroker: 0} {
			k := kmsg.NewApiVersionsResponseApiKey()
			k.ApiKey, k.MaxVersion = int16(key), newest
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
		return resp
	})
	m.control(kmsg.AlterPartitionAssignments, func(r kmsg.Request) kmsg.Response {
		m.asked = append(m.asked, "move")
		resp := r.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
		for _, asked := range r.(*kmsg.AlterPartitionAssignmentsRequest).Topics {
			topic := kmsg.NewAlterPartitionAssignmentsResponseTopic()
			topic.Topic = asked.Topic
			for _, p := range asked.Partitions {
				answer := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
				answer.Partition = p.Partition
				if p.Replicas == nil && p.Partition != 1 { // only partition 1 is being moved
					answer.ErrorCode = kerr.NoReassignmentInProgress.Code
				}
				topic.Partitions = append(topic.Partitions, answer)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp
	})
	m.control(kmsg.ListPartitionReassignments, func(r kmsg.Request) kmsg.Response { return r.ResponseKind() })
	m.control(kmsg.UnregisterBroker, func(r kmsg.Request) kmsg.Response {
		m.asked = append(m.asked, "forget")
		if m.stalls {
			m.cluster.SleepControl(func() { <-t.Context().Done() })
		}
		resp := r.ResponseKind().(*kmsg.UnregisterBrokerResponse)
		if m.refusal != "" {
			resp.ErrorCode, resp.ErrorMessage = kerr.InvalidRequest.Code, &m.refusal
		}
		return resp
	})
	return m
}

func (m *members) control(key kmsg.Key, answer func(kmsg.Request) kmsg.Response) {
	m.cluster.ControlKey(int16(key), func(r kmsg.Request) (kmsg.Response, error, bool) {
		m.cluster.KeepControl()
		resp := answer(r)
		resp.SetVersion(r.GetVersion())
		return resp, nil, true
	})
}

func TestDecommission(t *testing.T) {
	m := startMembers(t)
	require.Equal(t, "firn: broker 1 is up: stop it first, after `firn cluster drain 1`", m.fails("cluster", "decommission", "1", "--drain"))
	require.Equal(t, "firn: broker 2 has 1 replica: with --drain they are moved to the others first", m.fails("cluster", "decommission", "2"))
	require.Equal(t, "firn: broker 9 is not registered; `firn cluster brokers` lists who is", m.fails("cluster", "decommission", "9"))
	require.Empty(t, m.asked)

	require.Equal(t, "broker 4 is forgotten\n", m.ok("", "cluster", "decommission", "4"))
	require.Equal(t, []string{"forget"}, m.asked)

	m.asked = nil
	require.Equal(t, "moved 1 partition; broker 2 is forgotten\n", m.ok("", "cluster", "decommission", "2", "--drain"))
	require.Equal(t, []string{"move", "forget"}, m.asked)

	var done decommissioned
	require.NoError(t, json.Unmarshal([]byte(m.ok("", "cluster", "decommission", "2", "--drain", "-o", "json")), &done))
	require.Equal(t, decommissioned{Broker: 2, Moves: m.moves}, done)
}

func TestDecommissionAsksAPerson(t *testing.T) {
	m := startMembers(t)
	m.terminal = true
	_, errOut, code := m.run("n\n", "cluster", "decommission", "2", "--drain")
	require.Equal(t, 1, code)
	require.Equal(t, "TOPIC   PARTITION  FROM  TO\norders          0  1,2   1,3\nmove 1 partition and forget broker 2? [y/N] firn: nothing was changed\n", errOut)
	require.Empty(t, m.asked)
	m.ok("y\n", "cluster", "decommission", "2", "--drain")
	require.Equal(t, []string{"move", "forget"}, m.asked)
}

// A broker that keeps a partition's only whole copy is refused by the cluster; that
// must not read as done.
func TestDecommissionIsRefused(t *testing.T) {
	m := startMembers(t)
	m.refusal = "it alone has orders-0"
	require.Equal(t, "firn: broker 4: it alone has orders-0 (INVALID_REQUEST)", m.fails("cluster", "decommission", "4"))
}

func TestReassignmentIsCalledOff(t *testing.T) {
	m := startMembers(t)
	m.control(kmsg.Metadata, func(r kmsg.Request) kmsg.Response { return ordersOn(r, m.cluster.ListenAddrs()[0]) })
	require.Equal(t, "called off: 1 move of topic orders\n", m.ok("", "topic", "reassign", "orders", "--cancel"))
	require.Equal(t, "nothing of topic orders is being moved\n", m.ok("", "topic", "reassign", "orders", "--cancel", "-p", "0"))
	require.JSONEq(t, `{"cancelled": "orders", "partitions": [1]}`, m.ok("", "topic", "reassign", "orders", "--cancel", "-o", "json"))
	require.Equal(t, "firn: --replicas names broker 2 twice", m.fails("topic", "reassign", "orders", "--replicas", "2,3,2"))
	require.Equal(t, "firn: give either --replicas ID,ID,... or --cancel", m.fails("topic", "reassign", "orders"))
}

// ordersOn is the metadata of a topic of two partitions on one broker.
func ordersOn(r kmsg.Request, address string) kmsg.Response {
	host, port, _ := net.SplitHostPort(address) // of a listener
	resp := r.ResponseKind().(*kmsg.MetadataResponse)
	broker := kmsg.NewMetadataResponseBroker()
	broker.NodeID, broker.Host, broker.Port = 0, host, portNumber(port)
	resp.Brokers, resp.ControllerID = append(resp.Brokers, broker), broker.NodeID
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic = kmsg.StringPtr("orders")
	for n := range int32(2) {
		p := kmsg.NewMetadataResponseTopicPartition()
		p.Partition, p.Replicas, p.ISR = n, []int32{0}, []int32{0}
		topic.Partitions = append(topic.Partitions, p)
	}
	resp.Topics = append(resp.Topics, topic)
	return resp
}

func portNumber(text string) int32 {
	n, err := net.LookupPort("tcp", text)
	if err != nil {
		return 0
	}
	return int32(n)
}

func TestHealth(t *testing.T) {
	m := startMembers(t)
	m.health = adminapi.ClusterHealth{ClusterID: "cluster", State: adminapi.HealthDegraded, Controller: 3, Brokers: 4, BrokersUp: 2, Topics: 1, Partitions: 1,
		UnderReplicated: 1, Reasons: []adminapi.HealthReason{{State: adminapi.HealthDegraded, What: "1 partition lacks replicas in sync", Partitions: []string{"orders-0"}}}}
	require.Equal(t, `Cluster cluster is degraded
  degraded: 1 partition lacks replicas in sync
    orders-0
Brokers: 2 of 4 up; controller: broker 3
Partitions: 1 in 1 topic; 0 without leader, 0 under min ISR, 1 under-replicated, 0 not at the preferred leader, 0 being reassigned
`, m.ok("", "cluster", "health"))

	m.health.Reasons[0].What = "12 partitions lack replicas in sync"
	require.Contains(t, m.ok("", "cluster", "health"), "    orders-0 and 11 more\n")

	// Who leads nobody's metadata hears of nobody's end: the count is an old one.
	m.health.State, m.health.Controller, m.health.Reasons = adminapi.HealthCritical, -1, nil
	out, errOut, code := m.run("", "cluster", "health")
	require.Equal(t, 1, code)
	require.Contains(t, out, "Brokers: 2 of 4 up when there was a controller; controller: none\n")
	require.Equal(t, "firn: the cluster is in a critical state\n", errOut)
}

func TestBrokersAreListed(t *testing.T) {
	require.Equal(t, `ID  STATE   RACK  LEADERS  REPLICAS  OUT OF SYNC  METADATA  ENDPOINTS            VERSION
 1  up      a           1         1            0  votes     PLAINTEXT://b1:9092  v1
 2  fenced  -           0         1            1  votes     PLAINTEXT://b2:9092  v1
 3  up      c           0         1            0  leads     PLAINTEXT://b3:9092  v1
 4  fenced  -           0         0            0  follows   PLAINTEXT://b4:9092  v1
`, startMembers(t).ok("", "cluster", "brokers"))
}

// Without a majority a broker's list is an old one: who is down shows as up.
func TestBrokersWithoutAController(t *testing.T) {
	m := startMembers(t)
	m.leads = -1
	out, errOut, code := m.run("", "cluster", "brokers")
	require.Zero(t, code)
	require.Contains(t, out, " 3  up ")
	require.Equal(t, "no broker leads the metadata: this is what was known when one did\n", errOut)
	require.Contains(t, m.fails("cluster", "decommission", "4"), "no broker leads the metadata: nothing can be changed")
}

// What the bootstrap server names and cannot be reached was told as if nothing
// listened on the bootstrap server itself.
func TestABrokerThatIsDownIsNamed(t *testing.T) {
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, gone.Close())
	m := startMembers(t)
	m.control(kmsg.Metadata, func(r kmsg.Request) kmsg.Response { return ordersOn(r, gone.Addr().String()) })
	require.Equal(t, "firn: nothing listens on "+gone.Addr().String()+" (connection refused), which is a broker's address as the cluster tells it: it is down, or cannot be reached there from here",
		m.fails("topic", "reassign", "orders", "--cancel", "--timeout", "1s"))
}

func TestWhatTakesTooLong(t *testing.T) {
	m := startMembers(t)
	m.stalls = true
	require.Contains(t, m.fails("cluster", "decommission", "4", "--timeout", "300ms"), "not done in time (--timeout 300ms); `firn cluster health` may say why")
}

// Several topics are told of as they were asked for: a map's order came out before.
func TestTopicsAreCreatedInOrder(t *testing.T) {
	c := startCluster(t)
	names := []string{"f", "b", "e", "a", "d", "c"}
	var want strings.Builder
	for _, name := range names {
		want.WriteString("created topic " + name + " with 1 partition, 1 replica\n")
	}
	require.Equal(t, want.String(), c.ok("", append([]string{"topic", "create", "-p", "1", "-r", "1"}, names...)...))
}

func TestSettingsOfABrokerThatIsNotThere(t *testing.T) {
	c := startCluster(t)
	want := "firn: broker 7 is down or not known; `firn cluster brokers` lists them"
	require.Equal(t, want, c.fails("cluster", "config", "--broker", "7"))
	require.Equal(t, want, c.fails("cluster", "config", "--broker", "7", "-c", "log.retention.ms=1"))
	require.Contains(t, c.fails("cluster", "config", "--unset", "log.retentin.ms"), "did you mean log.retention.ms?")
}

// A second cluster on the same ports took the first one's brokers for its own, said
// that it was ready, wrote over its cluster.json, and began its own again and again.
func TestDevClusterOnPortsInUse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dir := t.TempDir()
	c := &cli{t: t}
	message := c.fails("dev", "--brokers", "3", "--data", dir, "--listen", l.Addr().String())
	require.Contains(t, message, "firn: broker 1: listen tcp "+l.Addr().String())
	require.Contains(t, message, "address already in use: stop what listens there, or choose other ports with --listen and --admin")
	require.NoFileExists(t, filepath.Join(dir, clusterFile))
}

func TestLastWordsOfABroker(t *testing.T) {
	log := filepath.Join(t.TempDir(), "broker.log")
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"only\n", "only"},
		{"level=INFO start\nlevel=ERROR end\n", "level=ERROR end"},
		{"firn: alone\n", "firn: alone"},
		{"firn: once\nlevel=INFO start\nfirn: configuration: 2 mistakes:\n  a\n  b\n", "firn: configuration: 2 mistakes:\n  a\n  b"},
		{strings.Repeat("x", 2*lastWordBytes) + "\nend", "end"},
	} {
		require.NoError(t, os.WriteFile(log, []byte(c.text), 0o600))
		require.Equal(t, c.want, lastWords(log), "%.40q", c.text)
	}
}

// A web server that answers at once is told from a broker, whichever way round the
// two addresses were mixed up.
func TestBootstrapThatIsNoBroker(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			defer conn.Close()
		}
	}()
	c := &cli{t: t, bootstrap: l.Addr().String()}
	require.Contains(t, c.fails("topic", "list"), "it does not speak Kafka (is it the admin address?)")
}

// In the middle of a rolling upgrade the older program says how far the cluster can
// go: here broker 1 knows level 3 and nothing of new.feature.
func TestFeaturesThatAllBrokersKnow(t *testing.T) {
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3))
	require.NoError(t, err)
	t.Cleanup(cluster.Close)
	cluster.ControlKey(int16(kmsg.ApiVersions), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		resp := r.ResponseKind().(*kmsg.ApiVersionsResponse)
		for key, newest := range map[kmsg.Key]int16{kmsg.ApiVersions: 3, kmsg.Metadata: 12} {
			k := kmsg.NewApiVersionsResponseApiKey()
			k.ApiKey, k.MaxVersion = int16(key), newest
			resp.ApiKeys = append(resp.ApiKeys, k)
		}
		support := func(name string, newest int16) {
			f := kmsg.NewApiVersionsResponseSupportedFeature()
			f.Name, f.MinVersion, f.MaxVersion = name, 1, newest
			resp.SupportedFeatures = append(resp.SupportedFeatures, f)
		}
		if cluster.CurrentNode() == 1 {
			support("firn.version", 3)
		} else {
			support("new.feature", 1)
			support("firn.version", 4)
		}
		f := kmsg.NewApiVersionsResponseFinalizedFeature()
		f.Name, f.MinVersionLevel, f.MaxVersionLevel = "firn.version", 2, 2
		resp.FinalizedFeatures = append(resp.FinalizedFeatures, f)
		resp.SetVersion(r.GetVersion())
		return resp, nil, true
	})
	c := &cli{t: t, bootstrap: cluster.ListenAddrs()[0]}
	require.Equal(t, `FEATURE       LEVEL  ALL BROKERS KNOW
firn.version      2  1..3
new.feature       0  0..0
`, c.ok("", "cluster", "features"))
	var lines []featureLine
	require.NoError(t, json.Unmarshal([]byte(c.ok("", "cluster", "features", "-o", "json")), &lines))
	require.Equal(t, []featureLine{{Feature: "firn.version", Level: 2, Min: 1, Max: 3}, {Feature: "new.feature"}}, lines)

	c.terminal = true
	require.Equal(t, "raise firn.version=3? Programs that do not know it are refused from then on. [y/N] firn: nothing was changed",
		c.fails("cluster", "features", "--upgrade", "firn.version=3"))
}

func TestCompletionOffersBrokers(t *testing.T) {
	m := startMembers(t)
	for _, verb := range []string{"drain", "decommission"} {
		require.Equal(t, "1\tup\n2\tfenced\n3\tup\n4\tfenced\n:4\n", m.ok("", "__complete", "cluster", verb, ""))
		require.Equal(t, ":4\n", m.ok("", "__complete", "cluster", verb, "2", ""), "one broker at a time, and no files")
	}
	m.admin = "127.0.0.1:1"
	require.Equal(t, ":4\n", m.ok("", "__complete", "cluster", "drain", ""))
	require.Equal(t, "firn.version=\n:4\n", m.ok("", "__complete", "cluster", "features", "--upgrade", ""))
}
