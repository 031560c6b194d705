#!/usr/bin/env bash
# What a new user does with the demo, checked: it runs, the audit is clean, no e-mail is left in the file's bytes, a
# rollback brings every value back.
set -euo pipefail
cd "$(dirname "$0")/.."

make --no-print-directory demo
enfold=target/bin/enfold
config=target/demo/enfold.toml
db=target/demo/app.db

$enfold --config $config audit --full --json >target/demo/audit.json
python3 - <<'PY'
import json
report = json.load(open("target/demo/audit.json"))
columns = report["columns"]
assert columns, "the audit names no column"
assert sum(c["plaintext"] for c in columns) == 0, report
PY

if grep -aqE '[a-z0-9._]+@(example\.(com|net|org)|[a-z.]+\.example)' "$db"; then
    echo "check-demo: an e-mail address is left in $db" >&2
    exit 1
fi

$enfold --config $config rollback --all --yes
sqlite3 "$db" .dump | grep -vE 'enfold_|sqlite_stat' | grep -E '^INSERT' | sort >target/demo/after.sql
sqlite3 target/demo/original.db .dump | grep -v sqlite_stat | grep -E '^INSERT' | sort >target/demo/before.sql
cmp target/demo/before.sql target/demo/after.sql
echo "demo: protected, audited and rolled back; every row is what it was"
