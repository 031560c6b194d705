#!/usr/bin/env bash
# Installs what the tests need on Debian 12 besides a Rust toolchain: apt packages, a Python environment in
# target/venv, the second PKCS#11 token in target/pkcs11-token, and the Chinook data in target/chinook. Does nothing for
# what is there already.
#
#   scripts/deps.sh [fips]      with fips: also what the FIPS module is built with
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(build-essential curl openssl postgresql-15 pgbouncer redis-server sqlite3 python3 python3-venv nodejs)
# PKCS#11: a token, the tool of the guide, and what the second token is built with.
packages+=(softhsm2 opensc pkg-config libssl-dev libsqlite3-dev libclang1-14 libclang-common-14-dev)
# The module's source is compiled by CMake; Perl writes its assembly, and Go checks and seals its boundary.
# promtool, which tests the alerts and what the service exposes.
packages+=(prometheus)
[ "${1:-}" != fips ] || packages+=(cmake golang-go perl)
# What is sent to syslog servers is sent to one.
packages+=(rsyslog)
# The browser that the console is tested in.
packages+=(chromium chromium-driver)
# Some packages of Node bring it along.
command -v npm >/dev/null || packages+=(npm)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
    echo "deps: installing ${missing[*]}"
    $sudo apt-get update -qq
    # The package would start a cluster of its own; the tests start theirs.
    $sudo mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' | $sudo tee /etc/postgresql-common/createcluster.conf >/dev/null
    # Nor is a Redis, a Prometheus or an rsyslog of the machine's own wanted; RUNLEVEL=1 has the packages start nothing where they ask for it.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# The tools. The servers that stand for AWS KMS have environments of their own, made when they are first started.
scripts/venv.sh target/venv scripts/requirements.txt
scripts/venv.sh target/venv-schemathesis scripts/requirements-schemathesis.txt

# About a minute, once.
cargo build --quiet --release --locked --manifest-path tests/pkcs11-token/Cargo.toml --target-dir target/pkcs11-token

# Packages of Node, each in a folder of its own: Apache AGE, a few megabytes of WebAssembly, and an OpenID provider.
for name in age oidc; do
    want=$(cat scripts/$name/* | sha256sum | cut -d' ' -f1)
    if [ "$(cat target/$name/.stamp 2>/dev/null || true)" != "$want" ]; then
        echo "deps: making target/$name"
        mkdir -p target/$name && cp scripts/$name/* target/$name/
        npm --prefix target/$name ci --silent
        echo "$want" >target/$name/.stamp
    fi
done

scripts/chinook.sh
