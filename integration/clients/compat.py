"""The same requests to an Apache Kafka and to Firn, compared field by field."""

import os
import socket
import subprocess
import tempfile

from run import HERE, Broker, check, free_ports, run, wait_port


def two_ports():
    """A free port whose successor, Kafka's controller's, is free too."""
    while True:
        port, = free_ports(1)
        try:
            socket.create_server(("127.0.0.1", port + 1)).close()
            return port
        except OSError:
            continue


@check
def answers_as_kafka_does(_):
    """Both brokers are new, so that neither has topics or groups of other checks."""
    port = two_ports()
    with tempfile.TemporaryDirectory(prefix="kafka-peer-") as dir, open(os.path.join(dir, "log"), "wb") as log:
        kafka = subprocess.Popen([os.path.join(HERE, "kafka-peer.sh"), str(port), os.path.join(dir, "kafka")], stdout=log, stderr=log)
        try:
            wait_port("127.0.0.1", port, kafka, seconds=90)
            with Broker(own=True) as firn:
                print(run(["go", "-C", os.path.dirname(os.path.dirname(HERE)), "run", "./integration/compat",
                           f"127.0.0.1:{port}", firn.address], timeout=600))
        finally:
            kafka.terminate()
            kafka.wait(timeout=60)
