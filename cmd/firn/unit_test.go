package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/config"
)

func TestParsePosition(t *testing.T) {
	at := func(text string) int64 {
		parsed, err := time.Parse(time.RFC3339Nano, text)
		require.NoError(t, err)
		return parsed.UnixMilli()
	}
	for text, want := range map[string]position{
		"earliest": {atEarliest, 0}, "start": {atEarliest, 0}, "latest": {atLatest, 0}, "end": {atLatest, 0},
		"0": {atOffset, 0}, "42": {atOffset, 42}, "-5": {beforeEnd, 5}, "@1000": {atTime, 1000},
		"2026-01-02": {atTime, at("2026-01-02T00:00:00Z")}, "2026-01-02T03:04:05.5+01:00": {atTime, at("2026-01-02T02:04:05.5Z")},
		"90s": {atTime, testNow.UnixMilli() - 90_000}, "2w": {atTime, testNow.UnixMilli() - 14*86_400_000},
	} {
		got, err := parsePosition(text, testNow)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, bad := range []string{"", "soon", "1.5", "@-1", "@x", "2026-13-01", "forever", "1d,warm:2d", "5x"} {
		_, err := parsePosition(bad, testNow)
		require.Error(t, err, bad)
	}
}

func TestParseFormat(t *testing.T) {
	r := &kgo.Record{Topic: "t", Partition: 2, Offset: 3, Timestamp: time.UnixMilli(4), Key: []byte("k"), Value: []byte{}, Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}}
	for format, want := range map[string]string{
		"": "", "%t %p %o %T": "t 2 3 4", `%k\t%K\x1f%v%s%S`: "k\t1\x1f0", "%h%%": "h=v%", `\\\r\0`: "\\\r\x00", "ü%kü": "ükü",
	} {
		f, err := parseFormat(format)
		require.NoError(t, err, format)
		require.Equal(t, want, string(f.append(nil, r)), format)
	}
	for format, want := range map[string]string{
		"%": "the format ends in", `x\`: "the format ends in", "%q": "%q is not known", "%ü": "%ü is not known", `\q`: `\q is not known`, `\x1`: "two hexadecimal digits", `\xzz`: "two hexadecimal digits",
	} {
		_, err := parseFormat(format)
		require.ErrorContains(t, err, want, format)
	}
}

func FuzzFormat(f *testing.F) {
	for _, seed := range []string{`%t-%p-%o-%T-%h-%k-%K-%v-%s-%S%%\n\t\r\\\0\x41`, "%", `\x`, "%%%", "\xff%k"} {
		f.Add(seed, []byte("key"))
	}
	f.Fuzz(func(t *testing.T, format string, key []byte) {
		parsed, err := parseFormat(format)
		if err != nil {
			return
		}
		out := parsed.append(nil, &kgo.Record{Key: key})
		if !strings.ContainsAny(format, `%\`) {
			require.Equal(t, format, string(out))
		}
	})
}

func FuzzPosition(f *testing.F) {
	for _, seed := range []string{"earliest", "-9223372036854775808", "@9223372036854775807", "2026-01-31", "7d", "300y"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePosition(text, testNow)
		if err == nil && p.kind == atOffset {
			require.GreaterOrEqual(t, p.value, int64(0))
		}
	})
}

// Quantiles against sorting: never too small, and at most a bucket too large.
func TestHistogramAgainstSorting(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		var h histogram
		values := make([]int64, 1+rng.IntN(2000))
		for i := range values {
			values[i] = int64(rng.Uint64() >> (1 + rng.IntN(62)))
			h.record(time.Duration(values[i]))
		}
		slices.Sort(values)
		for _, q := range []float64{0, 0.5, 0.9, 0.99, 0.999, 1} {
			exact := values[min(int(q*float64(len(values))), len(values)-1)]
			got := int64(h.quantile(q))
			require.GreaterOrEqual(t, got, exact)
			require.LessOrEqual(t, float64(got), float64(exact)*(1+1.0/histogramSub)+1)
		}
	}
	for _, v := range []uint64{0, 1, 31, 32, 33, 63, 64, 1 << 40, math.MaxInt64} {
		b := bucketOf(v)
		require.Less(t, b, histogramSize)
		require.GreaterOrEqual(t, upperEdge(b), v)
		if b > 0 {
			require.Less(t, upperEdge(b-1), v)
		}
	}
	var empty histogram
	require.Nil(t, empty.latencies())
}

func TestSizesAndTables(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 30: "5.0 GiB", math.MaxInt64: "8192.0 PiB", -2048: "-2.0 KiB"} {
		require.Equal(t, want, size(n))
	}
	g := grid{header: []string{"NAME", "N", "IDS"}}
	g.add("ü", 5, "1,2")
	g.add("long", -12, "3")
	var b strings.Builder
	require.NoError(t, g.write(&b))
	require.Equal(t, "NAME    N  IDS\nü       5  1,2\nlong  -12  3\n", b.String())
}

func TestYAMLKeepsTextText(t *testing.T) {
	text, err := yamlOf(map[string]any{"a": "5", "b": "yes", "c": "two\nlines", "d": 5, "e": nil, "f": []string{}})
	require.NoError(t, err)
	require.Equal(t, "a: \"5\"\nb: \"yes\"\nc: |-\n  two\n  lines\nd: 5\ne: null\nf: []\n", string(text))
}

func TestNodeSettingsFromFlags(t *testing.T) {
	var got config.Config
	start := func(args ...string) (int, string) {
		var errOut bytes.Buffer
		a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, errOut: &errOut, env: []string{"FIRN_NUM_PARTITIONS=7"}, now: time.Now,
			runBroker: func(_ context.Context, cfg config.Config, log *slog.Logger) error {
				got = cfg
				log.Debug("starting")
				return nil
			}}
		return run(context.Background(), a, args), errOut.String()
	}
	t.Chdir(t.TempDir())
	wd, err := os.Getwd()
	require.NoError(t, err)
	code, errOut := start("dev", "--data", "d", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--object-store", "./objects", "--log-level", "debug", "--set", "node.id=4")
	require.Zero(t, code, errOut)
	require.Contains(t, errOut, "level=DEBUG msg=starting")
	require.Equal(t, config.ProfileDev, got.Profile)
	require.Equal(t, filepath.Join(wd, "d"), got.DataDir)
	require.Equal(t, "127.0.0.1:0", got.Listeners[0].Address)
	require.Equal(t, "127.0.0.1:0", got.AdminAddress)
	require.Equal(t, "fs://"+filepath.Join(wd, "objects"), got.StoreURL)
	require.EqualValues(t, 4, got.ID)
	require.EqualValues(t, 7, got.NumPartitions)

	require.NoError(t, os.WriteFile("firn.yaml", []byte("num.partitions: 2\nbootstrap.expect: 1\n"), 0o600))
	code, errOut = start("serve", "--config", "firn.yaml", "--listen", "A://127.0.0.1:1,B://127.0.0.1:2", "--advertise", "B://example.com:9092")
	require.Zero(t, code, errOut)
	require.Equal(t, config.ProfileServe, got.Profile)
	require.EqualValues(t, 7, got.NumPartitions, "the environment is stronger than the file")
	require.Equal(t, "example.com", got.Listeners[1].AdvertisedHost)

	code, errOut = start("serve", "--set", "num.partition=3", "--set", "node.id=x")
	require.Equal(t, 1, code)
	require.Equal(t, "firn: configuration: 2 mistakes:\n  flag --set: num.partition: not a setting; did you mean num.partitions?\n  flag --set: node.id: got \"x\", want a whole number of 32 bits, at least 0\n", errOut)
	code, errOut = start("serve", "--set", "x")
	require.Equal(t, 1, code)
	require.Contains(t, errOut, "write NAME=VALUE")
}

func TestCheckShowsTheSettings(t *testing.T) {
	c := &cli{t: t, env: []string{"FIRN_NUM_PARTITIONS=7"}}
	out := c.ok("", "dev", "--check")
	require.Regexp(t, `(?m)^num\.partitions +7 +set$`, out)
	require.Regexp(t, `(?m)^fetch\.max\.bytes +57671680 +default$`, out)
	require.Regexp(t, `(?m)^min\.insync\.replicas +2 of three replicas or more, else 1 +default$`, out, "1 was shown, which three brokers would not give")
	require.Regexp(t, `(?m)^min\.insync\.replicas +1 +set$`, c.ok("", "dev", "--check", "--set", "min.insync.replicas=1"))
	require.Contains(t, c.ok("", "serve", "--check", "--set", "bootstrap.expect=1", "-o", "yaml"), "- name: num.partitions\n  value: \"7\"\n  source: set\n")
}

func TestBrokerErrorReachesTheUser(t *testing.T) {
	var errOut bytes.Buffer
	a := &app{in: strings.NewReader(""), out: &bytes.Buffer{}, errOut: &errOut, now: time.Now,
		runBroker: func(context.Context, config.Config, *slog.Logger) error {
			return errors.New("listen 127.0.0.1:9092: in use")
		}}
	require.Equal(t, 1, run(context.Background(), a, []string{"dev"}))
	require.Equal(t, "firn: listen 127.0.0.1:9092: in use\n", errOut.String())
}

func TestSoftwareVersionIsLegal(t *testing.T) {
	old := version
	defer func() { version = old }()
	version = "v1.2.3+dirty~ü-"
	require.Regexp(t, `^[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?$`, softwareVersion())
}
