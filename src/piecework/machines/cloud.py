"""AWS's own records of the instances of Auto Scaling groups, in the words of this project.

Enters: answers of three calls (DescribeInstances, DescribeScalingActivities,
DescribeSpotPriceHistory). Leaves: instances with the times at which their meter started and
stopped, and the purchases that failed. Reading answers is pure; `Aws` alone talks to the cloud.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol, TypeVar

from piecework.errors import ClusterError
from piecework.machines.provider import PriceStep
from piecework.spec.pool import Pool

T = TypeVar("T")
_GROUP_TAG = "aws:autoscaling:groupName"
_INSTANCE = re.compile(r"\bi-[0-9a-f]{8,}\b")
_STOPPED = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
_TAKEN_BACK = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")
#: Activities that are read at most from one group at once; AWS gives 100 a page.
_MOST_PAGES = 20
_LONGEST = 200
#: How long a spot price is not asked for again.
_PRICE_SECONDS = 300.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class InstanceSeen:
    """One instance. Times are None until they come; `launched_at` is when its meter started."""

    id: str
    group: str
    type: str | None = None
    zone: str | None = None
    spot: bool = False
    requested_at: datetime | None = None
    launched_at: datetime | None = None
    interrupted_at: datetime | None = None
    leaving_at: datetime | None = None
    gone_at: datetime | None = None
    prices: tuple[PriceStep, ...] = ()


@dataclass(frozen=True, slots=True)
class CloudSeen:
    """What the cloud told. `failures`: time and reason by group, if its last purchase failed."""

    instances: tuple[InstanceSeen, ...]
    failures: Mapping[str, tuple[datetime, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _KnownPrice:
    """The steps of a spot price; `over` where they are all, else to be asked for `until` then."""

    steps: tuple[PriceStep, ...]
    over: bool
    until: float


class Cloud(Protocol):
    """The cloud's API, as far as machines need it. Raises ClusterError."""

    def look(self, groups: Sequence[str], since: datetime) -> CloudSeen:
        """The instances of these groups, those that went after `since` included."""

    def terminate(self, instance: str) -> None:
        """Ends an instance, and lowers its group's wish by one. Fine where it is gone."""


class Aws:
    """AWS, by boto3."""

    def __init__(self, pool: Pool) -> None:
        import boto3

        where = {"region_name": pool.region, "endpoint_url": pool.endpoint}
        self._autoscaling: Any = boto3.client("autoscaling", **where)
        self._ec2: Any = boto3.client("ec2", **where)
        self._types = {group.name: group.type for group in pool.groups}
        self._spot = {group.name for group in pool.groups if group.spot}
        self._prices: dict[str, _KnownPrice] = {}
        self._where = pool.endpoint or f"AWS in {pool.region or 'the usual region'}"

    def look(self, groups: Sequence[str], since: datetime) -> CloudSeen:
        """See `Cloud`."""
        return self._ask("the instances of the groups", lambda: self._look(groups, since))

    def terminate(self, instance: str) -> None:
        """See `Cloud`."""

        def end() -> None:
            self._autoscaling.terminate_instance_in_auto_scaling_group(
                InstanceId=instance, ShouldDecrementDesiredCapacity=True
            )

        try:
            self._ask(f"the end of instance {instance}", end)
        except ClusterError as error:
            if "not found" not in str(error).lower():
                raise

    def _look(self, groups: Sequence[str], since: datetime) -> CloudSeen:
        pages = self._ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": f"tag:{_GROUP_TAG}", "Values": list(groups)}]
        )
        found = [
            item
            for page in pages
            for reservation in page["Reservations"]
            for item in reservation["Instances"]
        ]
        activities = {group: self._activities(group, since) for group in groups}
        seen = read_cloud(found, activities, self._types, self._spot, since)
        instances = tuple(
            replace(item, prices=self._spot_prices(item)) if item.spot else item
            for item in seen.instances
        )
        return CloudSeen(instances, seen.failures)

    def _activities(self, group: str, since: datetime) -> list[Mapping[str, Any]]:
        """A group's activities from a time on, the newest first."""
        found: list[Mapping[str, Any]] = []
        query: dict[str, Any] = {"AutoScalingGroupName": group}
        for _ in range(_MOST_PAGES):
            page = self._autoscaling.describe_scaling_activities(**query)
            found += page["Activities"]
            if not page.get("NextToken") or not found or found[-1]["StartTime"] < since:
                break
            query["NextToken"] = page["NextToken"]
        return [activity for activity in found if activity["StartTime"] >= since]

    def _spot_prices(self, item: InstanceSeen) -> tuple[PriceStep, ...]:
        """The steps of its price so far, asked for now and then, and once more at its end.

        Empty where the cloud does not tell: the pool's `spot_prices` hold then.
        """
        import botocore.exceptions

        over = item.gone_at is not None
        known = self._prices.get(item.id)
        if known is not None and (known.over or (not over and known.until > time.monotonic())):
            return known.steps
        if item.launched_at is None:
            return ()
        try:
            answer = self._ec2.describe_spot_price_history(
                InstanceTypes=[item.type],
                AvailabilityZone=item.zone,
                ProductDescriptions=["Linux/UNIX"],
                StartTime=item.launched_at,
                EndTime=item.gone_at or datetime.now(UTC),
            )
        except botocore.exceptions.ClientError as error:
            logger.warning("the spot price of %s is not told: %s", item.id, error)
            steps: tuple[PriceStep, ...] = () if known is None else known.steps
        else:
            steps = read_spot_prices(answer["SpotPriceHistory"], item.launched_at)
        self._prices[item.id] = _KnownPrice(steps, over, time.monotonic() + _PRICE_SECONDS)
        return steps

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError  # what it makes of a page of HTML

        try:
            return call()
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            raise ClusterError(
                f"{what}: {self._where} does not tell: {error}. It is asked again; the "
                "keeper needs the right to describe groups and instances"
            ) from error


def read_cloud(
    instances: Iterable[Mapping[str, Any]],
    activities: Mapping[str, Sequence[Mapping[str, Any]]],
    types: Mapping[str, str],
    spot: Iterable[str],
    since: datetime,
) -> CloudSeen:
    """Puts the cloud's answers together; `types` and `spot` say what the groups are made of.

    An instance that DescribeInstances has forgotten (an hour after its end) is known from its
    group's activities alone.
    """
    spot_groups = set(spot)
    found: dict[str, InstanceSeen] = {}
    failures: dict[str, tuple[datetime, str]] = {}
    for group, told in activities.items():
        for activity in sorted(told, key=lambda each: each["StartTime"]):
            _take_activity(found, failures, group, activity)
    for raw in instances:
        item = _take_instance(found.get(raw["InstanceId"]), raw)
        found[item.id] = item
    kept = []
    for item in found.values():
        if item.launched_at is None and item.requested_at is None:
            continue  # it was terminated, and launched before anybody looked
        if item.gone_at is not None and item.gone_at < since:
            continue
        kept.append(
            replace(
                item,
                type=item.type or types.get(item.group),
                spot=item.spot or item.group in spot_groups,
                launched_at=item.launched_at or item.requested_at,
                requested_at=item.requested_at or item.launched_at,
            )
        )
    return CloudSeen(tuple(kept), failures)


def read_spot_prices(
    history: Iterable[Mapping[str, Any]], launched_at: datetime
) -> tuple[PriceStep, ...]:
    """The steps of a spot price, the first at the launch."""
    steps: dict[datetime, Decimal] = {}
    for entry in sorted(history, key=lambda each: each["Timestamp"]):
        at = max(entry["Timestamp"].astimezone(UTC), launched_at)
        steps[at] = Decimal(str(entry["SpotPrice"]))
    return tuple(PriceStep(at, usd, "AWS spot price history") for at, usd in steps.items())


def _take_activity(
    found: dict[str, InstanceSeen],
    failures: dict[str, tuple[datetime, str]],
    group: str,
    activity: Mapping[str, Any],
) -> None:
    """One activity of a group, in the order of time."""
    description, status = activity.get("Description", ""), activity.get("StatusCode", "")
    at = activity["StartTime"].astimezone(UTC)
    launching = description.startswith("Launching")
    if launching and status == "Failed":
        failures[group] = at, _reason(activity.get("StatusMessage", ""))
        return
    match = _INSTANCE.search(description)
    if match is None:
        return
    name = match[0]
    known = found.get(name) or InstanceSeen(name, group)
    if launching:
        failures.pop(group, None)
        found[name] = replace(known, requested_at=at)
    elif description.startswith("Terminating") and status != "Cancelled":
        ended = activity.get("EndTime")
        gone_at = at if status == "Successful" or ended is not None else None
        found[name] = replace(known, leaving_at=at, gone_at=gone_at)


def _take_instance(known: InstanceSeen | None, raw: Mapping[str, Any]) -> InstanceSeen:
    group = next((t["Value"] for t in raw.get("Tags", ()) if t["Key"] == _GROUP_TAG), "")
    item = known or InstanceSeen(raw["InstanceId"], group)
    state = raw.get("State", {}).get("Name", "")
    stopped = _STOPPED.search(raw.get("StateTransitionReason", ""))
    item = replace(
        item,
        type=raw.get("InstanceType") or item.type,
        zone=raw.get("Placement", {}).get("AvailabilityZone") or item.zone,
        spot=raw.get("InstanceLifecycle") == "spot",
        launched_at=raw["LaunchTime"].astimezone(UTC),
    )
    if state in ("pending", "running"):
        return replace(item, leaving_at=None, gone_at=None)
    # The meter stops when the instance leaves "running", and that is the time that AWS gives.
    at = item.gone_at or item.leaving_at
    if stopped is not None:
        at = datetime.strptime(stopped[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    taken = raw.get("StateReason", {}).get("Code") in _TAKEN_BACK
    return replace(item, leaving_at=at, gone_at=at, interrupted_at=at if taken else None)


def _reason(message: str) -> str:
    """The cloud's code for why, where its message has one: InsufficientInstanceCapacity."""
    match = re.search(r"\b([A-Z][A-Za-z]+(?:Exceeded|Capacity|Supported|Fulfillable))\b", message)
    line = " ".join(message.split())
    return match[1] if match else line[:_LONGEST]
