#!/usr/bin/env bash
# Starts the servers that the tests need, each on a free loopback port, and writes their addresses to
# target/services/env. `start` is idempotent; `stop` ends only what `start` began.
#
#   scripts/services.sh start | stop | status
set -euo pipefail
cd "$(dirname "$0")/.."

root=${ENFOLD_SERVICES:-$PWD/target/services}
env_file=$root/env

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

alive() { # pid-file
    [ -s "$1" ] && kill -0 "$(head -n 1 "$1")" 2>/dev/null
}

# PostgreSQL refuses to run as root: its files then belong to the account the package made.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then (cd / && setpriv --reuid=postgres --regid=postgres --init-groups "$@"); else "$@"; fi
}

pg_bin() {
    local newest
    newest=$(find /usr/lib/postgresql -maxdepth 1 -mindepth 1 -type d 2>/dev/null | sort -V | tail -n 1)
    [ -n "$newest" ] || { echo "services: no PostgreSQL server here; run make deps" >&2; exit 1; }
    echo "$newest/bin"
}

start_postgres() {
    local dir=$root/postgres bin port
    bin=$(pg_bin)
    if alive "$dir/data/postmaster.pid"; then return; fi
    rm -rf "$dir"; mkdir -p "$dir"
    [ "$(id -u)" != 0 ] || { chown postgres "$dir"; chmod 755 "$root"; }
    as_postgres "$bin/initdb" -D "$dir/data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 >"$root/initdb.log" 2>&1
    port=$(free_port)
    cat >>"$dir/data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
max_connections = 300
shared_buffers = 256MB
shared_preload_libraries = 'pg_stat_statements'
wal_level = logical
max_wal_size = 4GB
# The tests kill the server on purpose, so commits must reach the disk as they do in production.
fsync = on
CONF
    as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w start >/dev/null
    echo "ENFOLD_TEST_POSTGRES=postgres://postgres@127.0.0.1:$port/postgres" >"$root/postgres.env"
}

stop_postgres() {
    local dir=$root/postgres
    if alive "$dir/data/postmaster.pid"; then
        as_postgres "$(pg_bin)/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null
    fi
    rm -f "$root/postgres.env"
}

case ${1:-} in
start)
    mkdir -p "$root"
    start_postgres
    cat "$root"/*.env >"$env_file"
    cat "$env_file"
    ;;
stop)
    stop_postgres
    rm -f "$env_file"
    ;;
status) cat "$env_file" 2>/dev/null || echo "services: nothing is running" ;;
*)
    echo "usage: scripts/services.sh start | stop | status" >&2
    exit 2
    ;;
esac
