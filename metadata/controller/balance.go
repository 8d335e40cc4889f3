package controller

import (
	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// PlanBalance returns the elections that give active brokers the leaderships back
// which are theirs by preference, for each broker that lacks more than percent of
// them. A preferred replica that is not in sync waits for the next time, and so does one
// that is cold while a warm one leads: local.retention makes it warm, or an operator who
// does not want to wait elects it.
func PlanBalance(img *metadata.Image, percent int) []command.Election {
	total, lacking := map[int32]int{}, map[int32][]command.Election{}
	for tp, p := range img.AllPartitions() {
		preferred := p.Target()[0]
		total[preferred]++
		if p.Leader != preferred && img.Broker(preferred).Eligible() && p.InSync(preferred) && (p.Warm(preferred) || !p.Warm(p.Leader)) {
			lacking[preferred] = append(lacking[preferred], command.Election{Partition: tp, PartitionEpoch: p.PartitionEpoch, Leader: -1, Kind: command.ElectPreferred})
		}
	}
	var out []command.Election
	for b := range img.Brokers() {
		if n := len(lacking[b.ID]); n > 0 && n*100 > total[b.ID]*percent {
			out = append(out, lacking[b.ID]...)
		}
	}
	return out
}
