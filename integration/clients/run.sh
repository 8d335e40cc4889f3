#!/usr/bin/env bash
# Other people's clients against a broker of our own: installs kcat and
# librdkafka (Debian), kafka-python and confluent-kafka (PyPI), kafkajs (npm) and
# Apache Kafka's tools (Maven Central), starts bin/firn and runs every check.
#
#   run.sh [NAME…]         only the checks whose name contains one of the words
#   FIRN_TEST_BOOTSTRAP=H:P     test a broker that runs already (a Kafka, say)
#
# What is missing and cannot be installed is said, and fails.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/.cache/clients
mkdir -p "$cache"

need() {
	command -v "$1" >/dev/null 2>&1 || {
		echo "test-clients needs $1: $2" >&2
		exit 1
	}
}
need python3 "install Python 3.9 or newer"
need node "install Node.js 18 or newer"
need npm "install npm"
need java "install a Java runtime, 17 or newer"
need mvn "install Apache Maven"

if ! command -v kcat >/dev/null 2>&1; then
	if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
		echo "installing kcat"
		{ apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq kcat; } >"$cache/apt.log" 2>&1 ||
			{ cat "$cache/apt.log"; exit 1; }
	fi
	need kcat "install kcat (Debian: apt-get install kcat)"
fi

if [ ! -e "$cache/venv/ready-$(md5sum <"$here/requirements.txt" | cut -c1-8)" ]; then
	echo "installing Python clients"
	rm -rf "$cache/venv"
	python3 -m venv "$cache/venv"
	"$cache/venv/bin/pip" install -q -r "$here/requirements.txt"
	touch "$cache/venv/ready-$(md5sum <"$here/requirements.txt" | cut -c1-8)"
fi
if ! cmp -s "$here/package.json" "$cache/node/package.json" || [ ! -d "$cache/node/node_modules/kafkajs" ]; then
	echo "installing kafkajs"
	rm -rf "$cache/node" && mkdir -p "$cache/node"
	cp "$here/package.json" "$cache/node/"
	(cd "$cache/node" && npm install --silent --no-audit --no-fund)
fi
kafka=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
if [ ! -e "$cache/kafka-$kafka/ready" ]; then
	echo "installing Apache Kafka $kafka"
	mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$cache/kafka-$kafka"
	touch "$cache/kafka-$kafka/ready"
fi
export FIRN_TEST_BIN=$root/bin/firn KAFKA_LIBS=$cache/kafka-$kafka NODE_MODULES=$cache/node PYTHON=$cache/venv/bin/python
exec python3 "$here/run.py" "$@"
