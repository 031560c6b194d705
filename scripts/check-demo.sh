#!/usr/bin/env bash
# What a new user does with the demo, checked: it runs, the audit is clean, no e-mail is left in the file's bytes, a
# rollback brings every value back.
#
#   scripts/check-demo.sh                    as the user builds it
#   scripts/check-demo.sh DEMO ROLLBACK      the demo by one program, audit and rollback by another
set -euo pipefail
cd "$(dirname "$0")/.."

enfold=${2:-target/bin/enfold}
config=target/demo/enfold.toml
db=target/demo/app.db
if [ $# = 0 ]; then make --no-print-directory demo; else "$1" demo --dir target/demo; fi

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
