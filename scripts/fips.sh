#!/usr/bin/env bash
# `make fips`: builds everything on the FIPS module, looks into the program for any other, lets it and the usual program
# read what the other wrote, and runs the tests of core and enfold on it. docs/concepts/fips.md says what that is worth.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh fips
export PATH=$PWD/target/venv/bin:$PATH
# The module in the crate, and none that the machine happens to have.
export AWS_LC_FIPS_SYS_USE_SYSTEM=0
# A folder of its own, for nearly everything is compiled anew.
target=target/fips
enfold=$target/debug/enfold

section() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }

section "the program"
cargo build --locked -p enfold-cli --features fips --target-dir $target
$enfold --version | grep FIPS
symbols=$(nm $enfold)
grep -qE ' [tT] aws_lc_fips_[0-9]' <<<"$symbols" || { echo "fips: the module is not in the program" >&2; exit 1; }
if grep -E ' [tT] aws_lc_[0-9]' <<<"$symbols" | head -n 3 | grep .; then
    echo "fips: the program holds the library that is not the module as well" >&2
    exit 1
fi

section "the usual program reads what it wrote, and it what the usual program wrote"
make --no-print-directory demo >/dev/null
scripts/check-demo.sh $enfold target/bin/enfold
scripts/check-demo.sh target/bin/enfold $enfold

section "the tests of core and enfold"
trap 'scripts/services.sh stop' EXIT
scripts/services.sh start
features=enfold-core/fips,enfold/fips
for provider in aws azure google vault pkcs11 redis; do features+=,enfold/$provider; done
cargo nextest run --locked --no-fail-fast -p enfold-core -p enfold --features $features --target-dir $target 2>&1 |
    tee target/fips.log
if grep -qE 'Summary .*[^0-9][1-9][0-9]* skipped' target/fips.log; then
    echo "fips: some tests were skipped; every test must run" >&2
    exit 1
fi
