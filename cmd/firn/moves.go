package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/broker/adminapi"
)

// moveFlags are common to the commands that move replicas.
type moveFlags struct {
	dryRun, yes, noWait bool
}

func (m *moveFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVar(&m.dryRun, "dry-run", false, "show the plan and change nothing")
	f.BoolVarP(&m.yes, "yes", "y", false, "do not ask")
	f.BoolVar(&m.noWait, "no-wait", false, "do not wait until the replicas have moved")
}

// movePollEvery is the pace at which moves are watched.
const movePollEvery = 200 * time.Millisecond

func brokerID(text string) (int32, error) {
	id, err := strconv.ParseInt(text, 10, 32)
	if err != nil || id < 0 {
		return 0, fmt.Errorf("broker %q: write a broker's id, a number; `firn cluster brokers` lists them", text)
	}
	return int32(id), nil
}

func (a *app) clusterDrain() *cobra.Command {
	var m moveFlags
	cmd := &cobra.Command{
		Use: "drain BROKER", Short: "Move every replica from a broker to the others", Args: cobra.ExactArgs(1),
		Long: `Move every replica from a broker, which may be dead, to the others: each to the one
that fits the racks best and has the fewest. The plan is shown first. Only what is not
in the object store is copied.`,
		Example:           "  firn cluster drain 4 --dry-run\n  firn cluster drain 4",
		ValidArgsFunction: a.completeBrokers,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := brokerID(args[0])
			if err != nil {
				return err
			}
			return a.planAndMove(cmd, &m, drainOf(id))
		},
	}
	m.register(cmd)
	return cmd
}

func (a *app) clusterRebalance() *cobra.Command {
	var m moveFlags
	cmd := &cobra.Command{
		Use: "rebalance", Short: "Even replicas and leaders out over the brokers", Args: cobra.NoArgs,
		Long: `Even replicas and preferred leaders out over the brokers that are up, each partition
over as many racks as there are, with as few moves as that takes. The plan is shown
first. Only what is not in the object store is copied.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.planAndMove(cmd, &m, url.Values{"kind": {adminapi.PlanRebalance}})
		},
	}
	m.register(cmd)
	return cmd
}

func (a *app) planAndMove(cmd *cobra.Command, m *moveFlags, query url.Values) error {
	moves, err := a.plan(cmd.Context(), query)
	if err != nil {
		return err
	}
	return a.move(cmd, m, moves)
}

func (a *app) plan(ctx context.Context, query url.Values) ([]adminapi.Move, error) {
	var plan adminapi.MovePlan
	err := a.adminJSON(ctx, adminapi.PathClusterPlan, query, &plan)
	return plan.Moves, err
}

func drainOf(id int32) url.Values {
	return url.Values{"kind": {adminapi.PlanDrain}, "broker": {strconv.Itoa(int(id))}}
}

func ids(list []int32) string {
	words := make([]string, len(list))
	for i, id := range list {
		words[i] = strconv.Itoa(int(id))
	}
	return strings.Join(words, ",")
}

// move shows moves, asks, carries them out and waits for them.
func (a *app) move(cmd *cobra.Command, m *moveFlags, moves []adminapi.Move) error {
	if m.dryRun || len(moves) == 0 {
		return a.print(moves, func(w io.Writer) error { return writeMoves(w, moves) })
	}
	if err := a.confirmMoves(m.yes, moves, "move "+plural(len(moves), "partition")+"?", "nothing was moved"); err != nil {
		return err
	}
	if err := a.carryOut(cmd, moves, !m.noWait); err != nil {
		return err
	}
	return a.print(moves, func(w io.Writer) error {
		verb := "moved"
		if m.noWait {
			verb = "moving"
		}
		_, err := fmt.Fprintf(w, "%s %s\n", verb, plural(len(moves), "partition"))
		return err
	})
}

// confirmMoves shows a plan to a person and asks.
func (a *app) confirmMoves(yes bool, moves []adminapi.Move, question, declined string) error {
	if a.inIsTerminal && !yes {
		if err := writeMoves(a.errOut, moves); err != nil {
			return err
		}
	}
	return a.confirmTo(yes, question, declined)
}

// carryOut moves, and waits for the replicas to have moved where that is wanted.
func (a *app) carryOut(cmd *cobra.Command, moves []adminapi.Move, wait bool) error {
	return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
		if err := reassign(ctx, admin, moves); err != nil || !wait {
			return err
		}
		// A move takes as long as it takes: only an interrupt ends the wait.
		return a.awaitMoves(cmd.Context(), admin, moves)
	})
}

func writeMoves(w io.Writer, moves []adminapi.Move) error {
	if len(moves) == 0 {
		_, err := fmt.Fprintln(w, "nothing to move")
		return err
	}
	g := grid{header: []string{"TOPIC", "PARTITION", "FROM", "TO"}}
	for _, m := range moves {
		g.add(m.Topic, m.Partition, ids(m.From), ids(m.To))
	}
	return g.write(w)
}

// reassign asks for all moves in one request.
func reassign(ctx context.Context, admin *kadm.Client, moves []adminapi.Move) error {
	var req kadm.AlterPartitionAssignmentsReq
	for _, m := range moves {
		req.Assign(m.Topic, m.Partition, m.To)
	}
	responses, err := admin.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return fmt.Errorf("reassign partitions: %w", err)
	}
	var failures []error
	for _, r := range responses.Sorted() {
		failures = append(failures, refused(subjectOf(r.Topic, r.Partition), r.Err, r.ErrMessage))
	}
	return errors.Join(failures...)
}

// awaitMoves shows how many of the moves are done until all are.
func (a *app) awaitMoves(ctx context.Context, admin *kadm.Client, moves []adminapi.Move) error {
	p := a.newProgress("moving", int64(len(moves)), func(n int64) string { return plural(int(n), "partition") })
	var set kadm.TopicsSet
	for _, m := range moves {
		set.Add(m.Topic, m.Partition)
	}
	for {
		asked, cancel := context.WithTimeout(ctx, a.timeout)
		left, err := admin.ListPartitionReassignments(asked, set)
		cancel()
		if err != nil {
			p.finish()
			return fmt.Errorf("list reassignments: %w", err)
		}
		n := len(left.Sorted())
		p.set(int64(len(moves) - n))
		if n == 0 {
			p.finish()
			return nil
		}
		select {
		case <-ctx.Done():
			p.finish()
			return fmt.Errorf("interrupted with %s still on the move, which goes on without this command", plural(n, "partition"))
		case <-time.After(movePollEvery):
		}
	}
}

func (a *app) clusterDecommission() *cobra.Command {
	var yes, drain bool
	cmd := &cobra.Command{
		Use: "decommission BROKER", Short: "Forget a broker that is gone for good", Args: cobra.ExactArgs(1),
		Long: `Forget a broker that is stopped for good. It is refused while the broker is up, or has
replicas: ` + "`firn cluster drain`" + ` moves those before a living broker is stopped, --drain
moves those of a dead one first.`,
		Example:           "  firn cluster decommission 4\n  firn cluster decommission 4 --drain",
		ValidArgsFunction: a.completeBrokers,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := brokerID(args[0])
			if err != nil {
				return err
			}
			return a.decommission(cmd, id, yes, drain)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&drain, "drain", false, "move the replicas that it still has to the others first")
	return cmd
}

// decommissioned is what a decommission did.
type decommissioned struct {
	Broker int32           `json:"decommissioned"`
	Moves  []adminapi.Move `json:"moves,omitempty"`
}

func (a *app) decommission(cmd *cobra.Command, id int32, yes, drain bool) error {
	broker, err := a.broker(cmd.Context(), id)
	if err != nil {
		return err
	}
	done := decommissioned{Broker: id}
	switch {
	case broker.State != adminapi.BrokerFenced:
		return fmt.Errorf("broker %d is %s: stop it first, after `firn cluster drain %d`", id, broker.State, id)
	case broker.Replicas == 0:
		if err := a.confirmTo(yes, fmt.Sprintf("forget broker %d?", id), "nothing was changed"); err != nil {
			return err
		}
	case !drain:
		return fmt.Errorf("broker %d has %s: with --drain they are moved to the others first", id, plural(broker.Replicas, "replica"))
	default:
		if done.Moves, err = a.plan(cmd.Context(), drainOf(id)); err != nil {
			return err
		}
		question := fmt.Sprintf("move %s and forget broker %d?", plural(len(done.Moves), "partition"), id)
		if err := a.confirmMoves(yes, done.Moves, question, "nothing was changed"); err != nil {
			return err
		}
		if err := a.carryOut(cmd, done.Moves, true); err != nil {
			return err
		}
	}
	if err := a.unregister(cmd.Context(), id); err != nil {
		return err
	}
	return a.print(done, func(w io.Writer) error {
		moved := ""
		if len(done.Moves) > 0 {
			moved = "moved " + plural(len(done.Moves), "partition") + "; "
		}
		_, err := fmt.Fprintf(w, "%sbroker %d is forgotten\n", moved, id)
		return err
	})
}

// broker finds a registered broker.
func (a *app) broker(ctx context.Context, id int32) (adminapi.ClusterBroker, error) {
	var list adminapi.ClusterBrokers
	if err := a.adminJSON(ctx, adminapi.PathClusterBrokers, nil, &list); err != nil {
		return adminapi.ClusterBroker{}, err
	}
	if list.Controller < 0 {
		return adminapi.ClusterBroker{}, errors.New("no broker leads the metadata: nothing can be changed until a majority of the voters is back")
	}
	for _, b := range list.Brokers {
		if b.ID == id {
			return b, nil
		}
	}
	return adminapi.ClusterBroker{}, fmt.Errorf("broker %d is not registered; `firn cluster brokers` lists who is", id)
}

func (a *app) unregister(ctx context.Context, id int32) error {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return unregisterBroker(ctx, client, id)
}

func (a *app) topicReassign() *cobra.Command {
	var m moveFlags
	var replicas []int32
	var partitions []int32
	var cancelMoves bool
	cmd := &cobra.Command{
		Use: "reassign TOPIC", Short: "Move a topic's partitions to other brokers", Args: cobra.ExactArgs(1),
		Long: `Move partitions of a topic to the brokers of --replicas, the preferred leader first;
over several partitions the leader takes turns. --cancel calls off what is being moved.
Only what is not in the object store is copied.`,
		Example:           "  firn topic reassign orders --replicas 2,3,4 --dry-run\n  firn topic reassign orders --partition 0 --replicas 4,2,3\n  firn topic reassign orders --cancel",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, names []string) error {
			if cancelMoves == (len(replicas) > 0) {
				return errors.New("give either --replicas ID,ID,... or --cancel")
			}
			for i, id := range replicas {
				if slices.Contains(replicas[:i], id) {
					return fmt.Errorf("--replicas names broker %d twice", id)
				}
			}
			return a.reassignTopic(cmd, &m, names[0], partitions, replicas)
		},
	}
	m.register(cmd)
	cmd.Flags().Int32SliceVar(&replicas, "replicas", nil, "the brokers to be on, the preferred leader first")
	cmd.Flags().Int32SliceVarP(&partitions, "partition", "p", nil, "partitions to move; by default all")
	cmd.Flags().BoolVar(&cancelMoves, "cancel", false, "call off the moves that are under way")
	return cmd
}

// reassignTopic moves partitions of one topic; without replicas it calls off what
// moves.
func (a *app) reassignTopic(cmd *cobra.Command, m *moveFlags, topic string, partitions, replicas []int32) error {
	var moves []adminapi.Move
	called := cancelled{Topic: topic, Partitions: []int32{}}
	err := a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
		topics, err := admin.ListTopics(ctx, topic)
		if err != nil {
			return fmt.Errorf("look %s up: %w", topic, err)
		}
		detail := topics[topic]
		if detail.Err != nil {
			return refused("topic "+topic, detail.Err, "")
		}
		wanted := map[int32]bool{}
		for _, p := range partitions {
			if _, ok := detail.Partitions[p]; !ok {
				return fmt.Errorf("topic %s has no partition %d", topic, p)
			}
			wanted[p] = true
		}
		if len(replicas) == 0 {
			return called.reassignments(ctx, admin, detail, wanted)
		}
		for _, p := range detail.Partitions.Sorted() {
			if len(wanted) > 0 && !wanted[p.Partition] {
				continue
			}
			turn := len(moves) % len(replicas)
			to := append(append([]int32{}, replicas[turn:]...), replicas[:turn]...)
			moves = append(moves, adminapi.Move{Topic: topic, Partition: p.Partition, From: p.Replicas, To: to})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(replicas) == 0 {
		return a.print(called, func(w io.Writer) error {
			if len(called.Partitions) == 0 {
				_, err := fmt.Fprintf(w, "nothing of topic %s is being moved\n", topic)
				return err
			}
			_, err := fmt.Fprintf(w, "called off: %s of topic %s\n", plural(len(called.Partitions), "move"), topic)
			return err
		})
	}
	return a.move(cmd, m, moves)
}

// cancelled are the moves that were called off.
type cancelled struct {
	Topic      string  `json:"cancelled"`
	Partitions []int32 `json:"partitions"`
}

// reassignments calls off what moves of the wanted partitions, of all where none
// is named.
func (c *cancelled) reassignments(ctx context.Context, admin *kadm.Client, detail kadm.TopicDetail, wanted map[int32]bool) error {
	var req kadm.AlterPartitionAssignmentsReq
	for p := range detail.Partitions {
		if len(wanted) == 0 || wanted[p] {
			req.CancelAssign(c.Topic, p)
		}
	}
	responses, err := admin.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	var failures []error
	for _, r := range responses.Sorted() {
		switch {
		case r.Err == nil:
			c.Partitions = append(c.Partitions, r.Partition)
		case !errors.Is(r.Err, kerr.NoReassignmentInProgress):
			failures = append(failures, refused(subjectOf(r.Topic, r.Partition), r.Err, r.ErrMessage))
		}
	}
	return errors.Join(failures...)
}
