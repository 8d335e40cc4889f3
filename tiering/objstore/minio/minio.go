// Package minio keeps objects in a bucket of a MinIO server over minio-go.
//
// It behaves as package s3 does (CRC-32C in a signed header, conditional PUT,
// full-object checksums on multipart uploads); a second client of independent
// making keeps the store seam honest, and is the lighter one where there is
// only MinIO. minio-go's own retries, read-ahead and multipart logic are off.
package minio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sync/errgroup"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/httpconn"
	"github.com/firnlog/firn/tiering/objstore/multipart"
)

// Options say where the bucket is. Endpoint and Bucket are required.
type Options struct {
	Endpoint string // host:port, without a scheme
	Bucket   string
	Secure   bool   // TLS
	Region   string // default "us-east-1", MinIO's own
	// AccessKey and SecretKey, when given, replace the chain: AWS_… and
	// MINIO_… in the environment, then ~/.aws/credentials and ~/.mc/config.json.
	AccessKey, SecretKey, SessionToken string
	// MultipartSize and PartsInFlight are as in package s3.
	MultipartSize int64
	PartsInFlight int
}

// Store implements objstore.Store. Make one with Open.
type Store struct {
	client *minio.Client
	conns  *httpconn.Transport
	bucket string
	name   string
	parts  multipart.Options
}

var _ objstore.Store = (*Store)(nil)

// Open makes the client. It makes no request.
func Open(o Options) (*Store, error) {
	if o.Endpoint == "" || o.Bucket == "" {
		return nil, fmt.Errorf("%w: minio store without an endpoint or a bucket", objstore.ErrInvalid)
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.MultipartSize == 0 {
		o.MultipartSize = 64 << 20
	}
	if o.MultipartSize < 5<<20 {
		return nil, fmt.Errorf("%w: minio multipart size %d is below the minimum of 5 MiB", objstore.ErrInvalid, o.MultipartSize)
	}
	if o.PartsInFlight == 0 {
		o.PartsInFlight = 4
	}
	creds := credentials.NewChainCredentials([]credentials.Provider{
		&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}, &credentials.FileMinioClient{},
	})
	if o.AccessKey != "" {
		creds = credentials.NewStaticV4(o.AccessKey, o.SecretKey, o.SessionToken)
	}
	conns := httpconn.New(nil)
	client, err := minio.New(o.Endpoint, &minio.Options{
		Creds: creds, Secure: o.Secure, Transport: conns, Region: o.Region,
		BucketLookup: minio.BucketLookupPath, MaxRetries: 1, TrailingHeaders: true,
	})
	if err != nil {
		return nil, fmt.Errorf("%w: minio endpoint %q: %w", objstore.ErrInvalid, o.Endpoint, err)
	}
	return &Store{
		client: client, conns: conns, bucket: o.Bucket, name: "minio://" + o.Endpoint + "/" + o.Bucket,
		parts: multipart.Options{PartSize: o.MultipartSize, Concurrency: o.PartsInFlight, AbortWithin: 10 * time.Second},
	}, nil
}

func (s *Store) String() string { return s.name }

// Close closes idle connections.
func (s *Store) Close() error {
	s.conns.CloseIdleConnections()
	return nil
}

func (s *Store) core() minio.Core { return minio.Core{Client: s.client} }

// fail names the operation and classifies minio-go's error.
func (s *Store) fail(op, key string, err error) error {
	if err == nil {
		return nil
	}
	e := &objstore.OpError{Op: op, Store: s.name, Key: key, Err: err}
	if objstore.ContextErr(err) != nil || errors.Is(err, objstore.ErrInvalid) || errors.Is(err, objstore.ErrChecksum) {
		return e
	}
	res := minio.ErrorResponse{}
	if errors.As(err, &res) {
		e.Err = fmt.Errorf("%s (HTTP %d): %s", res.Code, res.StatusCode, res.Message)
	}
	e.Kind = objstore.KindOfHTTP(res.StatusCode, res.Code)
	if res.StatusCode == 0 && res.Code == "" {
		var hint string
		if hint, e.Kind = objstore.NoAnswer(err); hint != "" {
			e.Err = fmt.Errorf("%s: %w", hint, err)
		}
	}
	return e
}

const checksumHeader = "X-Amz-Checksum-Crc32c"

// putOptions are the terms of a PUT or of a completed upload. The payload is
// left out of the signature, its CRC-32C header is in it.
func putOptions(o objstore.PutOptions, headers map[string]string) minio.PutObjectOptions {
	opts := minio.PutObjectOptions{DisableContentSha256: true, StorageClass: o.StorageClass, UserMetadata: headers}
	if o.IfAbsent {
		opts.SetMatchETagExcept("*")
	}
	return opts
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
	_, err := s.core().PutObject(ctx, s.bucket, key, section, size, "", "", putOptions(o, map[string]string{checksumHeader: sum.Base64()}))
	return sum, err
}

// GetRange implements objstore.Store.
func (s *Store) GetRange(ctx context.Context, key string, off, length int64) (io.ReadCloser, error) {
	if err := objstore.ValidateRange(key, off, length); err != nil {
		return nil, s.fail("get", key, err)
	}
	if length == 0 {
		return io.NopCloser(&io.LimitedReader{}), nil
	}
	var o minio.GetObjectOptions
	if err := o.SetRange(off, off+length-1); err != nil {
		return nil, s.fail("get", key, fmt.Errorf("%w: %w", objstore.ErrInvalid, err))
	}
	body, info, _, err := s.core().GetObject(ctx, s.bucket, key, o)
	if err != nil {
		return nil, s.fail("get", key, err)
	}
	if info.Size != length { // Content-Length of the answer
		err := fmt.Errorf("%w: range [%d, %d+%d): the object has %d bytes of it", objstore.ErrInvalid, off, off, length, info.Size)
		return nil, s.fail("get", key, errors.Join(err, body.Close()))
	}
	return objstore.ExactBody(body, length, func(kind, err error) error {
		return &objstore.OpError{Op: "get", Store: s.name, Key: key, Kind: kind, Err: err}
	}), nil
}

// Head implements objstore.Store.
func (s *Store) Head(ctx context.Context, key string) (objstore.ObjectInfo, error) {
	if err := objstore.ValidateKey(key); err != nil {
		return objstore.ObjectInfo{}, s.fail("head", key, err)
	}
	info, err := s.client.StatObject(ctx, s.bucket, key, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		return objstore.ObjectInfo{}, s.fail("head", key, err)
	}
	return objstore.ObjectInfo{
		Key: key, Size: info.Size, Checksum: objstore.ParseBase64(info.ChecksumCRC32C),
		Modified: info.LastModified, AsOf: s.conns.Now(), StorageClass: info.StorageClass,
	}, nil
}

const deletesInFlight = 16

// Delete implements objstore.Store with one request per key, as package s3.
func (s *Store) Delete(ctx context.Context, keys ...string) []error {
	errs := make([]error, len(keys))
	var group errgroup.Group
	group.SetLimit(deletesInFlight)
	for i, key := range keys {
		group.Go(func() error {
			err := objstore.ValidateKey(key)
			if err == nil {
				err = s.client.RemoveObject(ctx, s.bucket, key, minio.RemoveObjectOptions{})
			}
			if minio.ToErrorResponse(err).Code == minio.NoSuchKey {
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
		ctx, cancel := context.WithCancel(ctx) // minio-go wants it done when a listing stops early
		defer cancel()
		o := minio.ListObjectsOptions{Prefix: prefix, StartAfter: startAfter, Recursive: true}
		for info := range s.client.ListObjectsIter(ctx, s.bucket, o) {
			if info.Err != nil {
				yield(objstore.ObjectInfo{}, s.fail("list", prefix, info.Err))
				return
			}
			found := objstore.ObjectInfo{
				Key: info.Key, Size: info.Size, Modified: info.LastModified, AsOf: s.conns.Now(), StorageClass: info.StorageClass,
			}
			if !yield(found, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // the iterator ends silently then
			yield(objstore.ObjectInfo{}, s.fail("list", prefix, err))
		}
	}
}

// Copy implements objstore.Store, for objects up to 5 GiB.
func (s *Store) Copy(ctx context.Context, src, dst string, o objstore.CopyOptions) (objstore.ObjectInfo, error) {
	for _, key := range []string{src, dst} {
		if err := objstore.ValidateKey(key); err != nil {
			return objstore.ObjectInfo{}, s.fail("copy", key, err)
		}
	}
	headers := map[string]string{"X-Amz-Checksum-Algorithm": "CRC32C"}
	if o.StorageClass != "" {
		headers["X-Amz-Storage-Class"] = o.StorageClass
	}
	if _, err := s.core().CopyObject(ctx, s.bucket, src, s.bucket, dst, headers, minio.CopySrcOptions{}, minio.PutObjectOptions{}); err != nil {
		return objstore.ObjectInfo{}, s.fail("copy", src, err)
	}
	info, err := s.Head(ctx, dst)
	if errors.Is(err, objstore.ErrNotExist) { // S3 may answer 200 and fail the copy in the body
		err = &objstore.OpError{Op: "copy", Store: s.name, Key: src, Kind: objstore.ErrTransient, Err: errors.New("the copy did not appear")}
	}
	return info, err
}

// upload makes the requests of one multipart upload.
type upload struct {
	s   *Store
	key string
	o   objstore.PutOptions
}

var _ multipart.Target = (*upload)(nil)

// Begin implements multipart.Target.
func (u *upload) Begin(ctx context.Context) (string, error) {
	return u.s.core().NewMultipartUpload(ctx, u.s.bucket, u.key,
		putOptions(objstore.PutOptions{StorageClass: u.o.StorageClass}, map[string]string{
			"X-Amz-Checksum-Algorithm": "CRC32C", "X-Amz-Checksum-Type": "FULL_OBJECT",
		}))
}

// Upload implements multipart.Target.
func (u *upload) Upload(ctx context.Context, id string, part multipart.Part, body *io.SectionReader) (string, error) {
	out, err := u.s.core().PutObjectPart(ctx, u.s.bucket, u.key, id, int(part.Number), body, body.Size(), minio.PutObjectPartOptions{
		DisableContentSha256: true, CustomHeader: http.Header{checksumHeader: {part.Checksum.Base64()}},
	})
	return out.ETag, err
}

// Complete implements multipart.Target.
func (u *upload) Complete(ctx context.Context, id string, parts []multipart.Part, _ int64, sum objstore.Checksum) error {
	done := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		done[i] = minio.CompletePart{PartNumber: int(p.Number), ETag: p.ETag, ChecksumCRC32C: p.Checksum.Base64()}
	}
	_, err := u.s.core().CompleteMultipartUpload(ctx, u.s.bucket, u.key, id, done,
		putOptions(objstore.PutOptions{IfAbsent: u.o.IfAbsent}, map[string]string{
			checksumHeader: sum.Base64(), "X-Amz-Checksum-Type": "FULL_OBJECT",
		}))
	return err
}

// Abort implements multipart.Target.
func (u *upload) Abort(ctx context.Context, id string) error {
	return u.s.core().AbortMultipartUpload(ctx, u.s.bucket, u.key, id)
}

// CreateBucket implements objstore.BucketCreator.
func (s *Store) CreateBucket(ctx context.Context) error {
	err := s.client.MakeBucket(ctx, s.bucket, minio.MakeBucketOptions{})
	if minio.ToErrorResponse(err).Code == minio.BucketAlreadyOwnedByYou {
		return nil
	}
	return s.fail("create bucket", "", err)
}
