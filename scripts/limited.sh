#!/bin/sh
# Cargo starts every program through this script. Test programs get a time limit for each test; other programs
# run unchanged. Without Python, a test program gets one limit as a whole, if there is a `timeout` command.
case "$1" in
    */deps/* | */rustdoctest*)
        if command -v python3 >/dev/null 2>&1; then exec python3 "$(dirname "$0")/limited.py" "$@"; fi
        if command -v timeout >/dev/null 2>&1; then exec timeout -s KILL 3600 "$@"; fi
        ;;
esac
exec "$@"
