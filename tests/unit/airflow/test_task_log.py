"""The task's log: whole lines in order, warnings at the deadline, lines counted again."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from piecework.airflow import task_log
from piecework.airflow.following import Progress
from piecework.airflow.task_log import PROGRAM, TaskLog, _count, _Deadline, _LogReader, _Reasons
from piecework.config import load
from piecework.errors import ClusterError
from piecework.runners.runner import AttemptStatus
from tests.unit.airflow.test_following import Recorder, assign

NOW = datetime(2026, 11, 23, 4, 0, tzinfo=UTC)


class Log(Recorder):
    """A runner with one growing log, read three bytes at a time."""

    text = b""

    def read_log(self, attempt: str, offset: int, limit: int = 1 << 20) -> bytes:
        return self.text[offset : offset + 3]


def test_a_line_is_given_out_once_it_has_ended() -> None:
    log = Log()
    reader = _LogReader("a.1", log)
    log.text = b"one\ntw"
    assert list(reader.lines(ended=False)) == ["one"]
    log.text += b"o\r\n\nthree"
    assert list(reader.lines(ended=False)) == ["two", ""]
    assert list(reader.lines(ended=True)) == ["three"]
    assert list(reader.lines(ended=True)) == []


def test_bytes_that_are_no_text_do_not_stop_the_log() -> None:
    log = Log()
    log.text = b"a\xff\xfeb\nnext\n"
    assert list(_LogReader("a.1", log).lines(ended=True)) == ["a��b", "next"]


def test_a_line_without_end_is_cut() -> None:
    log = Log()
    log.text = b"x" * 50_000
    lines = list(_LogReader("a.1", log).lines(ended=True))
    assert "".join(lines) == "x" * 50_000
    assert max(map(len, lines)) < 20_000


def test_the_deadline_is_told_when_it_comes_near_and_when_it_has_passed(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deadline = _Deadline(assign(deadline="10m", on_deadline="cancel"), load())
    progress = Progress((AttemptStatus("a.1", "waiting", queued_at=NOW),))
    with caplog.at_level(logging.WARNING, "piecework.task"):
        for minutes in (1, 7, 8, 9, 10, 11):
            deadline.watch(progress, NOW + timedelta(minutes=minutes))
    assert [record.getMessage() for record in caplog.records] == [
        "80% of the deadline of 10m is used up, and the run is not over",
        "the deadline of 10m after being queued has passed; the run is cancelled",
    ]


def test_the_deadline_counts_from_the_first_attempt(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = AttemptStatus("a.1", "ended", queued_at=NOW)
    second = replace(first, attempt="a.2", state="running", queued_at=NOW + timedelta(minutes=9))
    deadline = _Deadline(assign(deadline="10m"), load())
    with caplog.at_level(logging.WARNING, "piecework.task"):
        deadline.watch(Progress((first, second)), NOW + timedelta(minutes=10))
    assert [record.getMessage() for record in caplog.records] == [
        "the deadline of 10m after being queued has passed; the run goes on"
    ]


def test_only_whole_records_of_the_program_are_counted(tmp_path: Path) -> None:
    file = tmp_path / "attempt=1.log.trigger.1.log"
    records = [
        {"event": "one", "logger": PROGRAM},
        {"event": f"says {PROGRAM}", "logger": "piecework.task"},
        {"event": "two", "logger": PROGRAM},
    ]
    torn = json.dumps(records[0])[:-4]
    file.write_text("\n".join([*map(json.dumps, records), torn]))
    assert _count(file) == 2
    assert _count(tmp_path / "absent") == 0


def test_a_reason_that_differs_in_its_numbers_alone_is_not_told_at_once() -> None:
    reasons = _Reasons()
    waits = AttemptStatus("a.1", "waiting", reason="3 runs are before it")
    assert reasons.latest(waits) == "3 runs are before it"
    assert reasons.latest(replace(waits, reason="2 runs are before it")) == "3 runs are before it"
    other = replace(waits, reason="pool spot is at its limit of 20 machines")
    assert reasons.latest(other) == "pool spot is at its limit of 20 machines"
    assert reasons.latest(replace(waits, attempt="a.2")) == "3 runs are before it"


class Deaf(Recorder):
    """A runner whose cluster does not answer at first."""

    def __init__(self, refusals: int) -> None:
        super().__init__()
        self.refusals = refusals
        self.asked = threading.Semaphore(0)

    def acknowledge(self, attempt: str) -> None:
        self.refusals -= 1
        try:
            if self.refusals >= 0:
                raise ClusterError("the API server does not answer")
            super().acknowledge(attempt)
        finally:
            self.asked.release()


@pytest.mark.parametrize(("refusals", "told"), [(0, 1), (2, 1), (3, 0)])
def test_that_an_end_was_read_is_said_three_times_at_most(
    home: Path, monkeypatch: pytest.MonkeyPatch, refusals: int, told: int
) -> None:
    monkeypatch.setattr(task_log, "_PAUSES", (0.0, 0.0, 0.0))
    monkeypatch.setenv("AIRFLOW_HOME", str(home / "airflow"))
    runner, ended = Deaf(refusals), Progress((AttemptStatus("a.1", "ended"),))
    who = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, id="1")
    log = TaskLog(who, assign(), load(), runner)
    for _ in range(2):
        log.tell(ended)
    assert all(runner.asked.acquire(timeout=20) for _ in range(min(refusals + 1, 3)))
    assert not runner.asked.acquire(timeout=0.2)
    assert runner.acknowledged == ["a.1"] * told
