#!/usr/bin/env bash
# scripts/venv.sh DIR REQUIREMENTS: a Python environment with exactly those requirements. Does nothing when it is there;
# its stamp is the requirements' digest.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$1 requirements=$2

want=$(sha256sum "$requirements" | cut -d' ' -f1)
[ "$(cat "$dir/.stamp" 2>/dev/null || true)" != "$want" ] || exit 0
echo "deps: making $dir"
rm -rf "$dir"
python3 -m venv "$dir"
# Some packages still come as source, and pip builds those better with wheel.
"$dir/bin/pip" install --quiet --disable-pip-version-check wheel
"$dir/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
echo "$want" >"$dir/.stamp"
