"""The examples of the package's README."""

import asyncio
import re
import textwrap
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from globallock import GlobalLockManager, HeldTooLong

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text()


#: The sections whose examples the tests here have run.
run_sections = set()


def blocks(section=""):
    """The examples of one section of the page; of what comes before the first one, if none is named."""
    run_sections.add(section)
    found = sections()[section]
    assert found, f"there is no example in {section!r}"
    return found


def sections():
    first, *others = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    texts = {"": first, **{text.split("\n", 1)[0]: text for text in others}}
    return {title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in texts.items()}


def in_asyncio(code, names):
    exec("async def main():\n" + textwrap.indent(code, "    "), names)
    return asyncio.run(names["main"]())


@pytest.fixture
def names(redis_server):
    with GlobalLockManager(redis_server.url) as lockman:
        yield {"lockman": lockman}


def test_the_first_examples_run(redis_server):
    written = []
    names = {"write_report": written.append}
    first, second = blocks()
    exec(first.replace("redis://127.0.0.1:6379", redis_server.url), names)
    exec(second, names)
    assert len(written) == 2 and all(isinstance(token, int) for token in written)
    with names["lockman"].hold("nightly-report"):
        exec(second, names)
    assert len(written) == 2
    names["lockman"].close()


def test_the_examples_of_kinds_run(names):
    for block in blocks("More kinds"):
        exec(block, names)


def test_the_examples_of_functions_run(names):
    exec(blocks("Functions that hold a lock")[0], names)
    names["ship"](7)
    names["clean_up"]()
    asyncio.run(names["run"](SimpleNamespace(source="paper")))


def test_the_example_for_asyncio_runs(names):
    written = []

    async def write_report(token):
        written.append(token)

    names["write_report"] = write_report
    in_asyncio(blocks("asyncio")[0], names)
    assert len(written) == 1


def test_the_examples_of_runs_run(names):
    printed, sent = [], []
    names["print"] = lambda *what: printed.append(what)
    names["send_the_mail"] = lambda *token: sent.append(token)
    for _ in range(2):
        exec(blocks("Once, on whichever host")[0], names)
        names["tidy_up"]()
    assert [len(token) for token in sent] == [0, 1]
    assert printed[0] == ("sent", None) and printed[1][0].startswith("a host has begun to send it 0 s ago")


def test_the_example_of_values_runs(names):
    for _ in range(2):
        exec(blocks("A value beside the lock")[0], {**names, "timedelta": timedelta})
    with names["lockman"].lock("import", with_value=True) as lock:
        assert lock.value.data == b"2"


def test_the_examples_of_planned_ends_run(names):
    indexed = []

    async def reindex():
        try:
            await asyncio.sleep(60)
        finally:
            indexed.append("cleaned up")

    def index(document):
        indexed.append(document)
        assert names["lock"].asked_to_end_event().wait(30)

    # The hour is shorter here.
    names.update(timedelta=lambda hours: 0.2, documents=range(9), index=index, reindex=reindex)
    for_threads, for_asyncio = blocks("When the time is up")
    exec(for_threads, names)
    with pytest.raises(HeldTooLong):
        in_asyncio(for_asyncio, names)
    assert indexed == [0, "cleaned up"]


def test_the_example_of_locks_that_are_held_at_least_runs(names):
    rotated = []
    names["rotate_logs"] = lambda: rotated.append("rotated")
    for _ in range(2):
        exec(blocks("Held at least for a time")[0], names)
    left = names["lockman"].inspect("rotate-logs")[0].expires_in
    assert rotated == ["rotated"] and 0 < left <= 60


class Ended(Exception):
    """Ends the example, which has no end."""


def test_the_example_for_onlookers_runs(names):
    shown = []
    lock = names["lockman"].lock("imports/7")

    def show(name, what, *more):
        shown.append((name, what))
        if what == "is held":
            lock.release()
        if what == "is free":
            raise Ended

    with lock, pytest.raises(Ended):
        exec(blocks("What is held, and by whom")[0], {**names, "print": show})
    assert shown == [("imports/7", "mutex"), ("imports/7", "is held"), ("imports/7", "is free")]


#: The sections whose examples are run elsewhere: test_django.py has the settings for them.
ELSEWHERE = {"Django"}


def test_every_section_with_examples_is_run():
    # Last in this file, so that all others have run.
    with_examples = {title for title, found in sections().items() if found}
    assert run_sections | ELSEWHERE == with_examples
