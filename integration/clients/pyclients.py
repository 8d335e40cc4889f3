"""kafka-python and confluent-kafka; each check is a program of its own in python/."""

import os

from run import HERE, check, run, topic_name


def script(name, broker):
    out = run([os.environ["PYTHON"], os.path.join(HERE, "python", name), broker, topic_name(name.removesuffix(".py"))])
    assert out.splitlines()[-1] == "done", out


@check
def kafka_python_tutorial(broker):
    script("tutorial.py", broker)


@check
def kafka_python_features(broker):
    script("kafka_python_features.py", broker)


@check
def confluent_features(broker):
    script("confluent_features.py", broker)


@check
def confluent_groups(broker):
    script("confluent_groups.py", broker)
