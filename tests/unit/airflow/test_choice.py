"""The next attempt's machine: other capacity after it failed, and what more memory costs."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from piecework.airflow.choice import choose_machine
from piecework.config import Settings, load
from piecework.ledger.events import Outcome
from piecework.plan.reserve import Usable
from piecework.runners.runner import AttemptStatus
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from piecework.units import Memory

KARPENTER = Pool(name="k", provider="karpenter", types=("m6a.large", "m6a.4xlarge"))
GROUPS = Pool.model_validate(
    {
        "name": "g",
        "provider": "asg",
        "groups": [{"name": "a", "type": "m6a.large"}, {"name": "b", "type": "m6a.4xlarge"}],
    }
)


@pytest.fixture
def settings(home: Path) -> Settings:
    return load()


def job(**machine: object) -> Job:
    return Job.model_validate({"container": {"image": "a"}, "machine": {"cpu": 2, **machine}})


def ended(outcome: Outcome, *machines: str) -> AttemptStatus:
    return AttemptStatus("a.b.1.1", "ended", outcome=outcome, cause="why", machines=machines)


def test_after_an_interruption_a_job_that_only_prefers_spot_runs_on_demand(
    settings: Settings,
) -> None:
    first = choose_machine("j", job(spot="prefer"), KARPENTER, settings)
    again = choose_machine(
        "j", job(spot="prefer"), KARPENTER, settings, [ended(Outcome.INTERRUPTED, "m")]
    )
    assert (first.plan.spot, again.plan.spot) == ("prefer", "never")
    assert again.said == ("it was interrupted, so this attempt runs on demand",)
    only = choose_machine(
        "j", job(spot="only"), KARPENTER, settings, [ended(Outcome.INTERRUPTED, "m")]
    )
    assert only.plan.spot == "only"


@pytest.mark.parametrize("pool", [KARPENTER, GROUPS])
def test_a_type_of_which_there_was_none_is_left_out_as_long_as_another_fits(
    settings: Settings, pool: Pool
) -> None:
    none = ended(Outcome.NEVER_STARTED)
    types = [
        choose_machine("j", job(), pool, settings, [none] * times).plan.instance_type.name
        for times in range(3)
    ]
    assert types == ["m6a.large", "m6a.4xlarge", "m6a.4xlarge"]


def test_an_image_that_could_not_be_pulled_is_no_reason_for_another_machine(
    settings: Settings,
) -> None:
    pulled = ended(Outcome.NEVER_STARTED, "machine-1")
    assert choose_machine("j", job(), KARPENTER, settings, [pulled]).said == ()


def test_more_memory_is_told_with_its_price(settings: Settings) -> None:
    more = choose_machine("j", job(), KARPENTER, settings, memory_at_least=Memory.parse("14Gi"))
    assert more.plan.instance_type.name == "m6a.4xlarge"
    (said,) = more.said
    assert (
        said == "more memory: m6a.4xlarge at $0.69 an hour instead of m6a.large at $0.086 an hour"
    )


def test_what_was_learned_of_machines_counts(settings: Settings) -> None:
    learned = {"m6a.large": Usable(Decimal("1.5"), Memory.parse("4Gi"))}
    plan = choose_machine("j", job(), KARPENTER, settings, learned=learned).plan
    assert plan.instance_type.name == "m6a.large"
    assert (plan.cpus, plan.memory.rounded()) == (Decimal("1.5"), "4 GiB")
