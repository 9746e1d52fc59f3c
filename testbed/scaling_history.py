"""The scaling activities of Auto Scaling groups: what AWS tells of every launch and termination.

What enters are launches, terminations and failures, as they happen; what leaves are the answers of
DescribeScalingActivities, which moto lacks. Whoever was away reads here what came and went.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from xml.sax.saxutils import escape

_XMLNS = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
_MOST_RECORDS = 100


@dataclass(frozen=True, slots=True)
class Activity:
    """One launch or termination; `message` says why it failed, where it did."""

    group: str
    description: str
    cause: str
    start: datetime
    end: datetime
    zone: str
    message: str = ""
    id: str = field(default_factory=lambda: str(uuid.uuid4()))


class History:
    """All activities, oldest first; those of deleted groups too, as AWS keeps them for weeks."""

    def __init__(self) -> None:
        self._activities: list[Activity] = []

    def launched(
        self, group: str, instance: str, start: datetime, end: datetime, zone: str
    ) -> None:
        """An instance is in service."""
        self._add(group, f"Launching a new EC2 instance: {instance}", _MORE, start, end, zone)

    def terminated(self, group: str, instance: str, at: datetime, zone: str, why: str) -> None:
        """An instance is gone."""
        self._add(group, f"Terminating EC2 instance: {instance}", why, at, at, zone)

    def failed(self, group: str, message: str, at: datetime, zone: str) -> None:
        """Nothing could be bought."""
        self._add(group, "Launching a new EC2 instance", _MORE, at, at, zone, message)

    def _add(
        self,
        group: str,
        description: str,
        why: str,
        start: datetime,
        end: datetime,
        zone: str,
        message: str = "",
    ) -> None:
        cause = f"At {start:%Y-%m-%dT%H:%M:%SZ} {why}"
        self._activities.append(Activity(group, description, cause, start, end, zone, message))

    def describe(self, query: Mapping[str, str]) -> bytes:
        """The answer to a DescribeScalingActivities request: newest first, in pages."""
        group = query.get("AutoScalingGroupName")
        found = [item for item in reversed(self._activities) if group in (None, item.group)]
        begin = int(query.get("NextToken") or 0)
        end = begin + min(int(query.get("MaxRecords") or _MOST_RECORDS), _MOST_RECORDS)
        members = "".join(_member(item) for item in found[begin:end])
        more = f"<NextToken>{end}</NextToken>" if end < len(found) else ""
        return (
            f'<DescribeScalingActivitiesResponse xmlns="{_XMLNS}"><DescribeScalingActivitiesResult>'
            f"<Activities>{members}</Activities>{more}</DescribeScalingActivitiesResult>"
            "<ResponseMetadata><RequestId>testbed</RequestId></ResponseMetadata>"
            "</DescribeScalingActivitiesResponse>"
        ).encode()


_MORE = "an instance was started in response to a difference between desired and actual capacity."


def _member(item: Activity) -> str:
    details = json.dumps({"Availability Zone": item.zone})
    values = {
        "ActivityId": item.id,
        "AutoScalingGroupName": item.group,
        "Description": item.description,
        "Cause": item.cause,
        # As AWS has them: the start in milliseconds, the end in whole seconds.
        "StartTime": f"{item.start:%Y-%m-%dT%H:%M:%S}.{item.start.microsecond // 1000:03}Z",
        "EndTime": f"{item.end:%Y-%m-%dT%H:%M:%SZ}",
        "StatusCode": "Failed" if item.message else "Successful",
        **({"StatusMessage": item.message} if item.message else {}),
        "Progress": "100",
        "Details": details,
    }
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())
    return f"<member>{inner}</member>"
