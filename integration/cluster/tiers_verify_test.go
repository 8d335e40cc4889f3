package cluster

import (
	"fmt"
	"maps"
	"regexp"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/harness"
)

// verifyTiers holds the bucket against the metadata and the disks, once the load has
// ended: offsets are where the brokers say, without a hole; every object that is
// referred to is there and sound, byte by byte; and every other is gone after its
// grace, but for those of whom late says that their upload may have landed after
// their deletion was confirmed, and which wait for the listing of orphans.
//
// That what the bucket holds is what was read while it was on disk is the history's
// to tell: the last reader reads everything again.
func (w *workload) verifyTiers(late int) {
	w.t.Helper()
	w.verifyTiersBut(func(extra []string) bool { return len(extra) <= late })
}

// verifyTiersBut is verifyTiers where the caller knows which objects may be nobody's.
func (w *workload) verifyTiersBut(allowed func(extra []string) bool) {
	w.t.Helper()
	var parts []adminapi.PartitionMap
	var extra []string
	referred := map[string]bool{}
	harness.Eventually(w.t, harnessLimit, func() string {
		parts = w.c.Tiers(topicName)
		clear(referred)
		for _, p := range parts {
			for _, r := range p.Ranges {
				if r.InBucket {
					referred[r.Object] = true
				}
			}
		}
		stored := w.c.Objects()
		extra = slices.DeleteFunc(slices.Sorted(maps.Keys(stored)), func(key string) bool { return referred[key] })
		if !allowed(extra) {
			return fmt.Sprintf("%d objects of %d in the bucket are nobody's: %v", len(extra), len(stored), extra)
		}
		for key := range referred {
			if _, there := stored[key]; !there {
				return "not in the bucket: " + key
			}
		}
		return ""
	})
	if len(extra) > 0 {
		w.t.Logf("landed after their deletion: %v", extra)
	}
	for _, p := range parts {
		at := logName(p.Partition)
		require.LessOrEqual(w.t, p.LogStart, p.LocalStart, at)
		require.LessOrEqual(w.t, p.LocalStart, p.RemoteEnd, at)
		require.LessOrEqual(w.t, p.RemoteEnd, p.LastStable, at)
		require.LessOrEqual(w.t, p.LastStable, p.HighWatermark, at)
		require.LessOrEqual(w.t, p.HighWatermark, p.LogEnd, at)
		local, remote := p.LocalStart, p.LogStart // how far each tier reaches without a hole
		for _, r := range p.Ranges {
			if r.OnDisk {
				require.LessOrEqual(w.t, r.Start, local, "%s: nothing on disk has [%d, %d)", at, local, r.Start)
				local = max(local, r.End)
			}
			if r.InBucket {
				require.Equal(w.t, remote, r.Start, "%s: objects overlap, or leave a hole", at)
				remote = r.End
			}
		}
		require.Equal(w.t, p.LogEnd, local, at)
		require.Equal(w.t, p.RemoteEnd, remote, at)
	}
	problems, objects := w.c.TierVerify(w.c.Living()[0], topicName)
	require.Empty(w.t, problems)
	require.GreaterOrEqual(w.t, objects, len(referred))
	for _, b := range w.c.Living() {
		require.Zero(w.t, w.c.Metric(b, "firn_partition_violations_total"), "broker %d", b.ID)
		require.Zero(w.t, w.c.Metric(b, "firn_partition_below_watermark_total"), "broker %d", b.ID)
	}
}

// deposedAlive are the faults in which a leader may be deposed and live.
var deposedAlive = regexp.MustCompile(`SIGSTOP|cut|hears|flapping|slow|lost|far away`)

// lateUploads is how many objects the faults may have left to the listing of orphans:
// a broker that was stopped, or cut off, in the middle of an upload or before it heard
// that it may begin, and goes on with it when its object's deletion is over already.
func lateUploads(rounds int, faults []fault) (n int) {
	for _, f := range faults {
		if deposedAlive.MatchString(f.name) {
			n += rounds
		}
	}
	return n
}
