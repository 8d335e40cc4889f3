package config

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"sync"
	"time"
)

// tlsLook is the least time between two looks at the TLS files.
const tlsLook = time.Second

// ClusterTLSWatch is ClusterTLS that follows its files: what renews certificates
// replaces them, in place or behind a symbolic link, and nobody restarts the broker. It
// has no goroutine: it looks when it is asked, at most once a second.
type ClusterTLSWatch struct {
	files *Cluster
	log   *slog.Logger
	now   func() time.Time

	mu     sync.Mutex
	config *tls.Config
	// authorityEnd is when the authority of config's certificate ends.
	authorityEnd time.Time
	seen         [3]os.FileInfo // of the files of config, nil for one that was not there
	looked       time.Time
	told         string // what was complained of last, since config is in force
}

// WatchClusterTLS reads the files for the first time. nil without TLS.
func (c *Cluster) WatchClusterTLS(log *slog.Logger) (*ClusterTLSWatch, error) {
	seen := c.statTLS()
	first, err := c.ClusterTLS()
	if first == nil || err != nil {
		return nil, err
	}
	return &ClusterTLSWatch{files: c, log: log, now: time.Now, config: first, authorityEnd: authorityEnd(first), seen: seen, looked: time.Now()}, nil
}

// NotAfter is when the certificate that is in force ends, and when its authority does.
func (w *ClusterTLSWatch) NotAfter() (own, authority time.Time) {
	config := w.Config()
	w.mu.Lock()
	defer w.mu.Unlock()
	return config.Certificates[0].Leaf.NotAfter, w.authorityEnd
}

// authorityEnd is when nobody above a certificate vouches for it any more. Authorities
// may overlap while one is replaced by another: the latest counts, and of a chain what
// ends first.
func authorityEnd(c *tls.Config) (end time.Time) {
	pair := &c.Certificates[0]
	between, err := intermediates(pair)
	if err != nil {
		return time.Time{} // unreachable: ClusterTLS has read them
	}
	chains, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: c.RootCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return pair.Leaf.NotAfter // it has just been verified, and ended meanwhile
	}
	for _, chain := range chains {
		until := chain[len(chain)-1].NotAfter
		for _, above := range chain[1:] {
			if above.NotAfter.Before(until) {
				until = above.NotAfter
			}
		}
		if until.After(end) {
			end = until
		}
	}
	return end
}

// Config is the newest configuration that is whole. A connection through a config of
// before lives on.
func (w *ClusterTLSWatch) Config() *tls.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := w.now(); now.Sub(w.looked) >= tlsLook {
		w.looked = now
		w.lookLocked()
	}
	return w.config
}

// lookLocked reads the files if they have changed. A few bytes once a second, of a file
// system that answers: the lock is held, so that handshakes wait for the newest.
func (w *ClusterTLSWatch) lookLocked() {
	seen := w.files.statTLS() // before they are read: what changes in between is read again
	if sameFiles(&seen, &w.seen) {
		return
	}
	next, err := w.files.ClusterTLS()
	if err != nil {
		// Perhaps one of two files that are written one after the other: looked at again.
		if text := err.Error(); text != w.told {
			w.told = text
			w.log.Warn("the new TLS files of the cluster port cannot be used, the old ones stay in force", "err", err)
		}
		return
	}
	w.config, w.authorityEnd, w.seen, w.told = next, authorityEnd(next), seen, ""
	w.log.Info("the TLS files of the cluster port were read anew", "valid_until", next.Certificates[0].Leaf.NotAfter)
}

// statTLS describes the three files, behind symbolic links.
func (c *Cluster) statTLS() (seen [3]os.FileInfo) {
	for i, path := range []string{c.TLSCert, c.TLSKey, c.TLSCA} {
		if st, err := os.Stat(path); err == nil {
			seen[i] = st
		}
	}
	return seen
}

func sameFiles(a, b *[3]os.FileInfo) bool {
	for i := range a {
		if (a[i] == nil) != (b[i] == nil) {
			return false
		}
		if a[i] != nil && (!os.SameFile(a[i], b[i]) || a[i].Size() != b[i].Size() || !a[i].ModTime().Equal(b[i].ModTime())) {
			return false
		}
	}
	return true
}
