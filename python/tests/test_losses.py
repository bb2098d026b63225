"""What owners hear of a loss, and what objects and errors show."""

import pickle
import threading
from datetime import timedelta

import pytest
from conftest import eventually, evict
from globallock import GlobalLockManager, InvalidOption, LockLost, Loss, NotLocked, Reason, exceptions


def test_a_loss_is_a_sentence_with_a_kind(lockman, other):
    lock = lockman.lock("a")
    assert lock.acquire() and lock.loss is None
    evict(other, "a")
    reason = lock.wait_lost(timedelta(seconds=30))
    assert isinstance(reason, str) and "an operator wants it" in reason
    assert reason.loss is Loss.EVICTED and lock.loss == reason and lock.loss.loss is Loss.EVICTED
    lock.release()
    assert lock.loss is None

    lock = lockman.lock("a", timeout=0.1)
    assert lock.acquire() and lock.wait_lost(30).loss is Loss.HELD_TOO_LONG
    lock = lockman.lock("a", timeout=0.1, grace=60)
    assert lock.acquire()
    told = []
    lock.on_asked_to_end(told.append)
    eventually("it is asked", lambda: told)
    assert told[0].loss is None and "max hold time" in told[0]
    lock.release()


def test_what_an_object_shows_names_it_and_its_state(lockman, other):
    lock = lockman.lock("a")
    assert "'a'" in repr(lock) and "not held" in repr(lock)
    assert "not used yet" in repr(lockman)
    with lock:
        assert f"held with fencing token {lock.fencing_token}" in repr(lock) and "memory:" in repr(lock)
        assert "1 held" in repr(lockman) and "memory:" in repr(lockman)
        evict(other, "a")
        lock.wait_lost(30)
        assert "lost" in repr(lock)
    assert "not held" in repr(lock)
    for made in (lockman.aio.lock("a"), lockman.lock_all(["a"]), lockman.aio.lock_all(["a"])):
        assert "a" in repr(made) and "not held" in repr(made)
    secret = GlobalLockManager("redis://user:secret@127.0.0.1:1/0?timeout=1ms&ca=secret")
    secret_lock = secret.lock("a")
    assert secret_lock.engine and "127.0.0.1:1" in repr(secret_lock)
    assert "secret" not in repr(secret_lock) + repr(secret) + repr(secret.aio.lock("a"))


@pytest.mark.parametrize("kind", exceptions.__all__)
def test_every_error_pickles_whole(kind):
    made = getattr(exceptions, kind)
    if made is Loss:
        errors = list(Loss)
    elif made is Reason:
        errors = [Reason("why", Loss.EXPIRED)]
    elif made is LockLost:
        errors = [LockLost("the lock 'a' was lost", "a", Loss.EXPIRED), LockLost("it was lost")]
    elif made is NotLocked:
        errors = [NotLocked("a"), NotLocked("a", "is not held")]
    else:
        errors = [made("a sentence")]
    for error in errors:
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is made and str(copied) == str(error)
        assert getattr(copied, "__dict__", None) == getattr(error, "__dict__", None)
        if isinstance(error, Exception):
            assert copied.args == error.args


def test_one_thread_calls_the_functions_of_all_locks(lockman, other):
    before = set(threading.enumerate())
    told = []
    locks = [lockman.lock(f"a{number}") for number in range(50)]
    for lock in locks:
        assert lock.acquire()
        lock.on_lost(lambda reason, lock=lock: told.append((lock.name, reason.loss, threading.get_ident())))
        lock.on_asked_to_end(lambda reason: None)
        lock.lost_event()
    assert len(set(threading.enumerate()) - before) <= 2
    for lock in locks[10:]:
        lock.release()
    for lock in locks[:10]:
        evict(other, lock.name)
    eventually("all are told", lambda: len(told) == 10)
    assert sorted(told)[0][:2] == ("a0", Loss.EVICTED) and len({thread for _, _, thread in told}) == 1


def test_a_function_that_fails_or_hangs_keeps_no_event_from_being_set(lockman, other, caplog):
    hangs, goes_on = threading.Event(), threading.Event()
    first, second = lockman.lock("a"), lockman.lock("b")
    assert first.acquire() and second.acquire()
    told = []

    def fail(reason):
        raise KeyError("the function of a user")

    def hang(reason):
        hangs.set()
        assert goes_on.wait(60)

    first.on_lost(fail)
    first.on_lost(hang)
    event = second.lost_event()
    asked = second.asked_to_end_event()
    second.on_lost(told.append)
    evict(other, "a")
    assert hangs.wait(30)
    evict(other, "b")
    assert event.wait(30) and asked.wait(30) and not told
    goes_on.set()
    eventually("the next one is called", lambda: told)
    assert "the function of a user" in caplog.text and "'a'" in caplog.text


def test_a_function_may_itself_lock_and_be_told(lockman, other):
    lock, told = lockman.lock("a"), threading.Event()

    def again(reason):
        with lockman.hold("again") as inner:
            event = inner.lost_event()
            evict(other, "again")
            assert event.wait(30)
        told.set()

    assert lock.acquire()
    lock.on_lost(again)
    evict(other, "a")
    assert told.wait(30)


def test_a_lock_that_was_lost_already_is_told_at_once(lockman, other):
    lock, told = lockman.lock("a"), []
    assert lock.acquire()
    evict(other, "a")
    assert lock.wait_lost(30)
    lock.on_lost(told.append)
    eventually("it is told", lambda: told)
    assert lock.lost_event().wait(30)
    lock.release()
    with pytest.raises(InvalidOption, match="on_lost.. needs a lock that is held"):
        lock.on_lost(told.append)
