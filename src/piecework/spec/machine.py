"""The machine that a job asks for."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field

from piecework.errors import show
from piecework.spec.model import CpuField, MemoryField, Model, Truth, Whole, check_plain
from piecework.units import Memory

_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _check_type(value: str) -> str:
    check_plain(value)
    if not _TYPE.fullmatch(value):
        raise ValueError(f"found {show(value)}; an instance type is written like m7a.large")
    return value


InstanceTypeField = Annotated[str, AfterValidator(_check_type)]


class Machine(Model):
    """What the machine must have, at least: its nameplate. The cheapest one that fits is taken."""

    cpu: CpuField | None = Field(None, description="At least this many vCPUs, like 2 or 500m.")
    memory: MemoryField | None = Field(None, description="At least this much memory, like 16Gi.")
    gpu: Whole = Field(0, ge=0, le=64, description="At least this many GPUs.")
    count: Whole = Field(
        1, ge=1, le=1000, description="How many machines: more than one is a gang."
    )
    spot: Literal["never", "prefer", "only"] = Field(
        "never", description="Whether spot capacity may, or must, be bought."
    )
    arch: Literal["amd64", "arm64"] = Field("amd64", description="The image's architecture.")
    burstable: Truth = Field(
        False, description="Whether types will do that run at full speed only for a while."
    )
    type: InstanceTypeField | None = Field(
        None, description="Exactly this instance type, like m7a.large."
    )

    if TYPE_CHECKING:
        # What may be written, for type checkers and editors; pydantic's own takes what is stored.
        def __init__(
            self,
            *,
            cpu: int | float | str | Decimal | None = None,
            memory: int | str | Memory | None = None,
            gpu: int = 0,
            count: int = 1,
            spot: Literal["never", "prefer", "only"] = "never",
            arch: Literal["amd64", "arm64"] = "amd64",
            burstable: bool = False,
            type: str | None = None,  # noqa: A002 - the field's name
        ) -> None: ...
