"""What to say of an error that nobody expected: a sentence, and a file with the traceback.

Enters the exception; leaves the message. The traceback goes to a file, so that a user has it for a
report without having to read it.
"""

from __future__ import annotations

import errno
import platform
import sys
import traceback
from datetime import datetime
from pathlib import Path

from piecework import clock, config
from piecework.cli import terminal


def describe(error: Exception) -> str:
    """The message for the user; writes the traceback into $PIECEWORK_HOME/crashes."""
    known = _known(error)
    if known:
        return known
    what = f"{type(error).__name__}: {error}".strip().removesuffix(":")
    try:
        path = _write(error, clock.now())
    except OSError as reason:
        return (
            f"unexpected error: {what}. This is a bug in piecework: please report it; "
            f"PIECEWORK_DEBUG=1 shows the traceback (it could not be saved: {reason})"
        )
    return f"unexpected error: {what}. This is a bug in piecework: please report it with {path}"


def _known(error: Exception) -> str | None:
    """Failures of the computer, which are no bugs."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        where = f" ({error.filename})" if error.filename else ""
        return f"cannot write{where}: {error.strerror}; nothing was lost, free space and try again"
    if isinstance(error, PermissionError) and error.filename:
        return f"not allowed to use {error.filename}; PIECEWORK_HOME says where state lives"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing(error.name.partition(".")[0])
    return None


def _missing(module: str) -> str | None:
    extras = {
        "airflow": "airflow",
        "pyspark": "spark",
        "dask": "dask",
        "distributed": "dask",
        "psycopg": "postgres",
    }
    if module not in extras:
        return None
    extra = extras[module]
    return f"{module} is not installed; install it with: pip install 'piecework[{extra}]'"


def _write(error: Exception, at: datetime) -> Path:
    folder = config.default_home() / "crashes"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{at:%Y%m%dT%H%M%S.%f}.txt"
    lines = [
        f"piecework {_version()}, Python {platform.python_version()}, {platform.platform()}\n",
        f"command: {' '.join(terminal.printable(part) for part in sys.argv)}\n\n",
        *traceback.format_exception(error),
    ]
    path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace")
    return path


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("piecework")
    except PackageNotFoundError:
        return "(not installed)"
