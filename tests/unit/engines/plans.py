"""Plans for tests of engines."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Any

from piecework.plan.plan import Estimate, InstanceType, Plan
from piecework.spec.job import Job
from piecework.units import Memory


def make_plan(**job: Any) -> Plan:
    """The plan of a job with these fields, on a machine of 2 cores and 4 GiB."""
    memory = Memory.parse("4Gi")
    return Plan(
        job_name="clean",
        job=Job.model_validate(job),
        pool="local",
        provider="local",
        instance_type=InstanceType("c", "amd64", 2, memory, 0, None, "test", None),
        count=1,
        cpus=Decimal(2),
        memory=memory,
        gpus=0,
        price_per_hour=None,
        minimum=timedelta(seconds=60),
        timeout=timedelta(hours=1),
        deadline=timedelta(hours=2),
        estimate=Estimate("price", None, None),
    )
