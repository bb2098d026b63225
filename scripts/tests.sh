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
    grep -E '^test .* \.\.\. FAILED$' "$said" | tail -n 20
    # What each says, without the stack.
    awk '/panicked at /{ left = 12 } /^stack backtrace:|^note: /{ left = 0 } NF && left-- > 0' "$said" |
        cut -c 1-400 | tail -n 60
fi
exit $status
