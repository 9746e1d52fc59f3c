"""`run`, `submit`, `cancel`, `up`, `down` and `status` on a real Airflow.

Most tests share one platform, because bringing one up takes longer than they do.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.layer("airflow")

Piecework = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
NothingLeft = Callable[[Path], None]

PIPELINE = """
pipeline: {name}
team: testers
params: {{words: 3}}
jobs:
  first: {{python: first.py, args: ["{{{{ params.words }}}}"]}}
  second: {{python: second.py, after: [first]}}
"""
FAILING = """
pipeline: failing
jobs:
  fails: {python: fails.py}
  never: {python: first.py, after: [fails]}
  aside: {python: first.py}
"""
LONG = """
pipeline: {name}
jobs:
  sleeps: {{python: sleeps.py, machine: {{cpu: 1, memory: 1Gi}}}}
  later: {{python: first.py, after: [sleeps]}}
"""
PROGRAMS = {
    "first.py": (
        "import os, pathlib, sys\n"
        "data = pathlib.Path(os.environ['PIECEWORK_DATA'])\n"
        "data.mkdir(parents=True, exist_ok=True)\n"
        "(data / 'words').write_text('word ' * int(sys.argv[1] if sys.argv[1:] else 1))\n"
    ),
    "second.py": (
        "import os, pathlib\n"
        "data = pathlib.Path(os.environ['PIECEWORK_DATA'])\n"
        "print(len((data / 'words').read_text().split()), 'words')\n"
    ),
    "fails.py": "import sys\nprint('no luck')\nsys.exit(9)\n",
    "sleeps.py": (
        "import signal, subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(900)'],"
        " start_new_session=True)\n"
        "print('sleeping', flush=True)\n"
        "time.sleep(900)\n"
    ),
}


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home whose platform is up as long as this module's tests run."""
    folder = tmp_path_factory.mktemp("shared") / "home"
    environ = {name: v for name, v in os.environ.items() if not name.startswith("PIECEWORK_")}
    environ["PIECEWORK_HOME"] = str(folder)

    def call(verb: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "piecework", verb]
        return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=400)

    try:
        brought_up = call("up")
        assert brought_up.returncode == 0, brought_up.stderr
        yield folder
    finally:
        call("down")


@pytest.fixture
def up(shared_home: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shared platform, for this test; returns its home."""
    monkeypatch.setenv("PIECEWORK_HOME", str(shared_home))
    return shared_home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("words", "others", "queued"):
        (tmp_path / f"{name}.yaml").write_text(PIPELINE.format(name=name))
    for name in ("long", "endless"):
        (tmp_path / f"{name}.yaml").write_text(LONG.format(name=name))
    (tmp_path / "failing.yaml").write_text(FAILING)
    (tmp_path / "single.yaml").write_text("job: single\npython: first.py\n")
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def wait_for(condition: Callable[[], Any], seconds: float = 240.0) -> Any:
    limit = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < limit, "it did not come to pass"
        time.sleep(0.3)
    return found


def running(piecework: Piecework, pipeline: str) -> list[dict[str, Any]]:
    listed = piecework("ls", "--pipeline", pipeline, "--state", "running", "--json")
    assert listed.returncode == 0, listed.stderr
    found: list[dict[str, Any]] = json.loads(listed.stdout)["runs"]
    return [run for run in found if run["attempts"][-1]["started_at"]]


def assert_right(piecework: Piecework) -> None:
    """The ledger's equation holds."""
    verified = piecework("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert Decimal(json.loads(verified.stdout)["difference"]) == 0


def test_a_pipeline_runs_to_its_end_and_its_bill_is_all_of_stdout(
    up: Path, folder: Path, piecework: Piecework
) -> None:
    done = piecework("run", "words.yaml", "--param", "words=5", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["pipeline"] == "words"
    assert found["outcome"] == "success"
    assert [run["job"] for run in found["runs"]] == ["first", "second"]
    assert all(run["outcome"] == "success" for run in found["runs"])
    assert Decimal(found["cost"]) == sum(Decimal(run["cost"]) for run in found["runs"])
    first, second = (run["attempts"][0] for run in found["runs"])
    assert first["ended_at"] <= second["queued_at"]
    assert piecework("logs", found["runs"][1]["run"]).stdout == "5 words\n"
    shown = json.loads(piecework("show", found["pipeline_run"], "--json").stdout)
    assert shown["outcome"] == "success"
    assert [run["run"] for run in shown["runs"]] == [run["run"] for run in found["runs"]]
    # It was up before, so it stays.
    assert json.loads(piecework("status", "--json").stdout)["state"] == "up"
    assert_right(piecework)


def test_a_failed_job_fails_the_run_and_those_after_it_do_not_run(
    up: Path, folder: Path, piecework: Piecework
) -> None:
    done = piecework("run", "failing.yaml", "--json")
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["outcome"] == "error"
    assert {run["job"]: run["outcome"] for run in found["runs"]} == {
        "fails": "error",
        "aside": "success",
    }
    (failed,) = (run for run in found["runs"] if run["job"] == "fails")
    assert "9" in failed["cause"]
    assert "never: not run" in done.stderr
    for_people = piecework("run", "failing.yaml")
    assert "  | no luck\n" in for_people.stderr


def test_submit_queues_a_run_that_can_be_waited_for_and_is_queued_once(
    up: Path, folder: Path, piecework: Piecework
) -> None:
    first = piecework("submit", "queued.yaml", "--run-id", "mine-1", "--param", "words=2")
    assert (first.returncode, first.stdout) == (0, "mine-1\n"), first.stderr
    again = piecework("submit", "queued.yaml", "--run-id", "mine-1", "--wait", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["pipeline_run"] == "mine-1"
    assert [len(run["attempts"]) for run in found["runs"]] == [1, 1]


def test_a_single_job_file_is_a_pipeline_of_its_own(
    up: Path, folder: Path, piecework: Piecework
) -> None:
    done = piecework("submit", "single.yaml", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    assert [run["job"] for run in json.loads(done.stdout)["runs"]] == ["single"]


def test_a_cancelled_pipeline_run_ends_its_jobs_and_starts_no_more(
    up: Path, folder: Path, piecework: Piecework
) -> None:
    name = piecework("submit", "long.yaml").stdout.strip()
    wait_for(lambda: running(piecework, "long"))
    cancelled = piecework("cancel", name, "--json")
    assert cancelled.returncode == 0, cancelled.stderr
    (run,) = json.loads(cancelled.stdout)["runs"]
    assert (run["job"], run["outcome"]) == ("sleeps", "cancelled")
    assert Decimal(run["cost"]) > 0
    again = piecework("submit", "long.yaml", "--run-id", name, "--wait", "--json")
    assert again.returncode == 1
    assert json.loads(again.stdout)["outcome"] == "cancelled"
    assert len(json.loads(again.stdout)["runs"]) == 1


def test_cancelling_one_job_fails_its_pipeline_run(
    up: Path, folder: Path, piecework: Piecework, start: Start
) -> None:
    following = start("submit", "endless.yaml", "--wait", "--json")
    (run,) = wait_for(lambda: running(piecework, "endless"))
    assert piecework("cancel", run["run"]).returncode == 0
    out, err = following.communicate(timeout=240)
    assert following.returncode == 1, err
    found = json.loads(out)
    assert found["outcome"] == "cancelled"
    assert [(run["job"], len(run["attempts"])) for run in found["runs"]] == [("sleeps", 1)]


def test_ctrl_c_ends_the_jobs_and_leaves_a_platform_that_was_up(
    up: Path, folder: Path, piecework: Piecework, start: Start
) -> None:
    process = start("run", "long.yaml", "--json")
    (run,) = wait_for(lambda: running(piecework, "long"))
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 130, err
    found = json.loads(out)
    assert found["outcome"] == "cancelled"
    assert [each["outcome"] for each in found["runs"]] == ["cancelled"]
    assert Decimal(found["cost"]) > 0
    assert not running(piecework, "long")
    assert json.loads(piecework("status", "--json").stdout)["state"] == "up"
    log = piecework("logs", run["run"])
    assert log.stdout == "sleeping\n"


def test_wrong_parameters_queue_nothing(up: Path, folder: Path, piecework: Piecework) -> None:
    done = piecework("submit", "words.yaml", "--param", "wrods=5")
    assert done.returncode == 2
    assert "did you mean words" in done.stderr
    assert done.stdout == ""


def test_up_twice_finds_it_up(up: Path, piecework: Piecework) -> None:
    before = json.loads(piecework("status", "--json").stdout)
    again = piecework("up", "--json")
    assert again.returncode == 0, again.stderr
    pids = {part["name"]: part["pid"] for part in json.loads(again.stdout)["components"]}
    assert pids == {part["name"]: part["pid"] for part in before["components"]}


def test_two_runs_and_an_up_at_the_same_time_on_one_ledger(
    folder: Path, home: Path, piecework: Piecework, start: Start, assert_nothing_left: NothingLeft
) -> None:
    processes = [
        start("run", "words.yaml", "--json"),
        start("run", "others.yaml", "--json"),
        start("up", "--json"),
    ]
    ends = [process.communicate(timeout=500) for process in processes]
    for process, (out, err) in zip(processes, ends, strict=True):
        assert process.returncode == 0, out + err
    for out, _ in ends[:2]:
        found = json.loads(out)
        assert found["outcome"] == "success"
        assert [len(run["attempts"]) for run in found["runs"]] == [1, 1]
    # `up` asked for it to stay.
    assert json.loads(piecework("status", "--json").stdout)["state"] == "up"
    assert_right(piecework)
    assert piecework("down").returncode == 0
    assert_nothing_left(home)


def test_the_last_of_two_runs_takes_down_what_the_first_brought_up(
    folder: Path, home: Path, start: Start, assert_nothing_left: NothingLeft
) -> None:
    processes = [start("run", f"{name}.yaml", "--json") for name in ("words", "failing")]
    codes = []
    for process in processes:
        process.communicate(timeout=500)
        codes.append(process.returncode)
    assert codes == [0, 1]
    assert_nothing_left(home)


def test_ctrl_c_takes_down_what_the_run_brought_up_and_leaves_nothing(
    folder: Path, home: Path, piecework: Piecework, start: Start, assert_nothing_left: NothingLeft
) -> None:
    process = start("run", "long.yaml")
    wait_for(lambda: running(piecework, "long"), 400)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 130, err
    assert "cancelled" in out
    assert_nothing_left(home)
    assert_right(piecework)


def test_ctrl_c_while_the_platform_comes_up_leaves_nothing(
    folder: Path, home: Path, start: Start, assert_nothing_left: NothingLeft
) -> None:
    process = start("run", "words.yaml")
    assert process.stderr is not None
    for line in process.stderr:
        if "starting Airflow" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 130, err
    assert_nothing_left(home)
