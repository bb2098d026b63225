"""An owner process that uses the Python package, as `src/owner/` uses the library.

Its only argument is a plan as JSON.

Threads take every other lock, and tasks of asyncio take the rest.
"""

import asyncio
import json
import os
import re
import socket
import sys
import threading
import time

from choices import Choice
from globallock import GlobalLockManager
from globallock.aio import AsyncLock
from globallock.exceptions import Evicted, StoreDenied, StoreUnavailable, StoreUnfit

#: The capacity of a read-write lock, which is a semaphore underneath.
MAX_CAPACITY = 2**29 - 1
CLOCK_POLL = 0.05
#: How long an owner waits after an error of the store.
PAUSE = 0.02
REGISTER_LIMIT = 5.0
#: What the store or the way to it may answer to a request while there is a fault.
ERRORS = (StoreUnavailable, StoreDenied, StoreUnfit)
#: How often it checks that it runs, in seconds.
PULSE = 0.01
#: The shortest pause that is logged, in microseconds.
MIN_PAUSE = 5_000
#: Words of the core's texts for a loss, and the reasons that the checker knows.
REASONS = {
    "lease expired": "expired",
    "max hold time": "max_hold",
    "store has no such claim": "revoked",
    "broken by": "evicted",
}
#: The reason that an operator gives for an eviction.
EVICTION = re.compile(r"owner \d+ eviction \d+")


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000


def reason_of(text):
    [reason] = {reason for words, reason in REASONS.items() if words in text}
    return reason


def eviction_in(text):
    """Returns the operator's reason in a text that tells of an eviction."""
    return EVICTION.search(text).group()


def of_loss(text):
    """Returns what is logged of a loss."""
    reason = reason_of(text)
    return {"reason": reason, "eviction": eviction_in(text)} if reason == "evicted" else {"reason": reason}


class Owner:
    def __init__(self, plan):
        self.plan = plan
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        self.file = os.open(plan["log"], flags, 0o644)
        self.stop = threading.Event()
        self.over = threading.Event()
        self.claims = 0
        self.mutex = threading.Lock()
        self.lease = plan["lease"] / 1e6
        self.limit = plan["limit"] / 1e6
        self.manager = GlobalLockManager(plan["url"], lock_ttl=self.lease, label=f"owner-{plan['owner']}")

    def log(self, event, **fields):
        # One system call writes the line, so lines of several threads do not mix, and none is buffered.
        os.write(self.file, json.dumps({"event": event, **fields}).encode() + b"\n")

    def run(self):
        plan = self.plan
        fields = {"owner": plan["owner"], "language": "python", "lease": plan["lease"]}
        self.log("start", at=now(), pid=os.getpid(), **fields)
        threading.Thread(target=self.watch_clock, daemon=True).start()
        pulse = threading.Thread(target=self.watch_pauses)
        pulse.start()
        threading.Thread(target=self.watch_input, daemon=True).start()
        turns = [Turns(self, spec, position) for position, spec in enumerate(plan["locks"])]
        by_threads = [each for each in turns if (each.position + plan["owner"]) % 2]
        threads = [threading.Thread(target=each.take_turns) for each in by_threads]
        for thread in threads:
            thread.start()
        asyncio.run(self.take_turns([each for each in turns if each not in by_threads]))
        for thread in threads:
            thread.join()
        self.manager.close()
        self.over.set()
        pulse.join()
        self.log("end", at=now())

    async def take_turns(self, turns):
        await asyncio.gather(*(each.take_turns_async() for each in turns))

    def watch_input(self):
        sys.stdin.read()
        self.stop.set()

    def watch_pauses(self):
        due = now() + int(PULSE * 1e6)
        while not self.over.wait(PULSE):
            at = now()
            if at - due > MIN_PAUSE:
                self.log("pause", at=at, length=at - due)
            due = now() + int(PULSE * 1e6)

    def watch_clock(self):
        def ahead():
            return time.time_ns() // 1_000 - now()

        before = ahead()
        while True:
            time.sleep(CLOCK_POLL)
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

    def __init__(self, owner, spec, position):
        self.owner, self.spec, self.position = owner, spec, position
        self.step = 0
        self.choice = None
        self.register = None
        host, _, port = owner.plan["registers"].rpartition(":")
        self.registers = (host, int(port))

    # Common to threads and tasks.

    def choose(self, can_cancel):
        """Chooses how to take the lock, and logs the request."""
        owner, spec = self.owner, self.spec
        self.choice = Choice(owner.plan, spec, self.position, self.step)
        self.step += 1
        name, kind, permits, capacity = spec["name"], spec["kind"], 1, 1
        options = {}
        if kind in ("read", "write"):
            kind = "write" if self.choice.writes else "read"
            capacity = MAX_CAPACITY
            permits = MAX_CAPACITY if kind == "write" else 1
        elif kind == "permits":
            capacity = spec["capacity"]
            permits = self.choice.permits
            options = {"permits": permits, "capacity": capacity}
        mode = self.choice.mode
        if "cancel" in mode and not can_cancel:
            mode = {"wait": owner.plan["limit"]}
        options.update(blocking=mode != "try", blocking_timeout=owner.limit, lock_ttl=owner.lease)
        lock = owner.manager.lock(name, kind=kind, **options)
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

    def line(self, lock, claim, is_exclusive):
        verb = "write" if is_exclusive else "look"
        name, owner = self.spec["name"], self.owner.plan["owner"]
        return f"{name} {owner} {claim} {lock.fencing_token} {verb}\n".encode()

    def check_held(self, lock, claim):
        """Returns and logs whether the lock is still held."""
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
            lock, claim, mode, is_exclusive = self.choose(can_cancel=False)
            try:
                if lock.acquire():
                    self.granted(lock, claim)
                    self.hold(lock, claim, is_exclusive)
                else:
                    self.failed(claim, "refused" if mode == "try" else "timed_out")
            except Evicted as error:
                self.failed(claim, {"evicted": eviction_in(str(error))})
            except ERRORS as error:
                self.failed(claim, {"error": str(error)})
                time.sleep(PAUSE)
            time.sleep(self.choice.rest / 1e6)

    def hold(self, lock, claim, is_exclusive):
        line = self.line(lock, claim, is_exclusive)
        lock.on_lost(lambda reason: self.owner.log("lost", at=now(), claim=claim, **of_loss(reason)))
        for _ in range(self.choice.rounds):
            if not self.check_held(lock, claim):
                break
            time.sleep(self.choice.pause / 1e6)
            at = now()
            self.wrote(lock, claim, at, self.ask(line))
        if lock.is_locked:
            self.owner.log("release", at=now(), claim=claim)
            lock.release()
            # `release` returns nothing: an unanswered release is only a warning in the log of the package.
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
            lock, claim, mode, is_exclusive = self.choose(can_cancel=True)
            same = AsyncLock(lock)
            try:
                acquired = same.acquire()
                if "cancel" in mode:
                    acquired = asyncio.wait_for(acquired, mode["cancel"] / 1e6)
                if await acquired:
                    self.granted(lock, claim)
                    await self.hold_async(lock, same, claim, is_exclusive)
                else:
                    self.failed(claim, "refused" if mode == "try" else "timed_out")
            except asyncio.TimeoutError:
                self.failed(claim, "cancelled")
            except Evicted as error:
                self.failed(claim, {"evicted": eviction_in(str(error))})
            except ERRORS as error:
                self.failed(claim, {"error": str(error)})
                await asyncio.sleep(PAUSE)
            await asyncio.sleep(self.choice.rest / 1e6)

    async def hold_async(self, lock, same, claim, is_exclusive):
        line = self.line(lock, claim, is_exclusive)
        loss_logged = asyncio.create_task(self.log_loss(same, claim))
        await asyncio.sleep(0)
        for _ in range(self.choice.rounds):
            if not self.check_held(lock, claim):
                break
            await asyncio.sleep(self.choice.pause / 1e6)
            at = now()
            self.wrote(lock, claim, at, await self.ask_async(line))
        if lock.is_locked:
            self.owner.log("release", at=now(), claim=claim)
            await same.release()
            self.owner.log("released", at=now(), claim=claim, departure="unknown")
            await loss_logged
        else:
            await loss_logged
            await same.release()

    async def log_loss(self, same, claim):
        reason = await same.lost()
        if reason is not None:
            self.owner.log("lost", at=now(), claim=claim, **of_loss(reason))

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
