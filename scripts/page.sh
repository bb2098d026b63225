#!/bin/sh
# Tests the page of `globallock serve` in headless Chromium, against a real server and a real Redis.
#
# PICTURES=docs/pictures sh scripts/page.sh renews the pictures that the documentation shows.
set -eu
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
PAGE_TOOLS=$target/page
PAGE_PROGRAMS=$target/debug
PAGE_PICTURES=$target/page/pictures
PAGE_BROWSER=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "The tests of the page need Chromium: run make tools, or install the package chromium" >&2
    exit 1
}
[ -d "$PAGE_TOOLS/node_modules/playwright-core" ] || {
    echo "The tests of the page need playwright-core and axe-core: run make tools" >&2
    exit 1
}
export PAGE_TOOLS PAGE_PROGRAMS PAGE_PICTURES PAGE_BROWSER
packages="-p globallock-cli"
[ -z "${BUILT:-}" ] || packages=--workspace
# After all of the workspace was built (BUILT), what is built together has the same features, and is there.
cargo build --locked $packages --bin globallock --example actors
node --test --test-concurrency=2 crates/globallock-cli/tests/page/*.test.mjs
for picture in $(grep -oh 'pictures/serve-[a-z0-9-]*\.png' docs/*.md | sort -u); do
    [ -z "${PICTURES:-}" ] || { mkdir -p "$PICTURES" && cp "$PAGE_PICTURES/${picture##*/}" "$PICTURES"; }
    [ -e "docs/$picture" ] || { echo "docs/$picture is not there: see this script" >&2 && exit 1; }
done
