"""A program with services beside it: `python -P session.py KIND CONFIG`.

KIND names a module of this package whose function `services(config)` is a context manager: it
starts what the program needs (a Dask cluster, Spark's master and workers) and ends it in order.
CONFIG is a JSON file with the program's `argv` and what the services need. The session ends as the
program did: with its exit code, or by the same signal.
"""

from __future__ import annotations

import sys

if not __package__:  # run as a file, by the interpreter of the program
    sys.path.insert(0, __file__.rsplit("/", 3)[0])

import contextlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Protocol

#: How long a program may take to end after a service that it needs has died.
GRACE_SECONDS = 5.0


class Services(Protocol):
    """What runs beside the program."""

    @property
    def env(self) -> Mapping[str, str | None]:
        """What the program's environment gets so that it finds them; None removes a variable."""

    def failure(self) -> str | None:
        """Why the program cannot go on, once that is so."""

    def program_ended(self) -> None:
        """The last moment at which all services are there."""


class Session:
    """Runs the program between the start and the end of its services."""

    def __init__(self) -> None:
        self.program: subprocess.Popen[bytes] | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def run(self, argv: list[str], manager: AbstractContextManager[Services]) -> int:
        """The program's return code as subprocess tells it: negative where a signal ended it."""
        with manager as services:
            env = dict(os.environ)
            for name, value in services.env.items():
                if value is None:
                    env.pop(name, None)
                else:
                    env[name] = value
            self.program = subprocess.Popen(argv, env=env)
            code = self._wait(self.program, services)
            services.program_ended()
        return code

    def _wait(self, program: subprocess.Popen[bytes], services: Services) -> int:
        while True:
            try:
                return program.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                failure = services.failure()
            if failure:
                say(failure)
                program.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(timeout=GRACE_SECONDS)
                program.kill()
                program.wait()
                return 1

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.program is None:
            raise SystemExit(128 + number)  # still starting: the services are ended on the way out
        self.program.send_signal(signal.SIGTERM)


def say(message: str) -> None:
    """One line for the job's log."""
    print(f"piecework: {message}", file=sys.stderr, flush=True)


def end_like(code: int) -> None:
    """Ends this process as the program ended, also where that was by a signal."""
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(-code, signal.SIG_DFL) if -code not in (signal.SIGKILL, signal.SIGSTOP) else 0
        os.kill(os.getpid(), -code)
    sys.exit(code)


def main() -> None:
    """Reads the command line."""
    kind, file = sys.argv[1:3]
    config = json.loads(Path(file).read_text(encoding="utf-8"))
    module = import_module(f"piecework.entrypoint.{kind}")
    end_like(Session().run(list(config["argv"]), module.services(config)))


if __name__ == "__main__":
    main()
