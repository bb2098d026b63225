#!/bin/sh
# Fails if a line of code or of a comment is longer than 110 columns, or a file longer than 500 lines: rustfmt
# leaves comments and long literals alone.
set -eu
cd "$(dirname "$0")/.."
files() { git ls-files '*.rs' '*.lua' '*.py' '*.pyi' '*.sh' Makefile; }
long=$(files | LC_ALL=C.UTF-8 xargs grep -nP '^.{111,}' || true)
many=$(files | xargs wc -l | awk '$1 > 500 && $2 != "total" { print $2 ": " $1 " lines" }')
if [ -n "$long$many" ]; then
    printf '%s\n' "$long" "$many" >&2
    echo "lines have at most 110 columns, and files at most 500 lines" >&2
    exit 1
fi
