package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/metadata/configdef"
)

func (a *app) tierCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "tier", Aliases: []string{"tiers"}, Short: "See what is on disk, in the cache and in the bucket"}
	cmd.AddCommand(a.tierStatus(), a.tierMap(), a.tierVerify())
	return cmd
}

// adminGet asks the admin server. The caller closes the body.
func (a *app) adminGet(ctx context.Context, path string, query url.Values) (io.ReadCloser, error) {
	if _, _, err := net.SplitHostPort(a.admin); err != nil {
		return nil, fmt.Errorf("--admin %q: write HOST:PORT, such as %s", a.admin, defaultAdmin)
	}
	u := url.URL{Scheme: "http", Host: a.admin, Path: path, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", u.String(), err)
	}
	// The body may stream for as long as the work takes; only its beginning is timed.
	transport := &http.Transport{ResponseHeaderTimeout: a.timeout, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext}
	response, err := (&http.Client{Transport: transport}).Do(request) //nolint:bodyclose // ownedBody closes it
	if err != nil {
		transport.CloseIdleConnections()
		var failed *url.Error
		if errors.As(err, &failed) { // its text repeats the address
			err = failed.Err
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("it does not speak HTTP (is it the address for Kafka clients?)")
		}
		return nil, &connectError{addresses: a.admin, flag: "--admin", err: err}
	}
	body := &ownedBody{ReadCloser: response.Body, transport: transport}
	if response.StatusCode == http.StatusOK {
		return body, nil
	}
	text, err := io.ReadAll(io.LimitReader(body, 64<<10))
	if err = errors.Join(err, body.Close()); err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", a.admin, err)
	}
	var refusal adminapi.Error
	if json.Unmarshal(text, &refusal) == nil && refusal.Message != "" {
		return nil, errors.New(refusal.Message)
	}
	return nil, fmt.Errorf("%s answered %s to %s: is it the admin address of a Firn node?", a.admin, response.Status, path)
}

// ownedBody closes its connection with the body: one request, one connection.
type ownedBody struct {
	io.ReadCloser
	transport *http.Transport
}

func (b *ownedBody) Close() error {
	defer b.transport.CloseIdleConnections()
	return b.ReadCloser.Close()
}

func (a *app) adminJSON(ctx context.Context, path string, query url.Values, into any) (err error) {
	body, err := a.adminGet(ctx, path, query)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	if err := json.NewDecoder(body).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", a.admin, err)
	}
	return nil
}

func (a *app) tierStatus() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the object store, the uploads that wait, and each topic's share of the tiers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var s adminapi.TierStatus
			if err := a.adminJSON(cmd.Context(), adminapi.PathTierStatus, nil, &s); err != nil {
				return err
			}
			return a.print(s, func(w io.Writer) error { return a.writeTierStatus(w, s) })
		},
	}
}

func (a *app) writeTierStatus(w io.Writer, s adminapi.TierStatus) error {
	if !s.Enabled {
		_, err := fmt.Fprintf(w, "Node %d of cluster %s has no object store (%s=false)\n", s.NodeID, s.ClusterID, configdef.RemoteSystemEnable)
		return err
	}
	fmt.Fprintf(w, "Node %d of cluster %s\n", s.NodeID, s.ClusterID)
	state := s.Store.State
	if s.Store.State == adminapi.StoreUnreachable {
		state = fmt.Sprintf("UNREACHABLE for %s: %s", a.since(s.Store.SinceMs), s.Store.LastError)
	}
	fmt.Fprintf(w, "Store   %s  %s\n", s.Store.URL, state)
	fmt.Fprintf(w, "Upload  %d segments, %s waiting, %d running, lag %s\n", s.PendingSegments, size(s.PendingBytes), s.UploadsRunning, roundMs(s.UploadLagMs))
	fmt.Fprintf(w, "Delete  %d objects in their grace period\n", s.PendingDeletes)
	fmt.Fprintf(w, "Cache   memory %s of %s, disk %s of %s, hits %s\n", size(s.Cache.MemoryBytes), size(s.Cache.MemoryLimit), size(s.Cache.DiskBytes), size(s.Cache.DiskLimit), hitRate(s.Cache))
	g := grid{header: []string{"TOPIC", "TIERS", "PARTITIONS", "ON DISK", "IN BUCKET", "OBJECTS", "WAITING", "LAG"}}
	for _, t := range s.Topics {
		ladder := t.Ladder
		if !t.Tiered {
			ladder = "disk only"
		}
		g.add(t.Topic, ladder, t.Partitions, size(t.LocalBytes), size(t.RemoteBytes), t.Objects, size(t.PendingBytes), roundMs(t.UploadLagMs))
	}
	return g.write(w)
}

func (a *app) since(ms int64) string { return roundMs(a.now().UnixMilli() - ms) }

func roundMs(ms int64) string {
	d := configdef.Duration(ms)
	if d >= time.Second {
		d = d.Round(time.Second)
	}
	return d.String()
}

func hitRate(c adminapi.CacheStatus) string {
	if c.Hits+c.Misses == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f%%", 100*float64(c.Hits)/float64(c.Hits+c.Misses))
}

func (a *app) tierMap() *cobra.Command {
	partition := int32(-1)
	cmd := &cobra.Command{
		Use: "map TOPIC", Short: "Show which offsets are on disk, in the cache and in the bucket, and why a segment is still here", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{"topic": {args[0]}}
			if partition >= 0 {
				query.Set("partition", strconv.Itoa(int(partition)))
			}
			var m adminapi.TierMap
			if err := a.adminJSON(cmd.Context(), adminapi.PathTierMap, query, &m); err != nil {
				return err
			}
			if err := a.print(m, func(w io.Writer) error { return a.writeTierMap(w, m) }); err != nil {
				return err
			}
			if n := len(m.Partitions); partition < 0 && n < m.PartitionCount {
				a.note("the node at %s has %d of %s: the nodes that have the others, `firn topic describe %s` names them, tell of those", a.admin, n, plural(m.PartitionCount, "partition"), m.Topic)
			} else if n == 0 {
				return fmt.Errorf("the node at %s does not have partition %d of %s: `firn topic describe %s` names those that have", a.admin, partition, m.Topic, m.Topic)
			}
			return nil
		},
	}
	cmd.Flags().Int32VarP(&partition, "partition", "p", -1, "one partition; by default all")
	return cmd
}

func (a *app) writeTierMap(w io.Writer, m adminapi.TierMap) error {
	ladder := "-" // a node tells it with the first partition that it has
	if m.Ladder != "" {
		ladder = m.Ladder
	}
	fmt.Fprintf(w, "Topic %s  id %s  tiers %s\n", m.Topic, m.TopicID, ladder)
	for _, p := range m.Partitions {
		fmt.Fprintf(w, "\nPartition %d  leader %d  log %d..%d  bucket ends %d  disk begins %d  committed %d\n",
			p.Partition, p.Leader, p.LogStart, p.LogEnd, p.RemoteEnd, p.LocalStart, p.HighWatermark)
		g := grid{header: []string{"OFFSETS", "SIZE", "DISK", "CACHE", "BUCKET", "NOTE"}}
		for _, r := range p.Ranges {
			g.add(fmt.Sprintf("%d..%d", r.Start, r.End), size(r.Bytes), tick(r.OnDisk), cached(r), bucket(r), a.noteOf(r))
		}
		if err := g.write(w); err != nil {
			return err
		}
	}
	return nil
}

func tick(yes bool) string {
	if yes {
		return "yes"
	}
	return "-"
}

func cached(r adminapi.Range) string {
	if r.CachedBytes == 0 {
		return "-"
	}
	return size(r.CachedBytes)
}

func bucket(r adminapi.Range) string {
	switch {
	case !r.InBucket:
		return "-"
	case r.Tier != "":
		return r.Tier
	}
	return "yes"
}

func (a *app) noteOf(r adminapi.Range) string {
	if r.Why == "" {
		return r.Object
	}
	note := r.Explain()
	if left := r.UntilMs - a.now().UnixMilli(); r.UntilMs > 0 && left > 0 {
		note += ", " + roundMs(left) + " left"
	}
	return note
}

type verifyResult struct {
	Objects  int                    `json:"objects"`
	Bytes    int64                  `json:"bytes"`
	Problems []adminapi.VerifyEvent `json:"problems"`
}

func (a *app) tierVerify() *cobra.Command {
	return &cobra.Command{
		Use: "verify [TOPIC]", Short: "Check that every object in the bucket is there and whole", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeTopics,
		RunE: func(cmd *cobra.Command, args []string) error {
			query := url.Values{}
			if len(args) == 1 {
				query.Set("topic", args[0])
			}
			result, err := a.verify(cmd.Context(), query)
			if err != nil {
				return err
			}
			if err := a.print(result, func(w io.Writer) error { return writeVerify(w, result) }); err != nil {
				return err
			}
			if n := len(result.Problems); n > 0 {
				return fmt.Errorf("%d of %d objects are damaged", n, result.Objects)
			}
			return nil
		},
	}
}

// maxEventLine bounds one line of the verify stream, in bytes.
const maxEventLine = 1 << 20

func (a *app) verify(ctx context.Context, query url.Values) (result verifyResult, err error) {
	result.Problems = []adminapi.VerifyEvent{}
	body, err := a.adminGet(ctx, adminapi.PathTierVerify, query)
	if err != nil {
		return result, err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	p := a.newProgress("verify", 0, func(n int64) string { return fmt.Sprintf("%d objects", n) })
	defer p.finish()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEventLine)
	for lines.Scan() {
		var e adminapi.VerifyEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return result, fmt.Errorf("read the answer of %s: %w", a.admin, err)
		}
		if int64(e.Total) != p.total {
			p.grow(int64(e.Total))
		}
		p.set(int64(e.Done))
		result.Objects, result.Bytes = e.Done, e.DoneBytes
		if e.Problem != "" {
			result.Problems = append(result.Problems, e)
		}
		if e.Finished {
			return result, nil
		}
	}
	if err := lines.Err(); err != nil {
		return result, fmt.Errorf("read the answer of %s: %w", a.admin, err)
	}
	return result, fmt.Errorf("%s stopped after %d objects, before the check was finished", a.admin, result.Objects)
}

func writeVerify(w io.Writer, r verifyResult) error {
	if r.Objects == 0 {
		_, err := fmt.Fprintln(w, "no objects yet")
		return err
	}
	if len(r.Problems) == 0 {
		_, err := fmt.Fprintf(w, "%d objects, %s: all whole\n", r.Objects, size(r.Bytes))
		return err
	}
	g := grid{header: []string{"TOPIC", "PARTITION", "OFFSETS", "PROBLEM", "OBJECT"}}
	for _, p := range r.Problems {
		g.add(p.Topic, p.Partition, fmt.Sprintf("%d..%d", p.Start, p.End), strings.TrimSpace(p.Problem), p.Object)
	}
	return g.write(w)
}
