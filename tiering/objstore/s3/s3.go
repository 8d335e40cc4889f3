// Package s3 keeps objects in a bucket of Amazon S3, or of a store that
// speaks its protocol, over aws-sdk-go-v2.
//
// Integrity: each PUT and each part carries its CRC-32C in a signed header,
// which the server checks before it accepts; the body itself is not hashed a
// second time for the signature. The SDK's own checksums are set to "when
// required", because many S3-compatible stores refuse its trailing ones. A
// multipart upload asks for a full-object CRC-32C. A server that ignores the
// header reports no checksum on Head, and objstore.Verify reads back instead.
//
// Appearance: IfAbsent is If-None-Match: *, on PUT and on the completion of a
// multipart upload. The package runs no goroutine beyond parts in flight.
package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/logging"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/httpconn"
	"github.com/firnlog/firn/tiering/objstore/multipart"
)

// Options say where the bucket is. Only Bucket is required.
type Options struct {
	Bucket string
	// Endpoint is the base URL of an S3-compatible store, such as
	// "https://s3.example.com:9000". "" is Amazon's for the region.
	Endpoint string
	// Region; "" takes it from the environment, or "us-east-1" with Endpoint.
	Region string
	// PathStyle puts the bucket into the path and not the host name. Most
	// stores other than Amazon's need it.
	PathStyle bool
	// AccessKey and SecretKey, when given, replace the SDK's chain of
	// environment, shared files, container and instance roles.
	AccessKey, SecretKey, SessionToken string
	// MultipartSize is from how many bytes on an object goes up in parts, and
	// how large these are; default 64 MiB, at least 5 MiB.
	MultipartSize int64
	// PartsInFlight of one upload; default 4.
	PartsInFlight int
}

// Store implements objstore.Store. Make one with Open.
type Store struct {
	client *s3.Client
	conns  *httpconn.Transport
	bucket string
	name   string
	parts  multipart.Options
}

var _ objstore.Store = (*Store)(nil)

// Open makes the client. It makes no request: a store that is down now may be
// up later, and a broker starts without it.
func Open(ctx context.Context, o Options) (*Store, error) {
	if o.Bucket == "" {
		return nil, fmt.Errorf("%w: s3 store without a bucket", objstore.ErrInvalid)
	}
	if o.MultipartSize == 0 {
		o.MultipartSize = 64 << 20
	}
	if o.MultipartSize < 5<<20 {
		return nil, fmt.Errorf("%w: s3 multipart size %d is below S3's minimum of 5 MiB", objstore.ErrInvalid, o.MultipartSize)
	}
	if o.PartsInFlight == 0 {
		o.PartsInFlight = 4
	}
	cfg, err := loadConfig(ctx, o)
	if err != nil {
		return nil, err
	}
	// The SDK's client, which credential providers use, has been given
	// AWS_CA_BUNDLE; our pool trusts the same.
	conns := httpconn.New(nil)
	if sdk, ok := cfg.HTTPClient.(*awshttp.BuildableClient); ok {
		conns = httpconn.New(sdk.GetTransport().TLSClientConfig)
	}
	client := s3.NewFromConfig(cfg, func(c *s3.Options) {
		c.HTTPClient = httpClient{conns}
		c.UsePathStyle = o.PathStyle
		if o.Endpoint != "" {
			c.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	name := "s3://" + o.Bucket
	if o.Endpoint != "" {
		name += "?endpoint=" + o.Endpoint
	}
	return &Store{
		client: client, conns: conns, bucket: o.Bucket, name: name,
		parts: multipart.Options{PartSize: o.MultipartSize, Concurrency: o.PartsInFlight, AbortWithin: 10 * time.Second},
	}, nil
}

func loadConfig(ctx context.Context, o Options) (aws.Config, error) {
	load := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }), // objstore.Retrying retries
		config.WithLogger(logging.Nop{}),                                   // it would write to standard error past the broker's log
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired),
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
	}
	if o.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)))
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return cfg, fmt.Errorf("%w: s3 configuration: %w", objstore.ErrInvalid, err)
	}
	cfg.Credentials = namedCredentials{cfg.Credentials}
	if cfg.Region == "" && o.Endpoint != "" {
		cfg.Region = "us-east-1"
	}
	if cfg.Region == "" {
		return cfg, fmt.Errorf("%w: no region for s3://%s: add ?region=… to the URL or set AWS_REGION", objstore.ErrInvalid, o.Bucket)
	}
	return cfg, nil
}

func (s *Store) String() string { return s.name }

// Close closes idle connections.
func (s *Store) Close() error {
	s.conns.CloseIdleConnections()
	return nil
}

// fail names the operation and classifies the SDK's error.
func (s *Store) fail(op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &objstore.OpError{Op: op, Store: s.name, Key: key, Err: err}
	if objstore.ContextErr(err) != nil || classified(err) {
		return e
	}
	status, code := 0, ""
	if res := (*awshttp.ResponseError)(nil); errors.As(err, &res) {
		status = res.HTTPStatusCode()
	}
	if api := smithy.APIError(nil); errors.As(err, &api) {
		code = api.ErrorCode()
		e.Err = fmt.Errorf("%s (HTTP %d): %s", code, status, api.ErrorMessage())
	}
	switch {
	case noCredentials(err):
		e.Kind = objstore.ErrDenied
	case status == 0:
		var hint string
		if hint, e.Kind = objstore.NoAnswer(err); hint != "" {
			e.Err = fmt.Errorf("%s: %w", hint, err)
		}
	default:
		e.Kind = objstore.KindOfHTTP(status, code)
	}
	return e
}

func classified(err error) bool {
	return errors.Is(err, objstore.ErrInvalid) || errors.Is(err, objstore.ErrChecksum)
}

// noCredentials recognises a failure to find or refresh credentials.
func noCredentials(err error) bool {
	signing := (*v4.SigningError)(nil)
	return errors.As(err, &signing) || errors.Is(err, errNoCredentials)
}

var errNoCredentials = errors.New("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or a role of the machine")

// namedCredentials marks failures to find credentials, which the SDK passes on in
// words only.
type namedCredentials struct{ aws.CredentialsProvider }

func (c namedCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	found, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", errNoCredentials, err)
	}
	return found, err
}

// unsigned leaves the body out of the signature: its CRC-32C header is in it.
func unsigned(o *s3.Options) {
	o.APIOptions = append(o.APIOptions, v4.SwapComputePayloadSHA256ForUnsignedPayloadMiddleware)
}

// Put implements objstore.Store.
func (s *Store) Put(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) (objstore.ObjectInfo, error) {
	sum, err := s.put(ctx, key, body, size, o)
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("put", key, err)
	}
	now := s.conns.Now()
	return objstore.ObjectInfo{Key: key, Size: size, Checksum: sum, Modified: now, AsOf: now, StorageClass: o.StorageClass}, nil
}

func (s *Store) put(ctx context.Context, key string, body io.ReaderAt, size int64, o objstore.PutOptions) (objstore.Checksum, error) {
	if err := objstore.ValidateKey(key); err != nil {
		return objstore.Checksum{}, err
	}
	if size < 0 {
		return objstore.Checksum{}, fmt.Errorf("%w: size %d is negative", objstore.ErrInvalid, size)
	}
	if size >= s.parts.PartSize {
		return multipart.Upload(ctx, &upload{s, key, o}, body, size, o.Checksum, s.parts)
	}
	section := io.NewSectionReader(body, 0, size)
	sum := o.Checksum
	if !sum.Valid() {
		var err error
		if sum, _, err = objstore.ChecksumReader(section); err != nil {
			return sum, fmt.Errorf("%w: read body: %w", objstore.ErrInvalid, err)
		}
		if _, err := section.Seek(0, io.SeekStart); err != nil {
			return sum, err
		}
	}
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: &key, Body: section, ContentLength: &size,
		ChecksumCRC32C: aws.String(sum.Base64()),
		IfNoneMatch:    noneMatch(o.IfAbsent),
		StorageClass:   types.StorageClass(o.StorageClass),
	}, unsigned)
	return sum, err
}

func noneMatch(ifAbsent bool) *string {
	if !ifAbsent {
		return nil
	}
	return aws.String("*")
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	if err := objstore.ValidateRange(key, off, length); err != nil {
		return nil, s.fail("get", key, err)
	}
	if length == 0 {
		return io.NopCloser(&io.LimitedReader{}), nil
	}
	out, err := s.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket: &s.bucket, Key: &key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", off, off+length-1)),
	})
	if err != nil {
		return nil, s.fail("get", key, err)
	}
	if got := aws.ToInt64(out.ContentLength); got != length {
		err := fmt.Errorf("%w: range [%d, %d+%d): the object has %d bytes of it", objstore.ErrInvalid, off, off, length, got)
		return nil, s.fail("get", key, errors.Join(err, out.Body.Close()))
	}
	return objstore.ExactBody(out.Body, length, func(kind, err error) error {
		return &objstore.OpError{Op: "get", Store: s.name, Key: key, Kind: kind, Err: err}
	}), nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.ObjectInfo, error) {
	if err := objstore.ValidateKey(key); err != nil {
		return objstore.ObjectInfo{}, s.fail("head", key, err)
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("head", key, err)
	}
	return objstore.ObjectInfo{
		Key: key, Size: aws.ToInt64(out.ContentLength),
		Checksum: objstore.ParseBase64(aws.ToString(out.ChecksumCRC32C)),
		Modified: aws.ToTime(out.LastModified), AsOf: s.conns.Now(), StorageClass: string(out.StorageClass),
	}, nil
}

const deletesInFlight = 16

// Delete implements objstore.Store. It sends one DELETE per key: the bulk
// request needs checksums that not every store takes, and costs the same.
func (s *Store) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	var group errgroup.Group
	group.SetLimit(deletesInFlight)
	for i, key := range keys {
		group.Go(func() error {
			err := objstore.ValidateKey(key)
			if err == nil {
				_, err = s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: &key})
			}
			if code := smithy.APIError(nil); errors.As(err, &code) && code.ErrorCode() == "NoSuchKey" {
				err = nil
			}
			errs[i] = s.fail("delete", key, err)
			return nil // failures are per key
		})
	}
	_ = group.Wait() // no function above returns an error
	return errs
}

// List implements objstore.Store.
func (s *Store) List(ctx context.Context, prefix, startAfter string) iter.Seq2[objstore.ObjectInfo, error] {
	return func(yield func(objstore.ObjectInfo, error) bool) {
		if err := objstore.ValidatePrefix(prefix); err != nil {
			yield(objstore.ObjectInfo{}, s.fail("list", prefix, err))
			return
		}
		in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: &prefix}
		if startAfter != "" {
			in.StartAfter = &startAfter
		}
		for pages := s3.NewListObjectsV2Paginator(s.client, in); pages.HasMorePages(); {
			page, err := pages.NextPage(ctx)
			if err != nil {
				yield(objstore.ObjectInfo{}, s.fail("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				info := objstore.ObjectInfo{
					Key: aws.ToString(o.Key), Size: aws.ToInt64(o.Size),
					Modified: aws.ToTime(o.LastModified), AsOf: s.conns.Now(), StorageClass: string(o.StorageClass),
				}
				if !yield(info, nil) {
					return
				}
			}
		}
	}
}

// Copy implements objstore.Store, for objects up to S3's limit of 5 GiB.
func (s *Store) Copy(ctx context.Context, src, dst string, o objstore.CopyOptions) (objstore.ObjectInfo, error) {
	for _, key := range []string{src, dst} {
		if err := objstore.ValidateKey(key); err != nil {
			return objstore.ObjectInfo{}, s.fail("copy", key, err)
		}
	}
	_, err := s.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket: &s.bucket, Key: &dst,
		CopySource:        aws.String(s.bucket + "/" + src), // keys need no escaping: see ValidateKey
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		StorageClass:      types.StorageClass(o.StorageClass),
	})
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("copy", src, err)
	}
	return s.Head(ctx, dst)
}

// CreateBucket implements objstore.BucketCreator.
func (s *Store) CreateBucket(ctx context.Context) error {
	in := &s3.CreateBucketInput{Bucket: &s.bucket}
	if region := s.client.Options().Region; region != "us-east-1" { // which must not be named
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{LocationConstraint: types.BucketLocationConstraint(region)}
	}
	_, err := s.client.CreateBucket(ctx, in)
	if api := smithy.APIError(nil); errors.As(err, &api) && api.ErrorCode() == "BucketAlreadyOwnedByYou" {
		return nil
	}
	return s.fail("create bucket", "", err)
}
