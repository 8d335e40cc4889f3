package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/broker/adminapi"
)

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "See how the cluster is, and change who is in it"}
	cmd.AddCommand(a.clusterHealth(), a.clusterBrokers(), a.clusterRebalance(), a.clusterDrain(), a.clusterDecommission(), a.clusterConfig(), a.clusterFeatures())
	return cmd
}

func (a *app) clusterHealth() *cobra.Command {
	return &cobra.Command{
		Use: "health", Short: "Say how the cluster is, and why", Args: cobra.NoArgs,
		Long: `Say how the cluster is, as the node at --admin sees it: ok, degraded (all is served,
but one more loss may not be) or critical (something is not served or cannot be
changed), with the reasons. The exit code is 0 for ok and degraded, 1 for critical.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var h adminapi.ClusterHealth
			if err := a.adminJSON(cmd.Context(), adminapi.PathClusterHealth, nil, &h); err != nil {
				return err
			}
			if err := a.print(h, func(w io.Writer) error { return writeHealth(w, h) }); err != nil {
				return err
			}
			if h.State == adminapi.HealthCritical {
				return errors.New("the cluster is in a critical state")
			}
			return nil
		},
	}
}

func writeHealth(w io.Writer, h adminapi.ClusterHealth) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Cluster %s is %s\n", h.ClusterID, h.State)
	for _, r := range h.Reasons {
		fmt.Fprintf(&b, "  %s: %s\n", r.State, r.What)
		if len(r.Partitions) > 0 {
			fmt.Fprintf(&b, "    %s%s\n", strings.Join(r.Partitions, ", "), unnamed(r))
		}
	}
	// Without a controller nobody notices who comes and goes.
	up, controller := "up when there was a controller", "none"
	if h.Controller >= 0 {
		up, controller = "up", fmt.Sprintf("broker %d", h.Controller)
	}
	fmt.Fprintf(&b, "Brokers: %d of %d %s; controller: %s\n", h.BrokersUp, h.Brokers, up, controller)
	fmt.Fprintf(&b, "Partitions: %d in %s; %d without leader, %d under min ISR, %d under-replicated, %d not at the preferred leader, %d being reassigned\n",
		h.Partitions, plural(h.Topics, "topic"), h.Leaderless, h.UnderMinISR, h.UnderReplicated, h.NotPreferred, h.Reassigning)
	_, err := io.WriteString(w, b.String())
	return err
}

// unnamed says how many more partitions a reason is about than it names: what it
// says begins with their number.
func unnamed(r adminapi.HealthReason) string {
	var n int
	if _, err := fmt.Sscanf(r.What, "%d", &n); err != nil || n <= len(r.Partitions) {
		return ""
	}
	return fmt.Sprintf(" and %d more", n-len(r.Partitions))
}

func (a *app) clusterBrokers() *cobra.Command {
	return &cobra.Command{
		Use: "brokers", Short: "List the brokers, what they lead and what they lack", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var list adminapi.ClusterBrokers
			if err := a.adminJSON(cmd.Context(), adminapi.PathClusterBrokers, nil, &list); err != nil {
				return err
			}
			g := grid{header: []string{"ID", "STATE", "RACK", "LEADERS", "REPLICAS", "OUT OF SYNC", "METADATA", "ENDPOINTS", "VERSION"}}
			for _, b := range list.Brokers {
				role := "follows"
				switch {
				case b.ID == list.Controller:
					role = "leads"
				case b.Voter:
					role = "votes"
				}
				rack := b.Rack
				if rack == "" {
					rack = "-"
				}
				g.add(b.ID, b.State, rack, b.Leaders, b.Replicas, b.OutOfSync, role, strings.Join(b.Endpoints, ","), b.Version)
			}
			if list.Controller < 0 {
				a.note("no broker leads the metadata: this is what was known when one did")
			}
			return a.print(list, g.write)
		},
	}
}
