package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/configdef"
)

// switchboard carries calls between the nodes of a test, by cluster address.
type switchboard struct {
	mu    sync.Mutex
	nodes map[string]map[string]func(context.Context, []byte) ([]byte, error)
}

func (s *switchboard) serve(addr, name string, fn func(context.Context, []byte) ([]byte, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.nodes == nil {
		s.nodes = map[string]map[string]func(context.Context, []byte) ([]byte, error){}
	}
	if s.nodes[addr] == nil {
		s.nodes[addr] = map[string]func(context.Context, []byte) ([]byte, error){}
	}
	s.nodes[addr][name] = fn
}

func (s *switchboard) Call(ctx context.Context, addr, name string, body []byte) ([]byte, error) {
	s.mu.Lock()
	fn := s.nodes[addr][name]
	s.mu.Unlock()
	if fn == nil {
		return nil, fmt.Errorf("nobody serves %s at %s", name, addr)
	}
	return fn(ctx, body)
}

// starting is a node on its way up.
type starting struct {
	*node
	former *Former
	dir    string
}

var knownFeatures = map[string]metadata.VersionRange{"metadata.version": {Min: 1, Max: 3}}

func startNode(t *testing.T, board *switchboard, id int32, dir string, hasState bool, change func(*Options, *FormerOptions)) *starting {
	t.Helper()
	s := &starting{dir: dir}
	addr := fmt.Sprintf("cluster-%d-%s:1", id, filepath.Base(dir))
	fo := FormerOptions{
		Calls: board, Expect: 3, Ledger: filepath.Join(dir, "cluster", "formation.json"), HasState: hasState, Patience: 200 * time.Millisecond,
		Applicant: Applicant{Version: "1", Features: knownFeatures},
	}
	s.node = open(t, id, func(o *Options) {
		o.Tags.ClusterAddr, o.Tags.State, o.PeersFile = addr, Checking, filepath.Join(dir, "cluster", "peers.json")
		if change != nil {
			change(o, &fo)
		}
	})
	fo.Membership, fo.Logger = s.Membership, s.log
	f, err := NewFormer(fo)
	require.NoError(t, err)
	s.former = f
	t.Cleanup(f.Close)
	board.serve(addr, CallForm, f.Handle)
	return s
}

func (s *starting) wait(t *testing.T) Outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o, err := s.former.Wait(ctx)
	require.NoError(t, err, s.logged.String())
	return o
}

func (s *starting) refused(t *testing.T, kind error, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o, err := s.former.Wait(ctx)
	require.ErrorIs(t, err, kind, "%v %s", o, s.logged)
	require.ErrorContains(t, err, text)
	entries, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Empty(t, entries, "something was written")
}

func clusterImage(id string, change func(*metadata.Editor)) *metadata.Image {
	e := metadata.Empty().Edit()
	e.SetClusterID(id)
	if change != nil {
		change(e)
	}
	img, _ := e.Commit(1)
	return img
}

// clusterOf makes a node answer for a cluster.
func (s *starting) clusterOf(t *testing.T, board *switchboard, id string, change func(*metadata.Editor)) {
	t.Helper()
	img := clusterImage(id, change)
	a := NewAdmission(AdmissionOptions{Image: func() *metadata.Image { return img }})
	board.serve(s.Self().ClusterAddr, CallJoin, a.Handle)
	require.NoError(t, s.SetTags(func(tags *Tags) { tags.ClusterID = id }))
}

func joining(addrs ...string) func(*Options, *FormerOptions) {
	return func(o *Options, _ *FormerOptions) { o.Join = addrs }
}

// A node that waits for others says for how many. It used to say that it starts, for as
// long as it took.
func TestWhoWaitsSaysForWhom(t *testing.T) {
	board := &switchboard{}
	said := make(chan string, 1000)
	one := startNode(t, board, 1, t.TempDir(), false, func(_ *Options, fo *FormerOptions) {
		fo.Waiting = func(what string) {
			select {
			case said <- what:
			default:
			}
		}
	})
	next := func(want string) {
		t.Helper()
		for deadline := time.After(20 * time.Second); ; {
			select {
			case what := <-said:
				if what == want {
					return
				}
			case <-deadline:
				t.Fatalf("it never said that it waits for %s", want)
			}
		}
	}
	next("2 more brokers to begin a cluster with (bootstrap.expect=3)")
	startNode(t, board, 2, t.TempDir(), false, joining(one.Addr()))
	next("1 more broker to begin a cluster with (bootstrap.expect=3)")
	startNode(t, board, 3, t.TempDir(), false, joining(one.Addr()))
	require.Equal(t, Bootstrap, one.wait(t).Kind)
}

func TestThreeBrokersFormAndAFourthJoins(t *testing.T) {
	board := &switchboard{}
	began := time.Now()
	one := startNode(t, board, 1, t.TempDir(), false, nil)
	two := startNode(t, board, 2, t.TempDir(), false, joining(one.Addr()))
	three := startNode(t, board, 3, t.TempDir(), false, joining(two.Addr()))
	first := one.wait(t)
	require.Equal(t, Bootstrap, first.Kind)
	require.Len(t, first.Servers, 3)
	require.Equal(t, first, two.wait(t))
	require.Equal(t, first, three.wait(t))
	t.Logf("agreed after %s", time.Since(began))

	four := startNode(t, board, 4, t.TempDir(), false, joining(three.Addr()))
	two.clusterOf(t, board, "cluster", nil)
	require.Equal(t, Outcome{Kind: Join, ClusterID: "cluster"}, four.wait(t))
	require.Equal(t, "cluster", four.Self().ClusterID)
	require.Equal(t, Formed, four.Self().State)

	// A restart needs nothing but what it remembers.
	four.former.Close()
	require.NoError(t, four.Close())
	again := startNode(t, board, 4, four.dir, true, func(o *Options, f *FormerOptions) {
		o.DirectoryID, o.Tags.ClusterID, f.Applicant.ClusterID = four.Self().DirectoryID, "cluster", "cluster"
	})
	require.Equal(t, Outcome{Kind: Resume, ClusterID: "cluster"}, again.wait(t))
}

// A node that had agreed on the list, and crashed before Raft had it, begins with it.
func TestLedgerSurvives(t *testing.T) {
	board, dir, id := &switchboard{}, t.TempDir(), uuid.New()
	chosen := []Server{{id, "a"}, {uuid.New(), "b"}, {uuid.New(), "c"}}
	path := filepath.Join(dir, "cluster", "formation.json")
	l := Ledger{Promised: Ballot{Counter: 4, Proposer: id}, Chosen: chosen}
	require.NoError(t, writeLedger(vfs.Default, path, &l))
	n := startNode(t, board, 1, dir, false, func(o *Options, _ *FormerOptions) { o.DirectoryID = id })
	require.Equal(t, Outcome{Kind: Bootstrap, Servers: chosen}, n.wait(t))

	require.NoError(t, os.WriteFile(path, []byte(`{"format":"firn-formation","version":9}`), 0o600))
	_, err := NewFormer(FormerOptions{Membership: n.Membership, Ledger: path})
	require.ErrorContains(t, err, "unknown version 9")
}

func TestLoneNode(t *testing.T) {
	alone := func(o *Options, f *FormerOptions) { o.Tags.Expect, f.Expect = 1, 1 }
	n := startNode(t, &switchboard{}, 1, t.TempDir(), false, alone)
	o := n.wait(t)
	require.Equal(t, Bootstrap, o.Kind)
	require.Equal(t, []Server{{n.Self().DirectoryID, n.Self().ClusterAddr}}, o.Servers)
	resumed := startNode(t, &switchboard{}, 1, t.TempDir(), true, alone)
	require.Equal(t, Outcome{Kind: Resume}, resumed.wait(t))
}

func TestRefusedAtStart(t *testing.T) {
	board := &switchboard{}
	member := startNode(t, board, 1, t.TempDir(), true, func(o *Options, _ *FormerOptions) {
		o.Key, o.Tags.ClusterID = bytes.Repeat([]byte{1}, 16), "cluster"
	})
	require.Equal(t, Resume, member.wait(t).Kind)
	other, known := uuid.New(), uuid.New()
	member.clusterOf(t, board, "cluster", func(e *metadata.Editor) {
		e.SetFeature("metadata.version", 3, 1)
		e.SetConfigs(metadata.ConfigResource{Kind: metadata.ResourceBroker}, map[string]string{configdef.ObjectStore: "s3:bucket"})
		e.PutBroker(&metadata.Broker{ID: 7, DirectoryID: other})
		e.PutBroker(&metadata.Broker{ID: 8, DirectoryID: uuid.New(), Fenced: true})
		e.PutBroker(&metadata.Broker{ID: 9, DirectoryID: uuid.New(), ClusterAddress: "nine:9094"})
		e.PutBroker(&metadata.Broker{ID: 10, DirectoryID: known})
	})
	for name, tc := range map[string]struct {
		id     int32
		change func(*Options, *FormerOptions)
		kind   error
		text   string
	}{
		"gossip key":        {2, func(o *Options, _ *FormerOptions) { o.Key[0]++ }, ErrWrongKey, "copy gossip.key"},
		"another cluster":   {2, func(o *Options, _ *FormerOptions) { o.Tags.ClusterID = "mine" }, ErrForeignCluster, "cluster.join or cluster.id"},
		"wanted cluster":    {2, func(o *Options, _ *FormerOptions) { o.Tags.WantedCluster = "mine" }, ErrForeignCluster, "belongs to cluster cluster, and this node to mine"},
		"node id in gossip": {1, nil, ErrDuplicateNode, "has node.id 1 too"},
		"node id in state":  {7, nil, ErrDuplicateNode, "node.id 7 is that of a broker that is alive"},
		"changed node id":   {6, func(o *Options, _ *FormerOptions) { o.DirectoryID = other }, ErrChangedNode, "belongs to node 7"},
		"copied directory":  {1, func(o *Options, _ *FormerOptions) { o.DirectoryID = member.Self().DirectoryID }, ErrDuplicateDirectory, "copied data.dir"},
		"address":           {2, func(o *Options, _ *FormerOptions) { o.Tags.ClusterAddr = "nine:9094" }, ErrSameAddress, "broker 9, which is alive, is reached at nine:9094"},
		"old version": {2, func(_ *Options, f *FormerOptions) {
			f.Applicant.Features = map[string]metadata.VersionRange{"metadata.version": {Min: 1, Max: 2}}
		}, ErrOldVersion, "metadata.version=3 (this program: 1 to 2)"},
		"store": {2, func(_ *Options, f *FormerOptions) { f.Applicant.Store = "s3:other" }, ErrChangedStore, "the cluster's object store is s3:bucket, and object.store.url of this node is s3:other"},
	} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, board, tc.id, t.TempDir(), false, func(o *Options, f *FormerOptions) {
				o.Key, o.Join = bytes.Repeat([]byte{1}, 16), []string{member.Addr()}
				if tc.change != nil {
					tc.change(o, f)
				}
			})
			n.refused(t, tc.kind, tc.text)
		})
	}
	// A wiped node comes back under its id once its past life is fenced.
	wiped := startNode(t, board, 8, t.TempDir(), false, func(o *Options, _ *FormerOptions) {
		o.Key, o.Join = bytes.Repeat([]byte{1}, 16), []string{member.Addr()}
	})
	require.Equal(t, Join, wiped.wait(t).Kind)
	// One that the cluster knows may move to where another one was.
	moved := startNode(t, board, 10, t.TempDir(), true, func(o *Options, _ *FormerOptions) {
		o.Key, o.Join, o.DirectoryID, o.Tags.ClusterAddr = bytes.Repeat([]byte{1}, 16), []string{member.Addr()}, known, "nine:9094"
	})
	require.Equal(t, Resume, moved.wait(t).Kind)
	// A lone node that already waits outlives what comes later.
	require.Empty(t, errorsOfKind(member.Problems(), ErrWrongKey))
}

func errorsOfKind(all []error, kind error) (found []error) {
	for _, err := range all {
		if errors.Is(err, kind) {
			found = append(found, err)
		}
	}
	return found
}

func TestClock(t *testing.T) {
	base := time.Unix(1_000_000, 0)
	require.NoError(t, CheckClock(base, base.Add(10*time.Second), 0))
	require.ErrorIs(t, CheckClock(base, base.Add(-10001*time.Millisecond), 0), ErrClock)
	require.NoError(t, CheckClock(base, base.Add(-10001*time.Millisecond), time.Second))
	require.EqualError(t, CheckClock(base, base.Add(time.Hour), 0), "clock is off: the clock of this node is 1h0m0s behind the cluster's, at most 10s is allowed: set it, and keep it by NTP")
	img := clusterImage("c", nil)
	err := Admit(img, &Applicant{NodeID: 1, Time: base.Add(time.Hour).UnixMilli()}, base)
	require.EqualError(t, err, "clock is off: the clock of this node is 1h0m0s ahead of the cluster's, at most 10s is allowed: set it, and keep it by NTP")
	var none *Refusal
	require.False(t, errors.As(Admit(img, &Applicant{Time: base.UnixMilli()}, base), &none))
}
