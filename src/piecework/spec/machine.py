"""The machine that a job asks for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from piecework.spec.model import CpuField, MemoryField, Model


class Machine(Model):
    """What the machine must have, at least: its nameplate. The cheapest one that fits is taken."""

    cpu: CpuField | None = Field(None, description="At least this many vCPUs.")
    memory: MemoryField | None = Field(None, description="At least this much memory, like 16Gi.")
    gpu: int = Field(0, ge=0, le=64, description="At least this many GPUs.")
    count: int = Field(1, ge=1, le=1000, description="How many machines: more than one is a gang.")
    spot: Literal["never", "prefer", "only"] = Field(
        "never", description="Whether spot capacity may, or must, be bought."
    )
    arch: Literal["amd64", "arm64"] = Field("amd64", description="The image's architecture.")
    burstable: bool = Field(False, description="Whether burstable types will do.")
    type: str | None = Field(
        None, min_length=1, max_length=64, description="Exactly this instance type."
    )
