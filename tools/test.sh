#!/bin/sh
# All tests; `make test` runs it. $1 is the environment's bin folder.
set -eu
sh tools/check.sh "$1"
# Two files at a time: they wait more than they work.
"$1/python" -m pytest -n 2 --dist loadfile tests/local
# These too, each with a testbed of its own. What fails is tried once more, alone: two real clusters
# on two cores may miss a moment that a test waits for.
"$1/python" -m pytest -n 2 --dist loadfile tests/cluster ||
    "$1/python" -m pytest --last-failed --last-failed-no-failures=none tests/cluster
