"""`manage.py globallock`, each command in a process of its own, with its locks in a real Redis."""

# The frameworks come first, and fixtures are imported.
# ruff: noqa: E402, F401, F811, I001

import json
import os
import signal
import threading

import frameworks
import pytest

frameworks.needs_framework("django")

from conftest import eventually
from djangoproject import locks, manage, project
from django.core.management import CommandError, call_command


def outcome(process, given=None):
    printed, told = process.communicate(given, timeout=60)
    return process.returncode, printed, told.strip()


def waiting(locks, name, count):
    eventually(f"{count} waiters", lambda: sum(not claim.held for claim in locks.inspect(name)) == count)


def test_commands_run_in_turn_and_never_two_at_a_time(manage, locks):
    with locks.lock("migrate") as first:
        assert first.is_locked
        five = [manage("globallock", "run", "--", "migrate", "--verbosity", 0) for _ in range(5)]
        waiting(locks, "migrate", 5)
        assert not manage.log.exists()
    assert [outcome(process) for process in five] == [(0, "", "")] * 5
    words = [line.split() for line in manage.log.read_text().splitlines()]
    begun, ended = words[::2], words[1::2]
    assert [what for _, what in begun] == ["begins"] * 5 and [what for _, what in ended] == ["ends"] * 5
    assert [process for process, _ in begun] == [process for process, _ in ended]
    assert len({process for process, _ in begun}) == 5


def test_run_passes_the_arguments_and_the_exit_status(manage, name):
    run = ("globallock", "run", name, "--", "work")
    assert outcome(manage(*run, "print", "--noinput")) == (0, f"inside {name} True True\n", "")
    assert outcome(manage(*run, "fail")) == (3, f"inside {name} False True\n", "CommandError: it fails")
    assert outcome(manage(*run, "exit"))[0] == 4
    status, _, told = outcome(manage(*run, "raise"))
    assert status == 1 and told.splitlines()[-1].endswith("StoreUnavailable: another store")


def test_run_ends_with_75_or_what_is_asked_where_the_lock_is_taken(manage, locks, name):
    run, command = ("globallock", "run", name), ("--", "work", "print")
    with locks.lock(name):
        status, printed, told = outcome(manage(*run, "--wait", 0, *command))
        assert (status, printed) == (75, "") and told.startswith(f"CommandError: {name} is taken: held by ")
        status, printed, told = outcome(manage(*run, "--wait", 0.2, "--exit-busy", 9, *command))
        assert (status, printed) == (9, "") and "was not granted within 0.2 s" in told
        status, printed, told = outcome(manage(*run, "--wait", 0, "--on-busy", "skip", *command))
        assert (status, printed) == (0, "") and told.endswith("; work was skipped")


def test_run_that_loses_its_lock_ends_its_command_and_says_so(manage, locks, name):
    process = manage("globallock", "run", name, "--", "work", "wait")
    assert process.stdout.readline().startswith("inside")
    assert locks.evict(name, locks.inspect(name)[0], reason="it hangs")
    assert process.wait(timeout=30) == 76
    told = process.stderr.read()
    assert "it hangs" in told and "Traceback" not in told
    # When it is lost, and at the end.
    assert told.count(f"the lock {name} was lost while the command ran: ") == 2


def test_run_ends_its_command_at_the_timeout(manage, locks, name):
    process = manage("globallock", "run", name, "--timeout", 1, "--", "work", "wait")
    assert process.stdout.readline().startswith("inside")
    assert process.wait(timeout=30) == 76
    with locks.lock(name, blocking_timeout=30) as lock:
        assert lock.is_locked


def test_ctrl_c_ends_the_command_and_releases_the_lock(manage, locks, name):
    process = manage("globallock", "run", name, "--", "work", "wait")
    assert process.stdout.readline().startswith("inside")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) not in (0, 76)
    told = process.stderr.read()
    assert "KeyboardInterrupt" in told and "lost" not in told
    with locks.lock(name, blocking_timeout=1) as lock:
        assert lock.is_locked


def test_ctrl_c_ends_the_wait_and_leaves_the_queue(manage, locks, name):
    with locks.lock(name):
        process = manage("globallock", "run", name, "--", "work", "print")
        waiting(locks, name, 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) != 0 and process.stdout.read() == ""
        waiting(locks, name, 0)


def test_wrong_usage_is_told_before_a_lock_is_waited_for(manage, locks):
    with locks.lock("nosuch"):
        assert outcome(manage("globallock", "run", "--", "nosuch"))[0] == 1
    status, _, told = outcome(manage("globallock", "run", "work"))
    assert status == 64 and "after two dashes" in told
    status, _, told = outcome(manage("globallock", "inspect", ""))
    assert status == 64 and "name" in told
    for wait in ("-1", "nan", "inf", "1e9"):
        with locks.lock("work"), pytest.raises(CommandError, match=r"--wait is .*from 0 to") as raised:
            call_command("globallock", "run", "--wait", wait, "--", "work", "print")
        assert raised.value.returncode == 64
    for wrong in (("run", "--wiat", 1, "--", "work"), ("run", "--wait", "x", "--", "work"), ("lss",)):
        status, printed, told = outcome(manage("globallock", *wrong))
        assert status == 64 and printed == "" and told.startswith("usage: "), told
    assert outcome(manage("globallock", "run", "--help"))[0] == 0
    # Where code calls it, nothing exits.
    with pytest.raises(CommandError, match="--wait"):
        call_command("globallock", "run", "--wait", "x", "--", "work")


def test_a_run_within_a_run_of_the_same_lock_is_refused(manage, name):
    run = ("globallock", "run", name, "--")
    status, _, told = outcome(manage(*run, *run, "work", "print"))
    assert status == 64 and "held by the run around this one" in told


def test_ls_and_inspect_show_who_holds_and_who_waits(manage, locks, name):
    hostile = f"{name}-\x1b[2J‮\n"
    with locks.lock(hostile) as lock:
        process = manage("globallock", "run", hostile, "--", "work", "print")
        waiting(locks, hostile, 1)
        status, printed, _ = outcome(manage("globallock", "ls", name))
        head, row = printed.splitlines()
        assert status == 0 and head.split() == ["NAME", "MODE", "HOLDERS", "WAITERS", "OLDEST", "TOKEN"]
        assert row.startswith(rf"{name}-\x1b[2J\u202e\n") and row.split()[-1] == str(lock.fencing_token)
        listed = json.loads(outcome(manage("globallock", "ls", name, "--json"))[1])
        assert [(each["name"], each["holders"], each["waiters"]) for each in listed] == [(hostile, 1, 1)]
        _, printed, _ = outcome(manage("globallock", "inspect", hostile))
        head, first, second = printed.splitlines()
        assert head.split()[0] == "STATE" and first.startswith("holds") and second.startswith("waits 1")
        claims = json.loads(outcome(manage("globallock", "inspect", hostile, "--json"))[1])
        assert [claim["held"] for claim in claims] == [True, False]
        assert claims[1]["pid"] == process.pid
    assert outcome(process)[0] == 0
    assert outcome(manage("globallock", "inspect", name)) == (0, f"{name} is free\n", "")


def test_the_command_can_be_called_from_code_in_any_thread(locks, name, capsys, monkeypatch):
    monkeypatch.delenv("DJANGOAPP_LOG", raising=False)
    before, raised = signal.getsignal(signal.SIGINT), []

    def call():
        try:
            call_command("globallock", "run", name, "--", "work", "print", "--noinput")
            call_command("globallock", "run", name, "--", "work", "fail")
        except SystemExit as error:
            raised.append(error)

    call()
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert [each.code for each in raised] == [3, 3]
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"inside {name} True True", f"inside {name} False True"] * 2
    assert signal.getsignal(signal.SIGINT) is before and "GLOBALLOCK_NAME" not in os.environ
    with locks.lock(name):
        call_command("globallock", "ls", name, json=True)
        assert [each["name"] for each in json.loads(capsys.readouterr().out)] == [name]
        with pytest.raises(CommandError, match="is taken"):
            call_command("globallock", "run", name, "--wait", "0", "--", "work", "print")


def test_break_asks_and_takes_exactly_the_claim_that_was_seen(manage, locks, name):
    lock = locks.lock(name)
    assert lock.acquire()
    waiter = manage("globallock", "run", name, "--", "work", "wait")
    waiting(locks, name, 1)
    status, printed, told = outcome(manage("globallock", "break", name), "no\n")
    assert status == 1 and "waiters besides: 1." in printed
    assert "nothing was broken" in told and lock.is_locked
    status, _, told = outcome(manage("globallock", "break", name), "")
    assert status == 64 and "give --yes" in told and lock.is_locked
    token = lock.fencing_token
    status, printed, _ = outcome(manage("globallock", "break", name, "--reason", "it hangs"), "y\n")
    assert status == 0 and "broken: " in printed
    assert "it hangs" in lock.wait_lost(30)
    # The next holder is not hit by what was meant for the first.
    assert waiter.stdout.readline().startswith("inside")
    status, _, told = outcome(manage("globallock", "break", name, "--yes", "--token", token))
    assert status == 1 and "no such holder or waiter any more" in told
    waiter.communicate("\n", timeout=60)
    assert waiter.returncode == 0
    status, _, told = outcome(manage("globallock", "break", name, "--yes"))
    assert status == 1 and "is not held" in told


def test_break_of_a_waiter_and_of_one_of_several_holders(manage, locks, name):
    readers = [locks.rwlock(name).read() for _ in range(2)]
    assert all(reader.acquire() for reader in readers)
    waiter = manage("globallock", "run", name, "--", "work", "print")
    waiting(locks, name, 1)
    status, _, told = outcome(manage("globallock", "break", name, "--yes"))
    assert status == 64 and "several holders: choose one by --claim KEY" in told
    key = locks.inspect(name)[-1].key
    assert outcome(manage("globallock", "break", name, "--yes", "--claim", key))[0] == 0
    status, printed, told = outcome(waiter)
    assert (status, printed) == (76, "") and "broken by manage.py globallock break" in told
    token = readers[0].fencing_token
    assert outcome(manage("globallock", "break", name, "--yes", "--token", token))[0] == 0
    assert readers[0].wait_lost(30) is not None and readers[1].is_locked


def test_a_store_that_is_away_is_told_in_one_line(manage):
    process = manage("globallock", "ls", DJANGOAPP_REDIS="redis://127.0.0.1:1", DJANGOAPP_LEASE="0.5")
    status, printed, told = outcome(process)
    assert (status, printed) == (69, "") and "Traceback" not in told
    assert told.splitlines()[-1].startswith("CommandError: ") and "127.0.0.1:1" in told


def test_the_exit_status_of_a_locked_command_that_finds_its_lock_taken(manage):
    for command, wanted in (("daily", 75), ("polite", 0)):
        first = manage(command)
        assert first.stdout.readline() == "inside True\n"
        status, printed, told = outcome(manage(command))
        assert (status, printed) == (wanted, "") and told.endswith(f"the {command} one is running already")
        assert outcome(first, "\n")[0] == 0


def test_a_locked_command_that_loses_its_lock_does_not_end_as_if_it_had_kept_it(manage, locks):
    process = manage("daily")
    assert process.stdout.readline() == "inside True\n"
    assert locks.evict("the daily one", locks.inspect("the daily one")[0])
    with locks.lock("the daily one", blocking_timeout=30) as lock:
        assert lock.is_locked
    # The log of the lock: it has heard of it.
    assert "lost" in process.stderr.readline()
    status, _, told = outcome(process, "\n")
    assert status == 76 and "was lost while the command ran" in told
