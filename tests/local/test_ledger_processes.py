"""Several processes on one ledger, killed in the middle, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from piecework.errors import LedgerError
from piecework.ledger.events import Event
from piecework.ledger.store import open_ledger
from piecework.report.cost import cost
from tests.conftest import RequiredLayer
from tests.postgres import Server, running_postgresql
from tests.unit.ledger.answers import tables
from tests.unit.ledger.histories import at, attempt_life, machine_life, tell

_WRITERS = 4
#: Appends the events in a file, so many in one call, and says how far it is.
_WRITER = """
import sys
from piecework.ledger.events import Event
from piecework.ledger.store import open_ledger
url, file, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
events = [Event.from_json(line) for line in open(file, encoding="utf-8")]
print("ready", flush=True)
sys.stdin.readline()
new = 0
with open_ledger(url) as ledger:
    for start in range(0, len(events), size):
        new += ledger.append(events[start : start + size])
        print(new, flush=True)
"""


@pytest.fixture(scope="module")
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def servers() -> list[Server]:
    return []


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest,
    required_layer: RequiredLayer,
    running: ExitStack,
    servers: list[Server],
    tmp_path: Path,
) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/ledger.sqlite"
    required_layer("postgresql")
    if not servers:
        servers.append(running.enter_context(running_postgresql()))
    return servers[0].create_database()


def _stories(machines: range) -> list[Event]:
    """Machines that two attempts had, one after the other; some attempts had two machines."""
    events = []
    for number in machines:
        begin = number * 100.0
        first, second = f"etl.clean.{number}.1", f"etl.load.{number // 2}.1"
        had = {first: (begin, begin + 50), second: (begin + 60, begin + 150)}
        events += machine_life(f"m{number}", begin, begin + 200, bought_for=first, had=dict(had))
        events += attempt_life(first, begin, begin + 1, begin + 50)
        events += attempt_life(second, begin + 55, begin + 61, begin + 150)
    return list({event.identity: event for event in events}.values())


def _start(url: str, events: list[Event], folder: Path, name: str, size: int) -> _Process:
    file = folder / f"{name}.jsonl"
    file.write_text("".join(event.to_json() + "\n" for event in events), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _WRITER, url, str(file), str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


_Process = subprocess.Popen[str]


def _go(process: _Process) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def _wait_until_ready(process: _Process) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def test_processes_that_open_and_write_at_the_same_time_lose_nothing(
    url: str, tmp_path: Path
) -> None:
    shared = _stories(range(40))
    with ExitStack() as stack:
        processes = []
        for number in range(_WRITERS):
            own = [
                replace(event, subject=f"{number}-{event.subject}")
                for event in _stories(range(40, 60))
                if event.kind.value.startswith("machine.")
            ]
            # Each writes what all write, in an order of its own, and what it alone knows.
            events = [*shared[number * 7 :], *own, *shared[: number * 7]]
            process = stack.enter_context(_start(url, events, tmp_path, str(number), 17))
            stack.callback(process.kill)
            processes.append(process)
        for process in processes:
            _wait_until_ready(process)
        for process in processes:
            _go(process)
        new = 0
        for process in processes:
            said, wrong = process.communicate(timeout=240)
            assert process.returncode == 0, wrong
            new += int(said.split()[-1])
    with open_ledger(url) as ledger:
        events = ledger.events()
        assert new == len(events) == len({event.identity for event in events})
        _assert_sound(url)


def _assert_sound(url: str) -> None:
    with open_ledger(url) as ledger:
        now = at(10_000_000)
        verification = ledger.verify(now)
        assert verification.problems == ()
        assert verification.difference_nanos == 0
        report = cost(ledger, "job", now=now)
        assert report.total == report.machines_total
        before = tables(ledger)
        ledger.rebuild()
        assert tables(ledger) == before


def test_a_process_that_is_killed_while_it_writes_leaves_a_sound_ledger(
    url: str, tmp_path: Path
) -> None:
    events = _stories(range(700))
    with _start(url, events, tmp_path, "killed", 100) as process:
        try:
            _wait_until_ready(process)
            _go(process)
            assert process.stdout is not None
            written = [process.stdout.readline() for _ in range(4)]
        finally:
            process.send_signal(signal.SIGKILL)
    assert all(written), "the process ended before it was killed"
    with open_ledger(url) as ledger:
        kept = len(ledger.events())
        assert kept >= int(written[-1])
        _assert_sound(url)
        assert ledger.append(events) == len(events) - kept
    _assert_sound(url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, which only root may mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.getuid() != 0 or mount is None:
        pytest.skip("mounting a small disk needs root")
    command = [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_the_ledger_and_spoils_nothing(small_disk: Path) -> None:
    file = small_disk / "ledger.sqlite"
    ballast = small_disk / "ballast"
    with open_ledger(f"sqlite:///{file}") as ledger:
        ledger.append(_stories(range(20)))
        kept = ledger.events()
        ballast.write_bytes(b"x" * 400_000)
        more = [tell(f"x{n}", "machine.launched", n, note="x" * 900) for n in range(2000)]
        with pytest.raises(LedgerError, match="disk") as caught:
            ledger.append(more)
        assert caught.value.retryable
        assert ledger.events() == kept
        assert ledger.verify().ok
    ballast.unlink()
    with open_ledger(f"sqlite:///{file}") as ledger:
        assert ledger.append(_stories(range(25))) == len(_stories(range(25))) - len(kept)
        assert ledger.verify().ok
    with sqlite3.connect(file) as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    raw.close()


def test_verification_is_printed_as_json(url: str) -> None:
    with open_ledger(url) as ledger:
        ledger.append(_stories(range(3)))
        printed = json.loads(json.dumps(ledger.verify(at(10_000)).to_json()))
    assert printed["machines"] == 3
    assert printed["attempts"] == 5
    assert printed["difference"] == "0.000000000"
