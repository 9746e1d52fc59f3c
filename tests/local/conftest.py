"""Tests in this folder start real processes; every one of them needs a Linux host."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.local.airflow_platform import World, start_world

#: Runs the command line in a process of its own.
Piecework = Callable[..., "subprocess.CompletedProcess[str]"]
#: Starts it, and leaves it running.
Start = Callable[..., "subprocess.Popen[str]"]

_COMMAND = [sys.executable, "-m", "piecework"]
_LONGEST_SECONDS = 600


@pytest.fixture(autouse=True)
def _needs_this_host(required_layer: Callable[[str], None]) -> None:
    required_layer("local")


@pytest.fixture
def piecework(home: Path, tmp_path: Path) -> Piecework:
    """Runs `piecework ARGS` to its end, in the test's folder."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_COMMAND, *args],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=_LONGEST_SECONDS,
            stdin=subprocess.DEVNULL,
        )

    return call


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `piecework ARGS`, leading a process group as in a shell; ends it with the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(*args: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*_COMMAND, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            process_group=0,
            # A shell that runs the tests in the background makes them ignore Ctrl-C.
            preexec_fn=_heed_interrupts,  # noqa: PLW1509 - these tests start no threads
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One platform, with a real Airflow, for all tests that need one."""
    with start_world(tmp_path_factory.mktemp("airflow")) as found:
        yield found
