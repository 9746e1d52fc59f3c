"""When a run is tried again: one budget per cause, and never for ever."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.ledger.events import Outcome
from piecework.runners.retry import next_step
from piecework.runners.runner import AttemptStatus
from piecework.spec.job import Job
from piecework.units import GIBI, Memory

OUTCOMES = st.sampled_from(list(Outcome))


def job(machine: dict[str, Any] | None = None, **retries: int) -> Job:
    return Job.model_validate({"python": "a.py", "retries": retries, "machine": machine or {}})


def ended(*outcomes: Outcome) -> list[AttemptStatus]:
    return [
        AttemptStatus(f"r.{number}", "ended", outcome=outcome, cause="it was so")
        for number, outcome in enumerate(outcomes, start=1)
    ]


def test_before_the_first_attempt_there_is_one_to_make() -> None:
    assert next_step(job(), []).ending is None


def test_a_lost_machine_does_not_use_up_the_users_retries() -> None:
    budgets = job(infrastructure=2, error=1)
    story = ended(Outcome.INTERRUPTED, Outcome.ERROR, Outcome.NEVER_STARTED)
    assert next_step(budgets, story, repeat_errors=True).ending is None
    story = ended(Outcome.INTERRUPTED, Outcome.ERROR, Outcome.NEVER_STARTED, Outcome.INTERRUPTED)
    ending = next_step(budgets, story, repeat_errors=True).ending
    assert ending is not None
    assert ending.outcome is Outcome.INTERRUPTED


def test_errors_are_left_to_airflow_unless_it_is_not_there() -> None:
    assert next_step(job(error=3), ended(Outcome.ERROR)).ending is not None
    assert next_step(job(error=3), ended(Outcome.ERROR), repeat_errors=True).ending is None


def ran_out(memory: Memory) -> AttemptStatus:
    return AttemptStatus("r.1", "ended", outcome=Outcome.OUT_OF_MEMORY, cause="-", memory=memory)


def test_memory_doubles_with_every_time_that_it_ran_out() -> None:
    asked = job({"memory": "3Gi"}, out_of_memory=2, infrastructure=1)
    story = [ran_out(Memory(3 * GIBI))]
    assert next_step(asked, story).memory == Memory(6 * GIBI)
    assert next_step(asked, story + ended(Outcome.INTERRUPTED)).memory == Memory(6 * GIBI)
    step = next_step(asked, [*story, ran_out(Memory(6 * GIBI))])
    assert step.memory == Memory(12 * GIBI)
    assert "12 GiB" in step.why


def test_a_retry_gets_more_than_the_machine_had_not_only_more_than_was_asked_for() -> None:
    asked = job({"memory": "512Mi"}, out_of_memory=1)
    assert next_step(asked, [ran_out(Memory(2 * GIBI))]).memory == Memory(4 * GIBI)


def test_a_pinned_machine_has_no_larger_one() -> None:
    step = next_step(job({"type": "m5.large"}, out_of_memory=2), ended(Outcome.OUT_OF_MEMORY))
    assert step.ending is not None
    assert "pinned" in step.why


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.CANCELLED, Outcome.TIMEOUT])
def test_what_is_over_is_over(outcome: Outcome) -> None:
    generous = job(infrastructure=9, error=9, out_of_memory=9)
    ending = next_step(generous, ended(outcome), repeat_errors=True).ending
    assert ending is not None
    assert ending.outcome is outcome


def test_an_attempt_that_still_runs_has_no_next_step() -> None:
    with pytest.raises(ValueError, match="not ended"):
        next_step(job(), [AttemptStatus("r.1", "running")])


@given(
    st.lists(OUTCOMES, max_size=30),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 5),
    st.booleans(),
)
def test_no_run_is_tried_more_often_than_its_budgets_add_up_to(
    fate: list[Outcome], infrastructure: int, error: int, out_of_memory: int, repeat: bool
) -> None:
    budgets = job(infrastructure=infrastructure, error=error, out_of_memory=out_of_memory)
    tried: list[Outcome] = []
    for outcome in fate:
        if next_step(budgets, ended(*tried), repeat_errors=repeat).ending is not None:
            break
        tried.append(outcome)
    assert len(tried) <= 1 + infrastructure + out_of_memory + (error if repeat else 0)
    final = next_step(budgets, ended(*tried), repeat_errors=repeat).ending
    if final is not None:
        assert final.outcome is tried[-1]
        assert final.cause == "it was so"
