"""Apache Kafka's tools for clusters, against three brokers under `firn dev --brokers 3`.

The cluster is started once, for the first check that needs it.
"""

import atexit
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

from apache_kafka import TOOLS, kafka
from run import check, run, topic_name

TOOLS.update({
    "reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "metadata-quorum": "org.apache.kafka.tools.MetadataQuorumCommand",
    "features": "org.apache.kafka.tools.FeatureCommand",
})

STEPS = (0, 100, 200, 700)  # the ports that a cluster takes beyond the first: Kafka, brokers, gossip, admin


class Cluster:
    """Three processes of bin/firn, brought back by their supervisor when killed."""

    def __init__(self):
        self.dir = tempfile.TemporaryDirectory(prefix="firn-cluster-")
        first = free_range()
        self.log = open(os.path.join(self.dir.name, "supervisor.log"), "wb")
        self.process = subprocess.Popen(
            [os.environ["FIRN_TEST_BIN"], "dev", "--brokers", "3", "--data", os.path.join(self.dir.name, "data"),
             "--listen", f"127.0.0.1:{first}", "--admin", f"127.0.0.1:{first + STEPS[-1]}"], stdout=self.log, stderr=self.log)
        atexit.register(self.stop)
        self.file = os.path.join(self.dir.name, "data", "cluster.json")
        until(lambda: self.health()["state"] == "ok" and self.health()["brokers_up"] == 3, 60, "three brokers")
        self.bootstrap = ",".join(b["kafka"] for b in self.brokers())

    def brokers(self):
        with open(self.file, encoding="utf-8") as f:
            return json.load(f)["brokers"]

    def health(self, broker=0):
        with urllib.request.urlopen(f"http://{self.brokers()[broker]['admin']}/v1/cluster/health", timeout=5) as r:
            return json.load(r)

    def firn(self, *args, **kw):
        b = self.brokers()[0]
        return run([os.environ["FIRN_TEST_BIN"], *args, "--bootstrap-server", self.bootstrap, "--admin", b["admin"]], **kw)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(timeout=60)
        self.log.close()
        self.dir.cleanup()


def free_range():
    """A port such that it and those at the other steps are free, three of each."""
    for first in range(20000, 30000, 10):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for step in STEPS:
                for i in range(3):
                    held.enter_context(socket.create_server(("127.0.0.1", first + step + i)))
            return first
    raise RuntimeError("no free range of ports")


def until(condition, seconds, what):
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError, KeyError, ValueError):
            if condition():
                return
        if time.monotonic() > end:
            raise AssertionError(f"no {what} after {seconds} s")
        time.sleep(0.1)


_cluster = []
_lock = threading.Lock()


def cluster():
    with _lock:
        if not _cluster:
            _cluster.append(Cluster())
    return _cluster[0]


def described(c, topic):
    """Partition -> (leader, replicas, isr), as kafka-topics tells it."""
    out = kafka("topics", "--describe", "--topic", topic, "--bootstrap-server", c.bootstrap)
    found = {}
    for m in re.finditer(r"Partition: (\d+)\s+Leader: (\S+)\s+Replicas: (\S+)\s+Isr: (\S+)", out):
        found[int(m[1])] = (m[2], m[3].split(","), sorted(m[4].split(",")))
    return found


@check
def topics_have_three_replicas_unasked(_):
    c = cluster()
    topic = topic_name("replicated")
    kafka("topics", "--create", "--topic", topic, "--partitions", "3", "--bootstrap-server", c.bootstrap)
    found = described(c, topic)
    assert len(found) == 3 and all(sorted(r) == ["1", "2", "3"] and i == ["1", "2", "3"] for _, r, i in found.values()), found
    assert len({leader for leader, _, _ in found.values()}) == 3, found
    lines = "".join(f"{i}\n" for i in range(100))
    kafka("console-producer", "--topic", topic, "--bootstrap-server", c.bootstrap, stdin=lines)
    out = kafka("console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "100", "--timeout-ms", "30000",
                "--bootstrap-server", c.bootstrap)
    assert sorted(out.split(), key=int) == lines.split(), out


@check
def metadata_quorum(_):
    c = cluster()
    out = kafka("metadata-quorum", "--bootstrap-server", c.bootstrap, "describe", "--status")
    assert re.search(r"LeaderId:\s+[123]\b", out) and out.count('"id"') == 3, out
    out = kafka("metadata-quorum", "--bootstrap-server", c.bootstrap, "describe", "--replication")
    assert len(re.findall(r"\b(Leader|Follower)\b\s*$", out, re.M)) == 3, out


@check
def broker_api_versions_and_cluster_of_three(_):
    c = cluster()
    out = kafka("broker-api-versions", "--bootstrap-server", c.bootstrap)
    assert len(re.findall(r"\(id: [123] ", out)) == 3, out[:400]
    out = kafka("cluster", "cluster-id", "--bootstrap-server", c.bootstrap)
    assert re.search(r"Cluster ID: \S{22}", out), out
    out = kafka("cluster", "list-endpoints", "--bootstrap-server", c.bootstrap)
    assert len(re.findall(r"^[123]\s+127\.0\.0\.1", out, re.M)) == 3, out
    code, out, err = kafka("cluster", "unregister", "--id", "9", "--bootstrap-server", c.bootstrap, ok=False)
    assert "BrokerIdNotRegistered" in out + err or code != 0, out + err
    out = kafka("features", "--bootstrap-server", c.bootstrap, "describe")
    assert "metadata.version" in out, out


@check
def reassign_partitions(_):
    c = cluster()
    topic = topic_name("moving")
    kafka("topics", "--create", "--topic", topic, "--replica-assignment", "1:2,2:3", "--bootstrap-server", c.bootstrap)
    kafka("console-producer", "--topic", topic, "--bootstrap-server", c.bootstrap, stdin="".join(f"{i}\n" for i in range(500)))
    plan = {"version": 1, "partitions": [{"topic": topic, "partition": 0, "replicas": [3, 1]}, {"topic": topic, "partition": 1, "replicas": [1, 2]}]}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(plan, f)
        f.flush()
        kafka("reassign-partitions", "--bootstrap-server", c.bootstrap, "--reassignment-json-file", f.name, "--execute", "--throttle", "50000000")

        def done():
            out = kafka("reassign-partitions", "--bootstrap-server", c.bootstrap, "--reassignment-json-file", f.name, "--verify")
            return out.count("is completed") == 2
        until(done, 60, "completed reassignment")
    found = described(c, topic)
    assert found[0][1:] == (["3", "1"], ["1", "3"]) and found[1][1:] == (["1", "2"], ["1", "2"]), found
    assert "throttled" not in kafka("configs", "--describe", "--entity-type", "topics", "--entity-name", topic, "--bootstrap-server", c.bootstrap)
    out = kafka("console-consumer", "--topic", topic, "--from-beginning", "--max-messages", "500", "--timeout-ms", "30000",
                "--bootstrap-server", c.bootstrap)
    assert sorted(map(int, out.split())) == list(range(500))
    assert "No partition reassignments found" in kafka("reassign-partitions", "--bootstrap-server", c.bootstrap, "--list")


@check
def firn_reassigns_too(_):
    c = cluster()
    topic = topic_name("moved")
    kafka("topics", "--create", "--topic", topic, "--replica-assignment", "1,2", "--bootstrap-server", c.bootstrap)
    c.firn("produce", topic, stdin="a\nb\nc\n")
    plan = json.loads(c.firn("topic", "reassign", topic, "--replicas", "3", "--dry-run", "-o", "json"))
    assert [m["to"] for m in plan] == [[3], [3]], plan
    c.firn("topic", "reassign", topic, "--replicas", "3", "-y")
    found = described(c, topic)
    assert all(state == ("3", ["3"], ["3"]) for state in found.values()), found
    assert sorted(c.firn("consume", topic, "--from", "earliest", "-e").split()) == ["a", "b", "c"]


@check
def a_killed_broker_is_replaced_and_comes_back(_):
    """Pull the plug on a leader under load, then bring its leaderships back by hand."""
    c = cluster()
    topic = topic_name("plug")
    kafka("topics", "--create", "--topic", topic, "--partitions", "3", "--bootstrap-server", c.bootstrap)
    before = described(c, topic)
    producer = subprocess.Popen([os.environ["FIRN_TEST_BIN"], "bench", "produce", topic, "-d", "12s", "--rate", "500", "--record-bytes", "100",
                                 "-b", c.bootstrap, "-o", "json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(3)
    victim = int(before[0][0])
    os.kill(next(b["pid"] for b in c.brokers() if b["id"] == victim), signal.SIGKILL)
    until(lambda: described(c, topic)[0][0] not in (str(victim), "none"), 30, "new leader")
    out, err = producer.communicate(timeout=60)
    assert producer.returncode == 0, err
    until(lambda: c.health(victim % 3)["state"] == "ok", 60, "healthy cluster")
    written = json.loads(out)["records"]
    assert len(c.firn("consume", topic, "--from", "earliest", "-e", "-f", ".")) == written
    assert sum(int(line.rsplit(":", 1)[1]) for line in kafka("get-offsets", "--topic", topic, "--bootstrap-server", c.bootstrap).split()) == written
    kafka("leader-election", "--bootstrap-server", c.bootstrap, "--election-type", "preferred", "--all-topic-partitions", ok=False)
    until(lambda: described(c, topic)[0][0] == str(victim), 30, "preferred leader")
