package cluster

import (
	"fmt"
	"io"
	"net"
	"net/http"
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
	answer, err := io.ReadAll(raw)
	require.NoError(t, err)
	const helloRefuses = 2
	require.Contains(t, string(answer), "set cluster.tls.cert", "one without TLS is not told why")
	require.EqualValues(t, helloRefuses, answer[10], "a hello in the clear was answered with another than a refusal: %q", answer)
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
	s.verifyTiers(0)
	s.compareDisks()
}

// TestTLSStrangers starts brokers that have the gossip key and no place under the
// cluster's TLS: each is refused at start, or says why it waits, and the cluster says
// the same.
func TestTLSStrangers(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	ca, otherCA := newAuthority(t, "firn"), newAuthority(t, "another")
	s := startSecure(t, ca, nil)
	secured := func(c *harness.Cluster, id identity, trust *authority) *fleet.Broker {
		t.Helper()
		b, err := c.Add()
		require.NoError(t, err)
		f := newTLSFiles(t)
		f.identify(id)
		f.trust(trust)
		b.Set = f.settings()
		return b
	}
	// What it can know by itself it says at start.
	refused(t, secured(s.c, ca.sign(time.Now().Add(-time.Minute), "127.0.0.1"), ca), "cluster.tls.cert", "expired")
	refused(t, secured(s.c, ca.sign(time.Now().Add(time.Hour), "broker-9"), ca), "cluster.tls.cert", "cluster.advertised", "they reach this one as 127.0.0.1")
	refused(t, secured(s.c, ca.good(), otherCA), "cluster.tls.cert", "unknown authority")

	// What it cannot know it says once it knocks, as do those at whom it does.
	keptOut := func(c *harness.Cluster, b *fleet.Broker, own, others []string) {
		t.Helper()
		from := len(logOf(t, c.Brokers[0]))
		require.NoError(t, b.Launch())
		awaitLog(t, b, 0, own...)
		awaitLog(t, c.Brokers[0], from, others...)
		status, body, err := b.Get(t.Context(), "/readyz")
		require.NoError(t, err)
		require.Equal(t, http.StatusServiceUnavailable, status, "a broker that TLS keeps out serves: %s", body)
		c.KillBroker(b)
	}
	keptOut(s.c, secured(s.c, otherCA.good(), otherCA),
		[]string{"its certificate is not accepted here", "cluster.tls.ca", "unknown authority"},
		[]string{"the certificate of this broker is not accepted there", "cluster.tls.ca"})
	plain, err := s.c.Add()
	require.NoError(t, err)
	mixed := []string{"only one of the two uses it", "set cluster.tls.cert, cluster.tls.key and cluster.tls.ca on all brokers, or on none"}
	keptOut(s.c, plain, mixed, mixed)

	open := harness.StartCluster(t, harness.ClusterOptions{Brokers: 1, Set: settings()})
	keptOut(open, secured(open, ca.good(), ca), mixed, mixed)
	open.AwaitWhole()

	s.progress(100, harnessLimit)
	s.c.AwaitWhole()
	require.LessOrEqual(t, s.pauses(), soon)
	s.finish()
	s.verifyTiers(0)
	s.compareDisks()
}

// TestTLSRenewal replaces certificates and then the authority by rolling restarts,
// with clients attached: brokers that have read their files at different times must
// take each other's.
func TestTLSRenewal(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	before, after := newAuthority(t, "before"), newAuthority(t, "after")
	s := startSecure(t, before, nil)
	// roll replaces files of one broker after the other and restarts it; each is
	// whole among others that have the files from before.
	roll := func(replace func(f *tlsFiles)) {
		t.Helper()
		for _, b := range s.c.Brokers {
			replace(s.files[b.ID])
			s.c.StopBroker(b)
			s.c.StartBroker(b)
			s.c.AwaitWhole()
		}
		s.progress(50, harnessLimit)
	}
	serves := func(b *fleet.Broker, id identity) {
		t.Helper()
		_, cert := shake(t, b, &id)
		require.Zero(t, id.serial.Cmp(cert.SerialNumber), "broker %d shows another certificate than its new one", b.ID)
	}
	renewed := map[*tlsFiles]identity{}
	renew := func(f *tlsFiles, ca *authority) {
		renewed[f] = ca.good()
		f.identify(renewed[f])
	}
	// New certificates of the old authority, and the new authority known beside it.
	roll(func(f *tlsFiles) { renew(f, before); f.trust(before, after) })
	for _, b := range s.c.Brokers {
		serves(b, renewed[s.files[b.ID]])
	}
	// Certificates of the new one, which everybody knows by now.
	roll(func(f *tlsFiles) { renew(f, after) })
	for _, b := range s.c.Brokers {
		serves(b, renewed[s.files[b.ID]])
	}
	// The old one is forgotten.
	roll(func(f *tlsFiles) { f.trust(after) })
	old := before.good()
	conn, _ := shake(t, s.c.Brokers[0], &old)
	_, err := io.ReadAll(conn)
	require.ErrorContains(t, err, "unknown certificate authority")

	pause := s.pauses()
	t.Logf("longest pause of three rolling restarts: %v", pause)
	require.LessOrEqual(t, pause, rollingRestart.pause)
	s.finish()
	s.verifyTiers(0)
	s.compareDisks()
}

// TestTLSReload replaces certificates and the authority of brokers that run, as
// docs/cluster.md says: the next connection goes by them, those that are there live
// on, and files of no use are complained of and change nothing.
func TestTLSReload(t *testing.T) {
	if !long() {
		t.Parallel()
	}
	before, after := newAuthority(t, "before"), newAuthority(t, "after")
	s := startSecure(t, before, nil)
	serves := func(b *fleet.Broker, id identity) {
		t.Helper()
		harness.Eventually(t, harnessLimit, func() string {
			if _, cert := shake(t, b, &id); id.serial.Cmp(cert.SerialNumber) != 0 {
				return fmt.Sprintf("broker %d still shows another certificate than its new one", b.ID)
			}
			return ""
		})
	}
	// New certificates of the old authority, and the new authority known beside it;
	// then certificates of the new one; then the old one is forgotten.
	for _, b := range s.c.Brokers {
		s.files[b.ID].trust(before, after)
	}
	for _, ca := range []*authority{before, after} {
		for _, b := range s.c.Brokers {
			id := ca.good()
			s.files[b.ID].identify(id)
			serves(b, id)
		}
		s.progress(50, harnessLimit)
	}
	for _, b := range s.c.Brokers {
		s.files[b.ID].trust(after)
	}
	old := before.good()
	harness.Eventually(t, harnessLimit, func() string {
		conn, _ := shake(t, s.c.Brokers[0], &old)
		if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "unknown certificate authority") {
			return fmt.Sprintf("one of the old authority is told %v", err)
		}
		return ""
	})
	require.LessOrEqual(t, s.pauses(), soon)

	// A file that is no certificate.
	b := s.c.Brokers[1]
	good := after.good()
	s.files[b.ID].identify(good)
	serves(b, good)
	from := len(logOf(t, b))
	s.files[b.ID].replace(s.files[b.ID].cert, []byte("no certificate"))
	harness.Eventually(t, harnessLimit, func() string { // it looks when somebody connects
		if _, cert := shake(t, b, &good); good.serial.Cmp(cert.SerialNumber) != 0 {
			t.Fatalf("broker %d does not stay with what was good", b.ID)
		}
		if log := logOf(t, b)[from:]; !strings.Contains(log, "the old ones stay in force") || !strings.Contains(log, "cluster.tls.cert") {
			return "a file of no use is not complained of: " + log
		}
		return ""
	})
	s.files[b.ID].identify(good)

	// All connections are made anew, under what the files say by now.
	for _, b := range s.c.Brokers {
		s.c.KillBroker(b)
		s.c.StartBroker(b)
		s.c.AwaitWhole()
	}
	s.progress(50, harnessLimit)
	s.finish()
	s.verifyTiers(0)
	s.compareDisks()
}
