# Firn. `make` lists the targets.
#
# What a target needs and Go can install goes into .cache/bin, which git ignores.

SHELL   := /bin/bash
GO      ?= go
CACHE   := $(CURDIR)/.cache
BIN     := $(CACHE)/bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)

GOLANGCI_VERSION := v2.15.0
# v1.9.0 asks for a version of x/telemetry that module proxies do not all serve.
GOVULN_VERSION   := v1.8.0

# The race detector needs a C compiler; without one the tests run without it.
RACE := $(shell command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 && echo -race)

.DEFAULT_GOAL := help
.PHONY: help build run run-minio run-cluster test test-clients lint fuzz bench tools clean generate

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

build: ## bin/firn, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/firn ./cmd/firn

run: build ## a broker with tiered storage on 127.0.0.1:9092; everything under ./data
	./bin/firn dev --data ./data

run-minio: build $(BIN)/minio ## the same with MinIO as the object store
	./scripts/run-minio.sh

run-cluster: build $(BIN)/minio ## three brokers over MinIO on 127.0.0.1:9092 and up; kill one and watch it come back
	RUN_DIR=data-cluster ./scripts/run-minio.sh --brokers 3

test: $(BIN)/minio ## all tests that need Go alone, a real MinIO among them
	@test -n '$(RACE)' || echo 'no C compiler found: the tests run without the race detector'
	FIRN_TEST_MINIO=$(BIN)/minio $(GO) test $(RACE) -timeout 20m ./...
	$(GO) test ./integration/sim -run TestSeeds

test-clients: build ## kcat, librdkafka, Python, Node and Apache Kafka's own tools against bin/firn
	./integration/clients/run.sh

lint: $(BIN)/golangci-lint-$(GOLANGCI_VERSION) $(BIN)/govulncheck-$(GOVULN_VERSION) ## golangci-lint, govulncheck, formatting, a build for macOS
	$(BIN)/golangci-lint-$(GOLANGCI_VERSION) run ./...
	./scripts/vuln.sh $(BIN)/govulncheck-$(GOVULN_VERSION)
	GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/firn

fuzz: ## each fuzz target for FUZZTIME (30s)
	./scripts/fuzz.sh $(or $(FUZZTIME),30s)

bench: build $(BIN)/minio ## the figures of docs/performance.md; BENCH=-quick for small sizes, BENCH=-help
	./scripts/bench.sh $(BENCH)

generate: ## protobuf code
	$(GO) generate ./metadata/...

tools: $(BIN)/minio $(BIN)/golangci-lint-$(GOLANGCI_VERSION) $(BIN)/govulncheck-$(GOVULN_VERSION) ## what the targets need, into .cache/bin

$(BIN)/minio:
	$(GO) run ./internal/testminio/install

$(BIN)/golangci-lint-$(GOLANGCI_VERSION):
	@mkdir -p $(BIN)
	GOBIN=$(BIN) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv $(BIN)/golangci-lint $@

$(BIN)/govulncheck-$(GOVULN_VERSION):
	@mkdir -p $(BIN)
	GOBIN=$(BIN) $(GO) install golang.org/x/vuln/cmd/govulncheck@$(GOVULN_VERSION)
	mv $(BIN)/govulncheck $@

clean: ## remove what was built and installed here
	rm -rf bin build $(CACHE)
