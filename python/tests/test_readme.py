"""The examples of the package's README."""

import asyncio
import re
import textwrap
from pathlib import Path

import pytest
from globallock import GlobalLockManager

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_for_threads_and_asyncio_run(redis_server):
    written = []
    names = {"write_report": written.append}
    first, kinds, _, for_asyncio, _ = blocks()
    exec(first.replace("redis://127.0.0.1:6379", redis_server.url), names)
    assert len(written) == 1 and isinstance(written[0], int)
    exec(kinds, names)
    names["clean_up"]()
    body = textwrap.indent(for_asyncio, "    ")
    exec(f"async def main():\n{body}", names)
    asyncio.run(names["main"]())


class Ended(Exception):
    """Ends the example, which has no end."""


def test_the_example_for_onlookers_runs(redis_server):
    lockman, shown = GlobalLockManager(redis_server.url), []
    lock = lockman.lock("imports/7")

    def show(name, what, *more):
        shown.append((name, what))
        if what == "is held":
            lock.release()
        if what == "is free":
            raise Ended

    with lock, pytest.raises(Ended):
        exec(blocks()[2], {"lockman": lockman, "print": show})
    assert shown == [("imports/7", "mutex"), ("imports/7", "is held"), ("imports/7", "is free")]
