"""The examples of the package's README."""

import asyncio
import re
import textwrap
from pathlib import Path

import pytest
from globallock import GlobalLockManager, HeldTooLong

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_for_threads_and_asyncio_run(redis_server):
    written = []
    names = {"write_report": written.append}
    first, kinds, _, _, _, _, _, _, for_asyncio, _ = blocks()
    exec(first.replace("redis://127.0.0.1:6379", redis_server.url), names)
    assert len(written) == 1 and isinstance(written[0], int)
    exec(kinds, names)
    names["clean_up"]()
    body = textwrap.indent(for_asyncio, "    ")
    exec(f"async def main():\n{body}", names)
    asyncio.run(names["main"]())


def test_the_examples_of_runs_and_values_run(redis_server):
    _, _, once, value, *_ = blocks()
    lockman, printed, sent = GlobalLockManager(redis_server.url), [], []
    names = {
        "lockman": lockman,
        "print": lambda *what: printed.append(what),
        "send_the_mail": lambda *token: sent.append(token),
    }
    for _ in range(2):
        exec(once, names)
        names["tidy_up"]()
        exec(value, names)
    assert [len(token) for token in sent] == [0, 1]
    assert printed[0] == ("sent", None) and printed[1][0].startswith("a host has begun to send it 0 s ago")
    with lockman.lock("import", with_value=True) as lock:
        assert lock.value.data == b"2"


def test_the_examples_of_planned_ends_run(redis_server):
    _, _, _, _, for_threads, for_asyncio, *_ = blocks()
    lockman, indexed = GlobalLockManager(redis_server.url), []

    async def reindex():
        try:
            await asyncio.sleep(60)
        finally:
            indexed.append("cleaned up")

    def index(document):
        indexed.append(document)
        assert names["lock"].asked_to_end_event().wait(30)

    # The hour is shorter here.
    names = {"lockman": lockman, "timedelta": lambda hours: 0.2, "documents": range(9), "index": index}
    exec(for_threads, names)
    body = textwrap.indent(for_asyncio, "    ")
    names["reindex"] = reindex
    exec(f"async def main():\n{body}", names)
    with pytest.raises(HeldTooLong):
        asyncio.run(names["main"]())
    assert indexed == [0, "cleaned up"]


def test_the_example_of_locks_that_are_held_at_least_runs(redis_server):
    lockman, rotated = GlobalLockManager(redis_server.url), []
    for _ in range(2):
        exec(blocks()[6], {"lockman": lockman, "rotate_logs": lambda: rotated.append("rotated")})
    assert rotated == ["rotated"] and 0 < lockman.inspect("rotate-logs")[0].expires_in <= 60


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
        exec(blocks()[7], {"lockman": lockman, "print": show})
    assert shown == [("imports/7", "mutex"), ("imports/7", "is held"), ("imports/7", "is free")]
