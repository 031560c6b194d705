#!/usr/bin/env bash
# `make bench`: every benchmark prints JSON lines; they are gathered in target/bench.json.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh
out=target/bench.jsonl
: >$out
cargo bench --locked -p enfold-core --bench envelope | tee -a $out
cargo bench --locked -p enfold --bench keyring | tee -a $out
# A cold start is measured on the servers of the tests; those that were running before stay.
[ -s target/services/env ] || trap 'scripts/services.sh stop' EXIT
scripts/services.sh start aws >/dev/null
scripts/services.sh start openbao >/dev/null
cargo bench --locked -p enfold --features aws,vault --bench cold_start | tee -a $out
scripts/services.sh start postgres >/dev/null
cargo bench --locked -p enfold --features aws,vault --bench rewrap | tee -a $out
cargo bench --locked -p enfold-jobs --bench protect | tee -a $out
# Beside OpenBao's transit engine, and ten minutes of load.
cargo bench --locked -p enfold-cli --bench service | tee -a $out
python3 - <<'PY'
import json
rows = []
for line in open("target/bench.jsonl"):
    if line.startswith("{"):
        rows.append(json.loads(line))
json.dump(rows, open("target/bench.json", "w"), indent=2)
missed = [r for r in rows if r.get("bound") is not None and not r["met"]]
print(f"{len(rows)} figures in target/bench.json, {len(missed)} outside their bound")
for r in missed:
    print(f"  {r['name']}: {r['ratio']:.2f}, bound {r['bound']}")
PY
