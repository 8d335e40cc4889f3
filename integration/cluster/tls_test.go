package cluster

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/fleet"
	"github.com/firnlog/firn/integration/harness"
)

// secureCluster is three brokers under mutual TLS, and what is in their files.
type secureCluster struct {
	*stage
	files map[int32]*tlsFiles
}

// startSecure forms a cluster whose certificates an authority signed.
func startSecure(t *testing.T, ca *authority, more func(c *harness.Cluster)) *secureCluster {
	t.Helper()
	c := harness.NewCluster(t, harness.ClusterOptions{Set: settings()})
	s := &secureCluster{files: map[int32]*tlsFiles{}}
	for _, b := range c.Brokers {
		f := newTLSFiles(t)
		f.identify(ca.good())
		f.trust(ca)
		s.files[b.ID] = f
		b.Set = f.settings()
	}
	if more != nil {
		more(c)
	}
	for _, b := range c.Brokers {
		require.NoError(t, b.Launch())
	}
	c.AwaitWhole()
	s.stage = &stage{workload: startWorkload(t, c), r: random(t)}
	return s
}

// awaitLog waits until a broker has written, after the given part of its log, a line
// that has all words.
func awaitLog(t *testing.T, b *fleet.Broker, after int, words ...string) {
	t.Helper()
	harness.Eventually(t, harnessLimit, func() string {
		log := logOf(t, b)[after:]
		for line := range strings.Lines(log) {
			if containsAll(line, words) {
				return ""
			}
		}
		return strings.Join(words, " … ") + " is not in the log of broker " + b.DataDir + ":\n" + log
	})
}

func containsAll(text string, words []string) bool {
	for _, w := range words {
		if !strings.Contains(text, w) {
			return false
		}
	}
	return true
}

// helloBytes are a dialler's hello in the clear, as far as a broker must read to
// know it (package metadata/link).
var helloBytes = append([]byte("FIRNLINK\x00\x01\x00\x02\x00\x18"), make([]byte, 0x18)...)

// TestTLS runs a cluster under mutual TLS with load, kills a leader, and lets
// strangers knock: all that crosses the port between brokers is TLS, nobody gets in
// without a certificate, and the cluster does not mind.
func TestTLS(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	ca, otherCA := newAuthority(t, "firn"), newAuthority(t, "another")
	var along *tap
	s := startSecure(t, ca, func(c *harness.Cluster) {
		along = newTap(t, c.Brokers[0].Cluster)
		c.Brokers[0].Set = append(c.Brokers[0].Set, "cluster.advertised="+along.Addr)
	})
	b := s.c.Brokers[0]
	s.progress(200, harnessLimit)
	streams, bytes := along.seen(t)
	require.Greater(t, streams, 2)
	require.Greater(t, bytes, int64(200*recordBytes), "replication does not go by the advertised port")

	// Who knocks, and what the broker says to it and writes down.
	raw, err := net.Dial("tcp", b.Cluster)
	require.NoError(t, err)
	defer raw.Close()
	require.NoError(t, raw.SetDeadline(time.Now().Add(10*time.Second)))
	_, err = raw.Write(helloBytes)
	require.NoError(t, err)
	answer, _ := io.ReadAll(raw) // its end may be a reset
	require.NotContains(t, string(answer), "FIRNLINK", "a hello in the clear was answered")
	expired, foreign := ca.sign(time.Now().Add(-time.Minute), "127.0.0.1"), otherCA.good()
	for _, k := range []struct {
		who   string
		id    *identity
		alert string
	}{
		{"nobody", nil, "certificate required"},
		{"one of another authority", &foreign, "unknown certificate authority"},
		{"one that has expired", &expired, "expired certificate"},
	} {
		conn, _ := shake(t, b, k.id)
		_, err := conn.Write(helloBytes)
		if err == nil {
			_, err = io.ReadAll(conn)
		}
		require.ErrorContains(t, err, k.alert, k.who)
	}
	awaitLog(t, b, 0, "TLS with a broker that connected failed", "cluster.tls.ca")
	// One with a good certificate is answered, so that the others were not refused
	// for another reason.
	good := ca.good()
	conn, served := shake(t, b, &good)
	require.Equal(t, ca.cert.Subject.CommonName, served.Issuer.CommonName)
	_, err = conn.Write(helloBytes)
	require.NoError(t, err)
	answer = make([]byte, 8)
	_, err = io.ReadFull(conn, answer)
	require.NoError(t, err)
	require.Equal(t, "FIRNLINK", string(answer))

	s.progress(100, harnessLimit)
	killLeader.make(s.stage)
	s.c.AwaitWhole()
	pause := s.pauses()
	t.Logf("longest pause %v", pause)
	require.LessOrEqual(t, pause, killLeader.pause)
	s.awaitTiered()
	along.seen(t)
	s.finish()
	s.compareDisks()
}
