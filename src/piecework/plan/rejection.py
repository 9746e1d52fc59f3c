"""Why other machines were not chosen: the few that tell something, not a thousand rows.

Told are the nearest cheaper ones that are too small, the cheapest that something else forbids
(architecture, burstable, the pool's types, a pinned type, no price), and the nearest dearer ones.
The rest is counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal

from piecework.plan.plan import InstanceType, Rejection
from piecework.plan.request import Request, describe_shortfall, find_exclusions, is_large_enough

_NEAREST = 3


def explain_rejections(
    request: Request, chosen: InstanceType, cheapest_first: Iterable[InstanceType]
) -> tuple[Rejection, ...]:
    """The telling rejections, cheapest first, and at last how many others there are."""
    pinned = request.type
    if pinned is not None:
        # What would be taken instead of the pinned type, for what the pinned type gives?
        request = replace(
            request,
            type=None,
            cpus=Decimal(chosen.vcpus),
            memory=chosen.memory,
            gpus=chosen.gpus,
            burstable=chosen.burstable,
        )
    too_small: list[InstanceType] = []
    dearer: list[InstanceType] = []
    unpriced: list[InstanceType] = []
    forbidden: dict[str, InstanceType] = {}
    others = -1  # the chosen one is not another
    for machine in cheapest_first:
        others += 1
        priced = machine.usd_per_hour is not None
        # The dearer ones are most of the list, and three of them tell enough.
        if (priced and len(dearer) == _NEAREST) or (unpriced and not priced):
            continue
        cheaper = _is_cheaper(machine, chosen)
        large_enough = is_large_enough(request, machine)
        if machine.name == chosen.name or not (cheaper or large_enough):
            continue
        exclusions = find_exclusions(request, machine)
        if pinned and cheaper and not exclusions:
            exclusions = [f"the job pins {pinned}"]
        if exclusions:
            # With two reasons against it, changing one would not get the job this machine.
            if cheaper and large_enough and len(exclusions) == 1:
                forbidden.setdefault(exclusions[0], machine)
        elif not large_enough:
            too_small.append(machine)
        else:
            (dearer if priced else unpriced).append(machine)
    told = [
        *(_reject_small(request, machine) for machine in too_small[-_NEAREST:]),
        *(_reject(machine, reason) for reason, machine in forbidden.items()),
        *(_reject_unpriced(machine, chosen) for machine in unpriced),
        *(_reject_dearer(machine, chosen) for machine in dearer),
    ]
    rest = others - len(told)
    if rest > 0:
        told.append(Rejection(f"{rest} others", _count(len(too_small[:-_NEAREST]), rest)))
    return tuple(told)


def _is_cheaper(machine: InstanceType, chosen: InstanceType) -> bool:
    if machine.usd_per_hour is None:
        return False
    return chosen.usd_per_hour is None or machine.usd_per_hour < chosen.usd_per_hour


def format_hourly(usd: Decimal | None) -> str:
    """An hourly price for people, exact, as price lists are read: $0.0765/h."""
    if usd is None:
        return "unpriced"
    places = max(2, -int(usd.normalize().as_tuple().exponent))
    return f"${usd.quantize(Decimal(1).scaleb(-places)):,f}/h"


def _reject(machine: InstanceType, reason: str) -> Rejection:
    return Rejection(machine.name, f"{format_hourly(machine.usd_per_hour)}, but {reason}")


def _reject_small(request: Request, machine: InstanceType) -> Rejection:
    return _reject(machine, f"has {describe_shortfall(request, machine)}")


def _reject_unpriced(machine: InstanceType, chosen: InstanceType) -> Rejection:
    if chosen.usd_per_hour is None:
        return Rejection(machine.name, f"fits, but is larger than {chosen.name}; both are unpriced")
    return Rejection(machine.name, "fits, but is unpriced, and a priced machine fits too")


def _reject_dearer(machine: InstanceType, chosen: InstanceType) -> Rejection:
    if machine.usd_per_hour is None or chosen.usd_per_hour is None:
        return Rejection(machine.name, "fits")
    more = machine.usd_per_hour - chosen.usd_per_hour
    if more == 0:
        return Rejection(machine.name, f"fits and costs the same as {chosen.name}")
    return Rejection(machine.name, f"fits, but costs {format_hourly(more)} more")


def _count(small: int, rest: int) -> str:
    parts = ((small, "cheaper and too small"), (rest - small, "dearer or of another kind"))
    return ", ".join(f"{amount} {what}" for amount, what in parts if amount)
