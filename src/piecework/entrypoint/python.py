"""Starts a Python program: a file, a module, or a function.

    program: {"kind": "file" | "module" | "function", "run": "jobs/clean.py" | ...}

The code folder is on the module path ahead of everything but the folder of a file that is run,
which Python itself puts first.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .start import Start, interpreter, program_args, program_environment, program_file


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:  # noqa: ARG001
    """The interpreter with the user's file, module or function, and the user's arguments."""
    return Start(argv=command(launch, environ), env=program_environment(launch, environ))


def command(launch: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[str, ...]:
    """The command line of the program. Raises CannotStart where its file is missing."""
    program = launch["program"]
    run, python = program["run"], interpreter(environ)
    if program["kind"] == "file":
        what: tuple[str, ...] = (program_file(launch, run),)
    elif program["kind"] == "module":
        what = ("-P", "-m", run)  # -P: the working folder is no place for modules
    else:
        what = ("-P", str(Path(__file__).with_name("function.py")), run)
    return (python, *what, *program_args(launch))
