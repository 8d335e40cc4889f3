"""kafkajs, the client of most Node.js services."""

import os

from run import HERE, check, run, topic_name


@check
def kafkajs(broker):
    out = run(["node", os.path.join(HERE, "js", "kafkajs.js"), broker, topic_name("kafkajs")],
              env={"NODE_PATH": os.path.join(os.environ["NODE_MODULES"], "node_modules")})
    assert out.splitlines()[-1] == "done", out
