"""A fleet in which half of the processes run the original package, on the same names."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TARGET
from globallock import ETCD_GLOBAL_LOCK_CLASS, REDIS_GLOBAL_LOCK_CLASS, ZOOKEEPER_GLOBAL_LOCK_CLASS

#: Acquires the lock again and again for some seconds, as in the original's README. Prints how often it held
#: the lock, and how often another owner was inside at the same time. Arguments: the configuration, the lock's
#: name, the seconds, and a file that only one owner at a time can create.
TURNS = """
import json, os, random, sys, time
from globallock import GlobalLockManager
lockman = GlobalLockManager(json.loads(sys.argv[1]))
name, seconds, file = sys.argv[2], float(sys.argv[3]), sys.argv[4]
turns = overlaps = 0
until = time.monotonic() + seconds
while time.monotonic() < until:
    with lockman.lock(name, timeout=20, sleep=0.01, blocking=True, blocking_timeout=20) as lock:
        if lock.is_locked:
            try:
                os.close(os.open(file, os.O_CREAT | os.O_EXCL))
                time.sleep(random.uniform(0.001, 0.003))
                os.unlink(file)
            except FileExistsError:
                overlaps += 1
            turns += 1
    time.sleep(random.uniform(0.005, 0.02))
print(json.dumps([turns, overlaps]))
sys.stdout.flush()
os._exit(0)
"""

REDIS, KAZOO = "redis>=7.0.1,<9", "kazoo==2.11.0"
#: python-etcd3 needs an old protobuf.
ETCD3 = ["zencore-etcd3==0.12.0.20220817", "protobuf==3.20.3"]
ORIGINALS = {
    "0.1.5": ["globallock==0.1.5", REDIS, KAZOO, *ETCD3],
    "0.2.0": ["globallock==0.2.0", REDIS],
}


def original(release):
    """An interpreter with a release of the original package."""
    version = "%d.%d" % sys.version_info[:2]
    home = TARGET / "python" / f"original-{release}-{version}"
    python = home / "bin" / "python"
    if not (home / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *ORIGINALS[release]], check=True)
        Path(home / "complete").touch()
    return python


@pytest.fixture
def take_turns(tmp_path, name):
    def take_turns(engine, options, release, lock_name=name):
        config = {"global_lock_engine_class": engine, "global_lock_engine_options": options}
        file = tmp_path / "one-at-a-time"
        pythons = [Path(sys.executable), original(release)] * 2
        arguments = [json.dumps(config), lock_name, "4", str(file)]
        # `-I`: each imports the package that is installed for it, not the one beside the tests.
        fleet = [
            subprocess.Popen([python, "-I", "-c", TURNS, *arguments], stdout=subprocess.PIPE, cwd=tmp_path)
            for python in pythons
        ]
        outcomes = [json.loads(member.communicate(timeout=90)[0]) for member in fleet]
        print(outcomes)
        for turns, overlaps in outcomes:
            assert overlaps == 0, "another owner was inside"
            assert turns >= 3, "each makes progress"
        assert not os.path.exists(file)

    return take_turns


@pytest.mark.parametrize("release", ["0.1.5", "0.2.0"])
def test_redis(redis_server, take_turns, release):
    options = {"host": "127.0.0.1", "port": redis_server.port}
    take_turns(REDIS_GLOBAL_LOCK_CLASS, options, release)


def test_zookeeper(zookeeper_server, take_turns):
    options = {"hosts": f"127.0.0.1:{zookeeper_server.port}"}
    take_turns(ZOOKEEPER_GLOBAL_LOCK_CLASS, options, "0.1.5")


def test_etcd(etcd_server, take_turns):
    options = {"host": "127.0.0.1", "port": etcd_server.port}
    take_turns(ETCD_GLOBAL_LOCK_CLASS, options, "0.1.5")
