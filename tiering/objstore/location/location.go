// Package location opens an object store by its URL:
//
//	fs:///dir                                  a directory
//	mem:                                       memory, gone with the process
//	s3://bucket/prefix?endpoint=…&region=…&path-style=…
//	minio://host:port/bucket/prefix?secure=false&region=…
//
// Credentials never stand in a URL: they come from the environment, the
// usual files and roles, or Options.
package location

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/firnlog/firn/tiering/objstore"
	"github.com/firnlog/firn/tiering/objstore/fs"
	"github.com/firnlog/firn/tiering/objstore/mem"
	"github.com/firnlog/firn/tiering/objstore/minio"
	"github.com/firnlog/firn/tiering/objstore/s3"
)

// Location is a parsed URL: where a store is, checked as far as can be
// without asking it.
type Location struct {
	Driver    string // "fs", "mem", "s3" or "minio"
	Dir       string // fs: absolute path
	Bucket    string // s3, minio
	Prefix    string // s3, minio: of all keys, without slashes at its ends; may be ""
	Endpoint  string // s3: base URL, "" for Amazon's; minio: host:port
	Region    string // "" means the default
	PathStyle bool   // s3
	Secure    bool   // minio: TLS
}

// Options are what does not belong in a URL. The zero value takes credentials
// from the environment, and each driver's defaults.
type Options struct {
	AccessKey, SecretKey, SessionToken string
	MultipartSize                      int64 // bytes; 0 is the driver's default
}

// Forms is the help that every error ends with.
const Forms = "known forms: fs:///dir, mem:, s3://bucket?endpoint=…&region=…&path-style=…, minio://host:port/bucket?secure=false"

// Parse reads a URL. Its errors name the mistake and the fix; they show the
// URL only when it can hold no secret.
func Parse(raw string) (Location, error) {
	l, err := parse(raw)
	if err != nil {
		return Location{}, fmt.Errorf("%w: object store URL %q: %w", objstore.ErrInvalid, redact(raw), err)
	}
	return l, nil
}

// redact removes what may be a secret from a URL that may be anything.
func redact(raw string) string {
	if at := strings.LastIndexByte(raw, '@'); at >= 0 {
		scheme, _, _ := strings.Cut(raw, ":")
		raw = scheme + "://…" + raw[at:]
	}
	if path, query, ok := strings.Cut(raw, "?"); ok {
		for _, word := range []string{"key", "secret", "token", "password"} {
			if strings.Contains(strings.ToLower(query), word) {
				return path + "?…"
			}
		}
	}
	return raw
}

func parse(raw string) (Location, error) {
	if raw == "" {
		return Location{}, fmt.Errorf("it is empty; %s", Forms)
	}
	if strings.HasPrefix(raw, "/") || strings.HasPrefix(raw, ".") {
		return Location{}, errors.New("it has no scheme; for a directory write fs:///absolute/path")
	}
	if !strings.Contains(raw, ":") {
		return Location{}, fmt.Errorf("it has no scheme; %s", Forms)
	}
	u, err := url.Parse(raw)
	if err != nil {
		var parseErr *url.Error
		if errors.As(err, &parseErr) { // its text repeats the URL
			err = parseErr.Err
		}
		return Location{}, fmt.Errorf("%w; %s", err, Forms)
	}
	if u.User != nil {
		return Location{}, errors.New("it holds credentials; put them into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or the configuration")
	}
	if u.Fragment != "" {
		return Location{}, fmt.Errorf("it has a #fragment, which means nothing here")
	}
	switch u.Scheme {
	case "fs", "file":
		return parseFS(u)
	case "mem":
		return parseMem(u)
	case "s3":
		return parseS3(u)
	case "minio":
		return parseMinio(u)
	case "http", "https":
		return Location{}, fmt.Errorf("scheme %q names no kind of store; for an S3-compatible one write s3://BUCKET?endpoint=%s://%s", u.Scheme, u.Scheme, u.Host)
	}
	return Location{}, fmt.Errorf("unknown scheme %q; %s", u.Scheme, Forms)
}

func parseFS(u *url.URL) (Location, error) {
	if u.Host != "" {
		return Location{}, fmt.Errorf("%q stands where a host would; write fs:///%s%s with three slashes for the directory /%s%s", u.Host, u.Host, u.Path, u.Host, u.Path)
	}
	if u.Opaque != "" || !strings.HasPrefix(u.Path, "/") {
		return Location{}, errors.New("the directory must be absolute: fs:///dir")
	}
	if u.Path == "/" {
		return Location{}, errors.New("the root directory cannot be a store: fs:///dir")
	}
	_, err := parameters(u)
	return Location{Driver: "fs", Dir: u.Path}, err
}

func parseMem(u *url.URL) (Location, error) {
	if u.Host != "" || u.Path != "" || u.Opaque != "" {
		return Location{}, errors.New("a store in memory has no name, write \"mem:\" alone")
	}
	_, err := parameters(u)
	return Location{Driver: "mem"}, err
}

var bucketName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

func checkBucket(name, form string) error {
	if name == "" {
		return fmt.Errorf("it names no bucket: %s", form)
	}
	if !bucketName.MatchString(name) {
		return fmt.Errorf("bucket %q: a bucket's name is 3 to 63 lower-case letters, digits, dots and hyphens", name)
	}
	return nil
}

func checkPrefix(prefix string) (string, error) {
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return "", nil
	}
	if err := objstore.ValidateKey(prefix); err != nil {
		return "", fmt.Errorf("prefix: %w", err)
	}
	return prefix, nil
}

func parseS3(u *url.URL) (Location, error) {
	const form = "s3://BUCKET?endpoint=…"
	l := Location{Driver: "s3", Bucket: u.Host}
	if u.Port() != "" {
		return l, fmt.Errorf("%q is a host and port; the bucket stands there, and the host goes to the endpoint: s3://BUCKET?endpoint=http://%s", u.Host, u.Host)
	}
	if err := checkBucket(l.Bucket, form); err != nil {
		return l, err
	}
	var err error
	if l.Prefix, err = checkPrefix(strings.TrimPrefix(u.Path, "/")); err != nil {
		return l, err
	}
	p, err := parameters(u, "endpoint", "region", "path-style")
	if err != nil {
		return l, err
	}
	l.Endpoint, l.Region = strings.TrimSuffix(p["endpoint"], "/"), p["region"]
	if err := checkEndpoint(l.Endpoint); err != nil {
		return l, err
	}
	// Names of buckets below other stores' host names rarely resolve.
	l.PathStyle, err = boolean(p, "path-style", l.Endpoint != "")
	return l, err
}

func checkEndpoint(endpoint string) error {
	if endpoint == "" {
		return nil
	}
	e, err := url.Parse(endpoint)
	switch {
	case err != nil || e.Scheme != "http" && e.Scheme != "https":
		return errors.New("endpoint needs a scheme: endpoint=https://HOST:PORT or endpoint=http://HOST:PORT")
	case e.User != nil:
		return errors.New("endpoint holds credentials; put them into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or the configuration")
	case e.Host == "" || e.Path != "" || e.RawQuery != "":
		return errors.New("endpoint is a scheme, a host and a port, nothing more: endpoint=https://HOST:PORT")
	}
	return nil
}

func parseMinio(u *url.URL) (Location, error) {
	const form = "minio://HOST:PORT/BUCKET"
	l := Location{Driver: "minio", Endpoint: u.Host}
	if u.Host == "" {
		return l, fmt.Errorf("it names no host: %s", form)
	}
	bucket, prefix, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	l.Bucket = bucket
	if err := checkBucket(l.Bucket, form); err != nil {
		return l, err
	}
	var err error
	if l.Prefix, err = checkPrefix(prefix); err != nil {
		return l, err
	}
	p, err := parameters(u, "secure", "region")
	if err != nil {
		return l, err
	}
	l.Region = p["region"]
	l.Secure, err = boolean(p, "secure", true)
	return l, err
}

// parameters gives the query's parameters and refuses those that are unknown,
// double or empty.
func parameters(u *url.URL, known ...string) (map[string]string, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, err
	}
	p := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		values := query[name]
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return nil, fmt.Errorf("unknown parameter %q: %s takes none", name, u.Scheme)
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("unknown parameter %q: %s takes %s", name, u.Scheme, strings.Join(known, ", "))
		case len(values) > 1:
			return nil, fmt.Errorf("parameter %q is given twice", name)
		case values[0] == "":
			return nil, fmt.Errorf("parameter %q is empty; leave it out for the default", name)
		}
		p[name] = values[0]
	}
	return p, nil
}

func boolean(p map[string]string, name string, fallback bool) (bool, error) {
	value, given := p[name]
	if !given {
		return fallback, nil
	}
	b, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s=%s: write %s=true or %s=false", name, value, name, name)
	}
	return b, nil
}

// String is the URL again, in one form. It holds no secret.
func (l Location) String() string {
	switch l.Driver {
	case "fs":
		return "fs://" + l.Dir
	case "mem":
		return "mem:"
	}
	u := url.URL{Scheme: l.Driver, Host: l.Bucket, Path: l.Prefix}
	q := url.Values{}
	if l.Region != "" {
		q.Set("region", l.Region)
	}
	if l.Driver == "minio" {
		u.Host, u.Path = l.Endpoint, l.Bucket
		if l.Prefix != "" {
			u.Path += "/" + l.Prefix
		}
		if !l.Secure {
			q.Set("secure", "false")
		}
	} else {
		if l.Endpoint != "" {
			q.Set("endpoint", l.Endpoint)
		}
		if l.PathStyle != (l.Endpoint != "") {
			q.Set("path-style", strconv.FormatBool(l.PathStyle))
		}
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// Open opens the driver. It asks the network nothing, except where a store's
// directory has to be made: a store that is down must not stop a broker.
func (l Location) Open(ctx context.Context, o Options) (objstore.Store, error) {
	switch l.Driver {
	case "fs":
		return fs.Open(l.Dir)
	case "mem":
		return mem.New(), nil
	case "s3":
		return s3.Open(ctx, s3.Options{
			Bucket: l.Bucket, Endpoint: l.Endpoint, Region: l.Region, PathStyle: l.PathStyle,
			AccessKey: o.AccessKey, SecretKey: o.SecretKey, SessionToken: o.SessionToken, MultipartSize: o.MultipartSize,
		})
	case "minio":
		return minio.Open(minio.Options{
			Endpoint: l.Endpoint, Bucket: l.Bucket, Secure: l.Secure, Region: l.Region,
			AccessKey: o.AccessKey, SecretKey: o.SecretKey, SessionToken: o.SessionToken, MultipartSize: o.MultipartSize,
		})
	}
	return nil, fmt.Errorf("%w: object store location without a driver", objstore.ErrInvalid)
}
