"""An ``ExitStack`` releases what was acquired by it, wherever it is closed."""

import asyncio
import contextlib

import pytest
from globallock import NotLocked
from test_shared_objects import elsewhere


@pytest.mark.parametrize("moved", [False, True])
def test_a_stack_that_is_closed_in_a_block_of_another_thread_leaves_that_block_alone(lockman, moved):
    permits = lockman.semaphore("a", 4).hold()
    theirs, tokens = contextlib.ExitStack(), []
    elsewhere(lambda: tokens.append(theirs.enter_context(permits).fencing_token))
    with permits:
        mine = permits.fencing_token
        (theirs.pop_all() if moved else theirs).close()
        assert permits.is_locked and permits.fencing_token == mine != tokens[0]
        assert [claim.fencing_token for claim in lockman.inspect("a")] == [mine]
    assert lockman.inspect("a") == []


def test_a_stack_that_is_closed_in_a_refused_block_releases_its_lock(lockman):
    lock, theirs = lockman.lock("a", blocking=False), contextlib.ExitStack()
    elsewhere(lambda: theirs.enter_context(lock))
    with lock:
        assert not lock.is_locked
        theirs.close()
        assert lockman.names() == []
    assert lockman.names() == []


def test_stacks_of_several_threads_release_what_is_theirs(lockman):
    permits = lockman.semaphore("a", 4).hold()
    both = lockman.lock_all(["b", "c"], blocking=False)
    stacks = [contextlib.ExitStack() for _ in range(3)]
    tokens = []
    for stack in stacks:
        elsewhere(lambda stack=stack: tokens.append(stack.enter_context(permits).fencing_token))
    stacks[1].enter_context(both)
    with both:
        assert not both.is_locked
    elsewhere(stacks[1].close)
    assert [claim.fencing_token for claim in lockman.inspect("a")] == [tokens[0], tokens[2]]
    assert lockman.names() == ["a"]
    stacks[2].close()
    assert [claim.fencing_token for claim in lockman.inspect("a")] == [tokens[0]]
    stacks[0].close()
    assert lockman.names() == []


def test_a_stack_enters_an_object_several_times_and_leaves_it_as_often(lockman):
    permits = lockman.semaphore("a", 4).hold()
    with contextlib.ExitStack() as stack:
        for entered in range(1, 4):
            stack.enter_context(permits)
            assert len(lockman.inspect("a")) == entered
        with pytest.raises(KeyError), contextlib.ExitStack() as inner:
            inner.enter_context(permits)
            raise KeyError
        assert len(lockman.inspect("a")) == 3
    assert lockman.names() == []


def test_a_stack_of_another_task_leaves_the_block_of_this_one_alone(lockman):
    async def main():
        permits = lockman.aio.semaphore("a", 4).hold()
        theirs, tokens = contextlib.AsyncExitStack(), []

        async def enter():
            tokens.append((await theirs.enter_async_context(permits)).fencing_token)

        await asyncio.ensure_future(enter())
        async with permits:
            mine = permits.fencing_token
            await theirs.aclose()
            assert permits.is_locked and permits.fencing_token == mine != tokens[0]
            assert [claim.fencing_token for claim in lockman.inspect("a")] == [mine]
        assert lockman.names() == []

    asyncio.run(main())


def test_a_lock_that_was_acquired_before_is_pushed_on_a_stack(lockman):
    lock = lockman.lock("a")
    assert lock.acquire()
    with contextlib.ExitStack() as stack:
        stack.push(lock)
        assert lock.is_locked
    assert lockman.names() == []
    with lockman.hold("a"), contextlib.ExitStack() as stack, pytest.raises(NotLocked):
        stack.enter_context(lockman.hold("a", blocking=False))
