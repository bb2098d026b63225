"""What the module for Celery refuses, and where it says so."""

import functools

import pytest
from frameworks import needs_framework

needs_framework("celery")

from celery import Celery, chain, chord, group  # noqa: E402
from celery.app.trace import build_tracer  # noqa: E402
from globallock import GlobalLockManager, InvalidName, InvalidOption, NotLocked  # noqa: E402
from globallock.celery import UniqueTask, exclusive  # noqa: E402


@pytest.fixture
def app():
    """An app whose tasks are sent to a queue that nobody reads."""
    app = Celery("mistakes", broker="memory://", backend="cache+memory://", set_as_current=True)
    app.conf.global_lock_config = "redis://127.0.0.1:1"
    return app


async def deferred(): ...


class Deferred:
    async def __call__(self): ...


class Generating:
    def __call__(self):
        yield


class Plain:
    def __call__(self):
        return 1


@pytest.mark.parametrize("function", [deferred, functools.partial(deferred), Deferred(), Generating()])
def test_what_does_its_work_only_later_is_refused_where_it_is_decorated(function):
    with pytest.raises(TypeError, match="is a coroutine or generator function"):
        exclusive("a")(function)


def test_a_class_is_refused_and_an_object_that_is_called_is_not(locks):
    with pytest.raises(TypeError, match="Plain is a class"):
        exclusive("a")(Plain)
    with pytest.raises(TypeError, match="decorate a function"):
        exclusive("a")("text")
    assert exclusive("a", lockman=locks.lockman)(Plain())() == 1 and locks.granted == ["a"]


@pytest.mark.parametrize("kind", ["coroutine", "generator", "async_generator"])
def test_a_function_that_returns_work_to_be_done_later_fails(app, locks, kind):
    ran = []

    async def coroutine():
        ran.append(1)

    def generator():
        yield ran.append(1)

    async def async_generator():
        yield ran.append(1)

    made = {"coroutine": coroutine, "generator": generator, "async_generator": async_generator}[kind]

    @app.task(name=f"late-{kind}", shared=False)
    @exclusive("a")
    def late():
        return made()

    @app.task(name=f"unique-late-{kind}", shared=False, base=UniqueTask, unique_name="b")
    def unique_late():
        return made()

    for task in (late, unique_late):
        what = kind.replace("_", " ")
        with pytest.raises(TypeError, match=f"has returned a.* {what}, whose work would be done without"):
            task.apply().get()
    assert ran == [] and locks.held() == []


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"contdown": 30}, r"exclusive\(\) has no option 'contdown': did you mean 'countdown'"),
        ({"lock_tll": 5}, "did you mean 'lock_ttl'"),
        ({"timeout": -3}, "the option timeout"),
        ({"grace": "x"}, "the option grace"),
        ({"cancel_on_loss": True}, "has no option 'cancel_on_loss': nothing can cancel a task"),
        ({"max_retries": "many"}, "the option max_retries"),
        ({"max_retries": -1}, "the option max_retries"),
    ],
)
def test_options_are_refused_where_they_are_written(locks, options, wrong):
    for lockman in (None, locks.lockman):
        with pytest.raises(InvalidOption, match=wrong):
            exclusive("a", lockman=lockman, **options)


def test_a_manager_that_is_none_is_refused_where_it_is_written():
    with pytest.raises(InvalidOption, match="lockman is of type str: give a GlobalLockManager"):
        exclusive("a", lockman="redis://127.0.0.1")


def test_an_engine_of_ones_own_may_have_options_of_its_own():
    from globallock import GlobalLockImplementationBase

    class Own(GlobalLockImplementationBase):
        def __init__(self, config, name, colour=None, **options):
            super().__init__(config, name, **options)

    lockman = GlobalLockManager({"global_lock_engine_class": Own})
    exclusive("a", lockman=lockman, colour="red")
    with pytest.raises(InvalidOption, match="if it is one of your own engine, give the manager itself"):
        exclusive("a", colour="red")


def test_names_are_refused_where_they_are_written():
    for name in ("", "x" * 600):
        with pytest.raises(InvalidName):
            exclusive(name)(lambda: None)


@pytest.mark.parametrize(
    ("options", "error", "wrong"),
    [
        ({"on_duplicate": "rise"}, InvalidOption, "on_duplicate is 'rise': give one of first, raise"),
        ({"unqiue_for": 5}, InvalidOption, "has no attribute 'unqiue_for': did you mean 'unique_for'"),
        ({"on_dupliacte": "raise"}, InvalidOption, "did you mean 'on_duplicate'"),
        ({"unique_for": "x"}, InvalidOption, "the option unique_for is of type str"),
        ({"unique_name": "report/{dya}"}, InvalidOption, "has the field {dya}"),
        ({"unique_name": ""}, InvalidName, "it is empty"),
        ({"lockman": "redis://127.0.0.1"}, InvalidOption, "lockman is of type str"),
    ],
)
def test_attributes_of_unique_tasks_are_refused_where_they_are_written(app, options, error, wrong):
    def report(day): ...

    given = {"unique_name": "report/{day}", **options}
    with pytest.raises(error, match=wrong):
        app.task(base=UniqueTask, shared=False, lazy=False, **given)(report)
    with pytest.raises(error, match=wrong):
        type("Report", (UniqueTask,), {"run": staticmethod(report), **given})


def test_a_task_that_is_made_late_is_refused_when_the_app_is_finished(app):
    @app.task(base=UniqueTask, shared=False, unique_name="report/{day}", on_duplicate="rise")
    def report(day): ...

    with pytest.raises(InvalidOption, match="on_duplicate is 'rise'"):
        app.finalize()


def test_unique_tasks_have_other_attributes_as_they_like(app, locks):
    class Base(UniqueTask):
        abstract = True
        unique_key = unique = "mine"

        @property
        def unique_for(self):
            return 5

    @app.task(bind=True, shared=False, base=Base, lazy=False, unique_name="report/{day}", queue="slow")
    def report(self, day): ...

    assert report.delay(1).id == report.delay(1).id


def test_unique_tasks_whose_work_is_done_later_are_refused(app):
    with pytest.raises(TypeError, match="is a coroutine or generator function"):
        app.task(base=UniqueTask, shared=False, lazy=False, unique_name="a")(deferred)


@pytest.fixture
def tasks(app):
    @app.task(base=UniqueTask, shared=False, unique_name="report/{day}")
    def report(day):
        return day

    @app.task(shared=False)
    def after(*_): ...

    return report, after


def test_a_duplicate_that_something_is_to_follow_is_refused(tasks, locks):
    report, after = tasks
    first = report.delay("monday")
    again = report.s("monday")
    for what, send in (
        ("chain", lambda: chain(again, after.s())()),
        ("link", lambda: report.apply_async(("monday",), link=after.s())),
        ("link_error", lambda: report.apply_async(("monday",), link_error=[after.s()])),
        ("group", lambda: group(again, report.s("tuesday"))()),
        ("chord", lambda: chord([again, report.s("friday")])(after.s())),
    ):
        with pytest.raises(NotLocked, match="what was to follow it would never come") as refused:
            send()
        text = str(refused.value)
        assert f"({what})" in text and first.id in text and "on_duplicate" in text, what
    assert report.delay("monday").id == first.id, "where nothing follows, it is as before"
    assert chain(report.s("sunday"), after.s())().parent.id == report.delay("sunday").id


def as_a_worker(task, **request):
    """Runs a task as a worker does that was sent it, and tells its state."""
    trace = build_tracer(task.name, task, app=task.app, eager=False, propagate=False)
    request = {"id": "sent", "delivery_info": {}, "hostname": "test", **request}
    trace("sent", (), {}, request)
    return task.AsyncResult("sent")


def test_a_task_that_is_replaced_by_a_duplicate_fails(app, tasks, locks):
    report, _ = tasks

    @app.task(bind=True, shared=False)
    def replaced(self):
        raise self.replace(report.s("monday"))

    report.delay("monday")
    done = as_a_worker(replaced)
    assert done.state == "FAILURE" and isinstance(done.result, NotLocked)
    assert "(replace)" in str(done.result)


@pytest.mark.parametrize("rest", [0, 1])
def test_a_duplicate_within_a_chain_is_told(tasks, locks, rest, caplog):
    report, after = tasks
    report.delay("monday")
    steps = [report.si("monday"), *[after.si()] * rest]
    for each in steps:
        each.freeze()
    with pytest.warns(RuntimeWarning, match="what was to follow it would never come"):
        as_a_worker(after, chain=[*reversed(steps)])


def test_a_duplicate_that_is_a_link_of_another_task_is_left_out(tasks, locks, recwarn):
    report, after = tasks
    report.delay("monday")
    done = as_a_worker(after, callbacks=[report.si("monday")])
    assert done.state == "SUCCESS" and not [each for each in recwarn if each.category is RuntimeWarning]
