"""Machine pools: where machines come from, as configured in piecework.toml under [pools.NAME]."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from piecework.config import Settings
from piecework.errors import ConfigError, show
from piecework.spec.machine import InstanceTypeField
from piecework.spec.model import (
    CpuField,
    DurationField,
    MemoryField,
    Model,
    Name,
    Whole,
    message_of,
)
from piecework.spec.tree import field_path
from piecework.spec.wording import describe, suggest

Price = Annotated[Decimal, Field(ge=0, le=1_000_000, allow_inf_nan=False)]


class Pool(Model):
    """A kind of machine that can be bought: provider, types, limits, prices."""

    name: Name = Field(description="The pool's name: the table's, in piecework.toml.")
    provider: Literal["local"] = Field("local", description="Who the machines come from.")
    types: tuple[InstanceTypeField, ...] | None = Field(
        None, description="Instance types that may be bought."
    )
    max_machines: Whole | None = Field(
        None, ge=1, description="How many machines there may be at a time."
    )
    prices: dict[InstanceTypeField, Price] | None = Field(
        None, description="USD per hour by instance type, instead of the shipped snapshot."
    )
    cpus: CpuField | None = Field(None, description="local: CPUs of this host that jobs may have.")
    memory: MemoryField | None = Field(None, description="local: memory that jobs may have.")
    keep: DurationField | None = Field(
        None, description="How long an idle machine is kept for the next run beyond its minimum."
    )


def load_pools(settings: Settings) -> dict[str, Pool]:
    """The pools by name; always one named "local".

    Raises ConfigError with all that is wrong with them, a line each.
    """
    file = settings.file or "piecework.toml"
    pools = {"local": Pool(name="local")}
    wrong: list[str] = []
    for name, table in settings.pools.items():
        if not isinstance(table, Mapping):
            found = f"found {describe(table)}; a pool is a table, like [pools.local]"
            wrong.append(f"{file}: pools.{name}: {found}")
            continue
        data: dict[str, Any] = {"name": name, **table}
        if data["name"] != name:
            found = f"found {show(data['name'])}; the table's name, {name}, is the pool's"
            wrong.append(f"{file}: pools.{name}.name: {found}")
            continue
        try:
            pools[name] = Pool.model_validate(data)
        except ValidationError as error:
            wrong += [
                f"{file}: {field_path(('pools', name, *found['loc']))}: {message_of(found)}"
                for found in error.errors(include_url=False)
            ]
    if not wrong and settings.pool not in pools:
        wrong.append(f"{file}: pool: found {show(settings.pool)}; {suggest(settings.pool, pools)}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return pools
