#!/bin/sh
# Checks what is published with the oldest Rust that it promises to build with.
#
# Where that toolchain is missing and cannot be fetched, this says so and checks nothing: then only clippy's
# `incompatible_msrv` in `make lint` holds the promise.
set -eu
version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if ! rustup run "$version" rustc --version >/dev/null 2>&1 &&
    ! rustup toolchain install "$version" --profile minimal --no-self-update; then
    echo "Rust $version cannot be had here: whether everything builds with it is not checked" >&2
    exit 0
fi
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/msrv" \
    rustup run "$version" cargo check --locked -p globallock -p globallock-cli -p globallock-conformance
