"""Auto Scaling groups as AWS has them, with what their launch templates say of their machines.

Enter: the names of groups, and pools with their regions. Leaves: GroupSeen by name.
Credentials are those that AWS's own tools would find. Reads only.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from piecework.errors import ClusterError
from piecework.machines.check.survey import GroupSeen
from piecework.spec.pool import Pool

#: AWS describes no more groups at a time.
_PAGE = 50
_TIMEOUT_SECONDS = 10


class AwsGroups:
    """The Auto Scaling groups of several pools, which may be in several regions."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._pools = pools

    def groups(self, names: Sequence[str]) -> Mapping[str, GroupSeen]:
        """The groups of these names that exist. Raises ClusterError."""
        found: dict[str, GroupSeen] = {}
        for pool in self._pools:
            own = [group.name for group in pool.groups if group.name in names]
            found |= connect(pool).groups(own)
        return found


def connect(pool: Pool) -> Region:
    """The pool's region; nothing is sent yet. Raises ClusterError where boto3 can't be set up."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ClusterError(
            "AWS is looked at with boto3, which is not installed; install piecework[aws]"
        ) from error
    config = Config(
        connect_timeout=_TIMEOUT_SECONDS,
        read_timeout=_TIMEOUT_SECONDS,
        retries={"total_max_attempts": 2},
    )
    given = {"region_name": pool.region, "endpoint_url": pool.endpoint, "config": config}
    try:
        return Region(boto3.client("autoscaling", **given), boto3.client("ec2", **given))
    except (BotoCoreError, ValueError) as error:
        what = f"AWS can't be asked for the groups of pool {pool.name}"
        raise ClusterError(f"{what}: {error}") from error


class Region:
    """The Auto Scaling groups of one account and region."""

    def __init__(self, autoscaling: Any, ec2: Any) -> None:
        """The two are boto3's clients."""
        self._autoscaling = autoscaling
        self._ec2 = ec2

    def groups(self, names: Sequence[str]) -> Mapping[str, GroupSeen]:
        """The groups of these names that exist. Raises ClusterError."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return {found.name: found for found in self._groups(names)}
        except (BotoCoreError, ClientError) as error:
            raise ClusterError(f"AWS does not tell of Auto Scaling groups: {error}") from error

    def _groups(self, names: Sequence[str]) -> Iterator[GroupSeen]:
        for start in range(0, len(names), _PAGE):
            asked = list(names[start : start + _PAGE])
            answer = self._autoscaling.describe_auto_scaling_groups(
                AutoScalingGroupNames=asked, MaxRecords=100
            )
            for group in answer["AutoScalingGroups"]:
                yield self._read(group)

    def _read(self, group: Mapping[str, Any]) -> GroupSeen:
        machine = self._machine(group)
        suspended = (each["ProcessName"] for each in group.get("SuspendedProcesses") or ())
        return GroupSeen(
            name=group["AutoScalingGroupName"],
            min_size=group["MinSize"],
            max_size=group["MaxSize"],
            tags={tag["Key"]: tag.get("Value", "") for tag in group.get("Tags") or ()},
            zones=tuple(group.get("AvailabilityZones") or ()),
            suspended=frozenset(suspended),
            instance_types=machine.types,
            protected=bool(group.get("NewInstancesProtectedFromScaleIn")),
            rebalances_capacity=bool(group.get("CapacityRebalance")),
            spot=machine.spot,
            user_data=machine.user_data,
        )

    def _machine(self, group: Mapping[str, Any]) -> _Machine:
        """What the group buys: by its launch template, alone or in a policy that mixes types."""
        mixed = group.get("MixedInstancesPolicy") or {}
        template = mixed.get("LaunchTemplate") or {}
        specification = template.get("LaunchTemplateSpecification") or group.get("LaunchTemplate")
        data = self._template(specification) if specification else {}
        types = [
            each["InstanceType"]
            for each in template.get("Overrides") or ()
            if each.get("InstanceType")
        ]
        if not types and data.get("InstanceType"):
            types = [data["InstanceType"]]
        spread = mixed.get("InstancesDistribution")
        if spread is None:
            spot = (data.get("InstanceMarketOptions") or {}).get("MarketType") == "spot"
        else:
            base = spread.get("OnDemandBaseCapacity") or 0
            above = spread.get("OnDemandPercentageAboveBaseCapacity", 100)
            spot = not base and not above
        return _Machine(
            tuple(types), spot, _decode(data.get("UserData"), known=bool(specification))
        )

    def _template(self, specification: Mapping[str, Any]) -> Mapping[str, Any]:
        key = "LaunchTemplateId" if specification.get("LaunchTemplateId") else "LaunchTemplateName"
        answer = self._ec2.describe_launch_template_versions(
            **{key: specification[key]},
            Versions=[specification.get("Version") or "$Default"],
        )
        versions = answer["LaunchTemplateVersions"]
        data: Mapping[str, Any] = versions[0]["LaunchTemplateData"] if versions else {}
        return data


@dataclass(frozen=True, slots=True)
class _Machine:
    types: tuple[str, ...]
    spot: bool
    user_data: str | None


def _decode(text: str | None, *, known: bool) -> str | None:
    """User data as text; empty where a known template has none, None where it can't be read."""
    if not text:
        return "" if known else None
    try:
        return base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
