"""Calls `package.module:function` with the rest of the command line, as text.

A value that it returns becomes the run's result, unless the function wrote one itself.
Run as a program, in the user's interpreter; imports nothing but the standard library.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def main(argv: list[str]) -> None:
    """Finds the function, calls it, and keeps what it returns."""
    target, *args = argv
    module_name, _, path = target.partition(":")
    found: Any = importlib.import_module(module_name)
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            sys.exit(f"{target}: {module_name} has no {name!r} (job: python: {target})")
    if not callable(found):
        sys.exit(f"{target} is a {type(found).__name__}, which cannot be called")
    keep(found(*args), target)


def keep(value: Any, target: str) -> None:
    """Writes the value as JSON to the result's file, where there is none yet."""
    file = os.environ.get("PIECEWORK_RESULT")
    if value is None or not file or Path(file).exists():
        return
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        print(f"{target} returned a value that is not JSON, so it is not kept: {error}", flush=True)
        return
    Path(file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
