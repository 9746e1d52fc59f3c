"""One run followed from a task: which attempts are whose, when the next starts, how it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from piecework.airflow.assignment import Assignment
from piecework.airflow.following import advance
from piecework.config import Settings, load
from piecework.errors import PieceworkError
from piecework.ledger.events import Outcome
from piecework.plan.reserve import Usable
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner
from piecework.spec.job import Job
from piecework.spec.pool import Pool


@dataclass
class Recorder:
    """A runner that keeps what it is asked for."""

    known: list[AttemptStatus] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    requests: list[AttemptRequest] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)

    def start(self, request: AttemptRequest) -> AttemptStatus:
        self.requests.append(request)
        status = AttemptStatus(request.attempt, "waiting", owner=request.owner)
        self.known.append(status)
        return status

    def status(self, attempt: str) -> AttemptStatus | None:
        return next((found for found in self.known if found.attempt == attempt), None)

    def attempts(self, run: str) -> list[AttemptStatus]:
        return list(self.known)

    def cancel(self, attempt: str, cause: str) -> None:
        self.cancelled.append(attempt)

    def read_log(self, attempt: str, offset: int, limit: int = 1 << 20) -> bytes:
        return b""

    def wait_for_change(self, run: str, timeout_seconds: float) -> None:
        return

    def acknowledge(self, attempt: str) -> None:
        self.acknowledged.append(attempt)

    def listen(self, run: str, tell: Callable[[], object], tell_log: Callable[[], object]) -> None:
        return


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def assign(try_number: int = 1, max_tries: int = 0, **job: object) -> Assignment:
    return Assignment(
        run="p.j.1",
        job_name="j",
        job=Job.model_validate({"python": "a.py", **job}),
        code=Path("/code"),
        data="/data",
        owner=Owner("airflow", "p", "r", "j", -1, max_tries, try_number),
        pipeline="p",
        pipeline_run="r",
    )


def attempt(
    number: int, outcome: Outcome | None, try_number: int = 1, max_tries: int = 0
) -> AttemptStatus:
    return AttemptStatus(
        f"p.j.1.{number}",
        "running" if outcome is None else "ended",
        outcome=outcome,
        cause="a cause",
        result={"n": number},
        owner=Owner("airflow", "p", "r", "j", -1, max_tries, try_number),
    )


def numbers(requests: Sequence[AttemptRequest]) -> list[int]:
    return [request.number for request in requests]


def test_the_first_look_starts_the_first_attempt_and_the_next_ones_only_watch(
    settings: Settings,
) -> None:
    runner = Recorder()
    for _ in range(3):
        assert advance(assign(), runner, settings).ending is None
    assert numbers(runner.requests) == [1]


def test_a_living_attempt_of_an_earlier_try_is_followed(settings: Settings) -> None:
    runner = Recorder([attempt(1, None, try_number=1)])
    progress = advance(assign(try_number=2), runner, settings)
    assert progress.latest is not None
    assert progress.latest.attempt == "p.j.1.1"
    assert not runner.requests
    assert not runner.cancelled


def test_a_success_of_an_earlier_try_is_taken_and_not_run_again(settings: Settings) -> None:
    runner = Recorder([attempt(1, Outcome.SUCCESS, try_number=1)])
    ending = advance(assign(try_number=2), runner, settings).ending
    assert ending is not None
    assert (ending.outcome, ending.result) == (Outcome.SUCCESS, {"n": 1})
    assert not runner.requests


@pytest.mark.parametrize("outcome", list(Outcome))
def test_after_a_clear_nothing_that_was_before_counts(settings: Settings, outcome: Outcome) -> None:
    runner = Recorder([attempt(1, outcome, max_tries=0)])
    assert advance(assign(try_number=2, max_tries=1), runner, settings).ending is None
    assert numbers(runner.requests) == [2]


def test_after_a_clear_a_living_attempt_is_ended_before_the_next_starts(
    settings: Settings,
) -> None:
    runner = Recorder([attempt(1, None, max_tries=0)])
    anew = assign(try_number=2, max_tries=1)
    advance(anew, runner, settings)
    advance(anew, runner, settings)
    assert set(runner.cancelled) == {"p.j.1.1"}
    assert not runner.requests
    runner.known[0] = replace(runner.known[0], state="ended", outcome=Outcome.CANCELLED)
    advance(anew, runner, settings)
    assert numbers(runner.requests) == [2]


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.NEVER_STARTED])
def test_infrastructure_is_retried_within_the_same_try(
    settings: Settings, outcome: Outcome
) -> None:
    runner = Recorder([attempt(1, outcome)])
    once = assign(retries={"infrastructure": 1})
    assert advance(once, runner, settings).ending is None
    assert numbers(runner.requests) == [2]
    runner.known[-1] = attempt(2, outcome)
    ending = advance(once, runner, settings).ending
    assert ending is not None
    assert (ending.outcome, ending.final) == (outcome, True)


def test_after_out_of_memory_the_next_attempt_gets_twice_as_much(settings: Settings) -> None:
    runner = Recorder([attempt(1, Outcome.OUT_OF_MEMORY)])
    more = assign(retries={"out_of_memory": 1}, machine={"memory": "2Gi"})
    advance(more, runner, settings)
    (request,) = runner.requests
    assert request.plan.instance_type.memory.bytes >= 4 * 2**30


def test_an_error_ends_the_try_and_the_next_try_starts_another_attempt(settings: Settings) -> None:
    runner = Recorder([attempt(1, Outcome.ERROR)])
    ending = advance(assign(retries=1), runner, settings).ending
    assert ending is not None
    assert not ending.final
    assert advance(assign(try_number=2, retries=1), runner, settings).ending is None
    assert numbers(runner.requests) == [2]
    runner.known[-1] = attempt(2, Outcome.ERROR, try_number=2)
    ending = advance(assign(try_number=2, retries=1), runner, settings).ending
    assert ending is not None
    assert ending.final
    # More tries of the task, which lost workers bring, don't bring more attempts.
    assert advance(assign(try_number=3, retries=1), runner, settings).ending == ending


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.CANCELLED])
def test_what_is_over_for_good_is_not_tried_again_by_another_try(
    settings: Settings, outcome: Outcome
) -> None:
    runner = Recorder([attempt(1, outcome)])
    ending = advance(assign(try_number=2, retries=5), runner, settings).ending
    assert ending is not None
    assert (ending.outcome, ending.final) == (outcome, True)
    assert not runner.requests


def test_a_pool_that_is_not_there_is_told_with_those_that_are(settings: Settings) -> None:
    with pytest.raises(PieceworkError, match="'nowhere', which is not configured; there are local"):
        advance(assign(pool="nowhere"), Recorder(), settings)


def _nothing(pool: Pool) -> dict[str, Usable]:
    return {}


def test_on_a_cluster_each_try_numbers_its_attempts_anew_because_old_pods_are_gone(
    home: Path,
) -> None:
    home.mkdir()
    pool = "[pools.bought]\nprovider = 'karpenter'\nkubeconfig = '/nowhere'\nimage = 'python:1'\n"
    (home / "piecework.toml").write_text(f"pool = 'bought'\n{pool}")
    runner = Recorder()
    advance(assign(try_number=1), runner, load(), learn=_nothing)
    runner.known.clear()
    advance(assign(try_number=3, max_tries=2), runner, load(), learn=_nothing)
    runner.known.append(attempt(2001, Outcome.INTERRUPTED, try_number=3, max_tries=2))
    runner.known.pop(0)
    advance(assign(try_number=3, max_tries=2), runner, load(), learn=_nothing)
    assert numbers(runner.requests) == [1, 2001, 2002]
