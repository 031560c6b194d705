#!/usr/bin/env bash
# `make test`: every check and every test, with the servers they need. Stops the servers it started.
set -euo pipefail
cd "$(dirname "$0")/.."

section() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

section "what the tests need"
scripts/deps.sh
export PATH=$PWD/target/venv/bin:$PATH
trap 'scripts/services.sh stop' EXIT
scripts/services.sh start

section "lint"
scripts/lint.sh

section "tests"
cargo nextest run --workspace --locked --no-fail-fast 2>&1 | tee target/nextest.log
if grep -qE 'Summary .*[^0-9][1-9][0-9]* skipped' target/nextest.log; then
    echo "test: some tests were skipped; every test must run" >&2
    exit 1
fi
section "documentation examples"
cargo test --workspace --locked --doc --quiet

section "the independent reader"
python -m pytest -q tests/reader

section "the demo"
scripts/check-demo.sh
