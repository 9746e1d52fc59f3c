"""Plans in sentences."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

from piecework.config import Settings
from piecework.plan.choose import plan_job
from piecework.plan.explain import explain
from piecework.plan.plan import History, Host
from piecework.plan.price import load_price_book
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from piecework.units import Memory

LIST = "AWS price list, us-east-1, Linux, on demand, 2026-07-20"


def say(
    machine: dict[str, Any],
    *,
    pool: Pool | None = None,
    host: Host | None = None,
    history: History | None = None,
    timeout: str | None = None,
) -> list[str]:
    raw = {"python": "jobs/delays.py", "machine": machine, "timeout": timeout}
    return explain(
        plan_job(
            "delays",
            Job.model_validate(raw),
            pool=pool or Pool(name="local"),
            prices=load_price_book(),
            settings=Settings(home=Path("/nowhere"), ledger_url="sqlite://"),
            host=host,
            history=history,
        )
    )


def test_the_machine_its_price_and_the_estimate_are_told_first() -> None:
    told = say({"cpu": 2, "memory": "4Gi"}, timeout="1h")
    assert told[:3] == [
        "delays: c6a.large (2 vCPUs, 4 GiB) of pool local, the cheapest with 2 vCPUs and 4 GiB.",
        f"$0.0765/h ({LIST}), as if it were bought there; at least 1m are paid.",
        "Estimate: $0.0013 to $0.076, were it to use its timeout of 1h.",
    ]


def test_the_basis_of_the_estimate_is_told() -> None:
    machine = {"type": "m5.large"}
    assert "Estimate: $0.0032 to $0.096, as its last 2 runs." in say(
        machine, history=History.of([120, 3600])
    )
    assert "Estimate: $0.0032, as its last run." in say(machine, history=History.of([120]))
    assert "Estimate: $0.096/h; it has neither past runs nor a timeout." in say(machine)


def test_what_is_usable_on_a_small_host_is_told() -> None:
    told = say({"cpu": 8, "memory": "16Gi"}, host=Host(1, Memory.parse("2Gi")))
    assert "Usable: 1 vCPU, 2 GiB." in told
    assert any(text.startswith("Note: this host is smaller than c6a.2xlarge") for text in told)


def test_each_machine_of_a_gang_has_the_price_that_is_told() -> None:
    told = say({"type": "m5.large", "count": 2})
    assert told[0].startswith("delays: 2 x m5.large (2 vCPUs, 8 GiB)")
    assert told[1].startswith("$0.096/h each (")
    assert "Usable of each machine: 2 vCPUs, 8 GiB." in told
    assert "Estimate: $0.192/h; it has neither past runs nor a timeout." in told


def test_an_unpriced_machine_is_called_so() -> None:
    pool = Pool(name="own", prices={"m5.large": Decimal("0.05")})
    told = say({"type": "c5.large"}, pool=pool)
    assert "Unpriced (prices of pool own): its cost will be unknown." in told
    assert "Estimate: none without a price." in told
    assert not any("$0.00" in text for text in told)


def test_others_are_told_last_with_their_reasons() -> None:
    told = say({"cpu": 2, "memory": "4Gi"})
    assert "Not c5a.large: fits, but costs $0.0005/h more." in told
    assert told[-1] == "Not 1092 others: 4 cheaper and too small, 1088 dearer or of another kind."
