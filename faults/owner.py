"""An owner process in Python: what `src/owner/` is in Rust, through the package. A plan as JSON is its only argument.

Every other lock is taken by a thread, the others by tasks of asyncio.
"""

import asyncio
import json
import os
import socket
import sys
import threading
import time

from choices import Choice
from globallock import GlobalLockManager
from globallock.aio import AsyncLock
from globallock.exceptions import StoreUnavailable

#: What a read-write lock is a semaphore of.
MAX_CAPACITY = 2**29 - 1
CLOCK_LOOK = 0.05
#: How long an owner leaves a store alone that did not answer.
PAUSE = 0.02
REGISTER_LIMIT = 5.0
#: How often it looks whether it runs, and the shortest pause that it tells of, in microseconds.
PULSE, SHORTEST = 0.01, 5_000
#: What the core tells of a loss, and what the checker reads.
REASONS = {"lease ran out": "expired", "longest hold": "max_hold", "store does not hold": "revoked"}


def now():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000


def reason_of(text):
    [reason] = [reason for words, reason in REASONS.items() if words in text]
    return reason


class Owner:
    def __init__(self, plan):
        self.plan = plan
        self.file = os.open(plan["log"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self.stop = threading.Event()
        self.over = threading.Event()
        self.claims = 0
        self.mutex = threading.Lock()
        self.lease = plan["lease"] / 1e6
        self.limit = plan["limit"] / 1e6
        self.manager = GlobalLockManager(plan["url"], lock_ttl=self.lease, label=f"owner-{plan['owner']}")

    def log(self, event, **fields):
        # One call writes the line: the lines of several threads do not mix, and none waits in a buffer.
        os.write(self.file, json.dumps({"event": event, **fields}).encode() + b"\n")

    def run(self):
        plan = self.plan
        self.log("start", at=now(), pid=os.getpid(), owner=plan["owner"], language="python", lease=plan["lease"])
        threading.Thread(target=self.watch_clock, daemon=True).start()
        pulse = threading.Thread(target=self.watch_pauses)
        pulse.start()
        threading.Thread(target=self.watch_input, daemon=True).start()
        sides = [Turns(self, which, position) for position, which in enumerate(plan["locks"])]
        ours = [side for side in sides if (side.position + plan["owner"]) % 2]
        threads = [threading.Thread(target=side.take_turns) for side in ours]
        for thread in threads:
            thread.start()
        asyncio.run(self.take_turns([side for side in sides if side not in ours]))
        for thread in threads:
            thread.join()
        self.manager.close()
        self.over.set()
        pulse.join()
        self.log("end", at=now())

    async def take_turns(self, sides):
        await asyncio.gather(*(side.take_turns_async() for side in sides))

    def watch_input(self):
        sys.stdin.read()
        self.stop.set()

    def watch_pauses(self):
        due = now() + int(PULSE * 1e6)
        while not self.over.wait(PULSE):
            at = now()
            if at - due > SHORTEST:
                self.log("pause", at=at, length=at - due)
            due = now() + int(PULSE * 1e6)

    def watch_clock(self):
        def ahead():
            return time.time_ns() // 1_000 - now()

        before = ahead()
        while True:
            time.sleep(CLOCK_LOOK)
            after = ahead()
            step = int((after - before) / 1e6)
            if step:
                self.log("clock", at=now(), step=step)
            before = after

    def next_claim(self):
        with self.mutex:
            self.claims += 1
            return self.claims


class Turns:
    """One lock that is taken again and again."""

    def __init__(self, owner, which, position):
        self.owner, self.which, self.position = owner, which, position
        self.step = 0
        self.choice = None
        self.register = None
        host, _, port = owner.plan["registers"].rpartition(":")
        self.registers = (host, int(port))

    # What both ways have in common.

    def choose(self, can_cancel):
        """Chooses how to take the lock, and logs that it is asked for."""
        owner, which = self.owner, self.which
        self.choice = Choice(owner.plan, which, self.position, self.step)
        self.step += 1
        name, kind, permits, capacity = which["name"], which["kind"], 1, 1
        options = {}
        if kind in ("read", "write"):
            kind = "write" if self.choice.writes else "read"
            capacity = MAX_CAPACITY
            permits = MAX_CAPACITY if kind == "write" else 1
        elif kind == "permits":
            capacity = which["capacity"]
            permits = self.choice.permits
            options = {"permits": permits, "capacity": capacity}
        mode = self.choice.mode
        if "cancel" in mode and not can_cancel:
            mode = {"wait": owner.plan["limit"]}
        lock = owner.manager.lock(
            name, kind=kind, blocking=mode != "try", blocking_timeout=owner.limit, lock_ttl=owner.lease, **options
        )
        claim = owner.next_claim()
        fields = {"name": name, "kind": kind, "weight": permits, "capacity": capacity, "mode": mode}
        owner.log("invoke", at=now(), claim=claim, **fields)
        return lock, claim, mode, permits == capacity

    def failed(self, claim, failure):
        self.owner.log("failed", at=now(), claim=claim, failure=failure)

    def granted(self, lock, claim):
        at, until = self.until(lock)
        self.owner.log("granted", at=at, claim=claim, fencing_token=lock.fencing_token, until=until)

    def until(self, lock):
        at, left = now(), lock.remaining
        return at, None if left is None else at + int(left * 1e6)

    def line(self, lock, claim, is_alone):
        verb = "write" if is_alone else "look"
        return f"{self.which['name']} {self.owner.plan['owner']} {claim} {lock.fencing_token} {verb}\n".encode()

    def look(self, lock, claim):
        """Whether it still holds, which is logged."""
        at, until = self.until(lock)
        if not lock.is_locked or self.owner.stop.is_set():
            return False
        self.owner.log("held", at=at, claim=claim, until=until)
        return True

    def wrote(self, lock, claim, at, answer):
        answered, held = now(), lock.is_locked
        guarded = {b"accepted\n": "accepted", b"refused\n": "refused"}.get(answer, "unknown")
        control = "unknown" if guarded == "unknown" else "accepted"
        fields = {"held_before": True, "held_after": held, "guarded": guarded, "control": control}
        self.owner.log("wrote", at=at, answered=answered, claim=claim, **fields)

    # By a thread.

    def take_turns(self):
        while not self.owner.stop.is_set():
            lock, claim, mode, is_alone = self.choose(can_cancel=False)
            try:
                if lock.acquire():
                    self.granted(lock, claim)
                    self.hold(lock, claim, is_alone)
                else:
                    self.failed(claim, "refused" if mode == "try" else "timed_out")
            except StoreUnavailable as error:
                self.failed(claim, {"error": str(error)})
                time.sleep(PAUSE)
            time.sleep(self.choice.rest / 1e6)

    def hold(self, lock, claim, is_alone):
        line = self.line(lock, claim, is_alone)
        lock.on_lost(lambda reason: self.owner.log("lost", at=now(), claim=claim, reason=reason_of(reason)))
        for _ in range(self.choice.rounds):
            if not self.look(lock, claim):
                break
            time.sleep(self.choice.pause / 1e6)
            at = now()
            self.wrote(lock, claim, at, self.ask(line))
        if lock.is_locked:
            self.owner.log("release", at=now(), claim=claim)
            lock.release()
            # Whether the store has answered is told by a warning alone.
            self.owner.log("released", at=now(), claim=claim, departure="unknown")
        else:
            lock.wait_lost()
            lock.release()

    def ask(self, line):
        try:
            if self.register is None:
                self.register = socket.create_connection(self.registers, REGISTER_LIMIT)
                self.register.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.register.sendall(line)
            answer = b""
            while not answer.endswith(b"\n"):
                more = self.register.recv(64)
                if not more:
                    raise ConnectionError("the registers are gone")
                answer += more
            return answer
        except OSError:
            self.register = None
            return b""

    # By a task.

    async def take_turns_async(self):
        while not self.owner.stop.is_set():
            lock, claim, mode, is_alone = self.choose(can_cancel=True)
            same = AsyncLock(lock)
            try:
                acquired = same.acquire()
                if "cancel" in mode:
                    acquired = asyncio.wait_for(acquired, mode["cancel"] / 1e6)
                if await acquired:
                    self.granted(lock, claim)
                    await self.hold_async(lock, same, claim, is_alone)
                else:
                    self.failed(claim, "refused" if mode == "try" else "timed_out")
            except asyncio.TimeoutError:
                self.failed(claim, "cancelled")
            except StoreUnavailable as error:
                self.failed(claim, {"error": str(error)})
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(self.choice.rest / 1e6)

    async def hold_async(self, lock, same, claim, is_alone):
        line = self.line(lock, claim, is_alone)
        told = asyncio.create_task(self.tell(same, claim))
        await asyncio.sleep(0)
        for _ in range(self.choice.rounds):
            if not self.look(lock, claim):
                break
            await asyncio.sleep(self.choice.pause / 1e6)
            at = now()
            self.wrote(lock, claim, at, await self.ask_async(line))
        if lock.is_locked:
            self.owner.log("release", at=now(), claim=claim)
            await same.release()
            self.owner.log("released", at=now(), claim=claim, departure="unknown")
            await told
        else:
            await told
            await same.release()

    async def tell(self, same, claim):
        reason = await same.lost()
        if reason is not None:
            self.owner.log("lost", at=now(), claim=claim, reason=reason_of(reason))

    async def ask_async(self, line):
        try:
            if self.register is None:
                opening = asyncio.open_connection(*self.registers)
                self.register = await asyncio.wait_for(opening, REGISTER_LIMIT)
            reader, writer = self.register
            writer.write(line)
            return await asyncio.wait_for(reader.readline(), REGISTER_LIMIT)
        except (OSError, asyncio.TimeoutError):
            self.register = None
            return b""


if __name__ == "__main__":
    Owner(json.loads(sys.argv[1])).run()
