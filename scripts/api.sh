#!/bin/sh
# Compares the library's public API, with all features, with scripts/api/globallock.txt; `sh scripts/api.sh
# update` writes that.
# rustdoc's JSON has no stable form yet, hence scripts/api/rustdoc.sh.
set -eu
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
RUSTDOC="$PWD/scripts/api/rustdoc.sh" cargo rustdoc --locked --quiet --lib --all-features -p globallock -- \
    -Zunstable-options --output-format json
api=scripts/api/globallock.txt
now=$target/globallock.txt
cargo run --locked --quiet -p globallock-api -- "$target/doc/globallock.json" >"$now"
if [ "${1:-}" = update ]; then
    cp "$now" "$api"
elif ! diff -u "$api" "$now"; then
    echo "the public API has changed: if that is meant, run sh scripts/api.sh update" >&2
    exit 1
fi
