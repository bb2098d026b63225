#!/bin/sh
# rustdoc with what is not stable yet. What cargo compiles before is without it, as for all other commands.
RUSTC_BOOTSTRAP=1 exec rustdoc "$@"
