package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/firnlog/firn/broker/adminapi"
	"github.com/firnlog/firn/integration/probe"
	"github.com/firnlog/firn/integration/probe/load"
)

// pollEvery is the pace at which the states of other processes are looked at.
const pollEvery = 20 * time.Millisecond

// firn is a broker and how it is started again.
type firn struct {
	*process
	env   *Env
	addr  string
	admin string
	data  string // directory
	args  []string
	vars  []string
}

// firnOptions say how a broker runs.
type firnOptions struct {
	data  string   // directory below the case's
	store string   // URL; empty is a directory below the data
	vars  []string // environment, NAME=VALUE
	set   []string // settings, NAME=VALUE
}

// prepareFirn chooses addresses and does not start.
func (e *Env) prepareFirn(o firnOptions) (*firn, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	admin, err := freeAddr()
	if err != nil {
		return nil, err
	}
	f := &firn{env: e, addr: addr, admin: admin, data: e.path(o.data), vars: o.vars}
	f.args = []string{"dev", "--data", f.data, "--listen", addr, "--admin", admin, "--log-level", "warn"}
	if o.store != "" {
		f.args = append(f.args, "--object-store", o.store)
	}
	for _, s := range o.set {
		f.args = append(f.args, "--set", s)
	}
	return f, nil
}

// startFirn runs a broker and waits until it serves.
func (e *Env) startFirn(ctx context.Context, o firnOptions) (*firn, error) {
	f, err := e.prepareFirn(o)
	if err != nil {
		return nil, err
	}
	return f, f.begin(ctx)
}

// launch starts the process and waits for nothing.
func (f *firn) launch() (err error) {
	f.process, err = start("firn", f.vars, f.env.Firn, f.args...)
	return err
}

// begin starts the process and waits until it serves.
func (f *firn) begin(ctx context.Context) error {
	if err := f.launch(); err != nil {
		return err
	}
	err := f.await(ctx, pollEvery, func(ctx context.Context) error {
		_, err := f.get(ctx, "/readyz")
		return err
	})
	if err != nil {
		return errors.Join(err, f.kill())
	}
	return nil
}

// get asks the admin server.
func (f *firn) get(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+f.admin+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("bench: GET %s: %s: %s", path, resp.Status, body)
	}
	return body, err
}

// getJSON asks the admin server for an object.
func (f *firn) getJSON(ctx context.Context, path string, into any) error {
	body, err := f.get(ctx, path)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, into)
}

// createTopic creates a topic of one replica.
func (f *firn) createTopic(ctx context.Context, name string, partitions int32, configs map[string]string) error {
	return load.CreateTopic(ctx, f.addr, name, partitions, configs)
}

// alterTopic sets configs of a topic.
func (f *firn) alterTopic(ctx context.Context, name string, configs map[string]string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(f.addr))
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var changes []kadm.AlterConfig
	for k, v := range configs {
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: k, Value: &v})
	}
	responses, err := kadm.NewClient(client).AlterTopicConfigs(ctx, changes, name)
	if err == nil {
		_, err = responses.On(name, func(r *kadm.AlterConfigsResponse) error { return r.Err })
	}
	if err != nil {
		return fmt.Errorf("bench: configs of %s: %w", name, err)
	}
	return nil
}

// segments are the paths of a topic's segments.
func (f *firn) segments(ctx context.Context, topic string) ([]string, error) {
	var m adminapi.TierMap
	if err := f.getJSON(ctx, adminapi.PathTierMap+"?topic="+url.QueryEscape(topic), &m); err != nil {
		return nil, err
	}
	pattern := filepath.Join(f.data, m.TopicID, "*", "*.log")
	paths, err := filepath.Glob(pattern)
	if err == nil && len(paths) == 0 {
		err = fmt.Errorf("bench: no segment of %s at %s", topic, pattern)
	}
	return paths, err
}

// rawServer is a process of firn-probe.
type rawServer struct {
	*process
	addr string
}

// startRaw runs a server of firn-probe and waits until it listens.
func (e *Env) startRaw(ctx context.Context, command string, args ...string) (*rawServer, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	p, err := start("firn-probe "+command, nil, e.Probe, append([]string{command, "--addr", addr}, args...)...)
	if err != nil {
		return nil, err
	}
	err = p.await(ctx, time.Millisecond, func(ctx context.Context) error {
		if p.out.String() != "" { // it says so once it listens
			return nil
		}
		return errors.New("it says nothing yet")
	})
	if err != nil {
		return nil, errors.Join(err, p.kill())
	}
	return &rawServer{process: p, addr: addr}, nil
}

// probe runs a command of firn-probe to its end and returns its report.
func (e *Env) probe(ctx context.Context, vars []string, args ...string) (probe.Report, error) {
	var r probe.Report
	cmd := exec.CommandContext(ctx, e.Probe, append(args, "--json")...)
	cmd.Env = append(os.Environ(), vars...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("bench: firn-probe %s: %w: %s", args[0], err, errs.String())
	}
	return r, json.Unmarshal(out, &r)
}

// minioServer is a MinIO of one directory and one bucket.
type minioServer struct {
	*process
	addr           string
	access, secret string
	bucket         string
}

// startMinIO runs a MinIO at addr, by the given command before its own, such as
// one that enters a network namespace.
func (e *Env) startMinIO(ctx context.Context, addr string, before ...string) (*minioServer, error) {
	m := &minioServer{addr: addr, access: "firn-bench", secret: "firn-bench-secret", bucket: "firn"}
	dir := e.path("minio")
	// MinIO takes a directory of its drive for a bucket.
	if err := os.MkdirAll(filepath.Join(dir, m.bucket), 0o750); err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	console := net.JoinHostPort("127.0.0.1", "0")
	args := append(before, e.MinIO, "server", dir, "--address", addr, "--console-address", console, "--quiet")
	var err error
	m.process, err = start("MinIO", []string{"MINIO_ROOT_USER=" + m.access, "MINIO_ROOT_PASSWORD=" + m.secret,
		"MINIO_BROWSER=off", "MINIO_UPDATE=off", "MINIO_CI_CD=1", "HOME=" + dir}, args[0], args[1:]...)
	if err != nil {
		return nil, err
	}
	client, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(m.access, m.secret, ""), Region: "us-east-1", MaxRetries: 1})
	if err == nil {
		err = m.await(ctx, pollEvery, func(ctx context.Context) error {
			_, err := client.BucketExists(ctx, m.bucket)
			return err
		})
	}
	if err != nil {
		return nil, errors.Join(err, m.kill())
	}
	return m, nil
}

// vars are the credentials, for a broker and for the raw GETs.
func (m *minioServer) vars() []string {
	return []string{"AWS_ACCESS_KEY_ID=" + m.access, "AWS_SECRET_ACCESS_KEY=" + m.secret, "AWS_REGION=us-east-1"}
}

// url is the store for a broker.
func (m *minioServer) url() string {
	return fmt.Sprintf("s3://%s?endpoint=http://%s&region=us-east-1", m.bucket, m.addr)
}
