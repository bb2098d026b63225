"""The examples of the package's README."""

import asyncio
import re
import textwrap
from pathlib import Path

PAGE = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_for_threads_and_asyncio_run(redis_server):
    written = []
    names = {"write_report": written.append}
    first, kinds, for_asyncio, _ = blocks()
    exec(first.replace("redis://127.0.0.1:6379", redis_server.url), names)
    assert len(written) == 1 and isinstance(written[0], int)
    exec(kinds, names)
    names["clean_up"]()
    body = textwrap.indent(for_asyncio, "    ")
    exec(f"async def main():\n{body}", names)
    asyncio.run(names["main"]())
