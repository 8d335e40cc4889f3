package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/firnlog/firn/integration/harness"
)

// TestFourthBroker adds a broker and gives it half of the partitions, under load:
// only the part of them that is not in the bucket is copied.
func TestFourthBroker(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	c := harness.StartCluster(t, harness.ClusterOptions{Set: settings()})
	w := startWorkload(t, c)
	w.awaitTiered()
	b := c.AddBroker()
	adm := kadm.NewClient(c.Client())
	var move kadm.AlterPartitionAssignmentsReq
	for p := range int32(partitions / 2) {
		old := c.Partitions(topicName)[p].Replicas
		move.Assign(topicName, p, append([]int32{b.ID}, old[1:]...))
	}
	begin := time.Now()
	moved, err := adm.AlterPartitionAssignments(t.Context(), move)
	require.NoError(t, err)
	require.NoError(t, moved.Error())
	harness.Eventually(t, harnessLimit, func() string {
		for p, d := range c.Partitions(topicName) {
			if p < partitions/2 && (len(d.Replicas) != 3 || !slices.Contains(d.ISR, b.ID)) {
				return fmt.Sprintf("partition %d is not moved: %+v", p, d)
			}
		}
		return ""
	})
	t.Logf("moved after %v; longest pause %v", time.Since(begin), w.pauses())
	c.AwaitWhole()
	w.progress(100, harnessLimit)
	// The new replicas lack what was in the bucket by then.
	for p := range int32(partitions / 2) {
		starts := localStart(t, b, w.topicID(), p)
		require.Positive(t, starts, "partition %d was copied from its start", p)
	}
	// And the new broker can lead them alone with its peers.
	w.finish()
	w.verifyTiers(0)
	w.compareDisks()
}
