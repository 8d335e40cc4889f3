package testminio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Module is the MinIO server that the tests run against: the last version of
// the open repository, built from source by the Go tool.
const Module = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"

// EnvBinary names a MinIO binary to use instead of the cached one.
const EnvBinary = "FIRN_TEST_MINIO"

// Binary finds the server: $FIRN_TEST_MINIO, else <repository>/.cache/bin/minio.
// The error says how to get it.
func Binary() (string, error) {
	path := os.Getenv(EnvBinary)
	if path == "" {
		root, err := repositoryRoot()
		if err != nil {
			return "", err
		}
		path = filepath.Join(root, ".cache", "bin", "minio")
	}
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("these tests need a MinIO server at %s (%w): run `go run ./internal/testminio/install`, or set %s to a MinIO binary",
			path, err, EnvBinary)
	}
	return path, nil
}

// Install builds the server into the cache unless it is there, and returns
// its path. Cold, it takes minutes; the go command's output goes to progress.
func Install(ctx context.Context, progress *os.File) (string, error) {
	if path, err := Binary(); err == nil || os.Getenv(EnvBinary) != "" {
		return path, err
	}
	root, err := repositoryRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".cache", "bin")
	if err := os.MkdirAll(bin, 0o750); err != nil {
		return "", err
	}
	work, err := os.MkdirTemp("", "firn-minio-build-") // outside our module
	if err != nil {
		return "", err
	}
	// The linker's output goes to work first, so that a broken build leaves
	// no half-made file in the cache.
	cmd := exec.CommandContext(ctx, "go", "install", Module)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "GOBIN="+work, "GOFLAGS=-mod=mod -buildvcs=false", "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = progress, progress
	err = cmd.Run()
	if err == nil {
		err = moveFile(filepath.Join(work, "minio"), filepath.Join(bin, "minio"))
	}
	if err = errors.Join(err, os.RemoveAll(work)); err != nil {
		return "", fmt.Errorf("build %s: %w", Module, err)
	}
	return Binary()
}

// moveFile moves a file that may be on another file system; path to appears
// whole.
func moveFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", b, 0o750); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// repositoryRoot is the nearest directory upwards whose go.mod is Firn's.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		b, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && strings.HasPrefix(string(b), "module github.com/firnlog/firn\n") {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("not inside a checkout of github.com/firnlog/firn")
		}
		dir = filepath.Dir(dir)
	}
}
