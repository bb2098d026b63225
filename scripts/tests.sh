#!/usr/bin/env bash
# tests.sh ARGUMENT...: `cargo test` with these arguments. If tests fail, it names them once more at the end,
# where they are found even if only the last lines of the output are kept.
set -uo pipefail
said=$(mktemp)
trap 'rm -f "$said"' EXIT
cargo test "$@" 2>&1 | tee "$said"
status=$?
if [ $status -ne 0 ]; then
    echo "failed tests:"
    grep -E '^test .* \.\.\. FAILED$|panicked at ' "$said" | tail -n 40
fi
exit $status
