package controller

import (
	"time"

	"github.com/firnlog/firn/metadata"
	"github.com/firnlog/firn/metadata/command"
)

// UpkeepOptions are what the controller does now and then.
type UpkeepOptions struct {
	// Balance returns leaderships to preferred replicas
	// (auto.leader.rebalance.enable), every BalanceEvery
	// (leader.imbalance.check.interval.seconds, default 300 s), of brokers that lack
	// more than BalancePercent of theirs (negative: 10).
	Balance        bool
	BalanceEvery   time.Duration
	BalancePercent int
	// InternalFactor is what the replicas of internal topics grow to as brokers join
	// (offsets.topic.replication.factor and the like); 0 leaves them as they are.
	InternalFactor int
}

func (o UpkeepOptions) withDefaults() UpkeepOptions {
	if o.BalanceEvery <= 0 {
		o.BalanceEvery = 300 * time.Second
	}
	if o.BalancePercent < 0 {
		o.BalancePercent = 10
	}
	return o
}

// growEvery is how often internal topics are looked at: soon after a broker joined,
// and late enough that a restart of many does not place them on the first few.
const growEvery = 5 * time.Second

// upkeep says when which of the periodic plans is due.
type upkeep struct {
	opts          UpkeepOptions
	balance, grow time.Time
}

func newUpkeep(opts UpkeepOptions, now time.Time) *upkeep {
	return &upkeep{opts: opts, balance: now.Add(opts.BalanceEvery), grow: now.Add(growEvery)}
}

func (u *upkeep) next() time.Time {
	if u.grow.Before(u.balance) {
		return u.grow
	}
	return u.balance
}

// plan returns the changes that are due.
func (u *upkeep) plan(now time.Time, img *metadata.Image) []command.Command {
	var out []command.Command
	if !now.Before(u.grow) {
		u.grow = now.Add(growEvery)
		if items := PlanGrowth(img, u.opts.InternalFactor); len(items) > 0 {
			out = append(out, &command.AlterReassignments{Items: items})
		}
	}
	if !now.Before(u.balance) {
		u.balance = now.Add(u.opts.BalanceEvery)
		if u.opts.Balance {
			if elections := PlanBalance(img, u.opts.BalancePercent); len(elections) > 0 {
				out = append(out, &command.ElectLeaders{Elections: elections})
			}
		}
	}
	return out
}
