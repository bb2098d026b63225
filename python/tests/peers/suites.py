"""The lock tests of other packages, run on the locks of this one, each suite in a pytest of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

#: How long one suite may take, in seconds.
LIMIT = 400


@dataclass(frozen=True)
class Suite:
    """Some tests of a release of a peer."""

    #: The heading of its table in docs/peers.md.
    title: str
    #: The source distribution that has the tests.
    package: str
    release: str
    #: What of it is used.
    files: "tuple[str, ...]"
    #: The tests that are run, as pytest's arguments.
    tests: "tuple[str, ...]"
    #: Which servers the tests need.
    servers: "tuple[str, ...]"
    #: The module of this folder that puts the locks of this package in place of the peer's.
    face: str
    #: Whether it is run with every change. The others are run by `make peers`.
    always: bool = False


SUITES = (
    Suite(
        "redis-py, threads", "redis", "8.1.0", ("tests", "pyproject.toml"), ("tests/test_lock.py",),
        ("redis",), "redis_face", always=True,
    ),
    Suite(
        "redis-py, asyncio", "redis", "8.1.0", ("tests", "pyproject.toml"),
        ("tests/test_asyncio/test_lock.py",), ("redis",), "redis_face",
    ),
    Suite(
        "django-redis", "django-redis", "7.0.0", ("tests",),
        ("tests/test_backend.py", "-k", "test_lock and not (opts or sentinel or usock or shard)"),
        ("redis",), "django_face", always=True,
    ),
    Suite(
        "kazoo", "kazoo", "2.11.0", ("kazoo/tests",), ("kazoo/tests/test_lock.py",), ("zookeeper",),
        "kazoo_face", always=True,
    ),
    Suite(
        "globallock 0.1.4", "globallock", "0.1.4", ("tests", "globallock"), ("tests",),
        ("redis", "etcd", "zookeeper"), "original_face",
    ),
    Suite(
        "globallock 0.1.5", "globallock", "0.1.5", ("tests", "globallock"), ("tests",),
        ("redis", "etcd", "zookeeper"), "original_face",
    ),
    Suite(
        "globallock 0.2.0", "globallock", "0.2.0", ("tests", "globallock"), ("tests",),
        ("redis", "etcd", "zookeeper"), "original_face", always=True,
    ),
)  # fmt: skip


def sources(suite: Suite) -> Path:
    """The unpacked source distribution of a peer, downloaded by pip the first time."""
    home = TARGET / "python" / "peers" / f"{suite.package}-{suite.release}"
    if not home.is_dir():
        fetched = home.with_name(home.name + ".fetched")
        shutil.rmtree(fetched, ignore_errors=True)
        wanted = f"{suite.package}=={suite.release}"
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
             "--dest", fetched, wanted], check=True,
        )  # fmt: skip
        [archive] = fetched.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(fetched, filter="data")
        [unpacked] = (path for path in fetched.iterdir() if path.is_dir())
        unpacked.rename(home)
    return home


def outcomes(suite: Suite, ports: "dict[str, int]", folder: Path) -> "dict[str, str]":
    """Runs a suite. Returns of each test whether it ``passed``, ``failed`` or was ``skipped``."""
    home = sources(suite)
    for part in suite.files:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if part == "globallock":
            # The checks of the original that read its own source read that of this package.
            (folder / part).symlink_to(ROOT / "python" / "globallock")
        elif (home / part).is_dir():
            shutil.copytree(home / part, folder / part)
        else:
            shutil.copy(home / part, folder / part)
    report = folder / "report.xml"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")])),
        # Of two packages of this name, the installed one, and not the sources in this folder.
        "PYTHONSAFEPATH": "1",
        **{f"PEERS_{kind.upper()}_PORT": str(port) for kind, port in ports.items()},
    }
    arguments = ["-p", "no:cacheprovider", "-p", suite.face, f"--junitxml={report}", "-q", "--rootdir=."]
    if suite.package == "redis":
        arguments.append(f"--redis-url=redis://127.0.0.1:{ports['redis']}/0")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "--timeout=12", *suite.tests],
        cwd=folder, env=environment, timeout=LIMIT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    (folder / "output").write_text(done.stdout)
    assert done.returncode in (0, 1), done.stdout
    return read(report)


def read(report: Path) -> "dict[str, str]":
    """Reads what pytest has reported. A test with several parameters has passed if it has with all."""
    found: "defaultdict[str, set[str]]" = defaultdict(set)
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        module, _, group = case.get("classname", "").rpartition(".")
        name = f"{module.rpartition('.')[2]}.{group}.{case.get('name')}".partition("[")[0]
        kinds = {child.tag for child in case}
        result = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        found[name].add(result)
    return {
        name: "failed" if "failed" in results else "passed" if "passed" in results else "skipped"
        for name, results in found.items()
    }
