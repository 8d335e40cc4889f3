#!/usr/bin/env bash
# Runs an Apache Kafka broker (KRaft, one node) beside Firn, to ask it how it
# answers: kafka-peer.sh PORT DIR [CONTROLLER_PORT]. It runs in the foreground until it
# is stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# One of several: KAFKA_NODE is its id, KAFKA_VOTERS the controllers (id@host:port,…),
# KAFKA_CLUSTER_ID what all are formatted with.
port=$1 dir=$2 controller=${3:-$(($1 + 1))}
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/pom.xml")
libs=${KAFKA_LIBS:-$here/../../.cache/clients/kafka-$version}
node=${KAFKA_NODE:-1}
mkdir -p "$dir"
cat >"$dir/server.properties" <<CONF
process.roles=broker,controller
node.id=$node
controller.quorum.voters=${KAFKA_VOTERS:-$node@127.0.0.1:$controller}
listeners=PLAINTEXT://127.0.0.1:$port,CONTROLLER://127.0.0.1:$controller
advertised.listeners=PLAINTEXT://127.0.0.1:$port
controller.listener.names=CONTROLLER
log.dirs=$dir/data
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
CONF
# The flags of Kafka's own start script.
java=(java -Xms1g -Xmx1g -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35
	-XX:+ExplicitGCInvokesConcurrent -Dlog4j2.configurationFile="$here/log4j2.xml" -cp "$libs/*")
if [ ! -e "$dir/data/meta.properties" ]; then
	"${java[@]}" kafka.tools.StorageTool format -t "${KAFKA_CLUSTER_ID:-$("${java[@]}" kafka.tools.StorageTool random-uuid)}" -c "$dir/server.properties"
fi
exec "${java[@]}" kafka.Kafka "$dir/server.properties"
