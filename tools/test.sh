#!/bin/sh
# All tests; `make test` runs it. $1 is the environment's bin folder.
set -eu
sh tools/check.sh "$1"
"$1/python" -m pytest tests/local
"$1/python" -m pytest tests/cluster
