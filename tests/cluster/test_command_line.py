"""Every verb of the command line with machines that are bought: a whole pipeline, by `--pool`.

The pipeline's file names no pool, and the settings name another one than the command line does.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from piecework.config import Settings
from piecework.ledger.events import Outcome
from piecework.plan import labels
from testbed import faults
from tests.cluster.bought import GONE_SECONDS, Bought, start_bought
from tests.cluster.conftest import Cluster
from tests.local.attempts import wait_for

pytestmark = pytest.mark.layer("airflow")

PIPELINE = """
pipeline: trial
params: {who: nobody}
jobs:
  greet: {python: greet.py, args: ["{{ params.who }}"]}
  count: {python: greet.py, args: ["{{ ti.xcom_pull('greet') }}"], after: [greet]}
"""
PROGRAM = """
import json, os, sys
print("hello", sys.argv[1], flush=True)
json.dump(len(sys.argv[1]), open(os.environ["PIECEWORK_RESULT"], "w"))
"""


@pytest.fixture(scope="module")
def bought(whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bought]:
    if whole_cluster.place is None:
        pytest.skip("somebody's own cluster: machines are the testbed's")
    with start_bought(whole_cluster, tmp_path_factory.mktemp("bought")) as found:
        yield found


@pytest.fixture
def file(bought: Bought) -> Path:
    code = bought.world.code
    (code / "greet.py").write_text(PROGRAM)
    (code / "trial.yaml").write_text(PIPELINE)
    return code / "trial.yaml"


class Shell:
    """Calls `piecework` as a user does; every answer is JSON."""

    def __init__(self, settings: Settings) -> None:
        home = settings.home
        self.environ = {
            **os.environ,
            "PIECEWORK_HOME": str(home),
            "PIECEWORK_CONFIG": str(home / "piecework.toml"),
        }

    def __call__(self, *args: str, code: int = 0) -> Any:
        done = subprocess.run(
            self.command(*args),
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == code, (args, done.stdout, done.stderr)
        return json.loads(done.stdout)

    @contextmanager
    def started(self, *args: str) -> Iterator[subprocess.Popen[str]]:
        """A call that goes on meanwhile; nothing is left of it afterwards."""
        call = subprocess.Popen(
            self.command(*args), env=self.environ, stdout=subprocess.PIPE, text=True
        )
        with call:
            try:
                yield call
            finally:
                call.kill()

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "piecework", *args, "--json"]


def test_every_verb_works_with_a_pool_that_is_named(bought: Bought, file: Path) -> None:
    piecework, pool = Shell(bought.world.settings), bought.narrow.made.name
    planned = piecework("plan", str(file), "--pool", pool)
    assert [plan["pool"] for plan in planned["plans"]] == [pool, pool]

    ran = piecework("run", str(file), "--pool", pool, "--param", "who=everybody")
    assert ran["outcome"] == "success"
    assert [run["job"] for run in ran["runs"]] == ["greet", "count"]
    assert {run["attempts"][-1]["pool"] for run in ran["runs"]} == {pool}
    greet, count = (run["run"] for run in ran["runs"])

    assert piecework("show", greet)["outcome"] == "success"
    assert piecework("show", ran["pipeline_run"])["outcome"] == "success"
    assert "exit code 0" in piecework("why", greet)["reason"]
    assert {greet, count} <= {run["run"] for run in piecework("ls")["runs"]}
    machines = {machine["machine"] for machine in piecework("machines")["machines"]}
    assert set(ran["runs"][0]["attempts"][-1]["machines"]) <= machines
    piecework("cost")
    assert piecework("ledger", "verify")["problems"] == []


def test_a_pipeline_run_on_a_named_pool_is_queued_told_of_and_cancelled(
    bought: Bought, file: Path
) -> None:
    piecework, pool = Shell(bought.world.settings), bought.narrow.made.name
    (file.parent / "greet.py").write_text("import time\nprint('on', flush=True)\ntime.sleep(600)\n")
    asked = piecework("submit", str(file), "--pool", pool)["pipeline_run"]

    def running() -> Any:
        known = [run for run in piecework("ls", "--running")["runs"] if run["job"] == "greet"]
        return known and known[-1]["state"] == "running" and known[-1]

    run = wait_for(running, "its first job to run", 120)
    assert run["attempts"][-1]["pool"] == pool
    assert piecework("why", run["run"])["state"] == "running"
    wait_for(lambda: piecework("logs", run["run"])["log"] == "on\n", "its first line", 60)
    assert piecework("cancel", asked)["over"]
    assert piecework("show", run["run"])["outcome"] == "cancelled"
    wait_for(lambda: not bought.narrow.claims(), "its machine to be given back", GONE_SECONDS)


def test_a_success_that_the_command_line_has_slept_through_is_not_run_again(
    bought: Bought, file: Path
) -> None:
    """As when a laptop is closed for long: its pod is gone, and no watch can tell of it now."""
    ground = bought.narrow
    piecework, pool = Shell(bought.world.settings), ground.made.name
    (file.parent / "greet.py").write_text("import time\nprint('on', flush=True)\ntime.sleep(15)\n")
    with piecework.started("run", str(file), "--job", "greet", "--pool", pool) as waits:

        def running() -> Any:
            known = piecework("ls", "--running")["runs"]
            return known and known[-1]["state"] == "running" and known[-1]["run"]

        def restart() -> None:
            faults.kill(ground.here, "kube-apiserver")
            faults.restart(ground.here, "kube-apiserver")

        attempt = f"{wait_for(running, 'it to run', 120)}.1"
        waits.send_signal(signal.SIGSTOP)
        restart()  # its connections break
        assert ground.ended(attempt, 60).outcome is Outcome.SUCCESS
        name, namespace = labels.pod_name(attempt), ground.made.namespace
        ground.api.delete("Pod", name, namespace)
        wait_for(lambda: not ground.api.get("Pod", name, namespace), "its pod to go", 60)
        restart()  # forgets what it could tell a watch
        waits.send_signal(signal.SIGCONT)
        told, _ = waits.communicate(timeout=300)
    assert waits.returncode == 0
    (run,) = json.loads(told)["runs"]
    assert [each["outcome"] for each in run["attempts"]] == ["success"]
