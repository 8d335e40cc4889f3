package sim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// mutation takes a fence out of production code, in a copy that an overlay puts in
// its place: no switch exists in the code itself.
type mutation struct {
	name string
	file string // below the module's root
	// old must stand in the file exactly once.
	old, new string
	// seeds bounds how many may be needed to notice.
	seeds int
}

var mutations = []mutation{
	{"leader epoch in copy", "metadata/fsm/apply_tier.go",
		"\treturn t.led(tp, f.BrokerID, f.LeaderEpoch)\n",
		"\tif p := t.ed.Partition(tp); p != nil {\n\t\treturn p, nil\n\t}\n\treturn t.led(tp, f.BrokerID, f.LeaderEpoch)\n", 0},
	{"broker epoch in AlterPartition", "metadata/fsm/apply_partition.go",
		"case m.BrokerEpoch != b.Epoch:", "case false:", 0},
	{"maximal ISR", "broker/replica/leader.go",
		"[...][]int32{r.isr, r.pending, r.doubtful}", "[...][]int32{r.isr}", 0},
	{"maximal ISR after an unknown outcome", "broker/replica/leader.go",
		"[...][]int32{r.isr, r.pending, r.doubtful}", "[...][]int32{r.isr, r.pending}", 0},
	{"truncation on epoch change", "broker/replica/follower.go",
		"LastEpoch: log.LastEpoch()}, true", "LastEpoch: -1}, true", 0},
	{"epoch check of fetch replies", "broker/replica/follower.go",
		"if now, ok := r.Position(log); !ok || now != at {", "if _, ok := r.Position(log); !ok {", 0},
	{"durable progress of a follower", "broker/replica/follower.go",
		" || !r.Durable() {", " {", 0},
	{"durable progress of the leader", "broker/replica/leader.go",
		"\t\treturn min(r.flushedEnd, r.logEnd)\n", "\t\treturn r.logEnd\n", 0},
	{"min ISR holds the watermark", "broker/replica/leader.go",
		"if r.role != Leader || !r.EnoughInSync() {", "if r.role != Leader {", 0},
	{"lineage of the bucket", "broker/replica/replica.go",
		"wins = epoch != a.RemoteEpoch || end < a.RemoteEnd", "_, _, wins = epoch, end, false", 0},
	{"what a joiner of the ISR must have", "broker/replica/leader.go",
		"return f.logEnd >= r.highWatermark && f.logEnd >= r.epochStart", "return true", 0},
	{"eligible members of the ISR", "metadata/fsm/apply_partition.go",
		"case !b.Eligible():", "case b == nil:", 0},
	{"partition epoch in AlterPartition", "metadata/fsm/apply_partition.go",
		"if p.PartitionEpoch != epoch {", "if false {", 0},
	{"a wiped disk counts for nothing", "metadata/fsm/apply_cluster.go",
		"wiped := old == nil || old.DirectoryID != c.DirectoryID", "wiped := false", 0},
	{"an untrusted log counts for nothing", "metadata/fsm/apply_cluster.go",
		"!(c.Untrusted && replicated)", "!(c.Untrusted && replicated && false)", 0},
	{"a fetch of an earlier life", "broker/replica/leader.go",
		"f == nil || brokerEpoch < f.brokerEpoch {", "f == nil {", 0},
	{"who is eligible to lead", "metadata/fsm/settle.go",
		"if len(next.ISR) < policy.MinISR(next.Factor()) {", "{", 0},
	{"where a copy begins", "metadata/fsm/apply_tier.go",
		"case e.Start < p.RemoteEnd || e.Start > p.CopyStart():", "case false:", 0},
	{"a copy that was given up", "metadata/fsm/apply_tier.go",
		"case o.State == metadata.ObjectDeleting:\n\t\treturn command.Result{Objects", "case false:\n\t\treturn command.Result{Objects", 0},
	{"full lease by a new controller", "metadata/controller/leases.go",
		"&lease{Status: Status{Epoch: b.Epoch}, since: now}", "&lease{Status: Status{Epoch: b.Epoch}, since: now.Add(-l.opts.Session)}", 0},
	{"a follower's watermark ends with its log", "broker/replica/follower.go",
		"return r.raise(Effects{}, min(hw, r.logEnd))", "return r.raise(Effects{}, hw)", 0},
	{"when a reassignment completes", "metadata/fsm/settle.go",
		"isSubset(target, keep(next.ISR, eligible)) {", "isSubset(target, keep(next.Replicas, eligible)) {", 0},
	{"applied before it is unfenced", "metadata/controller/decide.go",
		" && have.Applied >= uint64(b.Epoch) {", " {", 0},
}

// moduleRoot is where go.mod is, seen from this package.
const moduleRoot = "../.."

// overlay writes a mutated copy and the file that puts it in place.
func (m *mutation) overlay(t *testing.T) string {
	root, err := filepath.Abs(moduleRoot)
	require.NoError(t, err)
	path := filepath.Join(root, m.file)
	src, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(src), m.old),
		"the mutation %q is out of date: in %s the text to replace must stand exactly once:\n%s", m.name, m.file, m.old)
	dir := t.TempDir()
	mutated := filepath.Join(dir, filepath.Base(m.file))
	require.NoError(t, os.WriteFile(mutated, []byte(strings.Replace(string(src), m.old, m.new, 1)), 0o600))
	list, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutated}})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, list, 0o600))
	return file
}

// TestMutations takes out one fence after the other: each time the simulator must
// notice.
func TestMutations(t *testing.T) {
	found := regexp.MustCompile(`seed (\d+): ((?:invariant [^:]*|panic): .*)`)
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			seeds := m.seeds
			if seeds == 0 {
				seeds = 4000
			}
			cmd := exec.Command("go", "test", "-overlay", m.overlay(t), "-count=1", "-run", "^TestSeeds$", ".", "-sim.first",
				fmt.Sprintf("-sim.seeds=%d", seeds))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			hit := found.FindStringSubmatch(out.String())
			require.NotNil(t, hit, "%d seeds ran, and none noticed (%v):\n%s", seeds, err, out.String())
			t.Logf("seed %s: %s", hit[1], hit[2])
		})
	}
}
