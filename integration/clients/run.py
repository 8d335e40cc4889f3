"""Runs the checks of every client against one broker and counts them.

Each check gets a topic name of its own and a broker address; it fails by an
exception. The last line is 'N passed, N failed'.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

CHECKS = []


def check(fn):
    """Registers a check; its name is that of the function."""
    CHECKS.append(fn)
    return fn


class Broker:
    """A bin/firn of our own on free ports, or one that runs already."""

    def __init__(self, own=False):
        self.process = None
        self.dir = None
        self.address = None if own else os.environ.get("FIRN_TEST_BOOTSTRAP")

    def __enter__(self):
        if self.address:
            return self
        self.dir = tempfile.mkdtemp(prefix="firn-clients-")
        port, admin = free_ports(2)
        self.address = f"127.0.0.1:{port}"
        os.environ["FIRN_TEST_DATA"] = os.path.join(self.dir, "data")
        self.log = open(os.path.join(self.dir, "broker.log"), "wb")
        self.process = subprocess.Popen(
            [os.environ["FIRN_TEST_BIN"], "dev", "--data", os.path.join(self.dir, "data"),
             "--listen", self.address, "--admin", f"127.0.0.1:{admin}"],
            stdout=self.log, stderr=self.log)
        wait_port("127.0.0.1", port, self.process)
        return self

    def __exit__(self, *exc):
        if self.process is None:
            return
        self.process.terminate()
        code = self.process.wait(timeout=60)
        if code != 0 or os.environ.get("FIRN_TEST_KEEP"):
            print(open(os.path.join(self.dir, "broker.log")).read()[-4000:])
        self.log.close()
        if not os.environ.get("FIRN_TEST_KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)
        if code != 0:
            raise RuntimeError(f"the broker ended with status {code}")


def free_ports(n):
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in socks]
    for s in socks:
        s.close()
    return ports


def wait_port(host, port, process, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the broker ended with status {process.returncode} while starting")
        try:
            socket.create_connection((host, port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {host}:{port} after {seconds} s")


def run(args, stdin=None, timeout=120, ok=True, env=None):
    """Runs a program and returns what it printed; fails by its status."""
    p = subprocess.run(args, input=stdin, capture_output=True, text=True, timeout=timeout,
                       env={**os.environ, **(env or {})}, check=False)
    if ok and p.returncode != 0:
        raise AssertionError(f"{args[:6]}… ended with {p.returncode}\n{p.stdout[-3000:]}\n{p.stderr[-3000:]}")
    return p.stdout if ok else (p.returncode, p.stdout, p.stderr)


def topic_name(prefix):
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def main():
    import apache_kafka, cluster, compat, kcat, node, pyclients  # noqa: F401, E401 — each registers its checks

    words = sys.argv[1:]
    passed, failed = 0, []
    with Broker() as broker:
        for fn in CHECKS:
            name = f"{fn.__module__}.{fn.__name__}"
            if words and not any(w in name for w in words):
                continue
            begin = time.monotonic()
            try:
                fn(broker.address)
            except Exception:  # any failure of a check is its result
                failed.append(name)
                print(f"FAIL {name} ({time.monotonic() - begin:.1f} s)\n{traceback.format_exc()}", flush=True)
            else:
                passed += 1
                print(f"ok   {name} ({time.monotonic() - begin:.1f} s)", flush=True)
    for name in failed:
        print("failed:", name)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or passed == 0 else 0


if __name__ == "__main__":
    sys.modules["run"] = sys.modules["__main__"]
    sys.exit(main())
