package config

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/providers/env/v2"
	"github.com/knadh/koanf/v2"

	"github.com/firnlog/firn/metadata/configdef"
	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/location"
)

// Flag is a setting given on the command line.
type Flag struct {
	Flag  string // as the user wrote it, such as --listen
	Key   string // the setting
	Value string
}

// Source says where settings come from, the weakest first.
type Source struct {
	// Profile chooses the embedded defaults; empty is serve. A profile setting
	// in file, environment or flags is stronger.
	Profile string
	// File is a YAML file; empty for none.
	File string
	// Env is the environment as os.Environ gives it; nil for none.
	Env   []string
	Flags []Flag
}

// envPrefix begins every variable that Load reads.
const envPrefix = "FIRN_"

// notSettings are variables with the prefix that belong to the command line or
// to tests.
var notSettings = []string{"FIRN_CONFIG", "FIRN_BOOTSTRAP_SERVER", "FIRN_ADMIN", "FIRN_OUTPUT"}

const testPrefix = "FIRN_TEST_"

// keyDelimiter keeps koanf from splitting Kafka's dotted names, some of which
// are the beginning of others (max.connections, max.connections.per.ip).
const keyDelimiter = "/"

// loader gathers settings layer by layer, with where each was written.
type loader struct {
	k        *koanf.Koanf
	where    map[string]string // of the strongest value of each key
	static   map[string]string
	problems []Problem
	path     string // of the file, "" without one
}

// Load reads, combines and checks a node's settings. On a mistake the error is
// an *[Error] with all mistakes, and the Config is not to be used.
func Load(src Source) (Config, error) {
	l := &loader{k: koanf.New(keyDelimiter), where: map[string]string{}, static: map[string]string{}}
	layers := []map[string]string{l.file(src.File), l.env(src.Env), l.flags(src.Flags)}
	profile := src.Profile
	for _, layer := range layers {
		if p, ok := layer["profile"]; ok {
			profile = p
		}
	}
	l.defaults(profile)
	for _, layer := range layers {
		l.merge(layer)
	}
	return l.config()
}

func (l *loader) wrong(p Problem) { l.problems = append(l.problems, p) }

// accept checks one setting of a layer and keeps it in normal form.
func (l *loader) accept(layer map[string]string, where, key, value string) {
	k, ok := configdef.Broker(key)
	if !ok {
		l.wrong(Problem{Where: where, Key: key, Want: unknown(key)})
		return
	}
	normal, err := k.Normalize(value)
	if err != nil {
		switch {
		case value == "":
			value = "nothing"
		case k.Sensitive():
			value = fmt.Sprintf("%d characters", len(value))
		}
		l.wrong(Problem{Where: where, Key: key, Got: value, Want: wanted(k, err)})
		return
	}
	layer[key], l.where[key] = normal, where
}

// wanted is the range in words, or the reason where that says more.
func wanted(k *configdef.Key, err error) string {
	var bad *configdef.Error
	if k.Want() == "text" || k.Want() == "a list" {
		if errors.As(err, &bad) && bad.Reason != "" {
			return strings.TrimPrefix(bad.Reason, "expected ")
		}
	}
	return k.Want()
}

func unknown(key string) string {
	if k, ok := configdef.Topic(key); ok {
		if len(k.Synonyms) > 0 {
			return "a topic's setting; its default for all topics is " + k.Synonyms[0].Name
		}
		return "a topic's setting: give it to a topic, with `firn topic create` or `firn topic alter`"
	}
	if text := kafkaOnly(key); text != "" {
		return text
	}
	names := make([]string, 0, len(configdef.BrokerKeys()))
	for _, k := range configdef.BrokerKeys() {
		names = append(names, k.Name)
	}
	if near := configdef.Nearest(strings.ToLower(key), names); near != "" {
		return "not a setting; did you mean " + near + "?"
	}
	return "not a setting"
}

// kafkaOnly explains settings that a configuration of Apache Kafka often has and
// that Firn cannot honour; "" for others.
func kafkaOnly(key string) string {
	for _, prefix := range []string{"ssl.", "sasl.", "listener.name.", "authorizer.", "super.users", "principal.builder.", "security.", "delegation.token."} {
		if strings.HasPrefix(key, prefix) {
			return "a setting of Kafka's security, which Firn does not serve yet: remove it"
		}
	}
	for _, prefix := range []string{"zookeeper.", "controller.", "metadata.log.", "num.io.threads", "num.network.threads", "num.replica.fetchers",
		"num.replica.alter.log.dirs.threads", "background.threads", "metric.reporters", "metrics.", "kafka.metrics.", "log.cleaner.io.",
		"log.cleaner.dedupe.", "log.flush.offset.", "log.flush.start.", "socket.listen.backlog.size", "inter.broker.protocol.version",
		"log.message.format.version", "remote.log.storage.manager.", "remote.log.metadata.manager.", "rlmm.", "rsm.",
		"remote.log.index.file.cache.", "initial.broker.registration."} {
		if strings.HasPrefix(key, prefix) {
			return "a setting of Kafka that Firn has no use for: remove it"
		}
	}
	return ""
}

func (l *loader) file(path string) map[string]string {
	layer := map[string]string{}
	if path == "" {
		return layer
	}
	l.path = path
	text, err := os.ReadFile(path)
	if err != nil {
		l.wrong(Problem{Where: path, Key: "cannot be read", Want: unwrapPath(err).Error()})
		return layer
	}
	settings, problems := readYAML(path, text)
	for _, s := range settings {
		l.accept(layer, fmt.Sprintf("%s:%d", path, s.line), s.key, s.value)
	}
	l.problems = append(l.problems, problems...)
	l.checkAliases(layer)
	return layer
}

// unwrapPath drops the operation and path that the problem names already.
func unwrapPath(err error) error {
	var pathErr *os.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// sortProblems puts those of the file first, in the order of its lines.
func (l *loader) sortProblems() {
	line := func(p Problem) int {
		if text, ok := strings.CutPrefix(p.Where, l.path+":"); ok && l.path != "" {
			if n, err := strconv.Atoi(text); err == nil {
				return n
			}
		}
		return math.MaxInt
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int { return cmp.Compare(line(a), line(b)) })
}

// env reads variables by koanf's provider: FIRN_NUM_PARTITIONS is num.partitions.
func (l *loader) env(environ []string) map[string]string {
	layer := map[string]string{}
	slices.Sort(environ)
	provider := env.Provider(keyDelimiter, env.Opt{
		Prefix:      envPrefix,
		EnvironFunc: func() []string { return environ },
		TransformFunc: func(name, value string) (string, any) {
			if slices.Contains(notSettings, name) || strings.HasPrefix(name, testPrefix) {
				return "", nil
			}
			key, ok := envKeys[name]
			if !ok {
				want := "not a setting"
				if near := configdef.Nearest(name, slices.Sorted(maps.Keys(envKeys))); near != "" {
					want += "; did you mean " + near + "?"
				}
				l.wrong(Problem{Where: "environment", Key: name, Want: want})
				return "", nil
			}
			l.accept(layer, "environment "+name, key, value)
			return key, value
		},
	})
	if _, err := provider.Read(); err != nil {
		l.wrong(Problem{Where: "environment", Key: "cannot be read", Want: err.Error()})
	}
	l.checkAliases(layer)
	return layer
}

// envKeys gives the setting of each variable.
var envKeys = func() map[string]string {
	byName := make(map[string]string, len(configdef.BrokerKeys()))
	for _, k := range configdef.BrokerKeys() {
		byName[EnvName(k.Name)] = k.Name
	}
	return byName
}()

// EnvName is the environment variable of a setting.
func EnvName(key string) string {
	return envPrefix + strings.NewReplacer(".", "_", "-", "_").Replace(strings.ToUpper(key))
}

func (l *loader) flags(flags []Flag) map[string]string {
	layer := map[string]string{}
	for _, f := range flags {
		l.accept(layer, "flag "+f.Flag, f.Key, f.Value)
	}
	l.checkAliases(layer)
	return layer
}

// canonical names stand for their aliases once layers are combined.
var canonical = map[string]string{"broker.id": "node.id", "log.dirs": "data.dir", "log.dir": "data.dir"}

// checkAliases reports two names of one thing that disagree in one layer.
func (l *loader) checkAliases(layer map[string]string) {
	for _, alias := range slices.Sorted(maps.Keys(canonical)) {
		name := canonical[alias]
		value, ok := layer[alias]
		if !ok {
			continue
		}
		if other, both := layer[name]; both && other != value {
			l.wrong(Problem{Where: l.where[alias], Key: alias, Got: value, Want: fmt.Sprintf("the same as %s, which is %q, or only one of the two", name, other)})
		}
	}
}

func (l *loader) defaults(profile string) {
	all := make(map[string]any, len(configdef.BrokerKeys()))
	for _, k := range configdef.BrokerKeys() {
		if _, alias := canonical[k.Name]; k.HasDefault && !alias {
			all[k.Name] = k.Default
		}
	}
	l.load(all)
	if profile == ProfileDev {
		l.merge(devDefaults)
	}
}

// merge puts a layer over those before it. A thing of several names ends up
// under its canonical one, and whoever sets it hides all its names below.
func (l *loader) merge(layer map[string]string) {
	values := make(map[string]any, len(layer))
	for key := range layer {
		name := canonicalName(key)
		for other := range canonical {
			if canonical[other] == name {
				delete(l.static, other)
			}
		}
		delete(l.static, name)
	}
	for key, value := range layer {
		l.static[key] = value
		name := canonicalName(key)
		if name != key {
			l.where[name] = l.where[key]
		}
		values[name] = value
	}
	l.load(values)
}

func canonicalName(key string) string {
	if name, alias := canonical[key]; alias {
		return name
	}
	return key
}

func (l *loader) load(values map[string]any) {
	if err := l.k.Load(confmap.Provider(values, ""), nil); err != nil {
		l.wrong(Problem{Key: "settings cannot be combined", Want: err.Error()})
	}
}

func (l *loader) config() (Config, error) {
	var c Config
	err := l.k.UnmarshalWithConf("", &c, koanf.UnmarshalConf{FlatPaths: true, DecoderConfig: &mapstructure.DecoderConfig{
		Result: &c, TagName: "koanf", WeaklyTypedInput: true, Squash: true, DecodeHook: decodeText,
	}})
	if err != nil {
		l.wrong(Problem{Key: "settings cannot be read", Want: err.Error()})
	}
	listeners, problems := listenerSettings{
		listeners: l.k.String("listeners"), advertised: l.k.String("advertised.listeners"),
		security: l.k.String("listener.security.protocol.map"),
	}.parse()
	for _, p := range problems {
		p.Where = l.where[p.Key]
		l.wrong(p)
	}
	c.Listeners, c.Static = listeners, l.static
	l.check(&c)
	if len(l.problems) > 0 {
		l.sortProblems()
		return Config{}, &Error{Problems: l.problems}
	}
	c.derive()
	return c, nil
}

// decodeText turns a setting's text into durations (of ms) and lists.
func decodeText(from, to reflect.Type, data any) (any, error) {
	text, ok := data.(string)
	if !ok {
		return data, nil
	}
	switch to {
	case reflect.TypeFor[time.Duration]():
		ms, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%q is not a number of milliseconds", text)
		}
		return configdef.Duration(ms), nil
	case reflect.TypeFor[[]string]():
		return configdef.SplitList(text), nil
	}
	return data, nil
}

// check holds the rules between settings.
func (l *loader) check(c *Config) {
	if c.DataDir == "" {
		l.wrong(Problem{Where: l.where["data.dir"], Key: "data.dir", Got: "nothing", Want: "a directory"})
	} else if strings.HasPrefix(c.DataDir, "~") {
		l.wrong(Problem{Where: l.where["data.dir"], Key: "data.dir", Got: c.DataDir, Want: "the path written out: ~ is the shell's, and would be a directory of that name (./" + c.DataDir + " if it is meant)"})
	} else if strings.Contains(c.DataDir, ",") {
		l.wrong(Problem{Where: l.where["data.dir"], Key: "data.dir", Got: c.DataDir, Want: "one directory"})
	} else if abs, err := filepath.Abs(c.DataDir); err != nil {
		l.wrong(Problem{Where: l.where["data.dir"], Key: "data.dir", Got: c.DataDir, Want: "a path that can be made absolute: " + err.Error()})
	} else {
		c.DataDir = abs
	}
	if c.ClusterID != "" {
		if id, err := base64.RawURLEncoding.DecodeString(c.ClusterID); err != nil || len(id) != 16 {
			l.wrong(Problem{Where: l.where["cluster.id"], Key: "cluster.id", Got: c.ClusterID, Want: "22 characters of base64url"})
		}
	}
	l.atLeast("queued.max.request.bytes", c.MemoryBudgetBytes, "socket.request.max.bytes", c.RequestMaxBytes)
	l.atLeast("group.max.session.timeout.ms", c.MaxSessionTimeout.Milliseconds(), "group.min.session.timeout.ms", c.MinSessionTimeout.Milliseconds())
	l.atLeast("broker.session.timeout.ms", c.BrokerLease.Milliseconds(), "broker.heartbeat.interval.ms", c.BrokerHeartbeat.Milliseconds()+1)
	if name := c.InterBrokerListener; name != "" && !slices.ContainsFunc(c.Listeners, func(l Listener) bool { return l.Name == strings.ToUpper(name) }) {
		l.wrong(Problem{Where: l.where["inter.broker.listener.name"], Key: "inter.broker.listener.name", Got: name, Want: "the name of one of the listeners"})
	}
	c.InterBrokerListener = strings.ToUpper(c.InterBrokerListener)
	for _, listener := range c.Listeners {
		if c.AdminAddress != "" && listener.Address == c.AdminAddress && !strings.HasSuffix(c.AdminAddress, ":0") {
			l.wrong(Problem{Where: l.where["admin.address"], Key: "admin.address", Got: c.AdminAddress, Want: "an address that no listener has"})
		}
	}
	if c.StoreURL != "" {
		// Its errors show the URL themselves, without what may be secret in it.
		if _, err := location.Parse(c.StoreURL); err != nil {
			l.wrong(Problem{Where: l.where["object.store.url"], Key: "object.store.url", Want: strings.TrimPrefix(err.Error(), objstore.ErrInvalid.Error()+": ")})
		}
	}
	l.checkCluster(c)
	l.checkTopicDefaults()
}

func (l *loader) atLeast(key string, value int64, lowKey string, low int64) {
	if value < low {
		where := l.where[key]
		if where == "" {
			where = l.where[lowKey]
		}
		l.wrong(Problem{Where: where, Key: key, Got: strconv.FormatInt(value, 10), Want: fmt.Sprintf("at least %d because of %s", low, lowKey)})
	}
}

// checkTopicDefaults sees that a topic without overrides would be valid.
func (l *loader) checkTopicDefaults() {
	var mistakes configdef.Errors
	if _, err := configdef.ParseTopic(nil, l.static); errors.As(err, &mistakes) {
		for _, m := range mistakes {
			l.wrong(Problem{Key: "topics' defaults", Want: m.Message})
		}
	}
}
