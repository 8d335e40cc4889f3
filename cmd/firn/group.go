package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func (a *app) groupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", Aliases: []string{"groups"}, Short: "List, describe, move and delete consumer groups"}
	cmd.AddCommand(a.groupList(), a.groupDescribe(), a.groupLag(), a.groupSeek(), a.groupDelete())
	return cmd
}

type groupLine struct {
	Group       string `json:"group"`
	State       string `json:"state"`
	Type        string `json:"protocol_type"` // consumer, connect …
	Coordinator int32  `json:"coordinator"`
}

func (a *app) groupList() *cobra.Command {
	var states []string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List groups", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkGroupStates(states); err != nil {
				return err
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				groups, err := admin.ListGroups(ctx, states...)
				if err != nil {
					return fmt.Errorf("list groups: %w", err)
				}
				lines := []groupLine{}
				g := grid{header: []string{"GROUP", "STATE", "PROTOCOL", "COORDINATOR"}}
				for _, l := range groups.Sorted() {
					lines = append(lines, groupLine{l.Group, l.State, l.ProtocolType, l.Coordinator})
					g.add(l.Group, l.State, emptyDash(l.ProtocolType), l.Coordinator)
				}
				return a.print(lines, g.write)
			})
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "list only groups in these states, such as Stable or Empty")
	a.completeWords(cmd, "state", groupStates...)
	return cmd
}

// groupStates are all that a group of any protocol may be in. A broker answers
// for one that it does not know with no groups, as if there were none.
var groupStates = []string{"Stable", "Empty", "PreparingRebalance", "CompletingRebalance", "Assigning", "Reconciling", "Dead", "NotReady"}

func checkGroupStates(states []string) error {
	for _, state := range states {
		if !slices.ContainsFunc(groupStates, func(known string) bool { return strings.EqualFold(known, state) }) {
			return fmt.Errorf("--state: got %q, want some of %s", state, strings.Join(groupStates, ", "))
		}
	}
	return nil
}

func emptyDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

type memberLine struct {
	Member     string   `json:"member"`
	Instance   string   `json:"instance,omitempty"`
	Client     string   `json:"client"`
	Host       string   `json:"host"`
	Partitions []string `json:"partitions"`
}

type lagLine struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed int64  `json:"committed"` // -1: none
	Start     int64  `json:"start_offset"`
	End       int64  `json:"end_offset"`
	Lag       int64  `json:"lag"` // -1: not known
	Member    string `json:"member,omitempty"`
	Error     string `json:"error,omitempty"`
}

type groupDescription struct {
	Group       string       `json:"group"`
	State       string       `json:"state"`
	Type        string       `json:"protocol_type"`
	Assignor    string       `json:"assignor"`
	Coordinator int32        `json:"coordinator"`
	TotalLag    int64        `json:"total_lag"`
	Members     []memberLine `json:"members"`
	Lag         []lagLine    `json:"lag"`
}

func (a *app) describeGroups(ctx context.Context, admin *kadm.Client, names []string) ([]groupDescription, error) {
	var lags kadm.DescribedGroupLags
	err := patiently(ctx, func() (err error) {
		lags, err = admin.Lag(ctx, names...)
		return errors.Join(err, lags.Error())
	})
	if err != nil && len(lags) == 0 {
		return nil, fmt.Errorf("describe groups: %w", err)
	}
	var described []groupDescription
	for _, name := range names {
		l, ok := lags[name]
		if !ok {
			return nil, fmt.Errorf("group %s: the broker did not answer for it", name)
		}
		if err := l.Error(); err != nil {
			return nil, refused("group "+name, err, "")
		}
		// Brokers before 4.0 call a group that they do not know Dead.
		if l.State == "Dead" && len(l.Lag) == 0 {
			return nil, fmt.Errorf("group %s: it does not exist; `firn group list` shows what does", name)
		}
		described = append(described, describeGroup(l))
	}
	return described, nil
}

func describeGroup(l kadm.DescribedGroupLag) groupDescription {
	d := groupDescription{Group: l.Group, State: l.State, Type: l.ProtocolType, Assignor: l.Protocol, Coordinator: l.Coordinator.NodeID, Members: []memberLine{}, Lag: []lagLine{}}
	for _, m := range l.Members {
		line := memberLine{Member: m.MemberID, Client: m.ClientID, Host: strings.TrimPrefix(m.ClientHost, "/"), Partitions: []string{}}
		if m.InstanceID != nil {
			line.Instance = *m.InstanceID
		}
		if assigned, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range assigned.Topics {
				for _, p := range t.Partitions {
					line.Partitions = append(line.Partitions, fmt.Sprintf("%s-%d", t.Topic, p))
				}
			}
		}
		slices.Sort(line.Partitions)
		d.Members = append(d.Members, line)
	}
	for _, m := range l.Lag.Sorted() {
		line := lagLine{Topic: m.Topic, Partition: m.Partition, Committed: m.Commit.At, Start: m.Start.Offset, End: m.End.Offset, Lag: m.Lag}
		if m.Member != nil {
			line.Member = m.Member.MemberID
		}
		if m.Err != nil {
			line.Error = m.Err.Error()
		}
		d.TotalLag += max(line.Lag, 0)
		d.Lag = append(d.Lag, line)
	}
	return d
}

func (d groupDescription) lagGrid() *grid {
	g := &grid{header: []string{"TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER"}}
	for _, l := range d.Lag {
		g.add(l.Topic, l.Partition, orDash(l.Committed), orDash(l.End), orDash(l.Lag), emptyDash(l.Member))
	}
	return g
}

func (a *app) groupDescribe() *cobra.Command {
	return &cobra.Command{
		Use: "describe GROUP...", Short: "Show members, assignments and lag of groups", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				described, err := a.describeGroups(ctx, admin, names)
				if err != nil {
					return err
				}
				return a.print(described, func(w io.Writer) error { return writeGroups(w, described) })
			})
		},
	}
}

func writeGroups(w io.Writer, described []groupDescription) error {
	for i, d := range described {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Group %s  %s  protocol %s  assignor %s  coordinator %d  lag %d\n", d.Group, d.State, emptyDash(d.Type), emptyDash(d.Assignor), d.Coordinator, d.TotalLag)
		if len(d.Members) > 0 {
			g := grid{header: []string{"MEMBER", "CLIENT", "HOST", "PARTITIONS"}}
			for _, m := range d.Members {
				g.add(m.Member, m.Client, m.Host, emptyDash(strings.Join(m.Partitions, " ")))
			}
			if err := g.write(w); err != nil {
				return err
			}
		}
		if len(d.Lag) > 0 {
			if err := d.lagGrid().write(w); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) groupLag() *cobra.Command {
	return &cobra.Command{
		Use: "lag GROUP...", Short: "Show how far groups are behind", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				described, err := a.describeGroups(ctx, admin, names)
				if err != nil {
					return err
				}
				type groupLag struct {
					Group    string    `json:"group"`
					TotalLag int64     `json:"total_lag"`
					Lag      []lagLine `json:"lag"`
				}
				lags := make([]groupLag, len(described))
				g := grid{header: append([]string{"GROUP"}, (groupDescription{}).lagGrid().header...)}
				for i, d := range described {
					lags[i] = groupLag{d.Group, d.TotalLag, d.Lag}
					for _, row := range d.lagGrid().rows {
						g.rows = append(g.rows, append([]string{d.Group}, row...))
					}
				}
				return a.print(lags, g.write)
			})
		},
	}
}

type seekLine struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	From      int64  `json:"from"` // -1: nothing was committed
	To        int64  `json:"to"`
}

func (a *app) groupSeek() *cobra.Command {
	var topics []string
	var partitions []int32
	var to string
	var dryRun bool
	cmd := &cobra.Command{
		Use: "seek GROUP", Short: "Move a group without members to another place", Args: cobra.ExactArgs(1),
		Long: `Move a group's committed offsets. The group must have no members: stop its consumers
first. A place is ` + positionHelp + `.`,
		Example:           "  firn group seek billing --to earliest\n  firn group seek billing --topic orders --to 2h --dry-run",
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return errors.New("say where to with --to: " + positionHelp)
			}
			where, err := parsePosition(to, a.now())
			if err != nil {
				return fmt.Errorf("--to: %w", err)
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				moves, err := planSeek(ctx, admin, args[0], topics, partitions, where)
				if err != nil {
					return err
				}
				if !dryRun {
					if err := commitSeek(ctx, admin, args[0], moves); err != nil {
						return err
					}
				}
				g := grid{header: []string{"TOPIC", "PARTITION", "FROM", "TO"}}
				for _, m := range moves {
					g.add(m.Topic, m.Partition, orDash(m.From), m.To)
				}
				if dryRun {
					a.note("dry run: nothing was moved")
				}
				return a.print(moves, g.write)
			})
		},
	}
	f := cmd.Flags()
	f.StringSliceVarP(&topics, "topic", "t", nil, "topics to move in; by default all that the group has committed to")
	f.Int32SliceVarP(&partitions, "partition", "p", nil, "partitions to move in; by default all")
	f.StringVar(&to, "to", "", "where to")
	f.BoolVar(&dryRun, "dry-run", false, "show what would move, move nothing")
	return cmd
}

// fetchOffsets reads what a group has committed: nothing, for one that does not
// exist. Kafka says so itself, some brokers answer GROUP_ID_NOT_FOUND.
func fetchOffsets(ctx context.Context, admin *kadm.Client, group string) (kadm.OffsetResponses, error) {
	var committed kadm.OffsetResponses
	err := patiently(ctx, func() (err error) {
		committed, err = admin.FetchOffsets(ctx, group)
		return err
	})
	if errors.Is(err, kerr.GroupIDNotFound) {
		return kadm.OffsetResponses{}, nil
	}
	return committed, refused("group "+group, err, "")
}

func planSeek(ctx context.Context, admin *kadm.Client, group string, topics []string, partitions []int32, where position) ([]seekLine, error) {
	described, err := admin.DescribeGroups(ctx, group)
	if err != nil {
		return nil, fmt.Errorf("describe group %s: %w", group, err)
	}
	if n := len(described[group].Members); n > 0 {
		return nil, fmt.Errorf("group %s has %s that would not notice: stop its consumers first", group, plural(n, "member"))
	}
	committed, err := fetchOffsets(ctx, admin, group)
	if err != nil {
		return nil, err
	}
	if len(topics) == 0 {
		for topic := range committed {
			topics = append(topics, topic)
		}
		slices.Sort(topics)
	}
	if len(topics) == 0 {
		return nil, fmt.Errorf("group %s has committed nothing: name the topics with --topic", group)
	}
	moves := []seekLine{}
	for _, topic := range topics {
		b, err := readBounds(ctx, admin, topic, false)
		if err != nil {
			return nil, err
		}
		if err := b.keep(topic, partitions); err != nil {
			return nil, err
		}
		targets, err := where.resolve(ctx, admin, topic, b)
		if err != nil {
			return nil, err
		}
		for p, offset := range targets {
			from := int64(-1)
			if at, ok := committed.Lookup(topic, p); ok {
				from = at.At
			}
			moves = append(moves, seekLine{topic, p, from, offset})
		}
	}
	slices.SortFunc(moves, func(x, y seekLine) int {
		if c := strings.Compare(x.Topic, y.Topic); c != 0 {
			return c
		}
		return int(x.Partition - y.Partition)
	})
	return moves, nil
}

func commitSeek(ctx context.Context, admin *kadm.Client, group string, moves []seekLine) error {
	var offsets kadm.Offsets
	for _, m := range moves {
		offsets.Add(kadm.Offset{Topic: m.Topic, Partition: m.Partition, At: m.To, LeaderEpoch: -1})
	}
	err := patiently(ctx, func() error { return admin.CommitAllOffsets(ctx, group, offsets) })
	return refused("group "+group, err, "")
}

func (a *app) groupDelete() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "delete GROUP...", Short: "Delete groups with their committed offsets", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeGroups,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := a.confirm(yes, "delete "+strings.Join(names, ", ")+" with the committed offsets?"); err != nil {
				return err
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				responses, err := admin.DeleteGroups(ctx, names...)
				if err != nil {
					return fmt.Errorf("delete groups: %w", err)
				}
				var failures []error
				deleted := []string{}
				for _, r := range responses.Sorted() {
					if err := refused("group "+r.Group, r.Err, r.ErrMessage); err != nil {
						failures = append(failures, err)
						continue
					}
					deleted = append(deleted, r.Group)
				}
				return errors.Join(append(failures, a.printDeleted("group", deleted))...)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
