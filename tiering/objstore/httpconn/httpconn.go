// Package httpconn owns the HTTP connections of a store: their pool, and what
// they tell of the server's clock, so that the age of an object can be told
// without this machine's clock.
package httpconn

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Transport is a connection pool that notes the server's clock from the Date
// header of answers. Its resolution is one second. Safe for concurrent use.
type Transport struct {
	base *http.Transport
	skew atomic.Int64 // server − local, ns; 0 until the first answer
}

// New makes a pool. It has no time-out on answers: the deadlines of
// objstore.Retrying do that for all drivers. A nil TLS configuration trusts the
// system's authorities.
func New(trust *tls.Config) *Transport {
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAlive: 15 * time.Second}
	return &Transport{base: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		TLSClientConfig:       trust.Clone(),
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		IdleConnTimeout:       90 * time.Second,
		MaxIdleConns:          256,
		MaxIdleConnsPerHost:   256, // parallel ranged GETs all go to one host
		DisableCompression:    true,
		ReadBufferSize:        64 << 10,
		WriteBufferSize:       64 << 10,
	}}
}

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.base.RoundTrip(r)
	if err == nil {
		if date, parseErr := http.ParseTime(res.Header.Get("Date")); parseErr == nil {
			t.skew.Store(int64(time.Until(date)))
		}
	}
	return res, err
}

// Now is the server's clock.
func (t *Transport) Now() time.Time { return time.Now().Add(time.Duration(t.skew.Load())) }

// CloseIdleConnections closes the connections that no request uses.
func (t *Transport) CloseIdleConnections() { t.base.CloseIdleConnections() }
