#!/bin/sh
# Installs by name the programs that the tests start, except those that are installed already.
set -eu

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo -n "$@"
    else
        return 1
    fi
}

# Not optimised: it runs for seconds, and an optimised build takes minutes.
build_cargo_deny() {
    command -v cargo-deny >/dev/null 2>&1 || cargo install --quiet --debug --locked cargo-deny
}
cargo_deny=""
if command -v cc >/dev/null 2>&1; then
    # Built while the rest is installed, and waited for at the end, whatever else fails.
    build_cargo_deny &
    cargo_deny=$!
    trap 'wait "$cargo_deny"' EXIT
fi

packages=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
need redis-server redis-server
need redis-cli redis-tools
need etcd etcd-server
need etcdctl etcd-client
# Debian keeps the server's programs out of the search path, in a directory for each release.
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || need postgres postgresql
need psql postgresql-client
[ -x /usr/sbin/pgbouncer ] || need pgbouncer pgbouncer
need java default-jre-headless
# Curator's locks run from their source, so that the compiler is needed.
need javac default-jdk-headless
for jar in zookeeper:libzookeeper-java slf4j-simple:libslf4j-java netty-codec:libnetty-java \
    curator-recipes:libcurator-recipes-java guava:libguava-java; do
    [ -e "/usr/share/java/${jar%%:*}.jar" ] || packages="$packages ${jar##*:}"
done
need setpriv util-linux
need unshare util-linux
need ip iproute2
need strace strace
need cc gcc
need python3 python3
need man man-db
need script bsdutils
need perl perl-base
# For its promtool, which checks the rules for alerts.
need promtool prometheus
need zsh zsh
# A terminal that says what is on its screen.
need tmux tmux
# Shells, their completions, and the readers of the manual pages and of the recipes.
need fish fish
[ -e /usr/share/bash-completion/bash_completion ] || packages="$packages bash-completion"
need mandoc mandoc
need systemd-analyze systemd
need supervisord supervisor
# The browser that the page of `globallock serve` is tested in, and what drives it.
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 ||
    command -v google-chrome >/dev/null 2>&1 || packages="$packages chromium"
need node nodejs
need npm npm
python3 -c 'import yaml' >/dev/null 2>&1 || packages="$packages python3-yaml"
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || packages="$packages python3-venv"

if [ -n "$packages" ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "This system has no apt-get. Install what the tests need by hand:$packages" >&2
        exit 1
    fi
    echo "Installing$packages"
    install="env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends"
    # Debian's package of PostgreSQL makes a database and starts it, but where its settings say otherwise.
    without_database() {
        case "$packages" in
        *" postgresql"*)
            as_root $install postgresql-common
            settings=/etc/postgresql-common/createcluster.conf
            as_root sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' "$settings"
            ;;
        esac
    }
    if ! { as_root apt-get update -qq && without_database && as_root $install $packages; }; then
        echo "The tests need these packages: as root, run: apt-get install$packages" >&2
        exit 1
    fi
    # Debian starts the packaged server; the tests start their own, on free ports.
    for server in redis-server etcd postgresql pgbouncer supervisor prometheus; do
        case "$packages" in *"$server"*) as_root service "$server" stop >/dev/null 2>&1 || true ;; esac
    done
fi

# Without a compiler at first, it is built now.
[ -n "$cargo_deny" ] || build_cargo_deny

# redis-py and kazoo: their locks must exclude ours, and ours must exclude theirs.
python="${CARGO_TARGET_DIR:-target}/peers/python"
if ! "$python/bin/python" -c 'import redis, kazoo' >/dev/null 2>&1; then
    mkdir -p "$(dirname "$python")"
    python3 -m venv "$python"
    "$python/bin/pip" install --quiet redis==8.1.0 kazoo==2.11.0
fi

# What drives the browser, and what finds out whether everybody can use the page. No browser is downloaded.
page="${CARGO_TARGET_DIR:-target}/page"
if ! [ -d "$page/node_modules/playwright-core" ] || ! [ -d "$page/node_modules/axe-core" ]; then
    mkdir -p "$page"
    npm install --prefix "$page" --no-save --no-audit --no-fund --loglevel=error \
        playwright-core@1.65.1 axe-core@4.14.1 >/dev/null
fi
if [ -n "$cargo_deny" ]; then
    trap - EXIT
    wait "$cargo_deny"
fi
