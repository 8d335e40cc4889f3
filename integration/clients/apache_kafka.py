"""Apache Kafka's own command line tools and clients, from Maven Central."""

import json
import os
import re
import signal
import subprocess
import tempfile

from run import check, run, topic_name

TOOLS = {
    "topics": "org.apache.kafka.tools.TopicCommand",
    "console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "configs": "kafka.admin.ConfigCommand",
    "consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
    "verifiable-consumer": "org.apache.kafka.tools.VerifiableConsumer",
    "broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "dump-log": "org.apache.kafka.tools.DumpLogSegments",
    "cluster": "org.apache.kafka.tools.ClusterTool",
}

JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m",
        "-Dlog4j2.configurationFile=" + os.path.join(os.path.dirname(os.path.abspath(__file__)), "log4j2.xml"),
        "-cp", os.path.join(os.environ["KAFKA_LIBS"], "*")]


def kafka(tool, *args, **kw):
    return run([*JAVA, TOOLS[tool], *args], **kw)


@check
def quickstart_as_written(broker):
    """The steps of Kafka's quick start: a topic, some events, read them back."""
    topic = topic_name("quickstart-events")
    kafka("topics", "--create", "--topic", topic, "--bootstrap-server", broker)
    out = kafka("topics", "--describe", "--topic", topic, "--bootstrap-server", broker)
    assert re.search(rf"Topic: {topic}\s+TopicId: \S{{22}}\s+PartitionCount: 1\s+ReplicationFactor: 1", out), out
    kafka("console-producer", "--topic", topic, "--bootstrap-server", broker,
          stdin="This is my first event\nThis is my second event\n")
    out = kafka("console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "2",
                "--timeout-ms", "30000", "--bootstrap-server", broker)
    assert out == "This is my first event\nThis is my second event\n", out


@check
def topics_keys_and_partitions(broker):
    topic = topic_name("keyed")
    kafka("topics", "--create", "--topic", topic, "--partitions", "3", "--bootstrap-server", broker)
    lines = "".join(f"user{i % 7}:{i}\n" for i in range(210))
    kafka("console-producer", "--topic", topic, "--bootstrap-server", broker, "--reader-property", "parse.key=true",
          "--reader-property", "key.separator=:", stdin=lines)
    out = kafka("console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "210", "--timeout-ms", "30000",
                "--formatter-property", "print.key=true", "--formatter-property", "key.separator=:", "--formatter-property", "print.partition=true",
                "--bootstrap-server", broker)
    order, where = {}, {}
    for line in out.splitlines():
        part, key, value = line.removeprefix("Partition:").split(":", 2)
        assert where.setdefault(key, part) == part, f"{key} is in two partitions"
        assert order.get(key, -1) < int(value), f"{key} is out of order"
        order[key] = int(value)
    assert len(out.splitlines()) == 210 and len(set(where.values())) > 1, where
    kafka("topics", "--alter", "--topic", topic, "--partitions", "5", "--bootstrap-server", broker)
    assert "PartitionCount: 5" in kafka("topics", "--describe", "--topic", topic, "--bootstrap-server", broker)
    assert topic in kafka("topics", "--list", "--bootstrap-server", broker).split()
    kafka("topics", "--delete", "--topic", topic, "--bootstrap-server", broker)
    assert topic not in kafka("topics", "--list", "--bootstrap-server", broker).split()


@check
def topics_refuses_mistakes(broker):
    code, out, err = kafka("topics", "--create", "--topic", "not a name", "--bootstrap-server", broker, ok=False)
    assert code != 0 and "name" in (out + err).lower(), out + err
    code, out, err = kafka("topics", "--create", "--topic", topic_name("bad"), "--config", "no.such=1",
                           "--bootstrap-server", broker, ok=False)
    assert code != 0 and "no.such" in out + err, out + err


@check
def configs(broker):
    topic = topic_name("configs")
    kafka("topics", "--create", "--topic", topic, "--config", "retention.ms=3600000", "--bootstrap-server", broker)
    entity = ["--entity-type", "topics", "--entity-name", topic, "--bootstrap-server", broker]
    kafka("configs", "--alter", "--add-config", "max.message.bytes=64000,cleanup.policy=[compact,delete]", *entity)
    out = kafka("configs", "--describe", *entity)
    assert "retention.ms=3600000" in out and "max.message.bytes=64000" in out and "cleanup.policy=compact,delete" in out, out
    kafka("configs", "--alter", "--delete-config", "retention.ms", *entity)
    out = kafka("configs", "--describe", *entity)
    assert "retention.ms" not in out, out
    out = kafka("configs", "--describe", "--all", *entity)
    assert "remote.storage.enable" in out and "segment.bytes" in out, out
    out = kafka("configs", "--describe", "--entity-type", "brokers", "--entity-name", node_id(broker), "--all", "--bootstrap-server", broker)
    assert "auto.create.topics.enable" in out and "num.partitions" in out, out[:500]


def node_id(broker):
    out = kafka("broker-api-versions", "--bootstrap-server", broker)
    return re.search(r"\(id: (\d+)", out).group(1)


@check
def api_versions_and_cluster_id(broker):
    out = kafka("broker-api-versions", "--bootstrap-server", broker)
    assert re.search(r"Produce\(0\): 0 to 13", out) and "Fetch(1): 4 to" in out, out
    out = kafka("cluster", "cluster-id", "--bootstrap-server", broker)
    assert re.search(r"Cluster ID: [\w-]{22}", out), out


@check
def get_offsets_and_delete_records(broker):
    topic = topic_name("offsets")
    kafka("topics", "--create", "--topic", topic, "--bootstrap-server", broker)
    kafka("console-producer", "--topic", topic, "--bootstrap-server", broker, stdin="".join(f"{i}\n" for i in range(50)))

    def offset(time):
        return kafka("get-offsets", "--topic", topic, "--time", time, "--bootstrap-server", broker).strip()

    assert offset("latest") == f"{topic}:0:50" and offset("earliest") == f"{topic}:0:0", (offset("latest"), offset("earliest"))
    assert offset("0") == f"{topic}:0:0", offset("0")
    assert offset("earliest-local") == f"{topic}:0:0", offset("earliest-local")
    assert offset("max-timestamp").startswith(f"{topic}:0:"), offset("max-timestamp")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 30}]}, f)
        f.flush()
        out = kafka("delete-records", "--offset-json-file", f.name, "--bootstrap-server", broker)
        assert "low_watermark: 30" in out, out
    assert offset("earliest") == f"{topic}:0:30", offset("earliest")
    out = kafka("console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "20", "--timeout-ms", "30000",
                "--bootstrap-server", broker)
    assert out.split() == [str(i) for i in range(30, 50)], out


@check
def log_dirs(broker):
    topic = topic_name("logdirs")
    kafka("console-producer", "--topic", topic, "--bootstrap-server", broker, stdin="x" * 1000 + "\n")
    out = kafka("log-dirs", "--describe", "--topic-list", topic, "--bootstrap-server", broker)
    found = json.loads(out.splitlines()[-1])
    parts = found["brokers"][0]["logDirs"][0]["partitions"]
    assert parts[0]["partition"] == f"{topic}-0" and parts[0]["size"] > 1000, found


@check
def consumer_groups(broker):
    topic, group = topic_name("groups"), topic_name("g")
    kafka("topics", "--create", "--topic", topic, "--partitions", "2", "--bootstrap-server", broker)
    kafka("console-producer", "--topic", topic, "--bootstrap-server", broker, "--reader-property", "parse.key=true",
          "--reader-property", "key.separator=:", stdin="".join(f"{i}:{i}\n" for i in range(100)))
    kafka("console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "100", "--timeout-ms", "30000",
          "--group", group, "--bootstrap-server", broker)
    server = ["--bootstrap-server", broker]
    assert group in kafka("consumer-groups", "--list", *server).split()
    out = kafka("consumer-groups", "--describe", "--group", group, *server)
    rows = [r.split() for r in out.splitlines() if r.startswith(group)]
    assert len(rows) == 2 and sum(int(r[3]) for r in rows) == 100 and all(r[5] == "0" for r in rows), out
    out = kafka("consumer-groups", "--describe", "--state", "--group", group, *server)
    assert "Empty" in out, out
    out = kafka("consumer-groups", "--reset-offsets", "--to-earliest", "--topic", topic, "--group", group, "--execute", *server)
    rows = [r.split() for r in out.splitlines() if r.startswith(group)]
    assert len(rows) == 2 and all(r[3] == "0" for r in rows), out
    out = kafka("consumer-groups", "--reset-offsets", "--shift-by", "5", "--topic", f"{topic}:0", "--group", group, "--execute", *server)
    assert re.search(rf"{group}\s+{topic}\s+0\s+5\b", out), out
    out = kafka("consumer-groups", "--reset-offsets", "--to-datetime", "2020-01-01T00:00:00.000", "--topic", topic,
                "--group", group, "--execute", *server)
    assert re.search(rf"{group}\s+{topic}\s+0\s+0\b", out), out
    kafka("consumer-groups", "--delete-offsets", "--group", group, "--topic", f"{topic}:0", *server)
    kafka("consumer-groups", "--delete", "--group", group, *server)
    assert group not in kafka("consumer-groups", "--list", *server).split()


@check
def perf_tests(broker):
    topic = topic_name("perf")
    kafka("topics", "--create", "--topic", topic, "--partitions", "3", "--bootstrap-server", broker)
    out = kafka("producer-perf-test", "--topic", topic, "--num-records", "100000", "--record-size", "200", "--throughput", "-1",
                "--producer-props", f"bootstrap.servers={broker}", "acks=all", "linger.ms=5")
    assert "100000 records sent" in out, out
    out = kafka("consumer-perf-test", "--topic", topic, "--messages", "100000", "--timeout", "60000", "--bootstrap-server", broker)
    assert re.search(r"\b1000\d\d\b", out), out


@check
def verifiable_producer_and_consumer(broker):
    topic, group = topic_name("verifiable"), topic_name("g")
    out = kafka("verifiable-producer", "--topic", topic, "--max-messages", "5000", "--throughput", "-1", "--acks", "-1",
                "--bootstrap-server", broker)
    events = [json.loads(x) for x in out.splitlines() if x.startswith("{")]
    sent = [int(e["value"]) for e in events if e["name"] == "producer_send_success"]
    assert sorted(sent) == list(range(5000)), (len(sent), events[-1])
    p = subprocess.Popen([*JAVA, TOOLS["verifiable-consumer"], "--topic", topic, "--group-id", group, "--max-messages", "5000",
                          "--verbose", "--reset-policy", "earliest", "--bootstrap-server", broker],
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        out, _ = p.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        p.send_signal(signal.SIGTERM)
        out, _ = p.communicate(timeout=30)
    events = [json.loads(x) for x in out.splitlines() if x.startswith("{")]
    got = [int(e["value"]) for e in events if e["name"] == "record_data"]
    assert sorted(got) == list(range(5000)), (len(got), events[-3:])
    assert any(e["name"] == "offsets_committed" and e["success"] for e in events), events[-3:]


@check
def dump_log_reads_our_segments(broker):
    """A segment file is plain Kafka v2 batches: kafka-dump-log checks and prints it."""
    if "FIRN_TEST_DATA" not in os.environ:
        return  # a broker that runs elsewhere: its files are not ours to read
    topic = topic_name("dump")
    kafka("topics", "--create", "--topic", topic, "--bootstrap-server", broker)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        kafka("console-producer", "--topic", topic, "--compression-codec", codec, "--bootstrap-server", broker,
              stdin=f"written with {codec}\n")
    described = kafka("topics", "--describe", "--topic", topic, "--bootstrap-server", broker)
    topic_id = re.search(r"TopicId: (\S+)", described).group(1)
    path = os.path.join(os.environ["FIRN_TEST_DATA"], topic_id, "0", "00000000000000000000.log")
    out = kafka("dump-log", "--files", path, "--print-data-log", "--deep-iteration")
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        assert f"payload: written with {codec}" in out and f"compresscodec: {codec}" in out, out
    assert out.count("isvalid: true") == 5 and "isvalid: false" not in out, out
