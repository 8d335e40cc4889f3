package main

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// silent takes connections and never answers, as a stopped process does whose kernel
// goes on.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// A bootstrap server that is stopped was waited for until nothing was left of
// --timeout, though the others would have answered.
func TestFirstServersAreSilent(t *testing.T) {
	for _, where := range []string{"silent,silent,broker", "silent,broker,silent", "silent,closed,broker"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			c := startCluster(t, "orders")
			c.bootstrap = ordered(t, where, c.bootstrap)
			require.Contains(t, c.ok("", "topic", "list", "--timeout", "5s"), "orders")
		})
	}
}

// ordered writes addresses for the words of where.
func ordered(t *testing.T, where, broker string) string {
	t.Helper()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	var addrs []string
	for word := range strings.SplitSeq(where, ",") {
		switch word {
		case "silent":
			addrs = append(addrs, silent(t))
		case "closed":
			addrs = append(addrs, closed.Addr().String())
		default:
			addrs = append(addrs, broker)
		}
	}
	return strings.Join(addrs, ",")
}

// Where nobody answers, that is what is said.
func TestAllServersAreSilent(t *testing.T) {
	t.Parallel()
	c := &cli{t: t, bootstrap: silent(t) + "," + silent(t)}
	require.Equal(t, "firn: no answer from "+c.bootstrap+" in time: what runs there hangs, or is cut off; name another with --bootstrap-server",
		c.fails("topic", "list", "--timeout", "2s"))
}

// For some seconds the metadata lists a stopped broker, and the client may choose to
// ask that one: then it asks another while there is time.
func TestSilentBrokerInTheMetadata(t *testing.T) {
	t.Parallel()
	m := startMembers(t)
	gone := silent(t)
	m.control(kmsg.Metadata, func(r kmsg.Request) kmsg.Response {
		resp := ordersOn(r, m.cluster.ListenAddrs()[0]).(*kmsg.MetadataResponse)
		other, err := net.ResolveTCPAddr("tcp", gone)
		require.NoError(t, err)
		b := kmsg.NewMetadataResponseBroker()
		b.NodeID, b.Host, b.Port = 9, other.IP.String(), int32(other.Port)
		resp.Brokers = append(resp.Brokers, b)
		return resp
	})
	for range 3 { // the client draws lots
		require.Contains(t, m.ok("", "topic", "list", "--timeout", "5s"), "orders")
	}
}
