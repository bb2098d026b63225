#!/bin/sh
# Runs the tests of stores on other releases of their servers than the installed ones: `sh scripts/versions.sh
# etcd`, or of all stores that have a script in scripts/versions.
set -eu

for script in scripts/versions/*.sh; do
    store=$(basename "$script" .sh)
    case " ${*:-$store} " in *" $store "*) sh "$script" ;; esac
done
