#!/bin/sh
# The Python package. `lint` checks its types and style. `test` builds the wheel and tests it, in a fresh
# environment of every CPython from 3.9 on that is installed. `peers` runs the lock tests of other packages on
# it, and `recipes` the recipes whose frameworks take minutes to install or exclude others. `wheel` builds the
# wheel that is published, and prints where it is. `interpreter` prints an interpreter that has the wheel.
set -eu
target="${CARGO_TARGET_DIR:-target}"
mkdir -p "$target/python"
target=$(cd "$target" && pwd)
tools="$target/python/tools"

# Prints the interpreters, one a version.
interpreters() {
    for minor in 9 10 11 12 13 14; do
        for python in "python3.$minor" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python; do
            wanted="import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, $minor))"
            if "$python" -c "$wanted" >/dev/null 2>&1; then
                echo "$python"
                break
            fi
        done
    done
}

oldest=$(interpreters | head -n 1)
newest=$(interpreters | tail -n 1)
if [ -z "$newest" ]; then
    echo "No CPython from 3.9 on with venv is installed: run apt-get install python3 python3-venv" >&2
    exit 1
fi
if ! "$tools/bin/maturin" --version >/dev/null 2>&1; then
    "$newest" -m venv --clear "$tools"
    "$tools/bin/pip" install --quiet "maturin>=1.9,<2" "mypy==2.*" pyright ruff django-stubs
fi

lint() {
    "$tools/bin/ruff" check --quiet python
    # With code of a user, in which some errors have to be found.
    (
        cd python
        "$tools/bin/mypy" --strict globallock
        MYPYPATH=. "$tools/bin/mypy" --strict tests/typed.py tests/typed_frameworks.py
    )
    "$tools/bin/pyright" --pythonpath "$tools/bin/python"
}

wheels="$target/python/wheels"
build() {
    rm -rf "$wheels"
    "$tools/bin/maturin" build --quiet --locked --out "$wheels" >&2
}

# Puts the command into the wheel that was built.
add_command() {
    python3 scripts/command.py "$wheels"/*.whl "$1"
}

# Builds the wheel that is published.
wheel() {
    wheels="$target/python/release"
    rm -rf "$wheels"
    cargo build --quiet --locked --profile wheel -p globallock-cli
    "$tools/bin/maturin" build --quiet --locked --profile wheel --out "$wheels" >&2
    add_command "$target/wheel/globallock"
    ls "$wheels"/*.whl
}

interpreter() {
    build
    "$newest" -m venv --clear "$target/python/owner"
    "$target/python/owner/bin/pip" install --quiet "$wheels"/*.whl >&2
    echo "$target/python/owner/bin/python"
}

# What only the newest interpreter gets: frameworks, and what the lock tests of other packages need.
frameworks="kazoo==2.11.0 redis==8.1.0 django-redis==7.0.0 msgpack lz4 pyopenssl pyjks pure-sasl
    pytest-asyncio pytest-mock prometheus-client opentelemetry-sdk eventlet django-valkey
    fastapi httpx uvicorn rq huey dramatiq apscheduler<4 psycopg[binary] sqlalchemy
    django-pglock"

# Tests the wheel in a fresh environment of one interpreter: all, or the tests that are named. Those between
# the oldest and the newest leave out the stores that differ only below the package. With those, half of the
# files are tested beside the other half, because they wait most of the time.
test_one() {
    export GLOBALLOCK_FRAMEWORKS=0 GLOBALLOCK_STORES=few
    [ "$1" = "$oldest" ] && GLOBALLOCK_STORES=all
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    environment="$target/python/$version"
    "$1" -m venv --clear "$environment"
    # On an old CPython, the newest gevent would have to be compiled. The newest one with a wheel is enough.
    "$environment/bin/pip" install --quiet --only-binary gevent pytest pytest-timeout pytest-xdist \
        hypothesis redis django django-redis gunicorn celery uvloop gevent "$wheels"/*.whl
    if [ "$1" = "$newest" ]; then
        # What the stubs say of the core, compared with the core.
        "$environment/bin/pip" install --quiet "mypy==2.*"
        "$environment/bin/python" -m mypy.stubtest globallock._rust
        # shellcheck disable=SC2086 - these are several words
        "$environment/bin/pip" install --quiet $frameworks
        GLOBALLOCK_FRAMEWORKS=1 GLOBALLOCK_STORES=all
    fi
    cd python/tests
    shift
    [ "$GLOBALLOCK_STORES" = few ] || set -- --numprocesses 2 --dist loadfile "$@"
    GLOBALLOCK_WHEEL=1 CARGO_TARGET_DIR="$target" "$environment/bin/python" -m pytest -p no:cacheprovider "$@"
}

# Runs all the lock tests of other packages.
peers() {
    build
    cargo build --quiet --locked -p globallock-conformance --features servers --bins
    cargo build --quiet --locked -p globallock-cli
    add_command "$target/debug/globallock"
    GLOBALLOCK_PEERS=all test_one "$newest" test_peers.py
}

# How many interpreters are tested at once, each with its own servers: the tests wait twice as long as they
# compute.
AT_A_TIME=4

test_all() {
    build
    # `built`: cargo test has built the harness's programs already. To build them alone, cargo would choose
    # other features, and so compile the dependencies again.
    if [ "${1:-}" != built ]; then
        cargo build --quiet --locked -p globallock-conformance --features servers --bins
        cargo build --quiet --locked -p globallock-cli
    fi
    add_command "$target/debug/globallock"
    # In their order: the newest, which has the most to do, begins when the oldest has ended. Both test two
    # files at a time, so that there are never more than five.
    interpreters |
        xargs -P "$AT_A_TIME" -I {} sh -c '
        log=$(mktemp)
        sh scripts/python.sh one "$1" >"$log" 2>&1
        status=$?
        # In one piece, so that the outputs of several interpreters do not mix.
        printf "CPython: %s\n%s\n" "$1" "$(cat "$log")"
        rm "$log"
        exit $status' sh {}
}

# Runs the recipes of one framework: its title on the page, and what to install.
recipes_of() {
    environment="$target/python/recipes-$2"
    "$newest" -m venv --clear "$environment"
    "$environment/bin/pip" install --quiet "$3" pytest pytest-timeout "$wheels"/*.whl
    (cd python/tests && CARGO_TARGET_DIR="$target" GLOBALLOCK_RECIPES="$1" \
        "$environment/bin/python" -m pytest -p no:cacheprovider test_recipes.py -rs)
}

recipes() {
    build
    cargo build --quiet --locked -p globallock-conformance --features servers --bins
    recipes_of "APScheduler 4" apscheduler-4 "apscheduler>=4.0.0a1"
    recipes_of "Airflow" airflow apache-airflow
}

case "${1:-}" in
    lint) lint ;;
    test) test_all "${2:-}" ;;
    one) shift; test_one "$@" ;;
    peers) peers ;;
    recipes) recipes ;;
    wheel) wheel ;;
    interpreter) interpreter ;;
    *)
        echo "usage: $0 lint|test [built]|one INTERPRETER [TESTS]|peers|recipes|wheel|interpreter" >&2
        exit 2
        ;;
esac
