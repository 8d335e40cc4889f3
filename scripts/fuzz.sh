#!/usr/bin/env bash
# Runs every fuzz target of the module, one after another, for the time given.
set -euo pipefail
for_each=${1:-30s}
grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$dir"/*_test.go | awk '{print $2}' | while read -r target; do
		echo "== $dir $target ($for_each)"
		go test "$dir" -run '^$' -fuzz "^$target\$" -fuzztime "$for_each"
	done
done
