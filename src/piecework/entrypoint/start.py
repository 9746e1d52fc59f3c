"""What a starter is given, and what it answers: how to start one program.

A starter is a module of this package with one function, named by the launch's `starter`:

    prepare(launch, environ, work) -> Start

`launch` is what `piecework.engines.Launch.to_json` wrote, `environ` is the environment that the
attempt got (it says what the machine has: PIECEWORK_CPUS and the like), `work` is the program's
working folder. A starter starts nothing. It raises CannotStart, with what to do about it, where the
program could not run on this computer, so that this is known before anything runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class CannotStart(Exception):  # noqa: N818 (it is said like that)
    """The program cannot be started here; the message says why, and what to do."""


@dataclass(frozen=True)
class Machine:
    """What the program may use of its machine."""

    cpus: float
    memory_bytes: int
    gpus: int = 0

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Machine:
        """From PIECEWORK_CPUS, PIECEWORK_MEMORY_BYTES and PIECEWORK_GPUS."""
        return cls(
            cpus=float(environ["PIECEWORK_CPUS"]),
            memory_bytes=int(environ["PIECEWORK_MEMORY_BYTES"]),
            gpus=int(environ.get("PIECEWORK_GPUS") or 0),
        )

    @property
    def cores(self) -> int:
        """Whole cores: how many threads can do something at the same time. At least 1.

        On a cluster a machine of 4 cores gives its job 3.9 and limits none of them: that is 4.
        """
        return max(1, round(self.cpus))


@dataclass(frozen=True)
class Start:
    """How to start a program.

    `env` is its whole environment. `folders` are made and `files` (text by path) written before it
    starts; files that begin with `#!` can be executed. `out_of_memory` is a file that appears
    when the engine ran out of a memory limit of its own (a Java heap, a Dask worker's share): if
    the program fails too, that is why. `leftover_seconds` is how long processes that the program
    left behind may take to end after a SIGTERM.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    out_of_memory: str | None = None
    leftover_seconds: float = 2.0

    def write_files(self) -> None:
        """Makes the folders and writes the files. Can be done twice."""
        for folder in self.folders:
            Path(folder).mkdir(parents=True, exist_ok=True)
        for name, text in self.files.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            if text.startswith("#!"):
                path.chmod(0o755)


def own_folder(work: Path) -> Path:
    """Where starters keep what they need during an attempt: out of the program's way."""
    return work / ".piecework"


def afterwards(work: Path, *commands: Sequence[str]) -> dict[str, str]:
    """The file, for `Start.files`, with commands to run once the program's processes are gone.

    They can be run twice. Whoever is the last to live runs them: the entrypoint, the supervisor,
    or the next sweep.
    """
    return {str(own_folder(work) / _AFTERWARDS): json.dumps([list(each) for each in commands])}


def run_afterwards(work: Path) -> None:
    """Runs those commands, once; does nothing where there are none, or no program."""
    file = own_folder(work) / _AFTERWARDS
    try:
        commands = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    import subprocess

    for command in commands:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=60)
    file.unlink(missing_ok=True)


_AFTERWARDS = "afterwards.json"


def interpreter(environ: Mapping[str, str]) -> str:
    """The Python that runs programs: `$PIECEWORK_PYTHON`, else the one that runs this."""
    return environ.get("PIECEWORK_PYTHON") or sys.executable


def find_packages(python: str, environ: Mapping[str, str], *names: str) -> dict[str, Path]:
    """The folders of those of the Python packages that the programs' interpreter has, by name.

    It is asked by running it: this process may be another Python, or have no packages at all.
    """
    import subprocess

    try:
        done = subprocess.run(
            [python, "-P", "-c", _FIND, *names],
            env=dict(environ),
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotStart(f"the Python that is to run the program does not run: {error}") from error
    lines = [line.partition("=") for line in done.stdout.splitlines()]
    return {name: Path(folder) for name, _, folder in lines if name in names}


_FIND = """\
import importlib.util, os, sys
for name in sys.argv[1:]:
    found = importlib.util.find_spec(name)
    if found and found.origin:
        print(name + "=" + os.path.dirname(found.origin))
"""


def program_file(launch: Mapping[str, object], text: str) -> str:
    """The path of a program's file, which is relative to the code folder.

    Raises CannotStart where there is no such file.
    """
    path = Path(str(launch.get("code") or ".")) / text
    if not path.is_file():
        raise CannotStart(f"there is no file {path}, which the job names as its program")
    return str(path)


def program_environment(launch: Mapping[str, object], environ: Mapping[str, str]) -> dict[str, str]:
    """The attempt's environment, then what suits a Python program here, then the user's own."""
    cores = str(Machine.from_environ(environ).cores)
    env = dict(environ)
    code = str(launch.get("code") or "")
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (code, environ.get("PYTHONPATH"))))
    env["PYTHONUNBUFFERED"] = "1"  # the log is followed while the program runs
    for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "POLARS", "RAYON"):
        known = {"NUMEXPR": "NUMEXPR_MAX_THREADS", "POLARS": "POLARS_MAX_THREADS"}
        env[known.get(name, f"{name}_NUM_THREADS")] = cores
    given = launch.get("env") or {}
    assert isinstance(given, Mapping)
    own_path = given.get("PYTHONPATH")
    env.update(given)
    if own_path:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (code, own_path)))
    return env


def program_args(launch: Mapping[str, object]) -> tuple[str, ...]:
    """The user's arguments."""
    args = launch.get("args") or ()
    assert isinstance(args, list | tuple)
    return tuple(str(arg) for arg in args)
