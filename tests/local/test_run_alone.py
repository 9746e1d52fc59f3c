"""`run --job`: one job alone, with real processes: its outcome, exit code, log, bill, and end."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

Piecework = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
NothingLeft = Callable[[Path], None]

PIPELINE = """
pipeline: trial
params: {name: world}
jobs:
  hello: {python: hello.py, args: ["{{ params.name }}", "{{ ds }}"]}
  fails: {python: fails.py}
  flaky: {python: flaky.py, retries: {error: 2}}
  greedy: {python: greedy.py, machine: {memory: 512Mi}}
  hungry: {python: hungry.py, machine: {memory: 512Mi}, retries: {out_of_memory: 1}}
  slow: {python: slow.py, timeout: 1s}
  stubborn: {python: stubborn.py}
  patient: {python: patient.py}
  noisy: {python: noisy.py}
"""
PROGRAMS = {
    "hello.py": "import sys\nprint('hello', *sys.argv[1:])\n",
    "fails.py": "import sys\nprint('about to fail', file=sys.stderr)\nsys.exit(7)\n",
    "flaky.py": (
        "import os, pathlib, sys\n"
        "mark = pathlib.Path(os.environ['PIECEWORK_DATA']) / 'tried'\n"
        "mark.parent.mkdir(parents=True, exist_ok=True)\n"
        "if mark.exists(): sys.exit(0)\n"
        "mark.touch(); sys.exit(1)\n"
    ),
    # Slowly, so that a watch that looks now and then sees it, too.
    "greedy.py": (
        "import time\nkept = []\nwhile True: kept.append(b'x' * 2**26); time.sleep(0.05)\n"
    ),
    "hungry.py": (
        "import os, sys, time\n"
        "if int(os.environ['PIECEWORK_MEMORY_BYTES']) > 3 * 2**30: sys.exit(0)\n"
        "kept = []\nwhile True: kept.append(b'x' * 2**27); time.sleep(0.02)\n"
    ),
    "slow.py": "import time\ntime.sleep(600)\n",
    "stubborn.py": (
        "import os, signal, subprocess, sys, time\n"
        "for name in (signal.SIGTERM, signal.SIGINT): signal.signal(name, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "print('running', flush=True)\n"
        "time.sleep(600)\n"
    ),
    "patient.py": "import time\nprint('running', flush=True)\ntime.sleep(600)\n",
    "noisy.py": "import sys\nsys.stdout.buffer.write(b'\\xff\\xfe caf\\xe9 \\x1b[2J\\n' * 1000)\n",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "trial.yaml").write_text(PIPELINE)
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def wait_until_told(process: subprocess.Popen[str], word: str) -> None:
    """Returns when a line with the word came on stderr."""
    assert process.stderr is not None
    assert any(word in line for line in process.stderr), f"it never said {word!r}"


def read(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_job_runs_and_its_log_and_bill_are_printed(folder: Path, piecework: Piecework) -> None:
    done = piecework("run", "trial.yaml", "--job", "hello", "--param", "name=you")
    assert done.returncode == 0, done.stderr
    assert "hello you 20" in done.stderr
    assert "success" in done.stdout
    assert "24x7 cluster" in done.stdout


def test_the_object_for_programs_is_all_of_stdout(folder: Path, piecework: Piecework) -> None:
    done = piecework("run", "trial.yaml", "--job", "hello", "--json")
    assert done.returncode == 0, done.stderr
    found = read(done)
    assert found["pipeline"] == "trial"
    assert found["outcome"] == "success"
    assert found["currency"] == "USD"
    (run,) = found["runs"]
    assert (run["job"], run["outcome"]) == ("hello", "success")
    assert Decimal(found["cost"]) == Decimal(run["cost"]) > 0
    (attempt,) = run["attempts"]
    assert attempt["attempt"] == f"{run['run']}.1"
    assert len(attempt["machines"]) == 1
    assert attempt["pool"] == "local"
    assert attempt["instance_type"]
    assert attempt["queued_at"] <= attempt["started_at"] <= attempt["ended_at"]
    assert attempt["queued_at"].endswith("Z")
    assert attempt["cpu_seconds"] >= 0
    assert attempt["peak_memory_bytes"] > 0
    assert Decimal(attempt["cost"]) == Decimal(run["cost"])

    shown = read(piecework("show", run["run"], "--json"))
    # The machine may have been given back meanwhile. That moves no money from one attempt to
    # another, but the billionth that no part has whole may now be another part's.
    early, late = (_take_parts(each) for each in (run, shown))
    assert shown == run
    assert early.keys() == late.keys()
    assert sum(early.values()) == sum(late.values()) == Decimal(run["cost"])
    assert all(abs(early[part] - late[part]) <= Decimal("1e-9") for part in early)

    log = piecework("logs", run["run"])
    assert log.stdout.startswith("hello world 20")


def _take_parts(run: dict[str, Any]) -> dict[str, Decimal]:
    """What the parts of the run's only attempt cost; they are taken out of it."""
    parts = run["attempts"][0].pop("parts")
    return {part: Decimal(share["cost"]) for part, share in parts.items()}


@pytest.mark.parametrize(
    ("job", "outcome", "code"),
    [("fails", "error", 1), ("greedy", "out-of-memory", 1), ("slow", "timeout", 1)],
)
def test_a_failure_has_its_outcome_its_cause_and_exit_code(
    folder: Path, piecework: Piecework, job: str, outcome: str, code: int
) -> None:
    done = piecework("run", "trial.yaml", "--job", job, "--json")
    assert done.returncode == code, done.stderr
    found = read(done)
    assert found["outcome"] == outcome
    (run,) = found["runs"]
    assert run["outcome"] == outcome
    assert run["cause"]
    why = piecework("why", run["run"])
    assert outcome in why.stdout


def test_errors_are_repeated_as_often_as_the_job_says(folder: Path, piecework: Piecework) -> None:
    done = piecework("run", "trial.yaml", "--job", "flaky", "--json")
    assert done.returncode == 0, done.stderr
    (run,) = read(done)["runs"]
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["error", "success"]
    assert Decimal(run["cost"]) == sum(Decimal(each["cost"]) for each in run["attempts"])
    assert "trying again" in done.stderr


def test_out_of_memory_is_repeated_on_a_larger_machine(folder: Path, piecework: Piecework) -> None:
    done = piecework("run", "trial.yaml", "--job", "hungry", "--json")
    (run,) = read(done)["runs"]
    outcomes = [attempt["outcome"] for attempt in run["attempts"]]
    assert outcomes[0] == "out-of-memory"
    assert len(outcomes) == 2


def test_a_machine_that_nobody_has_exits_with_3(folder: Path, piecework: Piecework) -> None:
    (folder / "huge.yaml").write_text("job: huge\npython: hello.py\nmachine: {cpu: 100000}\n")
    done = piecework("run", "huge.yaml", "--job", "huge", "--json")
    assert done.returncode == 3
    assert done.stdout == ""
    assert "100000" in done.stderr


def test_ctrl_c_ends_the_whole_tree_and_bills_it(
    folder: Path, home: Path, start: Start, piecework: Piecework, assert_nothing_left: NothingLeft
) -> None:
    process = start("run", "trial.yaml", "--job", "stubborn", "--json")
    wait_until_told(process, "running")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["outcome"] == "cancelled"
    (run,) = found["runs"]
    assert Decimal(run["cost"]) > 0
    assert_nothing_left(home)
    assert (
        json.loads(piecework("ledger", "verify", "--json").stdout)["difference"].strip("0.") == ""
    )


def test_sigterm_ends_it_like_ctrl_c(
    folder: Path, home: Path, start: Start, assert_nothing_left: NothingLeft
) -> None:
    process = start("run", "trial.yaml", "--job", "patient")
    wait_until_told(process, "running")
    process.terminate()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert_nothing_left(home)


def test_a_run_outlives_a_command_that_is_killed_and_can_be_cancelled(
    folder: Path, home: Path, start: Start, piecework: Piecework, assert_nothing_left: NothingLeft
) -> None:
    process = start("run", "trial.yaml", "--job", "patient")
    wait_until_told(process, "running")
    process.kill()
    process.wait()
    (listed,) = json.loads(piecework("ls", "--running", "--json").stdout)["runs"]
    assert listed["state"] == "running"
    assert "has been running for" in piecework("why", listed["run"]).stdout
    cancelled = piecework("cancel", listed["run"], "--json")
    assert cancelled.returncode == 0, cancelled.stderr
    assert json.loads(cancelled.stdout)["runs"][0]["outcome"] == "cancelled"
    assert_nothing_left(home)


def test_a_log_is_printed_byte_by_byte(folder: Path, home: Path, piecework: Piecework) -> None:
    done = piecework("run", "trial.yaml", "--job", "hello", "--json")
    assert done.returncode == 0
    noisy = subprocess.run(
        [sys.executable, "-m", "piecework", "run", "trial.yaml", "--job", "noisy"],
        capture_output=True,
        cwd=folder,
        stdin=subprocess.DEVNULL,
    )
    assert noisy.stderr.count(b"\xff\xfe caf\xe9 \x1b[2J\n") == 1000


def test_following_a_log_ends_with_the_run(
    folder: Path, start: Start, piecework: Piecework
) -> None:
    running = start("run", "trial.yaml", "--job", "patient")
    wait_until_told(running, "running")
    following = start("logs", "-f", "patient")
    assert following.stdout is not None
    assert following.stdout.readline() == "running\n"
    assert following.poll() is None
    assert piecework("cancel", "patient").returncode == 0
    following.communicate(timeout=240)
    assert following.returncode == 0
    running.communicate(timeout=240)
    assert running.returncode == 1


def test_the_next_plan_rests_on_the_last_run(folder: Path, piecework: Piecework) -> None:
    assert piecework("run", "trial.yaml", "--job", "hello").returncode == 0
    plans = json.loads(piecework("plan", "trial.yaml", "--job", "hello", "--json").stdout)["plans"]
    assert plans[0]["estimate"]["basis"] == "history"


def test_the_costs_of_all_add_up_to_the_machines_bills(folder: Path, piecework: Piecework) -> None:
    for job in ("hello", "fails"):
        piecework("run", "trial.yaml", "--job", job)
    for by in ("job", "pipeline", "team", "day", "pool"):
        found = json.loads(piecework("cost", "--by", by, "--json").stdout)
        rows = sum(Decimal(row["cost"]) for row in found["rows"])
        wastes = sum(Decimal(found[name]) for name in ("idle", "orphans", "failed_purchases"))
        assert rows + wastes == Decimal(found["total"]) == Decimal(found["machines_total"])
        assert found["currency"] == "USD"
        assert found["unpriced"] == 0


def test_two_at_once_never_share_a_machine_at_the_same_time(
    folder: Path, start: Start, piecework: Piecework
) -> None:
    processes = [start("run", "trial.yaml", "--job", "hello", "--json") for _ in range(4)]
    spans: dict[str, list[tuple[str, str]]] = {}
    for process in processes:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        (attempt,) = json.loads(out)["runs"][0]["attempts"]
        for machine in attempt["machines"]:
            spans.setdefault(machine, []).append((attempt["started_at"], attempt["ended_at"]))
    for taken in spans.values():
        ordered = sorted(taken)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))
    assert json.loads(piecework("ledger", "verify", "--json").stdout)["attempts"] == 4


def test_what_is_left_is_told_when_ctrl_c_comes_twice(
    folder: Path, home: Path, start: Start, piecework: Piecework, assert_nothing_left: NothingLeft
) -> None:
    process = start("run", "trial.yaml", "--job", "patient")
    wait_until_told(process, "running")
    os.killpg(process.pid, signal.SIGINT)
    wait_until_told(process, "cancelling")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "piecework cancel" in err or "patient" in err
    deadline = time.monotonic() + 240
    while json.loads(piecework("ls", "--running", "--json").stdout)["runs"]:
        assert time.monotonic() < deadline
    assert_nothing_left(home)
