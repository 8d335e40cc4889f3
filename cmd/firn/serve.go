package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/firnlog/firn/broker/config"
	"github.com/firnlog/firn/metadata/configdef"
)

// nodeFlags are the settings of a node that have flags of their own; --set
// reaches all others.
type nodeFlags struct {
	set []string
}

// flagKeys gives the setting of each flag.
var flagKeys = map[string]string{
	"data": "data.dir", "listen": "listeners", "advertise": "advertised.listeners",
	"admin": "admin.address", "object-store": "object.store.url", "log-level": "log.level",
}

func (n *nodeFlags) register(a *app, cmd *cobra.Command) {
	f := cmd.Flags()
	f.String("data", "", "directory of the node's data")
	f.String("listen", "", "where clients connect: HOST:PORT, or NAME://HOST:PORT,... for several")
	f.String("advertise", "", "what clients are told to connect to, where it differs from --listen")
	f.String("admin", "", "HOST:PORT of the admin HTTP server")
	f.String("object-store", "", "fs:///DIR (or a path with a slash), mem:, s3://BUCKET?endpoint=... or minio://HOST:PORT/BUCKET?secure=false")
	f.String("log-level", "", "debug, info, warn or error")
	f.StringArrayVar(&n.set, "set", nil, "any other setting, NAME=VALUE; repeatable")
	a.completeWords(cmd, "log-level", "debug", "info", "warn", "error")
	a.complete(cmd, "set", func() []string {
		var names []string
		for _, k := range configdef.BrokerKeys() {
			names = append(names, k.Name+"=\t"+k.Doc)
		}
		return names
	})
}

func (n *nodeFlags) registerFile(a *app, cmd *cobra.Command, file *string) {
	cmd.Flags().StringVarP(file, "config", "c", a.getenv("FIRN_CONFIG", ""), "YAML file with settings ($FIRN_CONFIG)")
}

// settings are the flags that were given, as settings.
func (n *nodeFlags) settings(cmd *cobra.Command) ([]config.Flag, error) {
	var settings []config.Flag
	cmd.Flags().Visit(func(f *pflag.Flag) {
		key, ok := flagKeys[f.Name]
		if !ok {
			return
		}
		value := f.Value.String()
		switch f.Name {
		case "listen", "advertise":
			value = withListenerNames(value)
		case "object-store":
			value = absoluteStore(value)
		}
		settings = append(settings, config.Flag{Flag: "--" + f.Name, Key: key, Value: value})
	})
	for _, pair := range n.set {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--set %s: write NAME=VALUE, such as num.partitions=3", pair)
		}
		settings = append(settings, config.Flag{Flag: "--set", Key: name, Value: value})
	}
	return settings, nil
}

// withListenerNames lets a single address go without a name.
func withListenerNames(value string) string {
	if strings.Contains(value, "://") || strings.Contains(value, ",") {
		return value
	}
	return "PLAINTEXT://" + value
}

// absoluteStore lets a path on the command line stand for fs://. A word without a
// slash is none: who writes mem or s3 means no directory of that name.
func absoluteStore(value string) string {
	if strings.Contains(value, ":") || !strings.Contains(value, "/") && !strings.HasPrefix(value, ".") {
		return value
	}
	path, err := filepath.Abs(value)
	if err != nil {
		return value // and let the settings' own check say what is wrong with it
	}
	return "fs://" + filepath.ToSlash(path)
}

func (a *app) serveCommand() *cobra.Command {
	var n nodeFlags
	var file string
	var check bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a node of a cluster",
		Long: `Run a node. Settings come from the defaults, the file, FIRN_... in the environment
and the flags, each stronger than the one before; docs/configuration.md lists them.`,
		Example: "  firn serve --config /etc/firn.yaml\n  firn serve --data /srv/firn --set node.id=2 --set bootstrap.expect=1\n  firn serve --config firn.yaml --check",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.startNode(cmd, &n, config.ProfileServe, file, check)
		},
	}
	n.register(a, cmd)
	n.registerFile(a, cmd, &file)
	cmd.Flags().BoolVar(&check, "check", false, "check the settings, show them and stop")
	return cmd
}

func (a *app) devCommand() *cobra.Command {
	var n nodeFlags
	var file string
	var check bool
	brokers := 1
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a node, or a small cluster, on this machine, with embedded defaults",
		Long: `Run one node with the dev profile: it listens on 127.0.0.1:9092, keeps its data in
./firn-data, makes topics when they are asked for, and tiers them into a directory
(or the bucket that --object-store names).

With --brokers 3 it runs three broker processes on consecutive ports from --listen
and --admin over one object store, writes their process ids and addresses to
cluster.json in the data directory, and brings a broker that was killed back after
two seconds: pull the plug of one and watch.`,
		Example: "  firn dev\n  firn dev --data /tmp/firn --listen 127.0.0.1:19092 --admin 127.0.0.1:19644\n  MINIO_ACCESS_KEY=... MINIO_SECRET_KEY=... firn dev --object-store 'minio://127.0.0.1:9000/firn?secure=false'\n  firn dev --brokers 3",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if brokers != 1 {
				return a.runDevCluster(cmd, &n, brokers, file, check)
			}
			return a.startNode(cmd, &n, config.ProfileDev, file, check)
		},
	}
	n.register(a, cmd)
	n.registerFile(a, cmd, &file)
	cmd.Flags().BoolVar(&check, "check", false, "check the settings, show them and stop")
	cmd.Flags().IntVar(&brokers, "brokers", 1, "how many broker processes to run")
	return cmd
}

// runDevCluster runs several brokers, each a process of its own.
func (a *app) runDevCluster(cmd *cobra.Command, n *nodeFlags, brokers int, file string, check bool) error {
	f := cmd.Flags()
	switch {
	case brokers < 1:
		return fmt.Errorf("--brokers %d: want 1 to %d", brokers, maxDevBrokers)
	case check || file != "":
		return errors.New("--brokers runs several nodes with settings of their own: it goes with --set, not with --config or --check")
	case f.Changed("advertise"):
		return errors.New("--brokers: each broker advertises what it listens on; --advertise is for one")
	}
	o := devClusterOptions{brokers: brokers, data: "firn-data", listen: defaultBootstrap, admin: defaultAdmin, set: n.set}
	for name, to := range map[string]*string{"data": &o.data, "listen": &o.listen, "admin": &o.admin, "object-store": &o.objectStore, "log-level": &o.logLevel} {
		if f.Changed(name) {
			*to = f.Lookup(name).Value.String()
		}
	}
	if o.objectStore != "" {
		o.objectStore = absoluteStore(o.objectStore)
	}
	c, err := newDevCluster(o, a.errOut)
	if err != nil {
		return err
	}
	return c.run(cmd.Context())
}

// shownSetting is one line of --check.
type shownSetting struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

func (a *app) startNode(cmd *cobra.Command, n *nodeFlags, profile, file string, check bool) error {
	settings, err := n.settings(cmd)
	if err != nil {
		return err
	}
	cfg, err := config.Load(config.Source{Profile: profile, File: file, Env: a.env, Flags: settings})
	if err != nil {
		return err
	}
	if check {
		if err := checkBroker(cfg); err != nil {
			return err
		}
		return a.showSettings(cfg)
	}
	log, err := newLogger(a.errOut, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return err
	}
	if a.runBroker == nil {
		return errors.New("this program was built without the broker")
	}
	return a.runBroker(cmd.Context(), cfg, log)
}

// byCluster are defaults that no single node knows, in words.
var byCluster = map[string]string{
	configdef.MinInsyncReplicas:  "2 of three replicas or more, else 1",
	"default.replication.factor": "3, or as many as there are brokers",
}

func (a *app) showSettings(cfg config.Config) error {
	var shown []shownSetting
	g := grid{header: []string{"SETTING", "VALUE", "FROM"}}
	for _, e := range configdef.DescribeBroker(configdef.Layers{Static: cfg.Static, Defaults: byCluster}) {
		s := shownSetting{Name: e.Key.Name, Source: "default"}
		if e.Text != nil {
			s.Value = *e.Text
		}
		if e.Source == configdef.SourceStatic {
			s.Source = "set"
		}
		shown = append(shown, s)
		g.add(s.Name, s.Value, s.Source)
	}
	return a.print(shown, g.write)
}

func newLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log.level: %w", err)
	}
	options := &slog.HandlerOptions{Level: l}
	if format == "json" {
		// A duration is text there too: a bare number does not say its unit.
		options.ReplaceAttr = func(_ []string, attr slog.Attr) slog.Attr {
			if attr.Value.Kind() == slog.KindDuration {
				attr.Value = slog.StringValue(attr.Value.Duration().String())
			}
			return attr
		}
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}
