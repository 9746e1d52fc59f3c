"""`piecework logs RUN`: what a run wrote, byte by byte, and what it writes now."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from piecework.cli import options, terminal
from piecework.errors import InputError, PieceworkError

if TYPE_CHECKING:
    from piecework.cli.log_output import LogOutput
    from piecework.config import Settings
    from piecework.runners.runner import Runner

_PAUSE_SECONDS = 0.2
_CHUNK = 1 << 20
#: How much of a log is told with a failure.
_LAST_LINES, _LAST_BYTES = 8, 1 << 14
#: Nobody wants to be told of a shorter wait.
_QUIET_SECONDS = 1.0


@click.command()
@click.argument("run", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Print what is written until the run has ended.")
@click.option("--attempt", type=click.IntRange(min=1), help="This attempt; default: the last.")
@options.json_option
def command(run: str, follow: bool, attempt: int | None, as_json: bool) -> None:
    """Print or follow what a run wrote.

    Standard output and error of the program, as they came. In a file or a pipe the bytes are the
    program's own; on a terminal what could confuse it is shown as escapes.
    """
    from piecework import config
    from piecework.cli.log_output import LogOutput

    if follow and as_json:
        raise InputError("--follow and --json exclude each other; leave one out")
    settings = config.load()
    runner, found, number = _find(run, attempt, settings)
    name = f"{found}.{number}"
    if runner.status(name) is None and not runner.read_log(name, 0, 1):
        raise InputError(
            f"the log of {name} is not there any more: on this computer it goes with its folder, "
            "on a cluster with its pod, unless piecework.toml has a `store` in which it is kept"
        )
    if as_json:
        log = b"".join(_chunks(runner, name))
        terminal.result_json({"run": found, "attempt": name, "log": log.decode(errors="replace")})
        return
    output = LogOutput(sys.stdout)
    if follow and attempt is None:
        follow_run(runner, found, number, output)
    elif follow:
        follow_attempt(runner, name, output)
    else:
        for chunk in _chunks(runner, name):
            output.write(chunk)
    output.end()


def _find(name: str, attempt: int | None, settings: Settings) -> tuple[Runner, str, int]:
    """The runner that has the log, the run, and the attempt's number. Raises InputError."""
    from piecework.cli.finding import find_one
    from piecework.cli.reading import read_ledger
    from piecework.cli.runners import Runners, run_of

    runners = Runners(settings)
    try:
        with read_ledger(settings) as ledger:
            found = find_one(ledger, name)
    except InputError:
        unrecorded = runners.find_unrecorded(name)
        if unrecorded is None:
            raise
        runner, attempts = unrecorded
        numbers = [int(each.attempt.rpartition(".")[2]) for each in attempts]
        return runner, run_of(attempts), _number(run_of(attempts), numbers, attempt)
    number = _number(found.run, [each.number for each in found.attempts], attempt)
    pool = next(each.pool for each in found.attempts if each.number == number)
    return runners.of(pool, found.run), found.run, number


def _number(run: str, numbers: Sequence[int], wanted: int | None) -> int:
    if wanted is None:
        return numbers[-1]
    if wanted not in numbers:
        there = ", ".join(str(number) for number in numbers)
        raise InputError(f"{run} has no attempt {wanted}; there is {there}")
    return wanted


def _chunks(runner: Runner, attempt: str) -> Iterator[bytes]:
    offset = 0
    while chunk := runner.read_log(attempt, offset, _CHUNK):
        offset += len(chunk)
        yield chunk


def last_lines(runner: Runner, attempt: str) -> list[str]:
    """The end of an attempt's log; empty where there is none that can be read."""
    end = b""
    try:
        for chunk in _chunks(runner, attempt):
            end = (end + chunk)[-_LAST_BYTES:]
    except PieceworkError:
        return []
    return end.decode(errors="replace").splitlines()[-_LAST_LINES:]


def follow_run(runner: Runner, run: str, number: int, output: LogOutput) -> None:
    """Prints the log of an attempt and of those after it, until the last has ended."""
    while True:
        follow_attempt(runner, f"{run}.{number}", output)
        if runner.status(f"{run}.{number + 1}") is None:
            return
        number += 1
        terminal.step(f"attempt {number}")


def follow_attempt(runner: Runner, attempt: str, output: LogOutput) -> None:
    """Prints the log of an attempt until it has ended; says what it waits for meanwhile."""
    offset, told = 0, ""
    quiet_until = time.monotonic() + _QUIET_SECONDS
    while True:
        status = runner.status(attempt)
        while chunk := runner.read_log(attempt, offset, _CHUNK):
            offset += len(chunk)
            output.write(chunk)
        if status is None or status.state == "ended":
            return
        waits = status.state == "waiting" and status.reason not in (None, told)
        if waits and time.monotonic() > quiet_until:
            told = status.reason or ""
            terminal.step(f"{attempt} waits: {terminal.one_line(told)}")
        runner.wait_for_change(attempt.rpartition(".")[0], _PAUSE_SECONDS)
