"""kcat (librdkafka as Debian ships it): what the first minutes with Kafka look like."""

import json

from run import check, run, topic_name


@check
def round_trip(broker):
    topic = topic_name("kcat")
    lines = "".join(f"key{i % 3}:value {i}\n" for i in range(300))
    run(["kcat", "-b", broker, "-P", "-t", topic, "-K:"], stdin=lines)
    out = run(["kcat", "-b", broker, "-C", "-t", topic, "-K:", "-o", "beginning", "-e", "-q"])
    assert sorted(out.splitlines()) == sorted(lines.splitlines()), out[:500]


@check
def every_codec_and_acks(broker):
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        for acks in ("0", "1", "all"):
            topic = topic_name(f"kcat-{codec}")
            lines = "".join(f"{codec} {acks} {i} {'x' * 200}\n" for i in range(200))
            run(["kcat", "-b", broker, "-P", "-t", topic, "-z", codec, "-X", f"acks={acks}"], stdin=lines)
            out = run(["kcat", "-b", broker, "-C", "-t", topic, "-o", "beginning", "-c", "200", "-q"])
            assert out == lines, (codec, acks, len(out), len(lines))


@check
def headers_and_idempotence(broker):
    topic = topic_name("kcat-headers")
    run(["kcat", "-b", broker, "-P", "-t", topic, "-H", "a=1", "-H", "b=two", "-X", "enable.idempotence=true"], stdin="hello\n")
    out = run(["kcat", "-b", broker, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%h|%s|%o|%p"])
    assert out.startswith("a=1,b=two|hello|0|"), out


@check
def metadata_listing(broker):
    topic = topic_name("kcat-list")
    run(["kcat", "-b", broker, "-P", "-t", topic], stdin="x\n")
    meta = json.loads(run(["kcat", "-b", broker, "-L", "-J", "-t", topic]))
    assert meta["topics"][0]["topic"] == topic and meta["topics"][0]["partitions"][0]["leader"] >= 0, meta
    assert len(meta["brokers"]) >= 1


@check
def offsets_by_query(broker):
    topic = topic_name("kcat-query")
    run(["kcat", "-b", broker, "-P", "-t", topic], stdin="a\nb\nc\n")
    out = run(["kcat", "-b", broker, "-Q", "-t", f"{topic}:0:-1", "-t", f"{topic}:0:-2"])
    assert "offset 3" in out or "offset 0" in out, out
    out = run(["kcat", "-b", broker, "-C", "-t", topic, "-o", "-2", "-e", "-q"])
    assert out == "b\nc\n", out


@check
def group_balanced(broker):
    topic, group = topic_name("kcat-group"), topic_name("g")
    run(["kcat", "-b", broker, "-P", "-t", topic], stdin="1\n2\n3\n")
    out = run(["kcat", "-b", broker, "-G", group, "-X", "auto.offset.reset=earliest", "-c", "3", "-q", topic])
    assert out == "1\n2\n3\n", out
    run(["kcat", "-b", broker, "-P", "-t", topic], stdin="4\n")
    out = run(["kcat", "-b", broker, "-G", group, "-X", "auto.offset.reset=earliest", "-c", "1", "-q", topic])
    assert out == "4\n", f"the committed offset was not kept: {out!r}"
