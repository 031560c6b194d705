#!/usr/bin/env bash
# Rewrites what is generated: references, schema, vectors, snapshots. Read the diff before you commit it.
set -euo pipefail
cd "$(dirname "$0")/.."
export ENFOLD_BLESS=1 INSTA_UPDATE=always
cargo test --workspace --locked --quiet || true
git status --short
