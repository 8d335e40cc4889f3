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
}

// mutations are the fences without which records are lost, or the cluster stops, and
// what is chosen between equals.
// Not among them is what another fence makes up for: whether a member of an ISR is
// active is looked at when it is asked for and when the partition settles, an
// earlier life's fetch is refused by the leader's image and by the metadata, and
// where a copy begins and whether it was given up are behind the leader's fence.
var mutations = []mutation{
	{"leader epoch in copy", "metadata/fsm/apply_tier.go",
		"\treturn t.led(tp, f.BrokerID, f.LeaderEpoch)\n",
		"\tif p := t.ed.Partition(tp); p != nil {\n\t\treturn p, nil\n\t}\n\treturn t.led(tp, f.BrokerID, f.LeaderEpoch)\n"},
	{"broker epoch in AlterPartition", "metadata/fsm/apply_partition.go",
		"case m.BrokerEpoch != b.Epoch:", "case false:"},
	{"maximal ISR", "broker/replica/leader.go",
		"[...][]int32{r.isr, r.pending, r.doubtful}", "[...][]int32{r.isr}"},
	{"maximal ISR after an unknown outcome", "broker/replica/leader.go",
		"[...][]int32{r.isr, r.pending, r.doubtful}", "[...][]int32{r.isr, r.pending}"},
	{"truncation on epoch change", "broker/replica/follower.go",
		"LastEpoch: log.LastEpoch()}, true", "LastEpoch: -1}, true"},
	{"epoch check of fetch replies", "broker/replica/follower.go",
		"if now, ok := r.Position(log); !ok || now != at {", "if _, ok := r.Position(log); !ok {"},
	{"durable progress of a follower", "broker/replica/follower.go",
		" || !r.Durable() {", " {"},
	{"durable progress of the leader", "broker/replica/leader.go",
		"\t\treturn min(r.flushedEnd, r.logEnd)\n", "\t\treturn r.logEnd\n"},
	{"min ISR holds the watermark", "broker/replica/leader.go",
		"if r.role != Leader || !r.EnoughInSync() {", "if r.role != Leader {"},
	{"lineage of the bucket", "broker/replica/replica.go",
		"wins = epoch != a.RemoteEpoch || end < a.RemoteEnd", "_, _, wins = epoch, end, false"},
	{"what a joiner of the ISR must have", "broker/replica/leader.go",
		"return f.logEnd >= r.highWatermark && f.logEnd >= r.epochStart", "return true"},
	{"partition epoch in AlterPartition", "metadata/fsm/apply_partition.go",
		"if p.PartitionEpoch != epoch {", "if false {"},
	{"an ISR asked for again raises the epoch", "metadata/fsm/apply_partition.go",
		"\t\t\tsame.PartitionEpoch++\n", ""},
	{"a wiped disk counts for nothing", "metadata/fsm/apply_cluster.go",
		"wiped := old == nil || old.DirectoryID != c.DirectoryID", "wiped := false"},
	{"an untrusted log counts for nothing", "metadata/fsm/apply_cluster.go",
		"!(c.Untrusted && replicated)", "!(c.Untrusted && replicated && false)"},
	{"who is eligible to lead", "metadata/fsm/settle.go",
		"if len(next.ISR) < policy.MinISR(next.Factor()) {", "{"},
	{"full lease by a new controller", "metadata/controller/leases.go",
		"&lease{Status: Status{Epoch: b.Epoch}, since: now}", "&lease{Status: Status{Epoch: b.Epoch}, since: now.Add(-l.opts.Session)}"},
	{"contacts of a majority for a shorter lease", "metadata/controller/leases.go",
		"!self || len(l.contacts) <= len(r.Voters)/2", "!self"},
	{"contacts of the new leader's term", "metadata/controller/leases.go",
		"r.Term == 0 || hb.Term < r.Term || ", "r.Term == 0 || "},
	{"the beginning of a process is contact", "metadata/raftnode/contact.go",
		"Contacts{last: now, before: now}", "Contacts{}"},
	{"contacts with the leader before", "metadata/raftnode/contact.go",
		"c.before, c.last, c.term = laterOf(c.before, c.last), now, term", "c.last, c.term = now, term"},
	{"who is to be fenced gets no lease", "metadata/controller/leases.go",
		"if !b.Fenced && !have.fencing && ", "if !b.Fenced && "},
	{"who applies nothing gets no lease", "metadata/controller/leases.go",
		"return !b.stuckSince.IsZero() && ", "return false && "},
	{"who is unfenced knows that it was fenced", "metadata/controller/decide.go",
		" && have.Applied >= max(uint64(b.Epoch), have.fencedAt)", ""},
	{"a level that every broker knows", "metadata/fsm/apply_cluster.go",
		"!ok || u.Level < r.Min || u.Level > r.Max {", "false && (!ok || u.Level < r.Min || u.Level > r.Max) {"},
	{"a follower's watermark ends with its log", "broker/replica/follower.go",
		"return r.raise(Effects{}, min(hw, r.logEnd))", "return r.raise(Effects{}, hw)"},
	{"a warm replica leads before a cold one", "metadata/fsm/settle.go",
		"\t\tif p.Warm(id) {\n", "\t\tif id >= 0 {\n"},
	{"when a reassignment completes", "metadata/fsm/settle.go",
		"isSubset(target, keep(next.ISR, eligible)) {", "isSubset(target, keep(next.Replicas, eligible)) {"},
}

// mutationSeeds bounds how many seeds may be needed to notice; most need ten.
const mutationSeeds = 4000

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
	if testing.Short() {
		return // it builds the simulator once for each mutation
	}
	found := regexp.MustCompile(`seed (\d+): ((?:invariant [^:]*|panic): .*)`)
	for _, m := range mutations {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			cmd := exec.Command("go", "test", "-overlay", m.overlay(t), "-count=1", "-run", "^TestSeeds$", ".", "-sim.first",
				fmt.Sprintf("-sim.seeds=%d", mutationSeeds))
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := cmd.Run()
			hit := found.FindStringSubmatch(out.String())
			require.NotNil(t, hit, "%d seeds ran, and none noticed (%v):\n%s", mutationSeeds, err, out.String())
			t.Logf("seed %s: %s", hit[1], hit[2])
		})
	}
}
