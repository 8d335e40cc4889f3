package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/harness"
)

var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}

func (s *soak) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.b.Admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", path, resp.StatusCode, bytes.TrimSpace(body))
	}
	return body, err
}

// scrape reads the admin endpoints all the while.
func (s *soak) scrape() {
	s.run(func() {
		for s.pause(300 * time.Millisecond) {
			_, err := s.get(s.ctx, "/metrics")
			s.unexpected("metrics", err)
			_, err = s.get(s.ctx, adminapi.PathTierStatus)
			s.unexpected("tier status", err)
		}
	})
	s.run(func() {
		random := s.random(800)
		for s.pause(100 * time.Millisecond) {
			t := s.topics[random.IntN(len(s.topics))]
			body, err := s.get(s.ctx, adminapi.PathTierMap+"?topic="+t.name)
			if err != nil {
				s.unexpected("tier map", err)
				continue
			}
			var m adminapi.TierMap
			if err := json.Unmarshal(body, &m); err != nil {
				s.fail("tier map of %s: %v", t.name, err)
			}
			for _, p := range m.Partitions {
				s.checkMap(t.name, p)
			}
			s.count("tier maps")
		}
	})
	s.run(func() {
		random := s.random(810)
		for s.pause(700 * time.Millisecond) {
			t := s.topics[random.IntN(len(s.topics))]
			s.verify(t)
		}
	})
}

// verify checks a topic's objects.
func (s *soak) verify(t *topic) {
	down := s.down.Load()
	body, err := s.get(s.ctx, adminapi.PathTierVerify+"?topic="+t.name)
	if err != nil {
		s.unexpected("tier verify", err)
		return
	}
	for line := range bytes.Lines(body) {
		var e adminapi.VerifyEvent
		if err := json.Unmarshal(line, &e); err != nil {
			s.unexpected("tier verify", err)
			return
		}
		if e.Problem != "" && s.down.Load() == down && s.ctx.Err() == nil {
			s.fail("verify of %s-%d [%d,%d): %s", t.name, e.Partition, e.Start, e.End, e.Problem)
		}
	}
	s.count("tier verifies")
}

// checkMap holds a partition's map against the order of offsets and for holes.
func (s *soak) checkMap(name string, p adminapi.PartitionMap) {
	if p.Leader != 1 || p.LogEnd == 0 {
		return
	}
	if !(p.LogStart <= p.LocalStart && p.LogStart <= p.RemoteEnd && p.LocalStart <= max(p.RemoteEnd, p.LogStart) && p.RemoteEnd <= p.LastStable && p.LastStable <= p.HighWatermark && p.HighWatermark <= p.LogEnd) {
		s.fail("map of %s: %+v", name, p)
	}
	at := p.LogStart
	for _, r := range p.Ranges {
		if r.Start > at {
			s.fail("map of %s: a hole at %d: %+v", name, at, p)
			return
		}
		at = max(at, r.End)
	}
	if at < p.HighWatermark && p.LogStart < p.HighWatermark {
		s.fail("map of %s: ends at %d: %+v", name, at, p)
	}
}

// usage is what a process holds.
type usage struct {
	goroutines, sockets, files, deleted int
	heap, rss                           int64
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d sockets, %d files, %d deleted files, heap %d KiB, resident %d KiB",
		u.goroutines, u.sockets, u.files, u.deleted, u.heap>>10, u.rss>>10)
}

// usage asks the broker, after a collection of its garbage.
func (s *soak) usage() usage {
	var u usage
	heap, err := s.get(s.t.Context(), "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		s.t.Error(err)
	}
	for line := range strings.Lines(string(heap)) {
		if rest, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
			u.heap, _ = strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
		}
	}
	all, err := s.get(s.t.Context(), "/debug/pprof/goroutine?debug=1")
	if err != nil {
		s.t.Error(err)
	}
	if _, err := fmt.Sscanf(string(all), "goroutine profile: total %d", &u.goroutines); err != nil {
		s.t.Error(err)
	}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.b.Pid()))
	if err != nil {
		s.t.Error(err)
	}
	for _, fd := range fds {
		switch to, err := os.Readlink(fd); {
		case err != nil: // closed meanwhile
		case strings.HasPrefix(to, "socket:"):
			u.sockets++
		case strings.HasSuffix(to, " (deleted)"):
			u.deleted++
		case strings.HasPrefix(to, "/"):
			u.files++
		}
	}
	u.rss = s.b.RSS()
	return u
}

// settled waits until the broker holds no more than it did when idle, but for
// what its caches keep.
func (s *soak) settled(before usage) {
	var last usage
	harness.Eventually(s.t, 90*time.Second, func() string {
		last = s.usage()
		if last.goroutines > before.goroutines+8 || last.sockets > before.sockets+2 || last.deleted > 0 {
			return fmt.Sprintf("%v; when idle %v\n%s", last, before, s.holders())
		}
		return ""
	})
	s.t.Logf("after the load: %v", last)
	s.profile("heap-after-load", "/debug/pprof/heap?gc=1")
	s.t.Logf("of this test: %d goroutines", runtime.NumGoroutine())
}

// profile keeps a profile of the broker where -soak.profiles says.
func (s *soak) profile(name, path string) {
	if *profiles == "" {
		return
	}
	body, err := s.get(s.t.Context(), path)
	if err == nil {
		err = os.WriteFile(filepath.Join(*profiles, name), body, 0o600)
	}
	if err != nil {
		s.t.Error(err)
	}
}

// holders lists the goroutines and the deleted files, for a message.
func (s *soak) holders() string {
	all, err := s.get(s.t.Context(), "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return err.Error()
	}
	return string(all[:min(len(all), 8000)])
}
