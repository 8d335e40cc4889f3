package cluster

import (
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/firnlog/firn/integration/harness"
)

// holder is one broker's way to the bucket, on which an upload can be held in its
// middle.
type holder struct {
	*httptest.Server
	next http.Handler

	mu    sync.Mutex
	armed *upload   // that the next PUT of a segment object becomes, nil for none
	all   []*upload // that were armed ever
	puts  []*put    // of segment objects, in the order in which they came
}

// put is an upload as the way saw it.
type put struct {
	key         string
	came, ended time.Time // ended is zero while it goes on
}

// upload is a PUT that is held.
type upload struct {
	// late holds it before the bucket has it; otherwise the bucket has it, and the
	// broker is not told.
	late    bool
	came    chan string   // its key, once it is held
	release chan struct{} // closed to let it go on
	landed  chan struct{} // closed when the bucket has answered
	once    sync.Once
}

// newHolder makes a way to a bucket's server.
func newHolder(t *testing.T, server string) *holder {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: server}
	h := &holder{next: &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorLog: log.New(io.Discard, "", 0), // a broker that gives a request up is told by its own log
	}}
	h.Server = httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(func() {
		h.mu.Lock()
		for _, u := range h.all { // those of a test that failed
			u.letGo()
		}
		h.mu.Unlock()
		h.CloseClientConnections()
		h.Close()
	})
	return h
}

// hold has the next upload held.
func (h *holder) hold(late bool) *upload {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.armed = &upload{late: late, came: make(chan string, 1), release: make(chan struct{}), landed: make(chan struct{})}
	h.all = append(h.all, h.armed)
	return h.armed
}

// letGo ends the hold; it may be called again.
func (u *upload) letGo() { u.once.Do(func() { close(u.release) }) }

// await returns the key of the upload that is held.
func (u *upload) await(t *testing.T) string {
	t.Helper()
	select {
	case key := <-u.came:
		return key
	case <-time.After(harnessLimit):
		t.Fatal("nothing was uploaded")
		return ""
	}
}

// segmentKey is the key of the segment object that a request uploads.
func segmentKey(r *http.Request) (key string, ok bool) {
	if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/data/") {
		return "", false
	}
	_, key, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/") // without the bucket
	return key, true
}

// take gives the hold to one upload.
func (h *holder) take(key string) *upload {
	h.mu.Lock()
	defer h.mu.Unlock()
	u := h.armed
	if u == nil {
		return nil
	}
	u.came <- key
	h.armed = nil
	return u
}

// during are the keys of the uploads that were under way at some time between from
// and to.
func (h *holder) during(from, to time.Time) (keys []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.puts {
		if p.came.Before(to) && (p.ended.IsZero() || p.ended.After(from)) {
			keys = append(keys, p.key)
		}
	}
	return keys
}

func (h *holder) serve(w http.ResponseWriter, r *http.Request) {
	key, isSegment := segmentKey(r)
	if !isSegment {
		h.next.ServeHTTP(w, r)
		return
	}
	seen := &put{key: key, came: time.Now()}
	h.mu.Lock()
	h.puts = append(h.puts, seen)
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		seen.ended = time.Now()
		h.mu.Unlock()
	}()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	u := h.take(key)
	if u == nil {
		h.next.ServeHTTP(w, r)
		return
	}
	if u.late {
		<-u.release
	}
	answer := httptest.NewRecorder()
	h.next.ServeHTTP(answer, r)
	close(u.landed)
	if !u.late {
		<-u.release
	}
	for name, values := range answer.Header() {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // its reader may have gone
}

// onHolders prepares a cluster whose brokers each reach the bucket by a holder of
// their own.
func onHolders(t *testing.T, set ...string) (*harness.Cluster, map[int32]*holder) {
	t.Helper()
	bk, server := harness.NewBucket(t)
	c := harness.NewCluster(t, harness.ClusterOptions{Store: bk.S3(server.Addr), Env: bk.Env, Set: settings(set...)})
	holders := map[int32]*holder{}
	for _, b := range c.Brokers {
		h := newHolder(t, server.Addr)
		holders[b.ID] = h
		b.Set = []string{"object.store.url=" + bk.S3(strings.TrimPrefix(h.URL, "http://"))}
		require.NoError(t, b.Launch())
	}
	c.AwaitWhole()
	return c, holders
}
