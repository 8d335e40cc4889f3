package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
	"github.com/firnlog/firn/metadata/command"
)

// changed is a file of the module with some text replaced, each of which stands in it
// exactly once.
func changed(t *testing.T, name string, pairs ...string) overlay {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(moduleRoot, name))
	require.NoError(t, err)
	text := string(src)
	for i := 0; i < len(pairs); i += 2 {
		require.Equal(t, 1, strings.Count(text, pairs[i]), "%s changed: this must stand in it exactly once:\n%s", name, pairs[i])
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return overlay{name: text}
}

// buildOld builds the firn of a time when there was one level less.
func buildOld(t *testing.T) (path string) {
	t.Helper()
	old := fmt.Sprintf("const MaxLevel Level = %d\n", command.MaxLevel)
	return buildFirn(t, "0.0.1", changed(t, "metadata/command/level.go", old, fmt.Sprintf("const MaxLevel Level = %d\n", command.MaxLevel-1)))
}

// buildNewer builds the firn of a time to come, which says more in its hello to other
// brokers.
func buildNewer(t *testing.T) (path string) {
	t.Helper()
	return buildFirn(t, "99.0.0", changed(t, "metadata/link/hello.go",
		"b = binary.BigEndian.AppendUint16(b, helloVersion)", "b = binary.BigEndian.AppendUint16(b, helloVersion+1)",
		"	binary.BigEndian.PutUint16(b[helloFixed-2:]", "	b = append(b, \"and something later\"...)\n	binary.BigEndian.PutUint16(b[helloFixed-2:]"))
}

// roll restarts a broker as another program.
func (s *stage) roll(b *fleet.Broker, program string) {
	s.t.Helper()
	s.c.StopBroker(b)
	b.Program = program
	s.c.StartBroker(b)
	s.c.AwaitWhole()
}

// levels holds that all brokers say that the cluster is at a level.
func (s *stage) levels(want command.Level) {
	s.t.Helper()
	for _, b := range s.c.Living() {
		req := kmsg.NewPtrApiVersionsRequest()
		req.ClientSoftwareName, req.ClientSoftwareVersion = "test", "1"
		answer, err := only(s.t, s.c, b).SeedBrokers()[0].Request(s.t.Context(), req)
		require.NoError(s.t, err)
		resp := answer.(*kmsg.ApiVersionsResponse)
		require.Zero(s.t, resp.ErrorCode)
		have := map[string]int16{}
		for _, f := range resp.FinalizedFeatures {
			have[f.Name] = f.MaxVersionLevel
		}
		require.Equal(s.t, int16(want), have[command.Feature], "broker %d says %v", b.ID, have)
	}
}

// upgrade asks for a level.
func (s *stage) upgrade(level command.Level) error {
	s.t.Helper()
	done, err := kadm.NewClient(s.c.Client()).UpdateFeatures(s.t.Context(), false,
		kadm.FeatureUpdate{Feature: command.Feature, MaxVersionLevel: int16(level), UpgradeType: 1})
	if err != nil {
		return err
	}
	return done.Error()
}

// mixed holds that a cluster of several programs works: with the preferred leaders,
// so that each broker leads something, and what is created in it.
func (s *stage) mixed(topic string) {
	s.t.Helper()
	adm := kadm.NewClient(s.c.Client())
	_, err := adm.ElectLeaders(s.t.Context(), kadm.ElectPreferredReplica, nil)
	s.must(err)
	harness.Eventually(s.t, harnessLimit, func() string {
		leads := map[int32]bool{}
		for _, p := range s.c.Partitions(topicName) {
			leads[p.Leader] = true
		}
		if len(leads) < len(s.c.Brokers) {
			return fmt.Sprintf("of %d brokers only %v lead", len(s.c.Brokers), leads)
		}
		return ""
	})
	s.c.CreateTopic(topic, 3, 3)
	s.progress(200, harnessLimit)
	s.levels(command.MaxLevel - 1)
}

// TestRollingUpgrade takes a cluster from the program of a lower feature level to this
// one and back, broker by broker and under load, and raises the level then.
func TestRollingUpgrade(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	old, now, newer := buildOld(t), harness.Binary(t), buildNewer(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Set: settings()})
	for _, b := range c.Brokers {
		b.Program = old
		require.NoError(t, b.Launch())
	}
	c.AwaitWhole()
	s := &stage{workload: startWorkload(t, c), r: random(t)}
	s.levels(command.MaxLevel - 1)

	// The last old broker leads the metadata, then a new one does.
	last := s.c.Controller()
	s.endure(1,
		fault{"new programs, an old one leads the metadata", soon, func(*stage) {
			for i, b := range s.others(last) {
				s.roll(b, now)
				s.mixed(fmt.Sprintf("mixed-%d", i))
				require.ErrorIs(t, s.upgrade(command.MaxLevel), kerr.InvalidUpdateVersion)
			}
			require.Equal(t, last, s.c.Controller())
		}},
		fault{"a new one leads the metadata", soon, func(*stage) {
			s.roll(last, old)
			require.NotEqual(t, last, s.c.Controller())
			s.mixed("mixed-2")
			require.ErrorIs(t, s.upgrade(command.MaxLevel), kerr.InvalidUpdateVersion)
		}},
		fault{"new programs everywhere", soon, func(*stage) { s.roll(last, now); s.mixed("mixed-3") }},
		fault{"back to the old program", soon, func(*stage) {
			for _, b := range s.c.Brokers {
				s.roll(b, old)
				s.progress(50, harnessLimit)
			}
			s.mixed("mixed-4")
		}},
		fault{"and forward again", soon, func(*stage) {
			for _, b := range s.c.Brokers {
				s.roll(b, now)
				s.progress(50, harnessLimit)
			}
		}},
		fault{"the level is raised", soon, func(*stage) {
			require.NoError(t, s.upgrade(command.MaxLevel))
			s.progress(200, harnessLimit)
			s.levels(command.MaxLevel)
			require.ErrorIs(t, s.upgrade(command.MaxLevel-1), kerr.InvalidUpdateVersion)
		}},
		fault{"the old program is refused", soon, func(*stage) {
			b := s.any()
			c.StopBroker(b)
			b.Program = old
			refused(t, b, "older version than the cluster", command.Feature)
			b.Program = now
			c.StartBroker(b)
		}},
		fault{"a program of later times", soon, func(*stage) {
			b := s.any()
			s.roll(b, newer)
			var all adminapi.ClusterBrokers
			s.must(s.others(b)[0].GetJSON(t.Context(), adminapi.PathClusterBrokers, &all))
			require.Equal(t, "99.0.0", all.Brokers[b.ID-1].Version)
			s.progress(200, harnessLimit)
			s.roll(b, now)
		}})
	stranger, err := c.Add()
	require.NoError(t, err)
	stranger.Program = old
	refused(t, stranger, "older version than the cluster", command.Feature)
	c.Brokers = c.Brokers[:3]
	s.finish()
	s.verifyTiers(0)
	s.compareDisks()
}
