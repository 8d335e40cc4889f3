package s3

import (
	"context"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/httpconn"
	"github.com/firnlog/firn/tiering/objstore/multipart"
)

// httpClient is the pool as the SDK wants it; redirects are not followed, the
// SDK would have to sign them anew.
type httpClient struct{ conns *httpconn.Transport }

// Do implements the SDK's HTTPClient.
func (c httpClient) Do(r *http.Request) (*http.Response, error) { return c.conns.RoundTrip(r) }

// upload makes the requests of one multipart upload.
type upload struct {
	s   *Store
	key string
	o   objstore.PutOptions
}

var _ multipart.Target = (*upload)(nil)

// Begin implements multipart.Target.
func (u *upload) Begin(ctx context.Context) (string, error) {
	out, err := u.s.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket: &u.s.bucket, Key: &u.key,
		ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c, ChecksumType: types.ChecksumTypeFullObject,
		StorageClass: types.StorageClass(u.o.StorageClass),
	})
	if err != nil {
		return "", err
	}
	return aws.ToString(out.UploadId), nil
}

// Upload implements multipart.Target.
func (u *upload) Upload(ctx context.Context, id string, part multipart.Part, body *io.SectionReader) (string, error) {
	out, err := u.s.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket: &u.s.bucket, Key: &u.key, UploadId: &id, PartNumber: &part.Number,
		Body: body, ContentLength: aws.Int64(body.Size()), ChecksumCRC32C: aws.String(part.Checksum.Base64()),
	}, unsigned)
	if err != nil {
		return "", err
	}
	return aws.ToString(out.ETag), nil
}

// Complete implements multipart.Target.
func (u *upload) Complete(ctx context.Context, id string, parts []multipart.Part, size int64, sum objstore.Checksum) error {
	done := make([]types.CompletedPart, len(parts))
	for i, p := range parts {
		done[i] = types.CompletedPart{PartNumber: &p.Number, ETag: &p.ETag, ChecksumCRC32C: aws.String(p.Checksum.Base64())}
	}
	_, err := u.s.client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{
		Bucket: &u.s.bucket, Key: &u.key, UploadId: &id,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: done},
		ChecksumCRC32C:  aws.String(sum.Base64()), ChecksumType: types.ChecksumTypeFullObject,
		MpuObjectSize: &size, IfNoneMatch: noneMatch(u.o.IfAbsent),
	})
	return err
}

// Abort implements multipart.Target.
func (u *upload) Abort(ctx context.Context, id string) error {
	_, err := u.s.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &u.s.bucket, Key: &u.key, UploadId: &id})
	return err
}
