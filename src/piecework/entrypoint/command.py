"""Starts any command line; for engines that other packages bring.

    program: {"argv": ["duckdb", "-f", "{code}/query.sql"], "env": {"DUCKDB_THREADS": "{cores}"}}

In `argv` and `env`, {code}, {cores}, {memory_bytes}, {gpus}, {work} and {artifacts} stand for what
the attempt got; {{ and }} for braces. The user's arguments follow.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .start import CannotStart, Machine, Start, program_args, program_environment


def prepare(launch: Mapping[str, Any], environ: Mapping[str, str], work: Path) -> Start:
    """The command with its placeholders filled in. Raises CannotStart where it is not installed."""
    machine = Machine.from_environ(environ)
    values = {
        "code": launch.get("code") or "",
        "cores": machine.cores,
        "memory_bytes": machine.memory_bytes,
        "gpus": machine.gpus,
        "work": work,
        "artifacts": environ.get("PIECEWORK_ARTIFACTS", ""),
    }
    program = launch["program"]
    argv = [str(part).format(**values) for part in program["argv"]]
    env = program_environment(launch, environ)
    added = {name: str(text).format(**values) for name, text in program.get("env", {}).items()}
    env = {**env, **added, **launch.get("env", {})}
    if shutil.which(argv[0], path=env.get("PATH")) is None:
        raise CannotStart(
            f"there is no command {argv[0]!r}, which the engine {launch['engine']!r} starts; "
            "install it, or put its folder on PATH"
        )
    return Start(argv=(*argv, *program_args(launch)), env=env)
