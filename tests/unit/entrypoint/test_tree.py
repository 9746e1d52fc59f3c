"""Finding the processes of a tree, and hitting the right ones."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from piecework.entrypoint import tree


@pytest.fixture
def child() -> Iterator[int]:
    """A process that waits for a signal, and ignores the polite one from its beginning."""
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    signal.signal(signal.SIGTERM, before)
    yield pid
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # the test has ended and collected it


def test_a_child_is_a_descendant(child: int) -> None:
    found = {process.pid: process for process in tree.descendants(os.getpid())}
    assert found[child].parent == os.getpid()
    assert found[child].resident_bytes > 0


def test_a_signal_never_hits_another_process_of_that_number(child: int) -> None:
    process = tree.read_process(child)
    assert process is not None
    other = process._replace(start=process.start - 1)
    assert not tree.send(other, signal.SIGKILL)
    assert tree.read_process(child) is not None


def test_a_process_that_is_gone_is_none() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    assert tree.read_process(pid) is None


def test_ending_all_ends_what_ignores_the_polite_signal(child: int) -> None:
    asked: list[str] = []
    count = tree.end_all(
        lambda: [p for p in tree.descendants(os.getpid()) if p.pid == child],
        grace_seconds=0.05,
        before_kill=lambda: asked.append("kill"),
    )
    assert count == 1
    assert asked == ["kill"]
    assert child not in {process.pid for process in tree.descendants(os.getpid())}


def test_nothing_to_end_is_nothing_to_do() -> None:
    assert tree.end_all(list, grace_seconds=60) == 0
