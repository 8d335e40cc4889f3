package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/firnlog/firn/broker/adminapi"
)

// httpClient keeps no connections: a broker that is killed would leave them
// broken.
var httpClient = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

func (b *Broker) get(ctx context.Context, path string) (status int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.Admin+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// Get asks the admin server for a path, whatever the status.
func (b *Broker) Get(path string) (status int, body string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	status, text, err := b.get(ctx, path)
	if err != nil {
		b.t.Fatalf("GET %s: %v", path, err)
	}
	return status, string(text)
}

// GetJSON asks the admin server for a path that answers with JSON.
func (b *Broker) GetJSON(path string, into any) {
	b.t.Helper()
	status, body := b.Get(path)
	if status != http.StatusOK {
		b.t.Fatalf("GET %s: status %d: %s", path, status, body)
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		b.t.Fatalf("GET %s: %v: %s", path, err, body)
	}
}

// TierStatus is the node's view of the tiers.
func (b *Broker) TierStatus() adminapi.TierStatus {
	b.t.Helper()
	var s adminapi.TierStatus
	b.GetJSON(adminapi.PathTierStatus, &s)
	return s
}

// TierMap says where a topic's offsets are.
func (b *Broker) TierMap(topic string) adminapi.TierMap {
	b.t.Helper()
	var m adminapi.TierMap
	b.GetJSON(adminapi.PathTierMap+"?topic="+url.QueryEscape(topic), &m)
	return m
}

// TierVerify checks a topic's objects and returns the problems, and how many
// objects were looked at.
func (b *Broker) TierVerify(topic string) (problems []adminapi.VerifyEvent, objects int) {
	b.t.Helper()
	status, body := b.Get(adminapi.PathTierVerify + "?topic=" + url.QueryEscape(topic))
	if status != http.StatusOK {
		b.t.Fatalf("verify %s: status %d: %s", topic, status, body)
	}
	problems, objects, err := readVerify(body)
	if err != nil {
		b.t.Fatalf("verify %s: %v: %s", topic, err, body)
	}
	return problems, objects
}

// readVerify reads the events of a verification that went on to its end.
func readVerify(body string) (problems []adminapi.VerifyEvent, objects int, err error) {
	finished := false
	for line := range strings.Lines(body) {
		var e adminapi.VerifyEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			return nil, 0, err
		}
		if e.Problem != "" {
			problems = append(problems, e)
		}
		finished, objects = e.Finished, e.Done
	}
	if !finished {
		return nil, 0, errors.New("it ended before it was finished")
	}
	return problems, objects, nil
}

// Metric sums the samples of a metric whose labels include all of the given
// (NAME="VALUE"); 0 where there is none.
func (b *Broker) Metric(name string, labels ...string) float64 {
	b.t.Helper()
	_, body := b.Get("/metrics")
	sum, err := sumMetric(body, name, labels)
	if err != nil {
		b.t.Fatal(err)
	}
	return sum
}

// sumMetric sums the samples of a scrape that Metric is about.
func sumMetric(body, name string, labels []string) (float64, error) {
	sum := 0.0
	lines := bufio.NewScanner(strings.NewReader(body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		series, text, ok := strings.Cut(lines.Text(), " ")
		if !ok || (series != name && !strings.HasPrefix(series, name+"{")) || !containsAll(series, labels) {
			continue
		}
		v, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, fmt.Errorf("metric %q: %w", lines.Text(), err)
		}
		sum += v
	}
	return sum, lines.Err()
}

func containsAll(text string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(text, p) {
			return false
		}
	}
	return true
}

// Eventually polls a state of another process until it holds, and fails the
// test with the last reason when it does not within limit. check returns "" when
// it holds, and otherwise what is still missing.
func Eventually(t testing.TB, limit time.Duration, check func() string) {
	t.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		missing := check()
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", limit, missing)
		}
		<-tick.C
	}
}

// RSS is the memory of the process that is resident and its own (anonymous), in
// bytes: mapped files and the page cache do not count.
func (b *Broker) RSS() int64 {
	b.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.Pid()))
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if rest, ok := bytes.CutPrefix(line, []byte("RssAnon:")); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(string(rest)), "kB")), 10, 64)
			if err != nil {
				b.t.Fatal(err)
			}
			return kib << 10
		}
	}
	b.t.Fatalf("no RssAnon in the status of process %d", b.Pid())
	return 0
}
