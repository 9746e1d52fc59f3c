"""Gangs as their pods run them: one launcher for each machine, all on this computer."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from piecework.entrypoint import tree
from piecework.ledger.events import Outcome
from piecework.runners.code import bundle, launcher
from piecework.spec.job import Job
from tests.local.attempts import PATIENCE_SECONDS, place
from tests.local.jobs import run_job

pytestmark = pytest.mark.layer("dask")


ROWS = "def double(number):\n    return number * 2\n"


@dataclass
class Ended:
    """What is left of a pod."""

    code: int
    log: str
    message: dict[str, Any]


class Pods:
    """The pods of one gang. Each has folders of its own; all have this computer's address."""

    def __init__(
        self,
        path: Path,
        count: int,
        launch: dict[str, Any] | None = None,
        memory_bytes: int = 2**30,
    ) -> None:
        self.path = path
        self.count = count
        self.launch = launch or {
            "engine": "dask",
            "starter": "dask",
            "program": {"file": "job.py", "threads_per_worker": 1},
        }
        self.memory_bytes = memory_bytes
        self.archive = path / "launcher.pyz"
        self.archive.write_bytes(launcher().data)
        self.running: dict[int, subprocess.Popen[str]] = {}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    def start(
        self, program: str, index: int, more: dict[str, Any] | None = None, **gang: Any
    ) -> subprocess.Popen[str]:
        """`more` is of the order; what is None there is left out."""
        code, work = self.path / "code", self.path / str(index)
        for folder in (code, work):
            folder.mkdir(exist_ok=True)
        (code / "job.py").write_text(textwrap.dedent(program))
        (code / "rows.py").write_text(ROWS)
        made = bundle(code)
        (self.path / "code.zip").write_bytes(made.data)
        order = {
            "launch": self.launch,
            "code": {"path": str(self.path / "code.zip"), "sha256": made.sha256},
            "gang": {
                "head": "127.0.0.1",
                "address": "127.0.0.1",
                "port": self.port,
                "index": index,
                "count": self.count,
                "token": "of-this-gang",
                **gang,
            },
            **(more or {}),
        }
        order = {name: told for name, told in order.items() if told is not None}
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "PIECEWORK_ATTEMPT": "flights.segments.7f3a9c1b04d2.1",
            "PIECEWORK_INDEX": str(index),
            "PIECEWORK_COUNT": str(self.count),
            "PIECEWORK_CPUS": "1",
            "PIECEWORK_MEMORY_BYTES": str(self.memory_bytes),
            "PIECEWORK_ORDER": json.dumps(order),
            "PIECEWORK_MESSAGE": str(work / "message"),
            "PIECEWORK_CGROUP": str(self.path / "no-cgroup"),
        }
        with (work / "log").open("w") as log:
            self.running[index] = subprocess.Popen(
                [sys.executable, str(self.archive)],
                cwd=work,
                env=environ,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self.running[index]

    def log(self, index: int) -> str:
        return (self.path / str(index) / "log").read_text()

    def wait_for_log(self, index: int, text: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while text not in self.log(index):
            assert time.monotonic() < until, self.log(index)
            assert self.running[index].poll() is None, self.log(index)
            time.sleep(0.05)

    def end(self, index: int, seconds: float = PATIENCE_SECONDS) -> Ended:
        code = self.running[index].wait(seconds)
        message = json.loads((self.path / str(index) / "message").read_text())
        return Ended(code, self.log(index), message)

    def remove(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.running.values():
            process.wait(60)


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Pods]:
    made = Pods(tmp_path, 3)
    yield made
    made.remove()


SUM = """
    import json, os, time
    from dask.distributed import Client
    import rows

    def where(number):
        time.sleep(0.2)
        return rows.double(number), os.environ["PIECEWORK_INDEX"]

    client = Client()
    found = client.gather(client.map(where, range(30)))
    threads = sum(client.nthreads().values())
    json.dump(
        {
            "total": sum(number for number, _ in found),
            "machines": sorted({index for _, index in found}),
            "threads": threads,
        },
        open(os.environ["PIECEWORK_RESULT"], "w"),
    )
    """
SLEEP = """
    import time
    from dask.distributed import Client
    client = Client()
    print("running", flush=True)
    client.submit(time.sleep, 600).result()
    """


def test_a_dask_program_uses_all_machines_of_its_gang_and_all_end_well(pods: Pods) -> None:
    for index in (2, 0, 1):
        pods.start(SUM, index)
    head, *others = [pods.end(index) for index in range(3)]
    assert head.code == 0, head.log
    assert head.message["result"] == {"total": 870, "machines": ["0", "1", "2"], "threads": 3}
    use = head.message["use"]["dask"]
    assert use["threads"] == 3
    assert 6 <= use["busy_seconds"] <= 3 * use["wall_seconds"]
    for other in others:
        assert other.code == 0, other.log
        assert other.message["use"]["cpu_seconds"] > 0
        assert "dask" not in other.message["use"]
        assert "of-this-gang" not in other.log
    report = pods.path / "0" / ".piecework" / "artifacts" / "dask-report.html"
    assert "where" in report.read_text()


def test_machines_whose_head_is_killed_end_soon_and_not_as_a_success(pods: Pods) -> None:
    for index in range(3):
        pods.start(SLEEP, index)
    pods.wait_for_log(0, "running")
    killed = time.monotonic()
    for process in tree.descendants(pods.running[0].pid):
        tree.send(process, signal.SIGKILL)
    others = [pods.end(index) for index in (1, 2)]
    assert time.monotonic() - killed < 20
    for other in others:
        assert other.code == 1
        assert "the first machine of the gang is gone" in other.log
    assert pods.end(0).code != 0


def test_a_program_that_fails_fails_its_head_alone(pods: Pods) -> None:
    for index in range(3):
        pods.start("raise SystemExit(7)", index)
    assert [pods.end(index).code for index in range(3)] == [7, 0, 0]


def test_work_of_a_machine_that_is_lost_is_done_by_the_others(pods: Pods) -> None:
    program = SUM.replace("time.sleep(0.2)", "print('works', flush=True); time.sleep(0.5)")
    for index in range(3):
        pods.start(program, index)
    pods.wait_for_log(1, "works")
    for process in tree.descendants(pods.running[1].pid):
        tree.send(process, signal.SIGKILL)
    head = pods.end(0, 120)
    assert head.code == 0, head.log
    assert head.message["result"]["total"] == 870
    assert "machine 1 of the gang is lost" in head.log
    assert pods.end(1).code != 0
    assert pods.end(2).code == 0


def test_a_gang_whose_machine_never_comes_does_not_start(pods: Pods) -> None:
    pods.start(SUM, 1)
    pods.start(SUM, 0, join_seconds=3)
    head = pods.end(0)
    assert head.code == 1
    assert "2 of the gang's 3 machines are there after 3 s" in head.log
    assert "not there: machine 2" in head.log
    assert pods.end(1).code == 1


def test_a_cancelled_gang_leaves_no_process(pods: Pods) -> None:
    for index in range(3):
        pods.start(SLEEP, index)
    pods.wait_for_log(0, "running")
    trees = [p for pid in pods.running.values() for p in tree.descendants(pid.pid)]
    for process in pods.running.values():
        process.send_signal(signal.SIGTERM)
    assert all(pods.end(index, 60).code != 0 for index in range(3))
    assert len(trees) >= 3
    for each in trees:
        now = tree.read_process(each.pid)
        assert now is None or now.start != each.start


def test_the_same_job_runs_on_one_computer_with_the_cores_of_all_its_machines(
    home: Path, tmp_path: Path
) -> None:
    with place(home, tmp_path / "code") as here:
        (here.code / "job.py").write_text(
            textwrap.dedent(SUM).replace('["PIECEWORK_INDEX"]', '.get("PIECEWORK_INDEX", "0")')
        )
        (here.code / "rows.py").write_text(ROWS)
        machine = {"cpu": 1, "memory": "1Gi", "count": 2}
        done = run_job(
            here, "job", Job.model_validate({"dask": "job.py", "machine": machine}), here.code
        )
    cores = min(2, len(os.sched_getaffinity(0)))
    assert done.status.outcome is Outcome.SUCCESS, done.log
    assert done.status.result == {"total": 870, "machines": ["0"], "threads": cores}
    assert done.use["dask"]["threads"] == cores
    assert done.use["dask"]["busy_seconds"] >= 6


# ------------------------------------------------------------------ a program on each machine

PYTHON = {"engine": "python", "starter": "python", "program": {"kind": "file", "run": "job.py"}}
MEETS = {"launch": PYTHON, "meets": True}
#: An order without a program: what comes before a container of the user's own.
ALONE = {"launch": None, "code": None}


def test_a_program_on_each_machine_starts_when_all_are_there(pods: Pods, tmp_path: Path) -> None:
    there = tmp_path / "all-there"
    program = f"import os, sys; sys.exit(0 if os.path.exists({str(there)!r}) else 3)"
    for index in (0, 2):
        pods.start(program, index, MEETS)
    pods.wait_for_log(2, "looks for the first")
    time.sleep(2)
    assert [pods.running[index].poll() for index in (0, 2)] == [None, None]
    there.touch()
    pods.start(program, 1, MEETS)
    assert [pods.end(index).code for index in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("order", [MEETS, ALONE], ids=["program", "alone"])
def test_machines_that_are_missing_are_told_before_a_program_starts(
    pods: Pods, order: dict[str, Any]
) -> None:
    pods.start("print('started')", 1, order)
    pods.start("print('started')", 0, order, join_seconds=1)
    for index in range(2):
        assert pods.running[index].wait(PATIENCE_SECONDS) == 1
        assert "started" not in pods.log(index)
    told = (pods.path / "0" / "message").read_text()
    assert "2 of the gang's 3 machines are there" in told
    assert "not there: machine 2" in told


def test_a_meeting_alone_ends_when_all_are_there(pods: Pods) -> None:
    for index in range(3):
        pods.start("", index, ALONE)
    assert [pods.running[index].wait(PATIENCE_SECONDS) for index in range(3)] == [0, 0, 0]
