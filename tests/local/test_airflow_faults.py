"""Users and faults under running jobs: nothing is lost or doubled, nothing killed succeeds."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from piecework.airflow import platform
from piecework.airflow.processes import boot_id
from piecework.ledger.events import Outcome
from piecework.runners.folder import folder_of
from tests.local.airflow_platform import PATIENCE_SECONDS, World, end_attempts
from tests.local.attempts import wait_for

pytestmark = pytest.mark.layer("airflow")


@pytest.fixture(autouse=True)
def _machines_are_free_afterwards(world: World) -> Iterator[None]:
    """A test that fails leaves no job that keeps the next one waiting."""
    yield
    end_attempts(world.settings)


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_task_that_is_marked_by_hand_ends_its_job(world: World, state: str) -> None:
    name = f"marked-{state}"
    dag = world.gate_pipeline(name, "retries: 3\n")
    run = world.request(dag)
    attempt = world.wait_until_running(dag, name, run)
    world.client.mark_task(dag, run, name, state)
    assert world.wait_until_ended(attempt).outcome is Outcome.CANCELLED
    world.expect(state, dag, run)
    assert world.task(dag, run, name).state == state
    assert len(world.attempts(dag, name, run)) == 1


def test_a_pipeline_run_that_is_cancelled_and_deleted_ends_its_job(world: World) -> None:
    dag = world.gate_pipeline("deleted")
    run = world.request(dag)
    attempt = world.wait_until_running(dag, "deleted", run)
    world.client.cancel(dag, run)
    world.client.delete_run(dag, run)  # Airflow deletes no running ones
    assert world.wait_until_ended(attempt).outcome is Outcome.CANCELLED


def test_a_cleared_task_runs_anew_whether_it_was_running_or_over(world: World) -> None:
    dag = world.gate_pipeline("cleared")
    run = world.request(dag)
    first = world.wait_until_running(dag, "cleared", run)
    world.client.clear_task(dag, run, "cleared")
    assert world.wait_until_ended(first).outcome is Outcome.CANCELLED

    def second_runs() -> bool:
        found = world.attempts(dag, "cleared", run)
        return len(found) == 2 and found[-1].state == "running"

    wait_for(second_runs, "the second attempt", PATIENCE_SECONDS)
    world.gate("cleared").touch()
    world.expect("success", dag, run)
    _, second = world.attempts(dag, "cleared", run)
    assert second.started_at is not None
    ended = world.wait_until_ended(first).ended_at
    assert ended is not None
    assert ended <= second.started_at  # never two at the same time

    world.client.clear_task(dag, run, "cleared")
    wait_for(lambda: len(world.starts("cleared")) == 3, "the third attempt", PATIENCE_SECONDS)
    world.expect("success", dag, run)
    outcomes = [found.outcome for found in world.attempts(dag, "cleared", run)]
    assert outcomes == [Outcome.CANCELLED, Outcome.SUCCESS, Outcome.SUCCESS]


def test_a_job_outlives_whatever_is_killed_around_it_and_is_found_again(world: World) -> None:
    dag = world.gate_pipeline("outliving")
    run = world.request(dag)
    attempt = world.wait_until_running(dag, "outliving", run)

    for name in ("triggerer", "scheduler"):
        before = world.component(name)
        world.kill(name)
        while world.component(name) == before:
            time.sleep(0.1)
    world.wait_until_up()
    world.kill_all()
    platform.up(world.settings)
    platform.down(world.settings)
    assert platform.status(world.settings).state == "down"
    platform.up(world.settings)

    assert world.task(dag, run, "outliving").state == "deferred"
    world.gate("outliving").touch()
    world.expect("success", dag, run)
    assert world.task(dag, run, "outliving").try_number == 1
    assert world.starts("outliving") == [attempt.attempt]
    log = world.log(dag, run, "outliving")
    assert log.count("at the gate") == 1
    assert log.count("through the gate") == 1
    assert log.index("at the gate") < log.index("through the gate")


def test_a_job_that_ends_while_airflow_is_away_is_reported_and_not_run_again(world: World) -> None:
    good, bad = (
        world.gate_pipeline("away"),
        world.publish("job: late\npython: fail.py\nargs: ['9']\n"),
    )
    run = world.request(good)
    attempt = world.wait_until_running(good, "away", run)
    world.kill_all()
    world.gate("away").touch()
    assert world.wait_until_ended(attempt).outcome is Outcome.SUCCESS
    platform.up(world.settings)
    world.expect("success", good, run)
    assert world.starts("away") == [attempt.attempt]
    world.expect("failed", bad, world.request(bad))


def test_after_a_reboot_the_run_goes_on_with_another_attempt(world: World) -> None:
    dag = world.gate_pipeline("rebooted")
    run = world.request(dag)
    attempt = world.wait_until_running(dag, "rebooted", run)
    world.kill_all()
    folder = folder_of(world.settings.home, attempt.attempt)
    assert folder is not None
    os.kill(json.loads(folder.supervisor.read_text())["pid"], signal.SIGKILL)
    recorded = world.folder.components.read_text()
    world.folder.components.write_text(recorded.replace(boot_id(), "another boot"))
    world.gate("rebooted").touch()
    platform.up(world.settings)
    world.expect("success", dag, run)
    outcomes = [found.outcome for found in world.attempts(dag, "rebooted", run)]
    assert outcomes == [Outcome.INTERRUPTED, Outcome.SUCCESS]
    assert world.task(dag, run, "rebooted").try_number == 1


def test_up_at_the_same_time_starts_one_platform(world: World) -> None:
    platform.down(world.settings)
    found: list[str | None] = []
    callers = [
        threading.Thread(target=lambda: found.append(platform.up(world.settings).url))
        for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_SECONDS)
    foreman = world.component("foreman")
    assert len(found) == 2
    assert len(set(found)) == 1
    assert platform.up(world.settings).state == "up"
    assert world.component("foreman") == foreman
