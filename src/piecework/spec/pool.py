"""Machine pools: where machines come from, as configured in piecework.toml under [pools.NAME]."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from piecework.spec.model import CpuField, DurationField, MemoryField, Model, Name


class Pool(Model):
    """A kind of machine that can be bought: provider, types, limits, prices."""

    name: Name
    provider: Literal["local"] = "local"
    types: tuple[str, ...] | None = Field(None, description="Instance types that may be bought.")
    max_machines: int | None = Field(None, ge=1)
    prices: dict[str, Decimal] | None = Field(
        None, description="USD per hour by instance type, instead of the shipped snapshot."
    )
    cpus: CpuField | None = Field(None, description="local: CPUs of this host that jobs may have.")
    memory: MemoryField | None = Field(None, description="local: memory that jobs may have.")
    keep: DurationField | None = Field(
        None, description="How long an idle machine is kept for the next run beyond its minimum."
    )
