package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/firnlog/firn/metadata/configdef"
)

func (a *app) clusterConfig() *cobra.Command {
	var set, remove []string
	var broker int32
	cmd := &cobra.Command{
		Use: "config", Short: "Show or change the settings of all brokers, or of one, while they run", Args: cobra.NoArgs,
		Long: `Without --config and --unset: show the settings that were changed while the brokers ran,
and object.store, which the first broker that has a store sets; with --broker, all
settings of that broker that are not defaults, and where they come from. What is changed
for all brokers a broker's own file does not override.`,
		Example: "  firn cluster config\n  firn cluster config -c log.retention.ms=86400000\n  firn cluster config --broker 2 -c follower.replication.throttled.rate=50000000\n  firn cluster config --unset log.retention.ms",
		RunE: func(cmd *cobra.Command, _ []string) error {
			changes, err := alterations(set, remove, nil, nil)
			if err != nil {
				return err
			}
			who := ""
			if cmd.Flags().Changed("broker") {
				if broker < 0 {
					return fmt.Errorf("--broker %d: write a broker's id; `firn cluster brokers` lists them", broker)
				}
				who = strconv.Itoa(int(broker))
			}
			return a.withAdmin(cmd, func(ctx context.Context, admin *kadm.Client) error {
				if len(changes) == 0 {
					return a.showBrokerConfigs(ctx, admin, who)
				}
				return a.alterBrokerConfigs(ctx, admin, who, changes)
			})
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&set, "config", "c", nil, "set a setting, NAME=VALUE; repeatable")
	f.StringArrayVar(&remove, "unset", nil, "take a setting back, NAME; repeatable")
	f.Int32Var(&broker, "broker", 0, "of this broker alone; by default of all")
	complete := func() []string {
		var names []string
		for _, k := range configdef.BrokerKeys() {
			if k.Mode != configdef.ReadOnly {
				names = append(names, k.Name+"=\t"+k.Doc)
			}
		}
		return names
	}
	a.complete(cmd, "config", complete)
	a.complete(cmd, "unset", complete)
	return cmd
}

// brokersOf are broker ids as kadm takes them; none stands for all brokers.
func brokersOf(who string) []int32 {
	if who == "" {
		return nil
	}
	id, err := strconv.ParseInt(who, 10, 32)
	if err != nil {
		return nil // who was made of a number
	}
	return []int32{int32(id)}
}

func ofWhom(who string) string {
	if who == "" {
		return "all brokers"
	}
	return "broker " + who
}

// isUp says so where one broker is asked for that cannot be: its settings are told
// and changed by itself.
func isUp(ctx context.Context, admin *kadm.Client, who string) error {
	brokers, err := admin.ListBrokers(ctx)
	if err != nil {
		return fmt.Errorf("list brokers: %w", err)
	}
	for _, id := range brokersOf(who) {
		if !slices.Contains(brokers.NodeIDs(), id) {
			return fmt.Errorf("broker %d is down or not known; `firn cluster brokers` lists them", id)
		}
	}
	return nil
}

func (a *app) showBrokerConfigs(ctx context.Context, admin *kadm.Client, who string) error {
	if err := isUp(ctx, admin, who); err != nil {
		return err
	}
	described, err := admin.DescribeBrokerConfigs(ctx, brokersOf(who)...)
	if err != nil {
		return fmt.Errorf("settings of %s: %w", ofWhom(who), err)
	}
	lines := []configLine{}
	g := grid{header: []string{"SETTING", "VALUE", "FROM"}}
	for _, r := range described {
		if r.Err != nil {
			return refused("settings of "+ofWhom(who), r.Err, r.ErrMessage)
		}
		for _, c := range r.Configs {
			if isDefault(c) {
				continue
			}
			l := configLine{Name: c.Key, Value: c.MaybeValue(), Source: sourceOf(c)}
			lines = append(lines, l)
			g.add(l.Name, l.Value, strings.ReplaceAll(l.Source, "_", " "))
		}
	}
	return a.print(lines, func(w io.Writer) error {
		if len(lines) == 0 {
			_, err := fmt.Fprintf(w, "nothing was changed for %s\n", ofWhom(who))
			return err
		}
		return g.write(w)
	})
}

func (a *app) alterBrokerConfigs(ctx context.Context, admin *kadm.Client, who string, changes []kadm.AlterConfig) error {
	names := make([]string, len(changes))
	for i, c := range changes {
		names[i] = c.Name
		if c.Op == kadm.DeleteConfig {
			if _, known := configdef.Broker(c.Name); !known {
				return hintConfigs(refused("settings of "+ofWhom(who), kerr.InvalidConfig, "Unknown broker config name: "+c.Name), names, configdef.BrokerKeys())
			}
		}
	}
	if err := isUp(ctx, admin, who); err != nil {
		return err
	}
	responses, err := admin.AlterBrokerConfigs(ctx, changes, brokersOf(who)...)
	if err != nil {
		return fmt.Errorf("alter %s: %w", ofWhom(who), err)
	}
	var failures []error
	for _, r := range responses {
		failures = append(failures, hintConfigs(refused("settings of "+ofWhom(who), r.Err, r.ErrMessage), names, configdef.BrokerKeys()))
	}
	if err := errors.Join(failures...); err != nil {
		return err
	}
	return a.print(map[string]any{"of": ofWhom(who), "changed": names}, func(w io.Writer) error {
		_, err := fmt.Fprintf(w, "changed for %s: %s\n", ofWhom(who), strings.Join(names, ", "))
		return err
	})
}
