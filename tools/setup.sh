#!/bin/sh
# Install what requirements.lock pins, and piecework itself (editable), into the folder $1.
# uv does it; where it is missing it is installed into a folder of its own beside the environment.
set -eu
venv=$1
python=${PYTHON:-python3}

fail() { echo "setup: $*" >&2; exit 1; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or later is needed; '$python' is $("$python" --version 2>&1 || echo missing). Set PYTHON=/path/to/python3.11"

if command -v uv >/dev/null 2>&1; then
    uv=uv
else
    tools=$venv.uv
    uv=$tools/bin/uv
    if [ ! -x "$uv" ]; then
        echo "Installing uv ..." >&2
        rm -rf "$tools"
        "$python" -m venv "$tools" 2>/dev/null && "$tools/bin/python" -m pip install --quiet uv ||
            { rm -rf "$tools"; "$python" -m pip install --quiet --prefix "$tools" uv; } ||
            fail "uv could not be installed: install it, or Python's venv module (Debian: apt install python3-venv)"
    fi
fi

echo "Installing the pinned packages into $venv (a few minutes the first time) ..." >&2
[ -x "$venv/bin/python" ] || "$uv" venv --quiet --python "$python" "$venv"
"$uv" pip sync --quiet --require-hashes --compile-bytecode --python "$venv/bin/python" requirements.lock
"$uv" pip install --quiet --no-deps --python "$venv/bin/python" --editable .
# An editable install is not compiled; without this every start would be, where caches are off.
"$venv/bin/python" -m compileall -q src
