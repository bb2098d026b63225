#!/bin/sh
# Runs the tests of the Redis store on other versions of Redis, on the one that is installed, and on Valkey;
# the conformance suite on each of them also with the scripts for older servers, and with gaps for strangers.
#
#     sh scripts/versions/redis.sh [VERSION…]
set -eu
cd "$(dirname "$0")/../.."

# Tests that set up by commands of Redis 7, that count or spell its commands, or that need its options.
newer="answers:: costs:: gaps_cost_no_command a_kept_lock_costs_the_server may_not_be_asked_to_watch"
newer="$newer evict_scripts:: wire:: a_server_busy a_server_that_is_still_loading"
# Redis 6 lets users read all channels unless it is told otherwise.
newer="$newer without_the_right_to_the_common_channel"
test="cargo test --locked -p globallock-conformance --features servers"

$test --test conformance --test redis --no-run
for version in ${*:-$(sh scripts/redis-server.sh) installed}; do
    case $version in
        5.*) continue ;;
        installed) server=redis-server skip="" ;;
        # The packages are built without TLS. Redis 6.0 has no rights for channels.
        6.0.*) skip="tls_works a_password_and_a_user $newer" ;;
        6.*) skip="tls_works $newer" ;;
        # A key of Valkey is gone in the millisecond of its expiry, one of Redis in the next.
        valkey*) skip="tls_works ends_in_this_millisecond" ;;
        *) skip="tls_works" ;;
    esac
    [ "$version" = installed ] || server=$(sh scripts/redis-server.sh "$version")
    echo "== $version: $("$server" --version)"
    export GLOBALLOCK_REDIS_SERVER="$server"
    $test --test conformance -- redis:: redis-6:: redis-gaps::
    set --
    for name in $skip; do set -- "$@" --skip "$name"; done
    $test --test redis -- "$@"
done
