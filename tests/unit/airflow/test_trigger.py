"""A task's trigger: looks when it is told of a change, tells how the run ended, never polls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import TaskSuccessEvent, TriggerEvent

from piecework.airflow.assignment import MACHINE_POOL
from piecework.airflow.trigger import REFUSALS, JobTrigger
from piecework.errors import ClusterError, RunnerError
from piecework.ledger.events import Outcome
from piecework.runners.runner import AttemptRequest, AttemptStatus, Runner
from piecework.spec.pool import Pool
from tests.unit.airflow.test_following import Recorder


@dataclass
class Telling(Recorder):
    """A runner of a cluster: it tells whoever listens, and counts the looks."""

    looks: int = 0
    listeners: list[Callable[[], object]] = field(default_factory=list)
    refusal: Exception | None = None

    def start(self, request: AttemptRequest) -> AttemptStatus:
        if self.refusal is not None:
            raise self.refusal
        return super().start(request)

    def attempts(self, run: str) -> list[AttemptStatus]:
        self.looks += 1
        return super().attempts(run)

    def listen(self, run: str, tell: Callable[[], object], tell_log: Callable[[], object]) -> Any:
        self.listeners.append(tell)
        return lambda: self.listeners.remove(tell)

    def end(self, outcome: Outcome, **more: Any) -> None:
        self.known[-1] = replace(self.known[-1], state="ended", outcome=outcome, **more)
        for tell in list(self.listeners):
            tell()


class Trigger(JobTrigger):
    """With a runner that the test has made."""

    trouble_seconds = 0.01

    def __init__(self, runner: Runner, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.given = runner
        self.task_instance: Any = SimpleNamespace(
            dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, id="1"
        )

    def find_runner(self, pool: Pool) -> Runner:
        return self.given


def make(runner: Runner, **more: Any) -> Trigger:
    settings: dict[str, Any] = {
        "job_name": "t",
        "document": {"machine": {"cpu": 1}},
        "engine": "python",
        "program": {"run": "a.py"},
        "args": [],
        "env": {},
        "code": "/code",
        "pipeline": None,
        "params_spec": None,
        "values": {},
        "max_tries": 0,
        "resume": True,
    }
    return Trigger(runner, **(settings | more))


async def follow(trigger: Trigger) -> TriggerEvent:
    events = [event async for event in trigger.run()]
    assert len(events) == 1
    return events[0]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_airflow(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(home / "airflow"))
    monkeypatch.setenv("PIECEWORK_AIRFLOW_URL", "http://127.0.0.1:9")


def test_a_waiting_run_is_looked_at_only_when_something_has_changed() -> None:
    runner = Telling()

    async def scene() -> tuple[int, Any]:
        following = asyncio.create_task(follow(make(runner)))
        await until(lambda: runner.known and runner.listeners)
        await asyncio.sleep(1.0)
        looks = runner.looks
        runner.end(Outcome.SUCCESS, result={"n": 1}, exit_code=0)
        event = await following
        await until(lambda: runner.acknowledged)
        return looks, event.payload

    looks, payload = asyncio.run(scene())
    assert looks == 1
    assert (payload["outcome"], payload["result"], payload["final"]) == ("success", {"n": 1}, True)
    assert runner.acknowledged == ["d.t." + runner.known[0].attempt.split(".")[2] + ".1"]
    assert not runner.listeners


def test_a_success_ends_without_a_worker_where_none_is_needed_and_a_failure_with_one() -> None:
    async def scene(outcome: Outcome) -> TriggerEvent:
        runner = Telling()
        following = asyncio.create_task(follow(make(runner, success_resumes=False)))
        await until(lambda: runner.known and runner.listeners)
        runner.end(outcome, cause="why", exit_code=3)
        return await following

    assert isinstance(asyncio.run(scene(Outcome.SUCCESS)), TaskSuccessEvent)
    payload = asyncio.run(scene(Outcome.ERROR)).payload
    assert isinstance(payload, dict)
    assert (payload["outcome"], payload["final"], payload["exit_code"]) == ("error", True, 3)


class _RefusedError(ClusterError):
    retryable = False


def test_a_pod_that_the_cluster_refuses_fails_the_task_and_a_full_quota_is_waited_for() -> None:
    async def scene(message: str) -> Any:
        runner = Telling()
        runner.refusal = RunnerError(message)
        runner.refusal.__cause__ = _RefusedError(message)
        following = asyncio.create_task(follow(make(runner)))
        if "quota" in message:
            await until(lambda: runner.looks > REFUSALS + 1)
            runner.refusal = None
            await until(lambda: runner.known and runner.listeners)
            runner.end(Outcome.SUCCESS)
        return (await following).payload

    refused = asyncio.run(scene("forbidden: violates PodSecurity"))
    assert (refused["outcome"], refused["cause"]) == (
        "never-started",
        "forbidden: violates PodSecurity",
    )
    assert asyncio.run(scene("forbidden: exceeded quota: pods"))["outcome"] == "success"


def test_a_pipeline_run_may_be_asked_for_on_another_machine_pool() -> None:
    async def scene() -> tuple[Trigger, Any]:
        runner = Telling()
        trigger = make(
            runner,
            params_spec={"year": {"default": 2013}},
            values=None,
            document={"machine": {"cpu": 1}, "pool": "burst"},
        )
        asked = SimpleNamespace(conf={"year": 2014, MACHINE_POOL: "local"})
        trigger.render_template_fields({"ds": "2026-11-23", "dag_run": asked, "params": {}})
        following = asyncio.create_task(follow(trigger))
        await until(lambda: runner.known and runner.listeners)
        runner.end(Outcome.SUCCESS)
        return trigger, (await following).payload

    trigger, payload = asyncio.run(scene())
    assert payload["outcome"] == "success"
    assert trigger.assignment is not None
    assert trigger.assignment.job.pool == "local"
    assert trigger.assignment.params == {"year": 2014}


def test_a_result_that_is_lost_fails_the_task_and_says_so() -> None:
    async def scene() -> Any:
        runner = Telling()
        following = asyncio.create_task(follow(make(runner)))
        await until(lambda: runner.known and runner.listeners)
        runner.end(Outcome.SUCCESS, lost="its result cannot be read")
        return (await following).payload

    payload = asyncio.run(scene())
    assert (payload["outcome"], payload["cause"]) == ("error", "its result cannot be read")
    assert payload["final"] is True
