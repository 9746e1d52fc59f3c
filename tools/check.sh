#!/bin/sh
# What must hold before a commit; `make check` runs it. $1 is the environment's bin folder.
set -eu
bin=$1
"$bin/ruff" format --check --quiet . || { echo "check: run '$bin/ruff format .'" >&2; exit 1; }
"$bin/ruff" check --quiet .
"$bin/mypy" --no-error-summary
"$bin/lint-imports" --no-logo 2>/dev/null || "$bin/lint-imports"
"$bin/python" -m pytest -q -n 2 --dist loadfile tests/unit
