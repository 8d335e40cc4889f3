package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

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
		Example: "  firn cluster drain 4 --dry-run\n  firn cluster drain 4",
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := brokerID(args[0])
			if err != nil {
				return err
			}
			return a.planAndMove(cmd, &m, adminapi.PlanDrain, url.Values{"broker": {strconv.Itoa(int(id))}})
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
			return a.planAndMove(cmd, &m, adminapi.PlanRebalance, nil)
		},
	}
	m.register(cmd)
	return cmd
}

func (a *app) planAndMove(cmd *cobra.Command, m *moveFlags, kind string, query url.Values) error {
	if query == nil {
		query = url.Values{}
	}
	query.Set("kind", kind)
	var plan adminapi.MovePlan
	if err := a.adminJSON(cmd.Context(), adminapi.PathClusterPlan, query, &plan); err != nil {
		return err
	}
	return a.move(cmd, m, plan.Moves)
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
	if a.inIsTerminal && !m.yes {
		if err := writeMoves(a.errOut, moves); err != nil {
			return err
		}
	}
	if err := a.confirmTo(m.yes, "move "+plural(len(moves), "partition")+"?", "nothing was moved"); err != nil {
		return err
	}
	return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
		if err := reassign(ctx, admin, moves); err != nil {
			return err
		}
		if !m.noWait {
			// A move takes as long as it takes: only an interrupt ends the wait.
			if err := a.awaitMoves(cmd.Context(), admin, moves); err != nil {
				return err
			}
		}
		return a.print(moves, func(w io.Writer) error {
			verb := "moved"
			if m.noWait {
				verb = "moving"
			}
			_, err := fmt.Fprintf(w, "%s %s\n", verb, plural(len(moves), "partition"))
			return err
		})
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
			return fmt.Errorf("%w: %s still being moved, which goes on without this command", ctx.Err(), plural(n, "partition"))
		case <-time.After(movePollEvery):
		}
	}
}

func (a *app) clusterDecommission() *cobra.Command {
	var m moveFlags
	cmd := &cobra.Command{
		Use: "decommission BROKER", Short: "Forget a broker that is gone for good", Args: cobra.ExactArgs(1),
		Long: `Forget a broker that was drained and stopped. It is refused while the broker is up, or
has replicas: ` + "`firn cluster drain`" + ` moves those.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := brokerID(args[0])
			if err != nil {
				return err
			}
			return a.decommission(cmd, id, m.yes)
		},
	}
	cmd.Flags().BoolVarP(&m.yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) decommission(cmd *cobra.Command, id int32, yes bool) error {
	var list adminapi.ClusterBrokers
	if err := a.adminJSON(cmd.Context(), adminapi.PathClusterBrokers, nil, &list); err != nil {
		return err
	}
	found := false
	for _, b := range list.Brokers {
		switch {
		case b.ID != id:
			continue
		case b.State != adminapi.BrokerFenced:
			return fmt.Errorf("broker %d is %s: stop it first, after `firn cluster drain %d`", id, b.State, id)
		case b.Replicas > 0:
			return fmt.Errorf("broker %d has %s: `firn cluster drain %d` moves them", id, plural(b.Replicas, "replica"), id)
		}
		found = true
	}
	if !found {
		return fmt.Errorf("broker %d is not registered; `firn cluster brokers` lists who is", id)
	}
	if err := a.confirmTo(yes, fmt.Sprintf("forget broker %d?", id), "nothing was changed"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	client, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	req := kmsg.NewPtrUnregisterBrokerRequest()
	req.BrokerID = id
	resp, err := req.RequestWith(ctx, client)
	if err != nil {
		return fmt.Errorf("forget broker %d: %w", id, err)
	}
	message := ""
	if resp.ErrorMessage != nil {
		message = *resp.ErrorMessage
	}
	if err := refused(fmt.Sprintf("broker %d", id), kerr.ErrorForCode(resp.ErrorCode), message); err != nil {
		return err
	}
	return a.print(map[string]int32{"decommissioned": id}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "broker %d is forgotten\n", id)
		return err
	})
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
			return cancelReassignments(ctx, admin, topic, detail, wanted)
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
		return a.print(map[string]string{"cancelled": topic}, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "what moved of topic %s is called off\n", topic)
			return err
		})
	}
	return a.move(cmd, m, moves)
}

func cancelReassignments(ctx context.Context, admin *kadm.Client, topic string, detail kadm.TopicDetail, wanted map[int32]bool) error {
	var req kadm.AlterPartitionAssignmentsReq
	for p := range detail.Partitions {
		if len(wanted) == 0 || wanted[p] {
			req.CancelAssign(topic, p)
		}
	}
	responses, err := admin.AlterPartitionAssignments(ctx, req)
	if err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	var failures []error
	for _, r := range responses.Sorted() {
		if !errors.Is(r.Err, kerr.NoReassignmentInProgress) {
			failures = append(failures, refused(subjectOf(r.Topic, r.Partition), r.Err, r.ErrMessage))
		}
	}
	return errors.Join(failures...)
}
