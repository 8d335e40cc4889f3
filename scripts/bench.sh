#!/usr/bin/env bash
# Takes the figures of docs/performance.md: all rows, or what the arguments say
# (firn-bench -help). `make bench` builds bin/firn and .cache/bin/minio first.
#
#	make bench BENCH='-quick'
#	scripts/bench.sh -only produce-cpu -runs 3
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p build
CGO_ENABLED=0 go build -o build/firn-probe ./integration/probe/cmd/firn-probe
CGO_ENABLED=0 go build -o build/firn-bench ./integration/bench/cmd/firn-bench
exec ./build/firn-bench -firn bin/firn -probe build/firn-probe -minio .cache/bin/minio -json build/bench.json "$@"
