"""The FastAPI app of the tests, one process of several."""

import asyncio
import os
from collections import defaultdict
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from globallock import GlobalLockManager
from globallock.fastapi import leader, locked

lockman = GlobalLockManager(os.environ["FASTAPI_STORE"])
name = os.environ["FASTAPI_NAME"]
gates = defaultdict(asyncio.Event)


async def lead():
    await asyncio.Event().wait()


@asynccontextmanager
async def lifespan(app):
    async with leader(lockman, f"{name}/cron", run=lead, lock_ttl=2) as app.state.leader:
        yield
    await asyncio.to_thread(lockman.close)


app = FastAPI(lifespan=lifespan)
app.state.lockman = lockman
exclusive = locked(name + "/{order_id}", retry_after=3)


@app.post("/ship/{order_id}")
async def ship(order_id: int, lock=Depends(exclusive)):
    await gates[order_id].wait()
    return {"token": lock.fencing_token, "held": lock.is_locked}


@app.post("/threaded/{order_id}")
def threaded(order_id: int, lock=Depends(exclusive)):
    return {"token": lock.fencing_token, "held": lock.is_locked}


@app.get("/stream/{order_id}", dependencies=[Depends(exclusive)])
async def stream(order_id: int):
    async def parts():
        yield b"first\n"
        await gates[order_id].wait()
        yield b"last\n"

    return StreamingResponse(parts())


@app.get("/endless/{order_id}", dependencies=[Depends(exclusive)])
async def endless(order_id: int):
    async def parts():
        while True:
            yield b"more\n" * 1000
            await asyncio.sleep(0)

    return StreamingResponse(parts())


@app.post("/fail/{order_id}", dependencies=[Depends(exclusive)])
async def fail(order_id: int):
    raise RuntimeError("the order is on fire")


@app.post("/open/{order_id}")
async def open_gate(order_id: int):
    gates[order_id].set()


@app.get("/leads")
async def leads():
    return {"pid": os.getpid(), "leads": app.state.leader.is_leader}
