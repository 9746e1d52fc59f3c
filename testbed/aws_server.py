"""AWS's EC2 and Auto Scaling API, played by moto, in a process of its own.

What enters are requests of the cluster-autoscaler and of tests; what leaves are moto's answers,
with one thing added that moto lacks: a group that is out of stock takes a new desired capacity,
buys nothing, and says so in its scaling activities, as AWS does.
"""

from __future__ import annotations

import argparse
import io
import itertools
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from testbed import wishes
from testbed.place import AWS_PORT, Place

_XMLNS = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
_ACCOUNT, _REGION = "123456789012", "us-east-1"
_REASON = (
    "Could not launch On-Demand Instances. InsufficientInstanceCapacity - We currently do not "
    "have sufficient capacity in the Availability Zone you requested. Launching EC2 instance "
    "failed."
)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class OutOfStock:
    """Answers what a group that is out of stock would, and hands everything else on."""

    def __init__(self, place: Place, application: Application) -> None:
        self._place = place
        self._application = application
        self._failed: dict[str, list[tuple[int, datetime]]] = {}
        self._count = itertools.count(1)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        query = {name: values[0] for name, values in parse_qs(body.decode("latin-1")).items()}
        group = query.get("AutoScalingGroupName", "")
        answer = None
        if query.get("Action") == "SetDesiredCapacity" and group:
            answer = self._set_desired(group, int(query["DesiredCapacity"]))
        elif query.get("Action") == "DescribeScalingActivities" and self._failed.get(group):
            answer = self._activities(group)
        if answer is None:
            return self._application(environ, start)
        start("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(answer)))])
        return [answer]

    def _set_desired(self, name: str, desired: int) -> bytes | None:
        if not wishes.read(self._place, name).out_of_stock:
            self._failed.pop(name, None)
            return None
        from moto.autoscaling.models import autoscaling_backends

        group = autoscaling_backends[_ACCOUNT][_REGION].autoscaling_groups.get(name)
        if group is None or desired <= len(group.instance_states):
            return None
        group.desired_capacity = desired
        self._failed.setdefault(name, []).append((next(self._count), datetime.now(UTC)))
        return (
            f'<SetDesiredCapacityResponse xmlns="{_XMLNS}"><ResponseMetadata>'
            "<RequestId>testbed</RequestId></ResponseMetadata></SetDesiredCapacityResponse>"
        ).encode()

    def _activities(self, name: str) -> bytes:
        members = "".join(
            f"<member><ActivityId>activity-{number}</ActivityId>"
            f"<AutoScalingGroupName>{escape(name)}</AutoScalingGroupName>"
            f"<Cause>a request to change the desired capacity</Cause>"
            f"<Description>Launching a new EC2 instance</Description>"
            f"<StartTime>{at:%Y-%m-%dT%H:%M:%SZ}</StartTime><EndTime>{at:%Y-%m-%dT%H:%M:%SZ}</EndTime>"
            f"<StatusCode>Failed</StatusCode><StatusMessage>{escape(_REASON)}</StatusMessage>"
            f"<Progress>100</Progress></member>"
            for number, at in reversed(self._failed[name])
        )
        return (
            f'<DescribeScalingActivitiesResponse xmlns="{_XMLNS}"><DescribeScalingActivitiesResult>'
            f"<Activities>{members}</Activities></DescribeScalingActivitiesResult>"
            "<ResponseMetadata><RequestId>testbed</RequestId></ResponseMetadata>"
            "</DescribeScalingActivitiesResponse>"
        ).encode()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    options = parser.parse_args()
    place = Place(options.folder.name, options.folder, options.number)

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    application = OutOfStock(place, DomainDispatcherApplication(create_backend_app))
    run_simple(place.hub, AWS_PORT, application, threaded=True)


if __name__ == "__main__":
    main()
