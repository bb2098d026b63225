#!/bin/sh
# Cargo starts every program through this: those of tests get a limit for each test, all others run as they are. Without
# Python a program of tests has a limit as a whole, if there is a `timeout`.
case "$1" in
    */deps/* | */rustdoctest*)
        if command -v python3 >/dev/null 2>&1; then exec python3 "$(dirname "$0")/limited.py" "$@"; fi
        if command -v timeout >/dev/null 2>&1; then exec timeout -s KILL 3600 "$@"; fi
        ;;
esac
exec "$@"
