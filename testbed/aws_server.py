"""AWS's EC2 and Auto Scaling API, played by moto, in a process of its own.

What enters are requests of the cluster-autoscaler, of piecework and of tests; what leaves are
moto's answers, with what it lacks of AWS where somebody looks: scaling activities, groups that are
out of stock, spot instances and their prices, terminated instances that still tell which group they
were of. Every launch and termination goes into the record, with the time that AWS tells.
"""

from __future__ import annotations

import argparse
import io
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from piecework.plan.price import load_price_book
from testbed import record, wishes
from testbed.place import AWS_PORT, Place
from testbed.scaling_history import History

#: Spot machines cost this share of the on-demand price here.
SPOT_SHARE = "0.35"
#: A POST here with ?instance=ID: AWS takes a spot instance away.
INTERRUPT_PATH = "/testbed/interrupt"
_XMLNS = "http://autoscaling.amazonaws.com/doc/2011-01-01/"
_EC2_XMLNS = "http://ec2.amazonaws.com/doc/2016-11-15/"
_ACCOUNT, _REGION = "123456789012", "us-east-1"
_GROUP_TAG = "aws:autoscaling:groupName"
_NO_CAPACITY = (
    "Could not launch {kind} Instances. InsufficientInstanceCapacity - We currently do not have "
    "sufficient capacity in the Availability Zone you requested. Launching EC2 instance failed."
)
_ASKED = "instance {instance} was taken out of service in response to a user request."
_NOTICED = (
    "an instance was taken out of service in response to an EC2 health check indicating it has "
    "been terminated or stopped."
)
_PRICES_SINCE = datetime(2026, 1, 1, tzinfo=UTC)

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Aws:
    """Answers what moto can't, hands everything else on to it, and notes what that changed."""

    def __init__(self, place: Place, application: Application) -> None:
        self._place = place
        self._application = application
        self._history = History()
        # Two changes at once could not be told apart.
        self._changing = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        text = environ.get("QUERY_STRING", "") + "&" + body.decode("latin-1")
        query = {name: values[0] for name, values in parse_qs(text).items()}
        action = query.get("Action", "")
        if environ["PATH_INFO"] == INTERRUPT_PATH:
            with self._changing:
                self._noting(lambda: _interrupt(query["instance"]), _NOTICED)
            return _answer(start, b"")
        if action == "DescribeScalingActivities":
            return _answer(start, self._history.describe(query))
        if action == "DescribeSpotPriceHistory":
            return _answer(start, _spot_prices(query))
        if action.startswith(("Describe", "Get")) or not action:
            return self._application(environ, start)
        with self._changing:
            if action == "SetDesiredCapacity" and self._out_of_stock(query):
                return _answer(start, _DESIRED_IS_SET)
            why = _NOTICED if action == "TerminateInstances" else _ASKED
            return self._noting(lambda: self._application(environ, start), why)

    def _out_of_stock(self, query: Mapping[str, str]) -> bool:
        """Whether a group may not have what is asked for; it takes note, and says so later."""
        name, desired = query["AutoScalingGroupName"], int(query["DesiredCapacity"])
        group = _groups().get(name)
        if group is None or desired <= len(group.instance_states):
            return False
        if not wishes.read(self._place, name).out_of_stock:
            return False
        group.desired_capacity = desired
        message = _NO_CAPACITY.format(kind="Spot" if _is_spot(group) else "On-Demand")
        self._history.failed(name, message, datetime.now(UTC), group.availability_zones[0])
        return True

    def _noting(self, change: Callable[[], Iterable[bytes]], why: str) -> Iterable[bytes]:
        """Makes a change, and notes the launches and terminations that it caused."""
        before, began = _instances(), datetime.now(UTC)
        answer = change()
        after, ended = _instances(), datetime.now(UTC)
        for instance, group in before.items():
            if instance not in after:
                self._note_termination(instance, group, ended, why.format(instance=instance))
        for instance, group in after.items():
            if instance not in before:
                self._note_launch(instance, group, began, ended)
        return answer

    def _note_launch(self, name: str, group: str, began: datetime, ended: datetime) -> None:
        instance = _ec2().get_instance(name)
        if _is_spot(_groups()[group]):
            instance.lifecycle = "spot"
        zone = instance.placement.zone
        self._history.launched(group, name, began, ended, zone)
        launched = instance.launch_time.replace(tzinfo=UTC)
        provider_id = f"aws:///{zone}/{name}"
        record.write(
            self._place, name, "bought", at=launched, type=instance.instance_type,
            provider_id=provider_id,
        )  # fmt: skip

    def _note_termination(self, name: str, group: str, at: datetime, why: str) -> None:
        instance = _ec2().get_instance(name)
        # AWS tells of a terminated instance for an hour or so, with its tags.
        _ec2().create_tags([name], {_GROUP_TAG: group})
        if instance.state != "terminated":
            return
        # moto says UTC, AWS says GMT.
        reason = instance.state_transition_reason
        if reason.startswith("User"):
            instance._reason = f"User initiated ({at:%Y-%m-%d %H:%M:%S} GMT)"
        self._history.terminated(group, name, at, instance.placement.zone, why)
        record.write(self._place, name, "returned", at=at)


def _answer(start: Callable[..., Any], body: bytes) -> list[bytes]:
    start("200 OK", [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
    return [body]


_DESIRED_IS_SET = (
    f'<SetDesiredCapacityResponse xmlns="{_XMLNS}"><ResponseMetadata>'
    "<RequestId>testbed</RequestId></ResponseMetadata></SetDesiredCapacityResponse>"
).encode()


def _groups() -> dict[str, Any]:
    from moto.autoscaling.models import autoscaling_backends

    groups: dict[str, Any] = autoscaling_backends[_ACCOUNT][_REGION].autoscaling_groups
    return groups


def _ec2() -> Any:
    from moto.ec2.models import ec2_backends

    return ec2_backends[_ACCOUNT][_REGION]


def _instances() -> dict[str, str]:
    """The groups of all instances that are in one, by the instances' ids."""
    return {
        state.instance.id: name
        for name, group in list(_groups().items())
        for state in list(group.instance_states)
    }


def _is_spot(group: Any) -> bool:
    template = group.ec2_launch_template
    if template is None:
        return False
    options = (
        template.get_version(group.launch_template_version).data.get("InstanceMarketOptions") or {}
    )
    return bool(options.get("MarketType") == "spot")


def _interrupt(name: str) -> list[bytes]:
    from moto.autoscaling.models import autoscaling_backends

    ec2 = _ec2()
    ec2.terminate_instances([name])
    code, now = "Server.SpotInstanceTermination", datetime.now(UTC)
    instance = ec2.get_instance(name)
    instance._reason = f"{code} ({now:%Y-%m-%d %H:%M:%S} GMT)"
    instance.state_reason.code, instance.state_reason.message = code, f"{code}: Spot interruption"
    # The group replaces it at once, as AWS's would.
    autoscaling_backends[_ACCOUNT][_REGION].notify_terminate_instances([name])
    return []


def _spot_prices(query: Mapping[str, str]) -> bytes:
    """One price for each type that is asked for, which never changes."""
    asked = [value for name, value in sorted(query.items()) if name.startswith("InstanceType.")]
    zone = query.get("AvailabilityZone", f"{_REGION}a")
    book = load_price_book()
    items = ""
    for name in asked or list(book.types):
        found = book.find(name)
        if found is None or found.usd_per_hour is None:
            continue
        price = round(float(found.usd_per_hour) * float(SPOT_SHARE), 6)
        items += (
            f"<item><instanceType>{found.name}</instanceType>"
            "<productDescription>Linux/UNIX</productDescription>"
            f"<spotPrice>{price:.6f}</spotPrice><timestamp>{_PRICES_SINCE:%Y-%m-%dT%H:%M:%S.000Z}"
            f"</timestamp><availabilityZone>{zone}</availabilityZone></item>"
        )
    return (
        f'<DescribeSpotPriceHistoryResponse xmlns="{_EC2_XMLNS}"><requestId>testbed</requestId>'
        f"<spotPriceHistorySet>{items}</spotPriceHistorySet><nextToken/>"
        "</DescribeSpotPriceHistoryResponse>"
    ).encode()


def main() -> None:
    """Serves until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    options = parser.parse_args()
    place = Place(options.folder.name, options.folder, options.number)

    from werkzeug.serving import run_simple

    run_simple(place.hub, AWS_PORT, application(place), threaded=True)


def application(place: Place) -> Aws:
    """All of AWS that there is here, as a WSGI application."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    return Aws(place, DomainDispatcherApplication(create_backend_app))


if __name__ == "__main__":
    main()
