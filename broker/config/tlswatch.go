package config

import (
	"crypto/tls"
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
	seen   [3]os.FileInfo // of the files of config, nil for one that was not there
	looked time.Time
	told   string // what was complained of last, since config is in force
}

// WatchClusterTLS reads the files for the first time. nil without TLS.
func (c *Cluster) WatchClusterTLS(log *slog.Logger) (*ClusterTLSWatch, error) {
	seen := c.statTLS()
	first, err := c.ClusterTLS()
	if first == nil || err != nil {
		return nil, err
	}
	return &ClusterTLSWatch{files: c, log: log, now: time.Now, config: first, seen: seen, looked: time.Now()}, nil
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
	w.config, w.seen, w.told = next, seen, ""
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
