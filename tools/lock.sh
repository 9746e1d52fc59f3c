#!/bin/sh
# Resolve pyproject.toml for every platform and Python from 3.11 on, with hashes, without addresses.
set -eu
exec "$1/uv" pip compile pyproject.toml --universal --python-version 3.11 --all-extras \
    --group examples --group dev --group testbed --generate-hashes --no-emit-index-url --no-header --no-annotate \
    --upgrade --quiet --output-file requirements.lock
