package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metadata/configdef"
)

func (a *app) topicCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "topic", Aliases: []string{"topics"}, Short: "List, describe, create, alter and delete topics"}
	cmd.AddCommand(a.topicList(), a.topicDescribe(), a.topicCreate(), a.topicAlter(), a.topicReassign(), a.topicDelete())
	return cmd
}

type topicLine struct {
	Name              string `json:"name"`
	ID                string `json:"id"`
	Partitions        int    `json:"partitions"`
	ReplicationFactor int    `json:"replication_factor"`
	Internal          bool   `json:"internal"`
}

// topicID writes an id as Kafka's tools do: 22 characters of base64url.
func topicID(id kadm.TopicID) string { return base64.RawURLEncoding.EncodeToString(id[:]) }

func lineOf(t kadm.TopicDetail) topicLine {
	return topicLine{Name: t.Topic, ID: topicID(t.ID), Partitions: len(t.Partitions), ReplicationFactor: t.Partitions.NumReplicas(), Internal: t.IsInternal}
}

func (a *app) topicList() *cobra.Command {
	var internal bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List topics", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				topics, err := admin.ListTopicsWithInternal(ctx)
				if err != nil {
					return fmt.Errorf("list topics: %w", err)
				}
				lines := []topicLine{}
				g := grid{header: []string{"TOPIC", "PARTITIONS", "REPLICAS"}}
				for _, t := range topics.Sorted() {
					if t.IsInternal && !internal {
						continue
					}
					l := lineOf(t)
					lines = append(lines, l)
					g.add(l.Name, l.Partitions, l.ReplicationFactor)
				}
				return a.print(lines, g.write)
			})
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "list internal topics too")
	return cmd
}

type partitionLine struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"`
	LeaderEpoch int32   `json:"leader_epoch"`
	Replicas    []int32 `json:"replicas"`
	ISR         []int32 `json:"isr"`
	Start       int64   `json:"start_offset"`
	End         int64   `json:"end_offset"`
	Error       string  `json:"error,omitempty"`
}

type configLine struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

type topicDescription struct {
	topicLine
	Tiers         string          `json:"tiers,omitempty"`
	Configs       []configLine    `json:"configs"`
	PartitionList []partitionLine `json:"partition_list"`
}

func (a *app) topicDescribe() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "describe TOPIC...", Short: "Show partitions, offsets and settings of topics", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, names []string) error {
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				described := make([]topicDescription, 0, len(names))
				for _, name := range names {
					d, err := describeTopic(ctx, admin, name, all)
					if err != nil {
						return err
					}
					described = append(described, d)
				}
				return a.print(described, func(w io.Writer) error { return writeTopics(w, described) })
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show all settings, not only those that differ from the default")
	return cmd
}

func describeTopic(ctx context.Context, admin *kadm.Client, name string, all bool) (topicDescription, error) {
	topics, err := admin.ListTopicsWithInternal(ctx, name)
	if err != nil {
		return topicDescription{}, fmt.Errorf("describe %s: %w", name, err)
	}
	t := topics[name]
	if t.Err != nil {
		return topicDescription{}, refused("topic "+name, t.Err, "")
	}
	d := topicDescription{topicLine: lineOf(t), Configs: []configLine{}}
	// A partition without a leader has no offsets to tell; the rest is still worth showing.
	b, boundsErr := readBounds(ctx, admin, name, false)
	for _, p := range t.Partitions.Sorted() {
		l := partitionLine{Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR, Start: -1, End: -1}
		if boundsErr == nil {
			l.Start, l.End = b.start[p.Partition], b.end[p.Partition]
		}
		if p.Err != nil {
			l.Error = p.Err.Error()
		}
		d.PartitionList = append(d.PartitionList, l)
	}
	resources, err := admin.DescribeTopicConfigs(ctx, name)
	if err != nil {
		return d, fmt.Errorf("describe settings of %s: %w", name, err)
	}
	set := map[string]string{}
	for _, r := range resources {
		if r.Err != nil {
			return d, refused("settings of "+name, r.Err, r.ErrMessage)
		}
		for _, c := range r.Configs {
			if _, known := configdef.Topic(c.Key); known && c.Value != nil {
				set[c.Key] = *c.Value
			}
			if all || !isDefault(c) {
				d.Configs = append(d.Configs, configLine{Name: c.Key, Value: c.MaybeValue(), Source: sourceOf(c)})
			}
		}
	}
	slices.SortFunc(d.Configs, func(x, y configLine) int { return strings.Compare(x.Name, y.Name) })
	// Another broker's settings may be such as Firn would not take: then there is no ladder to show.
	if parsed, err := configdef.ParseTopic(set, map[string]string{configdef.TierStores: tierNames(set)}); err == nil && parsed.RemoteStorage {
		d.Tiers = parsed.Ladder().String()
	}
	return d, nil
}

// sourceOf says where a setting's value comes from, in Kafka's words.
func sourceOf(c kadm.Config) string { return strings.ToLower(c.Source.String()) }

// isDefault reports whether nobody set a setting.
func isDefault(c kadm.Config) bool { return sourceOf(c) == "default_config" }

// tierNames lets any ladder of the broker's be read here.
func tierNames(set map[string]string) string {
	ladder, err := configdef.ParseTiers(set[configdef.RetentionTiers])
	if err != nil || len(ladder) == 1 {
		return ""
	}
	names := make([]string, 0, len(ladder)-1)
	for _, r := range ladder[1:] {
		names = append(names, r.Tier)
	}
	return strings.Join(names, ",")
}

func writeTopics(w io.Writer, described []topicDescription) error {
	for i, d := range described {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "Topic %s  id %s  %s  %s\n", d.Name, d.ID, plural(d.Partitions, "partition"), plural(d.ReplicationFactor, "replica"))
		if d.Tiers != "" {
			fmt.Fprintf(w, "Tiers %s\n", d.Tiers)
		}
		for _, c := range d.Configs {
			fmt.Fprintf(w, "  %s=%s\n", c.Name, c.Value)
		}
		g := grid{header: []string{"PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END"}}
		for _, p := range d.PartitionList {
			leader := fmt.Sprint(p.Leader)
			if p.Leader < 0 {
				leader = "none"
			}
			g.add(p.Partition, leader, p.LeaderEpoch, joinIDs(p.Replicas), joinIDs(p.ISR), orDash(p.Start), orDash(p.End))
		}
		if err := g.write(w); err != nil {
			return err
		}
	}
	return nil
}

func joinIDs(ids []int32) string {
	parts := make([]string, len(ids))
	for i, id := range ids {
		parts[i] = fmt.Sprint(id)
	}
	return strings.Join(parts, ",")
}

func orDash(n int64) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// completeConfigs offers topic settings as NAME=.
func completeConfigs() []string {
	words := make([]string, 0, len(configdef.TopicKeys()))
	for _, k := range configdef.TopicKeys() {
		words = append(words, k.Name+"=\t"+k.Doc)
	}
	return words
}

func (a *app) topicCreate() *cobra.Command {
	var partitions int32
	var replicas int16
	var pairs []string
	var ifNotExists, dryRun bool
	cmd := &cobra.Command{
		Use: "create TOPIC...", Short: "Create topics", Args: cobra.MinimumNArgs(1),
		Example: "  firn topic create orders -p 3\n  firn topic create events -c retention.tiers=hot:1d,warm:30d -c compression.type=zstd",
		RunE: func(cmd *cobra.Command, names []string) error {
			configs, err := parseConfigs(pairs)
			if err != nil {
				return err
			}
			values := make(map[string]*string, len(configs))
			for name, value := range configs {
				values[name] = &value
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				create := admin.CreateTopics
				if dryRun {
					create = admin.ValidateCreateTopics
				}
				responses, err := create(ctx, partitions, replicas, values, names...)
				if err != nil {
					return fmt.Errorf("create topics: %w", err)
				}
				return a.reportCreated(names, responses, configs, ifNotExists, dryRun)
			})
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&partitions, "partitions", "p", -1, "partitions; -1 is the broker's num.partitions")
	f.Int16VarP(&replicas, "replication-factor", "r", -1, "replicas; -1 is the broker's default.replication.factor")
	f.StringArrayVarP(&pairs, "config", "c", nil, "a setting, NAME=VALUE; repeatable")
	f.BoolVar(&ifNotExists, "if-not-exists", false, "no error when a topic exists already")
	f.BoolVar(&dryRun, "dry-run", false, "check everything, create nothing")
	a.complete(cmd, "config", completeConfigs)
	return cmd
}

// reportCreated tells of topics in the order in which they were asked for.
func (a *app) reportCreated(names []string, responses kadm.CreateTopicResponses, configs map[string]string, ifNotExists, dryRun bool) error {
	var failures []error
	created := []topicLine{}
	for _, name := range names {
		r, ok := responses[name]
		if !ok {
			continue // told already: the same name twice
		}
		delete(responses, name)
		err := refused("topic "+r.Topic, r.Err, r.ErrMessage)
		switch {
		case err == nil:
			created = append(created, topicLine{Name: r.Topic, ID: topicID(r.ID), Partitions: int(r.NumPartitions), ReplicationFactor: int(r.ReplicationFactor)})
		case ifNotExists && isExisting(r.Err):
			a.note("topic %s exists already", r.Topic)
		default:
			failures = append(failures, hintConfigs(err, slices.Sorted(maps.Keys(configs)), configdef.TopicKeys()))
		}
	}
	verb := "created"
	if dryRun {
		verb = "would create"
	}
	return errors.Join(append(failures, a.print(created, func(w io.Writer) error {
		for _, t := range created {
			if _, err := fmt.Fprintf(w, "%s topic %s with %s, %s\n", verb, t.Name, plural(t.Partitions, "partition"), plural(t.ReplicationFactor, "replica")); err != nil {
				return err
			}
		}
		return nil
	}))...)
}

func (a *app) topicAlter() *cobra.Command {
	var set, remove, add, subtract []string
	var partitions int
	cmd := &cobra.Command{
		Use: "alter TOPIC", Short: "Change a topic's settings or add partitions", Args: cobra.ExactArgs(1),
		Example:           "  firn topic alter orders -c retention.ms=86400000 --unset segment.ms\n  firn topic alter orders --partitions 6\n  firn topic alter orders --append cleanup.policy=compact",
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, names []string) error {
			changes, err := alterations(set, remove, add, subtract)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("partitions") && partitions < 1 {
				return fmt.Errorf("--partitions: got %d, want more than the topic has", partitions)
			}
			if len(changes) == 0 && partitions == 0 {
				return errors.New("nothing to change: give --config, --unset, --append, --subtract or --partitions")
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				return a.alterTopic(ctx, admin, names[0], changes, partitions)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&set, "config", "c", nil, "set a setting, NAME=VALUE; repeatable")
	f.StringArrayVar(&remove, "unset", nil, "remove the topic's own value of a setting, NAME; repeatable")
	f.StringArrayVar(&add, "append", nil, "add to a list, NAME=VALUE; repeatable")
	f.StringArrayVar(&subtract, "subtract", nil, "take from a list, NAME=VALUE; repeatable")
	f.IntVarP(&partitions, "partitions", "p", 0, "the new number of partitions, more than now")
	a.complete(cmd, "config", completeConfigs)
	a.complete(cmd, "unset", completeConfigs)
	return cmd
}

func alterations(set, remove, add, subtract []string) ([]kadm.AlterConfig, error) {
	var changes []kadm.AlterConfig
	for _, group := range []struct {
		op    kadm.IncrementalOp
		pairs []string
	}{{kadm.SetConfig, set}, {kadm.AppendConfig, add}, {kadm.SubtractConfig, subtract}} {
		configs, err := parseConfigs(group.pairs)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(configs)) {
			value := configs[name]
			changes = append(changes, kadm.AlterConfig{Op: group.op, Name: name, Value: &value})
		}
	}
	for _, name := range remove {
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: strings.TrimSuffix(name, "=")})
	}
	return changes, nil
}

// alteredTopic is what changed of a topic.
type alteredTopic struct {
	Topic      string   `json:"topic"`
	Changed    []string `json:"changed"`              // settings
	Partitions int      `json:"partitions,omitempty"` // how many there are now, where that changed
}

func (a *app) alterTopic(ctx context.Context, admin *kadm.Client, name string, changes []kadm.AlterConfig, partitions int) error {
	var done []string
	altered := alteredTopic{Topic: name, Changed: []string{}}
	if err := checkUnset(ctx, admin, name, changes); err != nil {
		return err
	}
	if len(changes) > 0 {
		responses, err := admin.AlterTopicConfigs(ctx, changes, name)
		if err != nil {
			return fmt.Errorf("alter %s: %w", name, err)
		}
		for _, c := range changes {
			altered.Changed = append(altered.Changed, c.Name)
		}
		for _, r := range responses {
			if err := refused("topic "+name, r.Err, r.ErrMessage); err != nil {
				return hintConfigs(err, altered.Changed, configdef.TopicKeys())
			}
		}
		done = append(done, "settings "+strings.Join(altered.Changed, ", "))
	}
	if partitions > 0 {
		responses, err := admin.UpdatePartitions(ctx, partitions, name)
		if err != nil {
			return fmt.Errorf("add partitions to %s: %w", name, err)
		}
		for _, r := range responses {
			if err := refused("topic "+name, r.Err, r.ErrMessage); err != nil {
				return err
			}
		}
		altered.Partitions = partitions
		done = append(done, plural(partitions, "partition"))
	}
	return a.print(altered, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "altered topic %s: %s\n", name, strings.Join(done, "; "))
		return err
	})
}

// checkUnset refuses to unset what no topic has: a broker says nothing of it, and
// the misspelt setting would stay as it is.
func checkUnset(ctx context.Context, admin *kadm.Client, topic string, changes []kadm.AlterConfig) error {
	var names []string
	for _, c := range changes {
		if c.Op == kadm.DeleteConfig {
			names = append(names, c.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	described, err := admin.DescribeTopicConfigs(ctx, topic)
	if err == nil {
		_, err = described.On(topic, func(r *kadm.ResourceConfig) error { return r.Err })
	}
	if err != nil {
		return fmt.Errorf("settings of topic %s: %w", topic, err)
	}
	for _, name := range names {
		if !slices.ContainsFunc(described[0].Configs, func(c kadm.Config) bool { return c.Key == name }) {
			return hintConfigs(refused("topic "+topic, kerr.InvalidConfig, "Unknown topic config name: "+name), []string{name}, configdef.TopicKeys())
		}
	}
	return nil
}

// checkInternal refuses to delete the topics that brokers keep their own state in,
// unless that is asked for: with __consumer_offsets goes every group's position.
func checkInternal(ctx context.Context, admin *kadm.Client, names []string) error {
	topics, err := admin.ListTopicsWithInternal(ctx, names...)
	if err != nil {
		return fmt.Errorf("look topics up: %w", err)
	}
	for _, name := range names {
		if topics[name].IsInternal {
			return fmt.Errorf("%s is internal: the brokers keep their own state there, such as every group's offsets; with --internal it is deleted all the same", name)
		}
	}
	return nil
}

func (a *app) topicDelete() *cobra.Command {
	var yes, internal bool
	cmd := &cobra.Command{
		Use: "delete TOPIC...", Short: "Delete topics and their data in all tiers", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := a.confirm(yes, "delete "+strings.Join(names, ", ")+" with all data, on disk and in the object store?"); err != nil {
				return err
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				if !internal {
					if err := checkInternal(ctx, admin, names); err != nil {
						return err
					}
				}
				responses, err := admin.DeleteTopics(ctx, names...)
				if err != nil {
					return fmt.Errorf("delete topics: %w", err)
				}
				var failures []error
				deleted := []string{}
				for _, r := range responses.Sorted() {
					if err := refused("topic "+r.Topic, r.Err, r.ErrMessage); err != nil {
						failures = append(failures, err)
						continue
					}
					deleted = append(deleted, r.Topic)
				}
				return errors.Join(append(failures, a.printDeleted("topic", deleted))...)
			})
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&internal, "internal", false, "delete internal topics too")
	return cmd
}

func (a *app) printDeleted(kind string, names []string) error {
	return a.print(map[string][]string{"deleted": names}, func(w io.Writer) error {
		for _, name := range names {
			if _, err := fmt.Fprintf(w, "deleted %s %s\n", kind, name); err != nil {
				return err
			}
		}
		return nil
	})
}

// confirm asks a person; scripts, which have no terminal, are taken at their word.
func (a *app) confirm(yes bool, question string) error {
	return a.confirmTo(yes, question, "nothing was deleted")
}

// confirmTo is confirm with what to say after a no.
func (a *app) confirmTo(yes bool, question, declined string) error {
	if yes || !a.inIsTerminal {
		return nil
	}
	fmt.Fprintf(a.errOut, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return errors.New(declined)
}
