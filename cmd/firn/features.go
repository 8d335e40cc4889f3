package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/metadata/command"
)

// featureLine is one feature of the cluster (KIP-584).
type featureLine struct {
	Feature string `json:"feature"`
	Level   int16  `json:"level"` // in force; 0 is none yet
	// What every broker that is up knows.
	Min int16 `json:"min"`
	Max int16 `json:"max"`
}

func (a *app) clusterFeatures() *cobra.Command {
	var raise []string
	var yes bool
	cmd := &cobra.Command{
		Use: "features", Short: "Show or raise the cluster's feature levels", Args: cobra.NoArgs,
		Long: `Show at which levels the cluster's features are, and which levels all brokers that are
up know. New programs run at the old levels until --upgrade raises them; from then on
programs that do not know the new level are refused.`,
		Example: "  firn cluster features\n  firn cluster features --upgrade firn.version=2",
		RunE: func(cmd *cobra.Command, _ []string) error {
			updates, err := featureUpdates(raise)
			if err != nil {
				return err
			}
			if len(updates) > 0 {
				question := fmt.Sprintf("raise %s? Programs that do not know it are refused from then on.", strings.Join(raise, ", "))
				if err := a.confirmTo(yes, question, "nothing was changed"); err != nil {
					return err
				}
			}
			client, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
			defer cancel()
			if len(updates) > 0 {
				return a.raiseFeatures(ctx, client, updates)
			}
			lines, err := listFeatures(ctx, client)
			if err != nil {
				return err
			}
			g := grid{header: []string{"FEATURE", "LEVEL", "ALL BROKERS KNOW"}}
			for _, l := range lines {
				g.add(l.Feature, l.Level, fmt.Sprintf("%d..%d", l.Min, l.Max))
			}
			return a.print(lines, g.write)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&raise, "upgrade", nil, "raise a feature, NAME=LEVEL; repeatable")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	a.completeWords(cmd, "upgrade", command.Feature+"=")
	return cmd
}

// featureUpdates reads NAME=LEVEL pairs.
func featureUpdates(pairs []string) ([]kadm.FeatureUpdate, error) {
	var updates []kadm.FeatureUpdate
	for _, pair := range pairs {
		name, text, _ := strings.Cut(pair, "=")
		level, err := strconv.ParseInt(text, 10, 16)
		if err != nil || name == "" || level < 1 {
			return nil, fmt.Errorf("--upgrade %s: write NAME=LEVEL, such as firn.version=2; `firn cluster features` lists them", pair)
		}
		updates = append(updates, kadm.FeatureUpdate{Feature: name, MaxVersionLevel: int16(level), UpgradeType: upgradeOnly})
	}
	return updates, nil
}

// listFeatures asks every broker that is up, since the cluster can go no further
// than the one that knows least.
func listFeatures(ctx context.Context, client *kgo.Client) ([]featureLine, error) {
	brokers, err := kadm.NewClient(client).ApiVersions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list brokers: %w", err)
	}
	lines := []featureLine{}
	known := map[string]int{} // how many brokers know a feature
	for _, broker := range brokers.Sorted() {
		if broker.Err != nil {
			return nil, refused(fmt.Sprintf("features of broker %d", broker.NodeID), broker.Err, "")
		}
		resp := broker.Raw()
		level := map[string]int16{}
		for _, f := range resp.FinalizedFeatures {
			level[f.Name] = f.MaxVersionLevel
		}
		for _, f := range resp.SupportedFeatures {
			i := slices.IndexFunc(lines, func(l featureLine) bool { return l.Feature == f.Name })
			if i < 0 {
				lines, i = append(lines, featureLine{Feature: f.Name, Min: f.MinVersion, Max: f.MaxVersion}), len(lines)
			}
			l := &lines[i]
			l.Level, l.Min, l.Max = max(l.Level, level[f.Name]), max(l.Min, f.MinVersion), min(l.Max, f.MaxVersion)
			known[f.Name]++
		}
	}
	// A broker that knows nothing of a feature knows its level 0 alone.
	for i := range lines {
		if l := &lines[i]; known[l.Feature] < len(brokers) {
			l.Min, l.Max = 0, 0
		}
	}
	slices.SortFunc(lines, func(x, y featureLine) int { return cmp.Compare(x.Feature, y.Feature) })
	return lines, nil
}

func (a *app) raiseFeatures(ctx context.Context, client *kgo.Client, updates []kadm.FeatureUpdate) error {
	if err := updateFeatures(ctx, client, a.timeout, updates); err != nil {
		return err
	}
	raised := make(map[string]int16, len(updates))
	for _, u := range updates {
		raised[u.Feature] = u.MaxVersionLevel
	}
	return a.print(map[string]any{"raised": raised}, func(w io.Writer) error {
		for _, u := range updates {
			if _, err := fmt.Fprintf(w, "%s is at level %d\n", u.Feature, u.MaxVersionLevel); err != nil {
				return err
			}
		}
		return nil
	})
}
