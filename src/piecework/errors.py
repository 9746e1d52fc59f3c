"""Every error that piecework raises on purpose.

    PieceworkError                what failed, on what, and what to do
    ├── InputError                the user's input is wrong; nothing was bought          (exit 2)
    │   ├── SpecError             a job or pipeline file, with every problem in it
    │   └── ConfigError           piecework.toml, an environment variable, an option
    ├── NoMachineError            no machine fits, or none could be had                  (exit 3)
    ├── RunnerError               an attempt could not be started, read or cancelled
    ├── LedgerError               the ledger could not be read or written
    ├── ClusterError              Kubernetes does not answer, or refuses; see piecework.kube.client
    └── PlatformError             Airflow, or another part of the platform, does not answer

A message names what was tried, on what, what was found, and what to do about it.
Errors of libraries are wrapped where they enter, with the original as `__cause__`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Longer values are cut in messages, so that a message stays a line that people read.
_LONGEST_SHOWN = 60


def show(value: object) -> str:
    """A found value for a message: quoted, cut after 60 characters, on one line, printable."""
    if isinstance(value, str | bytes) and len(value) > _LONGEST_SHOWN:
        return f"{_printable(value[:_LONGEST_SHOWN])}... ({len(value):,} long)"
    text = _printable(value)
    return text if len(text) <= 2 * _LONGEST_SHOWN else text[: 2 * _LONGEST_SHOWN] + "..."


def _printable(value: object) -> str:
    """`repr` of the value, in ASCII where it holds what no terminal or file could take."""
    try:
        text = repr(value)
        return text if text.isprintable() else ascii(value)
    except ValueError:  # Python writes no numbers of thousands of digits
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that nests too deeply"


class PieceworkError(Exception):
    """The root of the tree; catch it to catch everything that piecework raises on purpose."""

    exit_code = 1
    #: True where the same call may succeed later without anything being changed by the user.
    retryable = False


class InputError(PieceworkError):
    """The user's input is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A setting is wrong: in piecework.toml, an environment variable or an option."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file, and where.

    `line` and `column` count from 1; both are 0 where the problem belongs to the whole file.
    `field` is the path to the value, like `jobs.clean.machine.memory`; empty for the whole file.
    `message` says what was found and what would be right.
    """

    file: str
    line: int
    column: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.field or '(file)'}: {self.message}"


class SpecError(InputError):
    """A job or pipeline is wrong. Carries all of its problems, ordered by their place."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.file, p.line, p.column, p.field)))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[SpecError], tuple[tuple[Problem, ...]]]:
        """Makes it pass between processes with its problems."""
        return type(self), (self.problems,)


class NoMachineError(PieceworkError):
    """No machine fits the request, or none could be had."""

    exit_code = 3


class RunnerError(PieceworkError):
    """An attempt could not be started, read or cancelled."""


class LedgerError(PieceworkError):
    """The ledger could not be read or written."""


class ClusterError(PieceworkError):
    """A Kubernetes cluster does not answer, or answered with an error."""

    retryable = True


class PlatformError(PieceworkError):
    """A part of the platform (Airflow, the keeper) does not answer or answered with an error."""

    retryable = True
