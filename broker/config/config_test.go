package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/metadata/configdef"
)

// write makes a file in a directory of its own and goes there, so that paths in
// messages are short and the same everywhere.
func write(t *testing.T, text string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("firn.yaml", []byte(text), 0o600))
	return "firn.yaml"
}

func TestDefaults(t *testing.T) {
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	require.NoError(t, err)

	serve := Default()
	require.Equal(t, "/var/lib/firn", serve.DataDir)
	require.Equal(t, 3, serve.BootstrapExpect)
	require.Equal(t, 3*time.Second, serve.InitialRebalanceDelay)
	require.Equal(t, "fs:///var/lib/firn/objects", serve.StoreURL)
	require.EqualValues(t, 100<<20, serve.RequestMaxBytes)
	require.EqualValues(t, 1, serve.NumPartitions)
	require.Equal(t, []string{"warm", "cold"}, serve.Stores)
	require.Len(t, serve.Listeners, 1)
	require.Equal(t, ":9092", serve.Listeners[0].Address)
	require.Empty(t, serve.Static)

	dev := Dev()
	require.Equal(t, ProfileDev, dev.Profile)
	require.Equal(t, filepath.Join(wd, "firn-data"), dev.DataDir)
	require.Equal(t, "fs://"+filepath.Join(wd, "firn-data", "objects"), dev.StoreURL)
	require.Equal(t, []Listener{{Name: "PLAINTEXT", Address: "127.0.0.1:9092", AdvertisedHost: "127.0.0.1", AdvertisedPort: 9092, Security: "PLAINTEXT"}}, dev.Listeners)
	require.Equal(t, "PLAINTEXT", dev.InterBrokerListener)
	require.Equal(t, 1, dev.BootstrapExpect)
	require.Zero(t, dev.InitialRebalanceDelay)
	require.True(t, dev.AutoCreate)
	require.Equal(t, "127.0.0.1:9644", dev.AdminAddress)
	topic, err := configdef.ParseTopic(nil, dev.Static)
	require.NoError(t, err)
	require.True(t, topic.RemoteStorage)
	require.EqualValues(t, 1<<30, topic.LocalRetentionBytes)
}

func TestEachPlaceIsStrongerThanTheOneBefore(t *testing.T) {
	file := write(t, "num.partitions: 2\nnode:\n  id: 7\nlog:\n  retention:\n    hours: 1\n    bytes: 5\nmax.connections: 10\nmax.connections.per.ip: 3\ntier.stores: [warm, glacier]\nbroker.rack:\n")
	c, err := Load(Source{
		Profile: ProfileDev, File: file,
		Env:   []string{"FIRN_NUM_PARTITIONS=3", "FIRN_NODE_ID=8", "PATH=/bin", "FIRN_CONFIG=x", "FIRN_TEST_MINIO=y"},
		Flags: []Flag{{"--partitions", "num.partitions", "4"}},
	})
	require.NoError(t, err)
	require.EqualValues(t, 4, c.NumPartitions)
	require.EqualValues(t, 8, c.ID)
	require.Equal(t, 10, c.MaxConnections)
	require.Equal(t, 3, c.MaxConnectionsPerIP)
	require.Equal(t, []string{"warm", "glacier"}, c.Stores)
	require.Empty(t, c.Rack)
	require.Equal(t, "1", c.Static["log.retention.hours"])
	require.Equal(t, "4", c.Static["num.partitions"])
	require.Equal(t, "0", c.Static["group.initial.rebalance.delay.ms"], "the profile's defaults are static settings")
	require.NotContains(t, c.Static, "fetch.max.bytes")
}

func TestNamesOfOneThing(t *testing.T) {
	file := write(t, "broker.id: 7\nlog.dirs: /srv/a\n")
	c, err := Load(Source{File: file})
	require.NoError(t, err)
	require.EqualValues(t, 7, c.ID)
	require.Equal(t, "/srv/a", c.DataDir)

	c, err = Load(Source{Profile: ProfileDev, File: file, Env: []string{"FIRN_NODE_ID=9"}})
	require.NoError(t, err)
	require.EqualValues(t, 9, c.ID)
	require.NotContains(t, c.Static, "broker.id", "hidden by the stronger name")
	id, _ := configdef.BrokerValue(c.Static, "broker.id")
	require.Equal(t, "9", id)
}

func TestProfileInTheFile(t *testing.T) {
	c, err := Load(Source{File: write(t, "profile: dev\n")})
	require.NoError(t, err)
	require.Equal(t, 1, c.BootstrapExpect)
	require.Equal(t, ProfileDev, c.Profile)
}

func TestEveryMistakeAtOnce(t *testing.T) {
	file := write(t, `num.partition: 3
num.partitions: many
auto:
  create:
    topics:
      enable: perhaps
log.segment.bytes: 1000
num.partitions: 4
retention.ms: 5
object.store.url: /srv/objects
tier.stores:
  - warm
  - {name: cold}
listeners:
  - name: INSIDE
    bind: 0.0.0.0:9092
    advertized: x:1
group.min.session.timeout.ms: 9000
group.max.session.timeout.ms: 8000
log.retention.ms: &never 5
log.roll.ms: *never
inter.broker.listener.name: OUTSIDE
cluster.id: short
`)
	_, err := Load(Source{
		File:  file,
		Env:   []string{"FIRN_NUM_PARTITION=3", "FIRN_COMPRESSION_TYPE=zip", "FIRN_QUEUED_MAX_REQUEST_BYTES=5"},
		Flags: []Flag{{"--admin", "admin.address", "9644"}},
	})
	require.EqualError(t, err, strings.TrimSpace(`
configuration: 17 mistakes:
  firn.yaml:1: num.partition: not a setting; did you mean num.partitions?
  firn.yaml:2: num.partitions: got "many", want a whole number of 32 bits, at least 1
  firn.yaml:6: auto.create.topics.enable: got "perhaps", want true or false
  firn.yaml:7: log.segment.bytes: got "1000", want a whole number of 32 bits, at least 1048576
  firn.yaml:8: num.partitions: set already on line 2
  firn.yaml:9: retention.ms: a topic's setting; its default for all topics is log.retention.ms
  firn.yaml:10: object.store.url: object store URL "/srv/objects": it has no scheme; for a directory write fs:///absolute/path
  firn.yaml:12: tier.stores: got "a list of mappings", want a list of words
  firn.yaml:17: listeners: got "advertized", want only name, bind, advertised and security
  firn.yaml:19: group.max.session.timeout.ms: got "8000", want at least 9000 because of group.min.session.timeout.ms
  firn.yaml:21: log.roll.ms: got "*never", want the value written out: aliases are not followed
  firn.yaml:22: inter.broker.listener.name: got "OUTSIDE", want the name of one of the listeners
  firn.yaml:23: cluster.id: got "short", want 22 characters of base64url
  environment FIRN_COMPRESSION_TYPE: compression.type: got "zip", want one of uncompressed, zstd, lz4, snappy, gzip, producer
  environment: FIRN_NUM_PARTITION: not a setting; did you mean FIRN_NUM_PARTITIONS?
  flag --admin: admin.address: got "9644", want HOST:PORT, such as 127.0.0.1:9644
  environment FIRN_QUEUED_MAX_REQUEST_BYTES: queued.max.request.bytes: got "5", want at least 104857600 because of socket.request.max.bytes`))
}

func TestOneMistakeIsOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"num.partitions: 0":        `configuration: firn.yaml:1: num.partitions: got "0", want a whole number of 32 bits, at least 1`,
		"- a":                      `configuration: firn.yaml:1: the file: got "a list", want settings, as NAME: VALUE lines`,
		"a: b: c":                  `configuration: firn.yaml: not YAML: mapping values are not allowed in this context`,
		"a: 1\nb: [1":              `configuration: firn.yaml:1: not YAML: did not find expected ',' or ']'`,
		"? [a]\n: b":               `configuration: firn.yaml:1: a key: got "a list", want a setting's name`,
		"tier.stores: [[warm]]":    `configuration: firn.yaml:1: tier.stores: got "a list", want one word`,
		"node.id: 1\nbroker.id: 2": `configuration: firn.yaml:2: broker.id: got "2", want the same as node.id, which is "1", or only one of the two`,
		"log.dirs: /a,/b":          `configuration: firn.yaml:1: data.dir: got "/a,/b", want one directory`,
		"listeners: PLAINTEXT://:9644\nadmin.address: :9644": `configuration: firn.yaml:2: admin.address: got ":9644", want an address that no listener has`,
		"log.retention.ms: 5\nlog.local.retention.ms: 50":    "",
		"":          "",
		"# nothing": "",
		"log.cleaner.min.compaction.lag.ms: 5\nlog.cleaner.max.compaction.lag.ms: 4": "configuration: topics' defaults: conflict topic config setting min.compaction.lag.ms (5) > max.compaction.lag.ms (4)",
	} {
		_, err := Load(Source{File: write(t, text)})
		if want == "" {
			require.NoError(t, err, text)
		} else {
			require.EqualError(t, err, want, text)
		}
	}
	_, err := Load(Source{File: "missing.yaml"})
	require.EqualError(t, err, "configuration: missing.yaml: cannot be read: no such file or directory")
}

func TestListeners(t *testing.T) {
	named := func() (string, error) { return "node-1", nil }
	for _, tc := range []struct {
		name     string
		settings listenerSettings
		want     []Listener
		problems []string
	}{
		{"any number, each advertised apart", listenerSettings{listeners: "inside://10.0.0.1:9092, OUTSIDE://[::]:9093", advertised: "OUTSIDE://broker.example.com:443"}, []Listener{
			{"INSIDE", "10.0.0.1:9092", "10.0.0.1", 9092, "PLAINTEXT"}, {"OUTSIDE", "[::]:9093", "broker.example.com", 443, "PLAINTEXT"}}, nil},
		{"every address is advertised by name", listenerSettings{listeners: "PLAINTEXT://:0,B://0.0.0.0:1"}, []Listener{
			{"PLAINTEXT", ":0", "node-1", 0, "PLAINTEXT"}, {"B", "0.0.0.0:1", "node-1", 1, "PLAINTEXT"}}, nil},
		{"mistakes", listenerSettings{
			listeners:  "9092,A://:1,A://:2,B://:1,C://x,D://:99999,SSL://:7",
			advertised: "A://0.0.0.0:1,E://host:1,E://host:2,nonsense", security: "SSL:SSL,odd",
		}, []Listener{{"A", ":1", "node-1", 1, "PLAINTEXT"}}, []string{
			`listener.security.protocol.map: got "odd", want NAME:PROTOCOL`,
			`advertised.listeners: got "A://0.0.0.0:1", want an address that clients can reach`,
			`advertised.listeners: got "E://host:2", want each listener once`,
			`advertised.listeners: got "nonsense", want NAME://HOST:PORT, such as PLAINTEXT://0.0.0.0:9092`,
			`listeners: got "9092", want NAME://HOST:PORT, such as PLAINTEXT://0.0.0.0:9092`,
			`listeners: got "A://:2", want each name once: A is there twice`,
			`listeners: got "B://:1", want each address once: :1 is there twice`,
			`listeners: got "C://x", want NAME://HOST:PORT, with the port, and an IPv6 host in square brackets`,
			`listeners: got "D://:99999", want a port from 0 to 65535`,
			`listeners: got "SSL://:7", want a listener with the protocol PLAINTEXT: SSL is not served yet`,
			`advertised.listeners: got "E://host:1", want the name of one of the listeners`,
			`advertised.listeners: got "E://host:2", want the name of one of the listeners`,
		}},
		{"no name to advertise", listenerSettings{listeners: "A://:1", hostname: func() (string, error) { return "", errors.New("no host name") }}, nil, []string{
			`listeners: got "A://:1", want advertised.listeners to say what clients connect to, since the host's name cannot be read: no host name`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.settings.hostname == nil {
				tc.settings.hostname = named
			}
			got, problems := tc.settings.parse()
			require.Equal(t, tc.want, got)
			var texts []string
			for _, p := range problems {
				texts = append(texts, p.String())
			}
			require.Equal(t, tc.problems, texts)
		})
	}
}

func TestLongFormOfListeners(t *testing.T) {
	c, err := Load(Source{File: write(t, `listeners:
  - {name: inside, bind: "127.0.0.1:9092"}
  - name: outside
    bind: 127.0.0.1:9093
    advertised: broker.example.com:9093
    security: PLAINTEXT
inter.broker.listener.name: inside
`)})
	require.NoError(t, err)
	require.Equal(t, []Listener{
		{"INSIDE", "127.0.0.1:9092", "127.0.0.1", 9092, "PLAINTEXT"},
		{"OUTSIDE", "127.0.0.1:9093", "broker.example.com", 9093, "PLAINTEXT"},
	}, c.Listeners)
	require.Equal(t, "INSIDE", c.InterBrokerListener)
	require.Equal(t, "outside://broker.example.com:9093", c.Static["advertised.listeners"])
}

// Each field names a setting that exists and holds its type: a name with a slip
// would stay zero for ever.
func TestFieldsAreSettings(t *testing.T) {
	seen := map[string]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			tag := f.Tag.Get("koanf")
			switch tag {
			case ",squash":
				walk(f.Type)
				continue
			case "-":
				continue
			}
			k, ok := configdef.Broker(tag)
			require.True(t, ok, "%s: no setting %q", f.Name, tag)
			require.False(t, seen[tag], "%s is in two fields", tag)
			seen[tag] = true
			switch k.Type {
			case configdef.TypeBoolean:
				require.Equal(t, reflect.Bool, f.Type.Kind(), tag)
			case configdef.TypeList:
				require.Equal(t, reflect.TypeFor[[]string](), f.Type, tag)
			case configdef.TypeString:
				require.Equal(t, reflect.String, f.Type.Kind(), tag)
			default:
				isTime := strings.HasSuffix(tag, ".ms")
				require.Equal(t, isTime, f.Type == reflect.TypeFor[time.Duration](), tag)
			}
		}
	}
	walk(reflect.TypeFor[Config]())
	require.Greater(t, len(seen), 60)
	require.Len(t, envKeys, len(configdef.BrokerKeys()), "two settings share an environment variable")
}

// Whatever the file, Load answers with a config or with mistakes that say where.
func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"num.partitions: 3", "log: {retention: {ms: 5}}", "listeners: [{name: A, bind: ':1'}]", "a: &x [*x]", "? {a: b}\n: c",
		"listeners: PLAINTEXT://[::1]:9092\nadvertised.listeners: PLAINTEXT://h:1", "\t", "a: !!binary x", "node.id: 1\nbroker.id: 1", "--- \n...\n---\na: b",
	} {
		f.Add(seed)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(dir, "firn.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Source{Profile: ProfileDev, File: path})
		var mistakes *Error
		if err != nil {
			require.True(t, errors.As(err, &mistakes))
			require.NotEmpty(t, mistakes.Problems)
			return
		}
		require.NotEmpty(t, c.Listeners)
		require.True(t, filepath.IsAbs(c.DataDir))
	})
}

// What people bring along from elsewhere: a Kafka configuration, a home directory
// as the shell writes it, an empty variable, two documents in a file.
func TestMistakesOfNewcomers(t *testing.T) {
	file := write(t, `zookeeper.connect: localhost:2181
ssl.keystore.location: /etc/ks
retention.tiers: hot:1d
data.dir: ~/firn
listeners:
  - name: A
    bind: 127.0.0.1
  - name: B
    bind: 127.0.0.1:2
    advertised: example.com:99999
  - bind: :3
  - C
`)
	_, err := Load(Source{File: file, Env: []string{"FIRN_NUM_PARTITIONS="}})
	require.EqualError(t, err, strings.TrimSpace(`
configuration: 9 mistakes:
  firn.yaml:1: zookeeper.connect: a setting of Kafka that Firn has no use for: remove it
  firn.yaml:2: ssl.keystore.location: a setting of Kafka's security, which Firn does not serve yet: remove it
  firn.yaml:3: retention.tiers: a topic's setting: give it to a topic, with `+"`firn topic create` or `firn topic alter`"+`
  firn.yaml:4: data.dir: got "~/firn", want the path written out: ~ is the shell's, and would be a directory of that name (./~/firn if it is meant)
  firn.yaml:7: listeners: bind: got "127.0.0.1", want HOST:PORT, with the port, and an IPv6 host in square brackets
  firn.yaml:10: listeners: advertised: got "example.com:99999", want a port from 0 to 65535
  firn.yaml:11: listeners: got "a listener without name", want name and bind, and if clients connect elsewhere advertised
  firn.yaml:12: listeners: got "C", want a mapping with name and bind, and if clients connect elsewhere advertised
  environment FIRN_NUM_PARTITIONS: num.partitions: got "nothing", want a whole number of 32 bits, at least 1
`))
	_, err = Load(Source{File: write(t, "num.partitions: 3\n---\nnum.partitions: 4\n")})
	require.EqualError(t, err, `configuration: firn.yaml:2: the file: got "a second document after ---", want one document`)
}
