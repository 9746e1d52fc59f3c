"""One platform for all tests of Airflow: started once, in a PIECEWORK_HOME of its own."""

from __future__ import annotations

import os
import signal
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from piecework import config
from piecework.airflow import platform
from piecework.airflow.client import AirflowClient, PipelineRunState, TaskState
from piecework.airflow.configuration import PlatformFolder, read_json
from piecework.airflow.processes import Identity, members
from piecework.airflow.publication import publish
from piecework.config import Settings
from piecework.runners.local import LocalRunner
from piecework.runners.runner import AttemptStatus, Runner, run_id, runner_for
from piecework.spec.pool import load_pools
from tests.local.attempts import wait_for

#: Longer than anything takes on a busy machine with two cores.
PATIENCE_SECONDS = 240.0

_PROGRAMS = {
    # Says who it is, and gives back what it was told.
    "hello.py": """
        import json, os, sys
        for number in range(3):
            print("line", number, *sys.argv[1:], flush=True)
        json.dump({"args": sys.argv[1:]}, open(os.environ["PIECEWORK_RESULT"], "w"))
    """,
    # Runs until the file named by its argument is there; notes each start beside it.
    "gate.py": """
        import os, pathlib, sys, time
        gate = pathlib.Path(sys.argv[1])
        with open(f"{gate}.starts", "a") as starts:
            starts.write(os.environ["PIECEWORK_ATTEMPT"] + "\\n")
        print("at the gate", flush=True)
        while not gate.exists():
            time.sleep(0.05)
        print("through the gate", flush=True)
    """,
    # Fails as often as its argument says, then succeeds.
    "fail.py": """
        import os, sys
        number = int(os.environ["PIECEWORK_ATTEMPT"].rpartition(".")[2])
        if number <= int(sys.argv[1]):
            sys.exit(3)
    """,
}


@dataclass
class World:
    """A platform, a folder of programs, and what tests do with them."""

    settings: Settings
    code: Path
    client: AirflowClient

    @property
    def folder(self) -> PlatformFolder:
        return PlatformFolder(self.settings.home)

    def publish(self, text: str) -> str:
        """Publishes a pipeline file and waits until Airflow has read it."""
        text = textwrap.dedent(text)
        name = text.split(":", 2)[1].split()[0]
        file = self.code / f"{name}.yaml"
        file.write_text(text)
        dag_id = publish(file, self.settings)
        self.client.wait_for_dag(dag_id, timeout_seconds=PATIENCE_SECONDS)
        return dag_id

    def gate_pipeline(self, name: str, more: str = "") -> str:
        """A pipeline of one job that waits at its gate."""
        gate = self.gate(name)
        return self.publish(f"job: {name}\npython: gate.py\nargs: ['{gate}']\n{more}")

    def gate(self, name: str) -> Path:
        return self.code / f"{name}.gate"

    def starts(self, name: str) -> list[str]:
        """The attempts of a gate job whose program has started, in order."""
        file = self.code / f"{name}.gate.starts"
        return file.read_text().split() if file.exists() else []

    def request(self, dag_id: str, params: dict[str, Any] | None = None) -> str:
        return self.client.trigger(dag_id, params or {})

    def wait_for_end(self, dag_id: str, pipeline_run: str) -> PipelineRunState:
        return self.client.wait_for_run(dag_id, pipeline_run, PATIENCE_SECONDS)

    def expect(self, state: str, dag_id: str, pipeline_run: str) -> None:
        """Waits for a pipeline run's end; fails with its tasks' logs where it is another."""
        ended = self.wait_for_end(dag_id, pipeline_run)
        told = [
            "\n".join([str(task), *self.log(dag_id, pipeline_run, task.task_id, task.try_number)])
            for task in (self.client.tasks(dag_id, pipeline_run) if ended.state != state else ())
        ]
        assert ended.state == state, "\n".join(told)

    def task(self, dag_id: str, pipeline_run: str, task_id: str) -> TaskState:
        found = self.client.task(dag_id, pipeline_run, task_id)
        assert found is not None
        return found

    def log(self, dag_id: str, pipeline_run: str, task_id: str, try_number: int = 1) -> list[str]:
        return self.client.task_log(dag_id, pipeline_run, task_id, try_number).splitlines()

    @cached_property
    def runner(self) -> Runner:
        """Of the pool that jobs get which name none."""
        return runner_for(load_pools(self.settings)[self.settings.pool], self.settings)

    def attempts(self, dag_id: str, task_id: str, pipeline_run: str) -> list[AttemptStatus]:
        return self.runner.attempts(run_id(dag_id, task_id, pipeline_run))

    def wait_until_running(self, dag_id: str, task_id: str, pipeline_run: str) -> AttemptStatus:
        def running() -> AttemptStatus | None:
            found = self.attempts(dag_id, task_id, pipeline_run)
            return found[-1] if found and found[-1].state == "running" else None

        found: AttemptStatus = wait_for(running, f"{dag_id}.{task_id} to run", PATIENCE_SECONDS)
        return found

    def wait_until_ended(self, attempt: AttemptStatus) -> AttemptStatus:
        def ended() -> AttemptStatus | None:
            found = self.runner.status(attempt.attempt)
            return found if found is not None and found.state == "ended" else None

        found: AttemptStatus = wait_for(ended, f"{attempt.attempt} to end", PATIENCE_SECONDS)
        return found

    def component(self, name: str) -> Identity:
        """Who the component is, once there is one."""

        def recorded() -> Identity | None:
            known = read_json(self.folder.components).get(name, {}).get("identity")
            return Identity.from_json(known) if known else None

        found: Identity = wait_for(recorded, f"a {name}", PATIENCE_SECONDS)
        return found

    def kill(self, *names: str) -> None:
        """kill -9 of components and all that they have forked."""
        leaders = [self.component(name) for name in names]
        for leader in leaders:
            for pid in (leader.pid, *members(leader, self.folder.root)):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def kill_all(self) -> None:
        """kill -9 of the whole platform at once, as far as that goes."""
        self.kill("foreman", "triggerer", "scheduler", "dag-processor", "api-server")
        wait_for(
            lambda: platform.status(self.settings).state == "down", "its end", PATIENCE_SECONDS
        )

    def wait_until_up(self) -> None:
        wait_for(
            lambda: platform.status(self.settings).state == "up", "the platform", PATIENCE_SECONDS
        )


def patient_client(settings: Settings) -> AirflowClient:
    """A platform's client that bears a machine on which others work as well."""
    client = platform.connect(settings)
    client.timeout_seconds = PATIENCE_SECONDS
    return client


@contextmanager
def start_world(root: Path) -> Iterator[World]:
    """Brings a platform up in a folder of its own, with two cores for jobs; takes it down again."""
    code = root / "code"
    code.mkdir(parents=True)
    for name, text in _PROGRAMS.items():
        (code / name).write_text(textwrap.dedent(text))
    (code / "piecework.toml").write_text("[pools.local]\ncpus = 2\nmemory = '6Gi'\n")
    settings = config.load(
        {"PIECEWORK_HOME": str(root / "home"), "PIECEWORK_SUBMIT_ROOTS": str(code)}, code
    )
    try:
        platform.up(settings)
        yield World(settings, code, patient_client(settings))
    finally:
        end_attempts(settings)
        platform.down(settings)


def end_attempts(settings: Settings) -> None:
    """Cancels what is still running, so that a failed test leaves nothing."""
    runner = LocalRunner(settings)
    runs = settings.home / "runs"
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        for attempt in runner.attempts(folder.name):
            if attempt.state != "ended":
                runner.cancel(attempt.attempt, "the tests are over")
