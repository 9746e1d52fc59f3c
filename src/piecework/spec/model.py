"""What all models of the spec share: strictness, and fields that read units.

One pydantic model stands behind YAML, Python and the JSON Schema.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

from piecework.units import Memory, format_cpu, format_duration, parse_cpu, parse_duration


class Model(BaseModel):
    """Frozen, and strict: an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def _memory(value: Any) -> Memory:
    return Memory.parse(value)


MemoryField = Annotated[
    Memory,
    BeforeValidator(_memory),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["4Gi", "512Mi"]}),
]
CpuField = Annotated[
    Decimal,
    BeforeValidator(parse_cpu),
    PlainSerializer(format_cpu, return_type=str),
    WithJsonSchema({"type": ["number", "string"], "examples": [2, 0.5, "500m"]}),
]
DurationField = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": ["string", "number"], "examples": ["45m", "2h", "1h30m"]}),
]
#: Names of jobs, pipelines, teams and pools: they become parts of folders, labels and DAG ids.
NAME_PATTERN = r"^[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?$"
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
