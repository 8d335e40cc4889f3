package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8/cwriter"

	"github.com/firnlog/firn/broker/config"
)

// app is what all commands share: the streams, the environment and the global
// flags. Tests put their own in.
type app struct {
	in          io.Reader
	out, errOut io.Writer
	// outIsTerminal decides between progress bars and plain lines, errIsTerminal
	// says whether bars can be drawn at all: results go to out, bars to errOut.
	outIsTerminal, errIsTerminal, inIsTerminal bool
	env                                        []string
	now                                        func() time.Time
	// runBroker starts a node and returns when it has stopped.
	runBroker func(ctx context.Context, cfg config.Config, log *slog.Logger) error

	bootstrap []string
	admin     string
	format    string
	timeout   time.Duration
}

const (
	defaultBootstrap = "127.0.0.1:9092"
	defaultAdmin     = "127.0.0.1:9644"
)

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "firn",
		Short: "A Kafka-compatible broker whose log settles into object storage",
		Long: `firn is a Kafka-compatible broker whose log settles into object storage, and the
command line to work with it. To begin:

  firn dev                                  run one node on this machine
  firn topic create orders -p 3             make a topic
  echo hello | firn produce orders          write a record
  firn consume orders --from earliest -e    read it back

Commands that talk to a broker work with any Kafka-compatible one.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       softwareVersion(),
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return a.checkCommonFlags()
		},
	}
	root.SetVersionTemplate("firn {{.Version}}\n")
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.errOut)
	flags := root.PersistentFlags()
	flags.StringSliceVarP(&a.bootstrap, "bootstrap-server", "b", strings.Split(a.getenv("FIRN_BOOTSTRAP_SERVER", defaultBootstrap), ","), "brokers to ask first, HOST:PORT ($FIRN_BOOTSTRAP_SERVER)")
	flags.StringVar(&a.admin, "admin", a.getenv("FIRN_ADMIN", defaultAdmin), "the node's admin address, HOST:PORT ($FIRN_ADMIN)")
	flags.StringVarP(&a.format, "output", "o", a.getenv("FIRN_OUTPUT", formatTable), "form of the output: table, json or yaml ($FIRN_OUTPUT)")
	flags.DurationVar(&a.timeout, "timeout", 15*time.Second, "how long one request may take")
	a.completeWords(root, "output", formatTable, formatJSON, formatYAML)
	root.AddCommand(a.serveCommand(), a.devCommand(), a.topicCommand(), a.produceCommand(), a.consumeCommand(),
		a.groupCommand(), a.tierCommand(), a.clusterCommand(), a.benchCommand(), a.versionCommand())
	root.InitDefaultCompletionCmd()
	explainMistakes(root)
	return root
}

// checkCommonFlags checks what all commands have.
func (a *app) checkCommonFlags() error {
	if err := checkFormat(a.format); err != nil {
		return err
	}
	if a.timeout <= 0 {
		return fmt.Errorf("--timeout: got %s, want a duration above 0, such as 30s", a.timeout)
	}
	for _, address := range a.bootstrap {
		if strings.TrimSpace(address) == "" {
			return fmt.Errorf("--bootstrap-server: an address is empty; write HOST:PORT, such as %s", defaultBootstrap)
		}
	}
	if len(a.bootstrap) == 0 {
		return fmt.Errorf("--bootstrap-server is empty; write HOST:PORT, such as %s", defaultBootstrap)
	}
	return nil
}

// completeWords offers fixed words for a flag.
func (a *app) completeWords(cmd *cobra.Command, flag string, words ...string) {
	a.complete(cmd, flag, func() []string { return words })
}

func (a *app) complete(cmd *cobra.Command, flag string, words func() []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words(), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic("completion of a flag that does not exist: " + err.Error())
	}
}

func (a *app) getenv(name, otherwise string) string {
	for i := len(a.env) - 1; i >= 0; i-- {
		if value, ok := strings.CutPrefix(a.env[i], name+"="); ok && value != "" {
			return value
		}
	}
	return otherwise
}

// run executes a command line and returns the process's exit code.
func run(ctx context.Context, a *app, args []string) int {
	root := newRoot(a)
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(a.errOut, "firn: "+explain(err, a).Error())
		return 1
	}
	return 0
}

// note writes a line for the person at the terminal, apart from the results.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.errOut, format+"\n", args...)
}

// isTerminal says whether a person may be at the other end. /dev/null, a character
// device too, is none.
func isTerminal(f *os.File) bool { return cwriter.IsTerminal(int(f.Fd())) }
