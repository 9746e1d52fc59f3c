"""Attempts on this host, as they should go: started, alone, in order, limited, ended, recorded."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from piecework import clock
from piecework.errors import RunnerError
from piecework.ledger.events import Kind, Outcome
from tests.local.attempts import Place, can_use_cgroups, place, wait_for


@pytest.fixture
def here(home: Path, tmp_path: Path) -> Iterator[Place]:
    with place(home, tmp_path / "code") as found:
        yield found


@pytest.fixture
def one_core(home: Path, tmp_path: Path) -> Iterator[Place]:
    """A host with one core for jobs, so that two runs never fit."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "piecework.toml").write_text("[pools.local]\ncpus = 1\n")
    with place(home, code) as found:
        yield found


@pytest.fixture(params=["cgroup", "watch"])
def enforcement(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways in which limits are enforced."""
    if request.param == "watch":
        monkeypatch.setenv("PIECEWORK_ENFORCEMENT", "watch")
    elif not can_use_cgroups():
        pytest.skip("needs a cgroup hierarchy that this user may write")
    return str(request.param)


def test_a_program_runs_on_a_machine_of_its_own_and_is_billed(here: Place) -> None:
    attempt = here.start(
        """
        import json, os, sys
        print("said on stdout"); print("said on stderr", file=sys.stderr)
        sum(i * i for i in range(3_000_000))
        print(sorted(os.sched_getaffinity(0)), os.getcwd())
        open(os.environ["PIECEWORK_RESULT"], "w").write(json.dumps({"rows": 3}))
        print({n: v for n, v in os.environ.items() if n.startswith("PIECEWORK")})
        """,
        env={"GREETING": "hello"},
    )
    status = here.wait(attempt)
    assert (status.outcome, status.exit_code) == (Outcome.SUCCESS, 0)
    assert status.result == {"rows": 3}
    assert len(status.machines) == 1
    log = here.log(attempt)
    assert "said on stdout" in log
    assert "said on stderr" in log
    assert str(here.folder(attempt).work) in log
    assert "'PIECEWORK_CPUS': '1'" in log
    assert f"'PIECEWORK_ATTEMPT': '{attempt}'" in log
    ended = here.folder(attempt).ended()
    assert ended is not None
    assert ended.data["use"]["cpu_seconds"] > 0.02
    assert ended.data["use"]["peak_memory_bytes"] > 5_000_000
    here.assert_settled(attempt)
    assert {event.kind for event in here.machine_events()} == {
        Kind.MACHINE_REQUESTED,
        Kind.MACHINE_LAUNCHED,
        Kind.MACHINE_PRICE,
        Kind.MACHINE_JOINED,
        Kind.MACHINE_READY,
        Kind.MACHINE_OCCUPIED,
        Kind.MACHINE_VACATED,
    }


@pytest.mark.parametrize(
    ("program", "outcome", "cause"),
    [
        ("raise SystemExit(3)", Outcome.ERROR, "exit code 3"),
        ("1 / 0", Outcome.ERROR, "exit code 1"),
        ("import os; os.kill(os.getpid(), 11)", Outcome.ERROR, "SIGSEGV"),
    ],
)
def test_a_failure_says_how_the_program_failed(
    here: Place, program: str, outcome: Outcome, cause: str
) -> None:
    attempt = here.start(program)
    status = here.wait(attempt)
    assert status.outcome is outcome
    assert cause in (status.cause or "")
    assert status.result is None
    here.assert_settled(attempt)


def test_a_missing_program_is_an_error_that_names_it(here: Place) -> None:
    request = here.request("print()")
    (here.code / "test.job.1.1.py").unlink()
    status = here.wait(here.runner.start(request).attempt)
    assert status.outcome is Outcome.ERROR
    assert "test.job.1.1.py" in (status.cause or "")


def test_starting_an_attempt_again_finds_it(here: Place) -> None:
    program = f"open({str(here.code / 'lines')!r}, 'a').write('once\\n')"
    request = here.request(program)
    here.runner.start(request)
    here.runner.start(request)
    here.wait(request.attempt)
    assert here.runner.start(request).state == "ended"
    assert (here.code / "lines").read_text() == "once\n"
    here.assert_settled(request.attempt)


_STARTER = """
import pickle, sys
from piecework.config import load
from piecework.runners.local import LocalRunner
request = pickle.load(sys.stdin.buffer)
print(LocalRunner(load()).start(request).attempt)
"""


def test_of_many_who_start_an_attempt_at_once_one_does(here: Place) -> None:
    program = f"import time; open({str(here.code / 'lines')!r}, 'a').write('once\\n')"
    request = here.request(program)
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for starter in starters:  # they begin together, once they have read their request
        assert starter.stdin is not None
        starter.stdin.write(pickle.dumps(request))
        starter.stdin.flush()
    said = [starter.communicate(timeout=100)[0].decode().strip() for starter in starters]
    assert said == [request.attempt] * 6
    here.wait(request.attempt)
    assert (here.code / "lines").read_text() == "once\n"
    here.assert_settled(request.attempt)


def test_no_two_runs_ever_share_a_core(here: Place) -> None:
    notes = here.code / "notes"
    program = f"""
        import json, os, time
        start = time.monotonic()
        time.sleep(0.15)
        line = json.dumps([sorted(os.sched_getaffinity(0)), start, time.monotonic()])
        with open({str(notes)!r}, "a") as stream:
            stream.write(line + "\\n")
        """
    everything = len(os.sched_getaffinity(0))
    attempts = [
        here.start(program, f"test.many.{n}", cpus=1 + n % min(2, everything)) for n in range(10)
    ]
    for attempt in attempts:
        assert here.wait(attempt).outcome is Outcome.SUCCESS
    seen = [json.loads(line) for line in notes.read_text().splitlines()]
    assert len(seen) == 10
    _assert_no_overlap([(core, a, b) for cores, a, b in seen for core in cores])
    here.assert_settled(*attempts)
    cores = {
        event.subject: event.data["cores"]
        for event in here.machine_events()
        if event.kind is Kind.MACHINE_LAUNCHED
    }
    open_since: dict[str, datetime] = {}
    taken: list[tuple[int, float, float]] = []
    for event in here.machine_events():
        if event.kind is Kind.MACHINE_OCCUPIED:
            assert event.subject not in open_since
            open_since[event.subject] = event.at
        elif event.kind is Kind.MACHINE_VACATED:
            since = open_since.pop(event.subject).timestamp()
            taken += [(core, since, event.at.timestamp()) for core in cores[event.subject]]
    assert open_since == {}
    _assert_no_overlap(taken)


def _assert_no_overlap(taken: list[tuple[int, float, float]]) -> None:
    for core in {core for core, _, _ in taken}:
        times = sorted((start, end) for found, start, end in taken if found == core)
        for (_, end), (start, _) in pairwise(times):
            assert end <= start


def test_runs_wait_in_order_of_priority_and_then_of_age(one_core: Place) -> None:
    order = one_core.code / "order"
    blocker = one_core.start("import time; time.sleep(3)", "test.first.0")
    one_core.wait(blocker, "started")
    attempts = []
    for name, priority in [("old", 0), ("young", 0), ("low", -5), ("high", 7)]:
        program = f"open({str(order)!r}, 'a').write('{name} ')"
        attempts.append(one_core.start(program, f"test.{name}.0", priority=priority))
        one_core.wait_for_reason(attempts[-1], "")
    waiting = [one_core.wait_for_reason(attempt, "busy") for attempt in attempts]
    assert "1 of 1 cores" in waiting[0]
    assert any("ahead" in reason for reason in waiting)
    for attempt in attempts:
        one_core.wait(attempt)
    assert order.read_text().split() == ["high", "old", "young", "low"]
    one_core.assert_settled(blocker, *attempts)


def test_an_idle_machine_is_handed_to_the_next_run(one_core: Place) -> None:
    first = one_core.start("print(1)", "test.a.0")
    machine = one_core.wait(first).machines
    wait_for(lambda: not one_core.folder(first).is_supervised(), "the first is over")
    second = one_core.start("print(2)", "test.b.0")
    assert one_core.wait(second).machines == machine
    wait_for(lambda: not one_core.folder(second).is_supervised(), "the second is over")
    third = one_core.start("print(3)", "test.c.0", memory="700Mi")
    assert one_core.wait(third).machines != machine
    one_core.assert_settled(first, second, third)
    gone = [e for e in one_core.machine_events() if e.kind is Kind.MACHINE_GONE]
    assert [event.subject for event in gone] == list(machine)


def test_a_run_that_takes_too_long_is_ended(here: Place, enforcement: str) -> None:
    attempt = here.start("import time; time.sleep(600)", timeout="1s")
    status = here.wait(attempt)
    assert status.outcome is Outcome.TIMEOUT
    assert "timeout of 1 s" in (status.cause or "")
    here.assert_settled(attempt)


def test_a_deadline_ends_a_run_only_where_it_is_told_to(one_core: Place) -> None:
    late = one_core.start("import time; time.sleep(2.5)", "test.a.0", deadline="1s")
    cancelled = one_core.start(
        "import time; time.sleep(600)", "test.b.0", deadline="1s", on_deadline="cancel"
    )
    status = one_core.wait(cancelled)
    assert status.outcome is Outcome.CANCELLED
    assert "deadline" in (status.cause or "")
    assert status.started_at is None  # it was still waiting
    assert one_core.wait(late).outcome is Outcome.SUCCESS
    one_core.assert_settled(late, cancelled)


def test_a_cancelled_run_ends_whether_it_waits_or_runs(one_core: Place) -> None:
    running = one_core.start("import time; time.sleep(600)", "test.a.0")
    one_core.wait(running, "started")
    waiting = one_core.start("import time; time.sleep(600)", "test.b.0")
    one_core.runner.cancel(waiting, "not needed any more")
    one_core.runner.cancel(running, "nor this one")
    assert one_core.wait(waiting).cause == "not needed any more"
    assert one_core.wait(running).cause == "nor this one"
    assert one_core.status(running).outcome is Outcome.CANCELLED
    one_core.runner.cancel(running, "again")
    assert one_core.status(running).cause == "nor this one"
    one_core.assert_settled(running, waiting)


def test_a_program_may_use_its_grace_to_end_by_itself(here: Place) -> None:
    attempt = here.start(
        """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved"), sys.exit(0)))
        print("ready")
        time.sleep(600)
        """
    )
    here.wait_for_log(attempt, "ready")
    here.runner.cancel(attempt, "enough")
    status = here.wait(attempt)
    assert status.outcome is Outcome.CANCELLED  # although it exited with 0
    assert "saved" in here.log(attempt)
    here.assert_settled(attempt)


def test_the_attempts_of_a_run_are_found_and_a_retry_keeps_the_place_of_its_run(
    here: Place,
) -> None:
    first = here.start("raise SystemExit(1)")
    here.wait(first)
    second = here.runner.start(here.request("print()", number=2)).attempt
    here.wait(second)
    found = here.runner.attempts("test.job.1")
    assert [status.attempt for status in found] == [first, second]
    orders = [here.folder(attempt).read_order() for attempt in (first, second)]
    assert orders[0].run_queued_at == orders[1].run_queued_at
    assert here.runner.status("test.nothing.1.1") is None
    assert here.runner.status("../../etc.1") is None
    with pytest.raises(RunnerError, match="there is no attempt"):
        here.runner.cancel("test.nothing.1.1", "")


def test_a_run_is_never_run_twice_at_the_same_time(here: Place) -> None:
    first = here.start("import time; time.sleep(600)")
    with pytest.raises(RunnerError, match="has not ended"):
        here.runner.start(here.request("print()", number=2))
    here.runner.cancel(first, "enough")
    here.wait(first)
    second = here.runner.start(here.request("print()", number=2)).attempt
    assert here.wait(second).outcome is Outcome.SUCCESS
    here.assert_settled(first, second)


def test_memory_that_is_used_is_measured(here: Place, enforcement: str) -> None:
    attempt = here.start(
        "import time\nx = bytearray(150 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1\n"
        "time.sleep(1)"
    )
    assert here.wait(attempt).outcome is Outcome.SUCCESS
    ended = here.folder(attempt).ended()
    assert ended is not None
    assert 150 << 20 <= ended.data["use"]["peak_memory_bytes"] < 300 << 20
    here.assert_settled(attempt)


def test_a_log_keeps_every_byte_that_was_printed(here: Place) -> None:
    attempt = here.start(
        r"import sys; sys.stdout.buffer.write(b'caf\xe9 \xff\xfe\x00\n'); print('after')"
    )
    here.wait(attempt)
    assert here.runner.read_log(attempt, 0) == b"caf\xe9 \xff\xfe\x00\nafter\n"
    assert here.runner.read_log(attempt, 5, 2) == b"\xff\xfe"
    assert here.runner.read_log(attempt, 1000) == b""


def test_gigabytes_of_log_do_not_fill_the_disk(here: Place) -> None:
    attempt = here.start(
        """
        import sys
        print("the very first line")
        chunk = (b"x" * 99 + b"\\n") * 100_000
        for _ in range(60):
            sys.stdout.buffer.write(chunk)
        sys.stdout.flush()
        print("the very last line")
        """
    )
    assert here.wait(attempt).outcome is Outcome.SUCCESS
    size = here.folder(attempt).log.stat().st_size
    assert size < 140 << 20
    assert here.runner.read_log(attempt, 0, 20) == b"the very first line\n"
    assert here.runner.read_log(attempt, size - 19, 100) == b"the very last line\n"
    middle = here.runner.read_log(attempt, (64 << 20) - 10, 200)
    assert b"bytes of this log were dropped here" in middle
    here.assert_settled(attempt)


def test_settings_of_the_starter_do_not_reach_the_program(
    here: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "secret")
    monkeypatch.setenv("PIECEWORK_LEDGER_URL", f"sqlite:///{here.home}/ledger.sqlite")
    monkeypatch.setenv("GREETING", "hello")
    attempt = here.start("import os; print(dict(os.environ))")
    here.wait(attempt)
    log = here.log(attempt)
    assert "secret" not in log
    assert "LEDGER_URL" not in log
    assert "hello" in log


def test_starting_returns_before_the_program_does(here: Place) -> None:
    before = clock.now()
    attempt = here.start("import time; time.sleep(5)")
    assert here.status(attempt).state != "ended"
    status = here.wait(attempt)
    assert status.queued_at is not None
    assert status.started_at is not None
    assert status.ended_at is not None
    assert before <= status.queued_at <= status.started_at <= status.ended_at
    assert status.ended_at - status.started_at >= timedelta(seconds=5)
