package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"
)

// ObjectOptions say which objects GetObjects reads. Keys come from the usual
// AWS_… or MINIO_… environment variables.
type ObjectOptions struct {
	Endpoint string // host:port
	TLS      bool
	Region   string // empty: the store is asked
	Bucket   string
	Prefix   string // objects below it are read, in the order of their names
	Parallel int    // requests at the same time
	// RangeBytes splits objects into ranged GETs; 0 reads each by one request.
	RangeBytes int64
	// MaxBytes ends the run once so many bytes are asked for; 0 reads all once.
	MaxBytes int64
}

// ObjectResult is what GetObjects did.
type ObjectResult struct {
	Bytes    int64
	Requests int64
}

// ErrNoObjects is returned where nothing lies below the prefix.
var ErrNoObjects = errors.New("probe: no objects below the prefix")

// part is one GET.
type part struct {
	key      string
	from, to int64 // to is exclusive
}

// GetObjects reads objects by parallel GETs and drops the bytes: the floor
// under the figure of a catch-up read.
func GetObjects(ctx context.Context, o ObjectOptions) (ObjectResult, error) {
	transport, err := minio.DefaultTransport(o.TLS)
	if err != nil {
		return ObjectResult{}, fmt.Errorf("probe: %w", err)
	}
	transport.MaxIdleConnsPerHost = o.Parallel
	defer transport.CloseIdleConnections()
	client, err := minio.New(o.Endpoint, &minio.Options{
		Creds:     credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.EnvMinio{}}),
		Secure:    o.TLS,
		Region:    o.Region,
		Transport: transport,
	})
	if err != nil {
		return ObjectResult{}, fmt.Errorf("probe: %w", err)
	}
	parts, err := listParts(ctx, client, o)
	if err != nil {
		return ObjectResult{}, err
	}

	var next, bytes atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range o.Parallel {
		g.Go(func() error {
			buf := make([]byte, drainBuffer)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(parts)) {
					return nil
				}
				n, err := getPart(ctx, client, o.Bucket, parts[i], buf)
				bytes.Add(n)
				if err != nil {
					return err
				}
			}
		})
	}
	err = g.Wait()
	return ObjectResult{Bytes: bytes.Load(), Requests: min(next.Load(), int64(len(parts)))}, err
}

// listParts plans the GETs.
func listParts(ctx context.Context, client *minio.Client, o ObjectOptions) ([]part, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel() // which ends the listing too
	var parts []part
	var total int64
	for obj := range client.ListObjectsIter(ctx, o.Bucket, minio.ListObjectsOptions{Prefix: o.Prefix, Recursive: true}) {
		if obj.Err != nil {
			return nil, fmt.Errorf("probe: list: %w", obj.Err)
		}
		step := o.RangeBytes
		if step <= 0 {
			step = obj.Size
		}
		for from := int64(0); from < obj.Size; from += step {
			if o.MaxBytes > 0 && total >= o.MaxBytes {
				return parts, nil
			}
			p := part{key: obj.Key, from: from, to: min(from+step, obj.Size)}
			parts = append(parts, p)
			total += p.to - p.from
		}
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("%w %s/%s", ErrNoObjects, o.Bucket, o.Prefix)
	}
	return parts, nil
}

// getPart reads one part and drops it.
func getPart(ctx context.Context, client *minio.Client, bucket string, p part, buf []byte) (int64, error) {
	var opts minio.GetObjectOptions
	if err := opts.SetRange(p.from, p.to-1); err != nil {
		return 0, fmt.Errorf("probe: %w", err)
	}
	core := minio.Core{Client: client}
	body, _, _, err := core.GetObject(ctx, bucket, p.key, opts)
	if err != nil {
		return 0, fmt.Errorf("probe: get %s: %w", p.key, err)
	}
	defer body.Close()
	var n int64
	for {
		got, err := body.Read(buf)
		n += int64(got)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, fmt.Errorf("probe: get %s: %w", p.key, err)
		}
	}
	if want := p.to - p.from; n != want {
		return n, fmt.Errorf("probe: get %s: %d bytes of %d", p.key, n, want)
	}
	return n, nil
}
