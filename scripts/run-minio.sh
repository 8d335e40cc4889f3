#!/usr/bin/env bash
# Runs a broker that tiers into a MinIO server, both on loopback and both ended
# by Ctrl-C. Everything lies under ./data-minio: the broker's data in broker/,
# MinIO's buckets in objects/. That is not the directory of `make run`: metadata
# names objects, so a data directory belongs to the store that it began with.
#
#   RUN_DIR           another directory than data-minio
#   FIRN_TEST_MINIO   the MinIO binary, .cache/bin/minio if unset
#   further arguments go to `firn dev`, for example --brokers 3 (make run-cluster)
set -euo pipefail
cd "$(dirname "$0")/.."

minio_bin=${FIRN_TEST_MINIO:-.cache/bin/minio}
minio_bin=$(realpath -e "$minio_bin" 2>/dev/null) || {
	echo "run-minio: no MinIO server at ${FIRN_TEST_MINIO:-.cache/bin/minio}: run 'make tools', or set FIRN_TEST_MINIO" >&2
	exit 1
}
firn=./bin/firn
[[ -x $firn ]] || {
	echo "run-minio: no $firn: run 'make build'" >&2
	exit 1
}

root=$(realpath -m "${RUN_DIR:-data-minio}")
mkdir -p "$root/objects" "$root/broker"
# Made once: MinIO encrypts its own settings with it.
if [[ ! -s $root/password ]]; then
	(umask 077 && od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$root/password")
fi

# port_taken tells whether somebody listens on a loopback port.
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=9000
while port_taken "$port"; do port=$((port + 1)); done
endpoint=127.0.0.1:$port

# Job control gives each child a process group of its own, so that Ctrl-C reaches
# this script alone and the store outlives the broker's last upload.
set -m
minio='' broker=''
# end stops a child by its process id and waits for it.
end() {
	[[ -n $2 ]] || return 0
	kill "-$1" "$2" 2>/dev/null || true
	wait "$2" 2>/dev/null || true
}
trap 'end INT "$broker"; end TERM "$minio"' EXIT

# Loopback, no console, nothing outside $root (MinIO keeps files in HOME).
HOME=$root MINIO_ROOT_USER=firn MINIO_ROOT_PASSWORD=$(<"$root/password") MINIO_BROWSER=off MINIO_UPDATE=off \
	"$minio_bin" server "$root/objects" --address "$endpoint" --console-address 127.0.0.1:0 --quiet >"$root/minio.log" 2>&1 &
minio=$!

# ready asks MinIO's health page.
ready() {
	local status
	exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
	printf 'GET /minio/health/cluster HTTP/1.0\r\nHost: %s\r\n\r\n' "$endpoint" >&3
	read -r status <&3
	exec 3<&-
	[[ $status == *' 200 '* ]]
}
for ((i = 0; ; i++)); do
	if ! kill -0 "$minio" 2>/dev/null || ((i == 300)); then
		echo "run-minio: MinIO did not start; $root/minio.log ends with:" >&2
		tail -n 5 "$root/minio.log" >&2
		exit 1
	fi
	! ready 2>/dev/null || break
	sleep 0.1
done
echo "run-minio: MinIO on $endpoint, user firn, password in $root/password, buckets in $root/objects"

MINIO_ACCESS_KEY=firn MINIO_SECRET_KEY=$(<"$root/password") \
	"$firn" dev --data "$root/broker" --object-store "minio://$endpoint/firn?secure=false" "$@" &
broker=$!
# A second signal ends the broker at once, as it does without this script.
trap 'kill -INT "$broker" 2>/dev/null || true' INT TERM HUP
code=0
while :; do
	code=0
	wait "$broker" || code=$?
	kill -0 "$broker" 2>/dev/null || break # else a signal has ended the wait alone
done
broker=''
exit "$code"
