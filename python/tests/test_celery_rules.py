"""What a task does whose lock is busy, and how names are made, without a worker."""

import pytest
from frameworks import needs_framework

needs_framework("celery")

from celery import Celery, shared_task  # noqa: E402
from globallock import GlobalLockManager, InvalidOption, NotLocked, StoreUnavailable  # noqa: E402
from globallock.celery import UniqueTask, current_lock, exclusive, manager_of  # noqa: E402


@pytest.fixture
def app():
    app = Celery("rules", broker="memory://", backend="cache+memory://", set_as_current=True)
    app.conf.update(task_always_eager=True, task_store_eager_result=True)
    app.conf.global_lock_config = "redis://127.0.0.1:1"
    return app


def task(app, name="import/{account}", on_busy="skip", **options):
    @app.task(name=f"task-{id(options)}", max_retries=1)
    @exclusive(name, on_busy, **options)
    def work(account, *, full=False, **more):
        return current_lock().fencing_token

    return work


def test_a_task_holds_its_lock_while_it_runs(app, locks):
    assert task(app).delay(7).get() == 1 and current_lock() is None
    assert locks.granted == ["import/7"] and locks.held() == []


@pytest.mark.parametrize(
    ("on_busy", "state", "result"),
    [
        ("skip", "SUCCESS", None),
        ("ignore", "IGNORED", None),
        ("raise", "FAILURE", NotLocked),
        ("retry", "FAILURE", NotLocked),
        ("wait", "FAILURE", NotLocked),
        (lambda account, **more: ("busy", account, more), "SUCCESS", ("busy", 7, {"full": True})),
    ],
)
def test_what_becomes_of_a_task_whose_lock_is_busy(app, locks, on_busy, state, result):
    options = {"blocking_timeout": 0.05} if on_busy == "wait" else {"countdown": 0}
    with locks.taken("import/7"):
        done = task(app, on_busy=on_busy, **options).delay(7, full=True)
    assert done.state == state
    if state != "IGNORED":
        assert isinstance(done.result, result) if isinstance(result, type) else done.result == result
    assert locks.granted == []


def test_a_function_that_is_called_without_celery_holds_its_lock_too(locks):
    @exclusive("import/{account}", "retry", lockman=locks.lockman)
    def work(account):
        return locks.held()

    assert work(7) == ["import/7"]
    with locks.taken("import/7"), pytest.raises(NotLocked, match="'import/7' is held by another task"):
        work(7)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("import/{account}", "import/7"),
        ("{account}/{full}/{region}", "7/False/eu"),
        (lambda account, **more: f"made/{account}", "made/7"),
        ("braces/{{}}", "braces/{}"),
    ],
)
def test_names_are_made_of_the_arguments(app, locks, name, wanted):
    task(app, name).delay(7, region="eu")
    assert locks.granted == [wanted]


def test_wrong_names_and_options_are_refused_where_they_are_written(app):
    def work(account): ...

    for wrong, name in (
        ("has the field {acount}, and .*work.* has no such parameter but account", "import/{acount}"),
        ("has the field {}", "import/{}"),
        ("is no format", "import/{"),
    ):
        with pytest.raises(InvalidOption, match=wrong):
            exclusive(name)(work)
    with pytest.raises(InvalidOption, match="on_busy is 'skipp'"):
        exclusive("a", "skipp")
    with pytest.raises(InvalidOption, match="no option 'blocking'"):
        exclusive("a", blocking=True)
    with pytest.raises(InvalidOption, match="needs a blocking_timeout"):
        exclusive("a", "wait")
    with pytest.raises(TypeError, match="below @app.task"):
        exclusive("a")(app.task(work))

    async def deferred(): ...

    with pytest.raises(TypeError, match="is a coroutine or generator function"):
        exclusive("a")(deferred)


def test_celery_still_checks_the_arguments_of_a_call(app, locks):
    app.conf.task_always_eager = False
    with pytest.raises(TypeError, match="account"):
        task(app).delay()


def test_the_manager_is_the_one_of_the_setting_or_the_one_that_is_given(app, locks):
    assert manager_of(app) is manager_of(app)
    given, made = GlobalLockManager("memory:given"), []

    def make():
        made.append(given)
        return given

    for lockman in (given, make):
        work = task(app, lockman=lockman)
        work.delay(7)
        work.delay(7)
    assert len(made) == 1
    app.conf.global_lock_config = None
    bare = Celery("bare", set_as_current=False)
    with pytest.raises(InvalidOption, match="set app.conf.global_lock_config to an address"):
        manager_of(bare)
    bare.config_from_object({"CELERY_GLOBAL_LOCK_CONFIG": "memory:namespace"}, namespace="CELERY")
    assert manager_of(bare).config.global_lock_engine_options == {"url": "memory:namespace"}


def unique(app, **options):
    # Not shared: one that is wrong would be made for the apps of other tests, too.
    given = {"unique_name": "report/{day}", "shared": False, **options}

    @app.task(name=f"unique-{id(options)}", base=UniqueTask, **given)
    def report(day):
        return day

    return report


@pytest.fixture
def queued(app):
    """Sends tasks to a queue that nobody reads."""
    app.conf.task_always_eager = False
    return app


def test_a_second_one_is_given_the_result_of_the_first(queued, locks):
    report = unique(queued)
    first = report.delay("monday")
    assert report.delay("monday").id == first.id and report.delay(day="monday").id == first.id
    assert report.delay("tuesday").id != first.id
    assert report.apply_async(("monday",), task_id=first.id).id == first.id, "it is queued again by a retry"
    with pytest.raises(NotLocked, match=f"is taken: the task {first.id} is queued or running"):
        unique(queued, on_duplicate="raise").delay("monday")
    own = report.apply_async(("friday",), task_id="given")
    assert own.id == report.delay("friday").id == "given"


def test_an_eager_task_has_ended_when_it_returns(app, locks):
    report = unique(app)
    first, second = report.delay("monday"), report.delay("monday")
    assert first.get() == second.get() == "monday" and first.id != second.id
    assert locks.held() == [] and report("monday") == "monday"


def test_a_task_that_is_due_later_keeps_others_out_until_then_and_so_long(queued):
    from datetime import datetime, timedelta, timezone

    report = unique(queued, unique_for=timedelta(seconds=50))
    later = datetime.now(timezone.utc) + timedelta(seconds=100)
    assert report._keep({"countdown": 100}) == 150 and 149 < report._keep({"eta": later}) <= 150
    naive = queued.now().replace(tzinfo=None) + timedelta(seconds=100)
    assert 149 < report._keep({"eta": naive}) <= 150 and report._keep({}) == 50


def test_a_unique_task_without_a_name_or_a_store_is_told_so(queued, locks):
    with pytest.raises(InvalidOption, match="has no unique_name"):
        unique(queued, unique_name=None).delay("monday")
    with pytest.raises(InvalidOption, match="has the field {week}"):
        unique(queued, unique_name="report/{week}").delay("monday")
    with locks.store_away(), pytest.raises(StoreUnavailable):
        unique(queued).delay("monday")


def test_a_task_that_is_delivered_twice_leaves_the_result_to_the_first(app, locks):
    report = unique(app)
    record = report._record(("monday",), {})
    record.start("first")
    with locks.taken("report/monday/running"):
        assert report.apply(("monday",), task_id="first").state == "IGNORED"
        other = report.apply(("monday",), task_id="other")
        assert (other.state, other.result) == ("SUCCESS", None)
    assert record.is_of("first"), "its record stays"


def test_a_task_that_is_rejected_is_queued_again_or_has_ended(queued, locks):
    from celery.exceptions import Reject

    @queued.task(name="rejected", base=UniqueTask, unique_name="rejected")
    def rejected(requeue):
        raise Reject("not now", requeue=requeue)

    rejected.apply((True,), task_id="first")
    assert rejected.delay(True).id == "first"
    rejected.apply((False,), task_id="first")
    assert rejected.delay(True).id != "first"


def test_names_and_managers_of_unique_tasks_may_be_functions(queued, locks):
    report = unique(queued, unique_name=lambda day: f"made/{day}", lockman=lambda: locks.lockman)
    assert report.delay("monday").id == report.delay("monday").id
    assert set(locks.granted) == {"made/monday/queued"}


def test_a_shared_task_may_be_unique(queued, locks):
    @shared_task(base=UniqueTask, unique_name="shared/{day}")
    def shared(day): ...

    assert shared.delay("monday").id == shared.delay("monday").id


def test_a_task_that_has_ended_is_a_success_when_its_record_cannot_be_cleared(app, locks, caplog):
    @app.task(base=UniqueTask, unique_name="report")
    def report():
        away.append(locks.store_away())
        return "made"

    away = []
    assert report.delay().get() == "made" and "the record of 'report' was not cleared" in caplog.text
    away[0].end()
    app.conf.task_always_eager = False
    first = report.delay()
    assert report.delay().id == first.id, "what is left of the first keeps nobody out"
