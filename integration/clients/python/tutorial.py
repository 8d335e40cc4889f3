"""What a newcomer writes first with kafka-python: a producer, and a consumer in a
group, over a topic with three partitions and keys."""

import json
import sys

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import NewTopic

broker, topic = sys.argv[1:]

admin = KafkaAdminClient(bootstrap_servers=broker)
admin.create_topics([NewTopic(name=topic, num_partitions=3, replication_factor=1)])

producer = KafkaProducer(
    bootstrap_servers=broker,
    key_serializer=str.encode,
    value_serializer=lambda v: json.dumps(v).encode("utf-8"),
)
for n in range(30):
    producer.send(topic, key=f"user-{n % 5}", value={"order": n})
producer.flush()

consumer = KafkaConsumer(
    topic,
    bootstrap_servers=broker,
    group_id=topic + "-readers",
    auto_offset_reset="earliest",
    consumer_timeout_ms=10000,
    key_deserializer=bytes.decode,
    value_deserializer=lambda v: json.loads(v.decode("utf-8")),
)
seen, home, last = 0, {}, {}
for message in consumer:
    assert home.setdefault(message.key, message.partition) == message.partition
    assert last.get(message.key, -1) < message.value["order"]
    last[message.key] = message.value["order"]
    seen += 1
    if seen == 30:
        break
consumer.commit()
consumer.close()
assert seen == 30, seen

again = KafkaConsumer(topic, bootstrap_servers=broker, group_id=topic + "-readers", auto_offset_reset="earliest",
                      consumer_timeout_ms=2000)
left = list(again)
again.close()
assert not left, f"{len(left)} messages came again after a commit"
producer.close()
admin.close()
print("done")
