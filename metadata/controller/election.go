package controller

import (
	"slices"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// MaxElections is how many partitions one ElectLeaders command should have.
const MaxElections = 10_000

// ChooseLeader returns who should lead a partition: the first active replica that
// is in sync, in order of preference; with unclean, any active replica. ok is
// false if there is none.
func ChooseLeader(img *metadata.Image, p *metadata.Partition, unclean bool) (leader int32, ok bool) {
	for _, id := range p.Replicas {
		if p.InSync(id) && img.Broker(id).Eligible() {
			return id, true
		}
	}
	if unclean {
		for _, id := range p.Replicas {
			if img.Broker(id).Eligible() {
				return id, true
			}
		}
	}
	return -1, false
}

// AfterRegistration plans the elections that follow when a broker's new process
// was unfenced: each partition that the broker leads, or that has no leader and
// the broker among its in-sync replicas, gets a leader under a new leader epoch.
// A broker's new process thus never writes under the epoch of the old one, which
// may have acknowledged what power loss took. The elections come in commands of
// MaxElections at most.
func AfterRegistration(img *metadata.Image, broker int32) []*command.ElectLeaders {
	return plan(img, func(p *metadata.Partition) bool {
		return p.Leader == broker || p.Leader < 0 && p.InSync(broker)
	})
}

// AfterFencing plans the elections that follow when a broker was fenced or shuts
// down: each partition that it leads goes to another replica in sync, or has no
// leader.
func AfterFencing(img *metadata.Image, broker int32) []*command.ElectLeaders {
	return plan(img, func(p *metadata.Partition) bool { return p.Leader == broker })
}

func plan(img *metadata.Image, affected func(*metadata.Partition) bool) []*command.ElectLeaders {
	var out []*command.ElectLeaders
	for tp, p := range img.AllPartitions() {
		if !affected(p) {
			continue
		}
		leader, ok := ChooseLeader(img, p, false)
		if !ok && p.Leader < 0 {
			continue
		}
		if n := len(out); n == 0 || len(out[n-1].Elections) == MaxElections {
			out = append(out, &command.ElectLeaders{})
		}
		last := out[len(out)-1]
		last.Elections = append(last.Elections, command.Election{Partition: tp, PartitionEpoch: p.PartitionEpoch, Leader: leader})
	}
	return out
}

// Preferred plans the elections that bring leaderships back to the preferred
// replicas that are active and in sync. only nil means every partition.
func Preferred(img *metadata.Image, only func(*metadata.Partition) bool) []*command.ElectLeaders {
	return plan(img, func(p *metadata.Partition) bool {
		leader, ok := ChooseLeader(img, p, false)
		return ok && leader == p.Replicas[0] && p.Leader != leader && (only == nil || only(p)) && slices.Contains(p.ISR, leader)
	})
}
