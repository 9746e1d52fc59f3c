from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from piecework.kube.client import Kube
from piecework.machines.asg import AutoScalingGroups, describe_failures
from piecework.machines.cloud import CloudSeen, InstanceSeen, read_cloud, read_spot_prices
from piecework.machines.provider import MachineSeen, NodeSeen
from piecework.plan import labels
from piecework.spec.pool import Pool
from tests.unit.kube.server import Server, found, page

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
GROUPS = [
    {"name": "cheap", "type": "m6a.large", "spot": True},
    {"name": "sure", "type": "m6a.large"},
]
POOL = Pool.model_validate({"name": "scaled", "provider": "asg", "groups": GROUPS})
_SINCE = NOW - timedelta(days=1)


def _at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def _instance(state: str = "running", reason: str = "", **more: Any) -> dict[str, Any]:
    return {
        "InstanceId": "i-0123456789",
        "InstanceType": "m6a.large",
        "LaunchTime": _at(-100),
        "State": {"Name": state},
        "StateTransitionReason": reason,
        "Placement": {"AvailabilityZone": "us-east-1a"},
        "Tags": [{"Key": "aws:autoscaling:groupName", "Value": "sure"}],
        **more,
    }


def _activity(what: str, start: float, status: str = "Successful", **more: Any) -> dict[str, Any]:
    return {
        "Description": f"{what} EC2 instance: i-0123456789",
        "StartTime": _at(start),
        "EndTime": _at(start + 3),
        "StatusCode": status,
        **more,
    }


def _read(
    instances: Sequence[dict[str, Any]] = (), activities: Sequence[dict[str, Any]] = ()
) -> CloudSeen:
    return read_cloud(instances, {"sure": activities}, {"sure": "m6a.large"}, ["cheap"], _SINCE)


class _Cloud:
    """A cloud that tells what a test wrote."""

    def __init__(self, *instances: InstanceSeen) -> None:
        self.instances = instances
        self.terminated: list[str] = []
        self.since: list[datetime] = []

    def look(self, groups: Sequence[str], since: datetime) -> CloudSeen:
        self.since.append(since)
        return CloudSeen(self.instances)

    def terminate(self, instance: str) -> None:
        self.terminated.append(instance)


RUNNING = InstanceSeen(
    "i-1", "sure", "m6a.large", "a", requested_at=_at(-101), launched_at=_at(-100)
)


def _node(**more: Any) -> NodeSeen:
    ready = NodeSeen(
        "ip-1", "scaled", None, "aws:///a/i-1", "m6a.large", "a", False, _at(-60), _at(-50),
        None, 0, False, None, None, None,
    )  # fmt: skip
    return replace(ready, **more)


def _groups(cloud: _Cloud, server: Server | None = None) -> AutoScalingGroups:
    groups = AutoScalingGroups(Kube(server or Server()), POOL, cloud, now=lambda: NOW)
    groups.look()
    return groups


def _only(groups: AutoScalingGroups, *nodes: NodeSeen) -> MachineSeen:
    (machine,) = groups.machines({node.name: node for node in nodes})
    return machine


def test_a_running_instance_is_metered_from_its_launch() -> None:
    (item,) = _read([_instance()], [_activity("Launching a new", -101)]).instances
    assert (item.requested_at, item.launched_at) == (_at(-101), _at(-100))
    assert (item.leaving_at, item.gone_at) == (None, None)


def test_a_terminated_instance_is_metered_until_the_time_that_the_cloud_gives() -> None:
    reason = "User initiated (2026-11-24 11:59:30 GMT)"
    for state in ("shutting-down", "terminated"):
        (item,) = _read([_instance(state, reason)]).instances
        assert item.gone_at == _at(-30)


def test_one_that_came_and_went_while_nobody_looked_is_known_from_the_groups_record() -> None:
    told = [_activity("Terminating", -40), _activity("Launching a new", -100)]
    (item,) = _read([], told).instances
    assert (item.launched_at, item.gone_at) == (_at(-100), _at(-40))
    assert item.type == "m6a.large"


def test_one_whose_launch_is_forgotten_is_left_out() -> None:
    assert _read([], [_activity("Terminating", -40)]).instances == ()


def test_a_spot_instance_that_the_cloud_takes_back_is_interrupted() -> None:
    taken = _instance(
        "terminated",
        "Server.SpotInstanceTermination: (2026-11-24 11:59:30 GMT)",
        InstanceLifecycle="spot",
        StateReason={"Code": "Server.SpotInstanceTermination"},
    )
    (item,) = _read([taken]).instances
    assert item.spot
    assert item.interrupted_at == _at(-30)


def test_a_failed_purchase_is_told_until_one_succeeds() -> None:
    failed = _activity(
        "Launching a new", -20, "Failed", StatusMessage="InsufficientInstanceCapacity - none here"
    )
    assert _read([], [failed]).failures == {"sure": (_at(-20), "InsufficientInstanceCapacity")}
    assert _read([], [_activity("Launching a new", -10), failed]).failures == {}


def test_why_nothing_can_be_bought_says_what_is_tried_instead() -> None:
    failed = (_at(-20), "InsufficientInstanceCapacity")
    trying = describe_failures(POOL, {"cheap": failed}, NOW)
    assert trying == "no spot capacity for m6a.large in group cheap, trying on-demand"
    nothing = describe_failures(POOL, {"cheap": failed, "sure": failed}, NOW)
    assert nothing is not None
    assert nothing.endswith(": InsufficientInstanceCapacity")
    assert describe_failures(POOL, {"cheap": failed}, _at(3600)) is None


def test_spot_prices_are_steps_from_the_launch_on() -> None:
    history = [
        {"Timestamp": _at(-10), "SpotPrice": "0.031"},
        {"Timestamp": _at(-5000), "SpotPrice": "0.030"},
    ]
    steps = read_spot_prices(history, _at(-100))
    assert [(step.at, str(step.usd_per_hour)) for step in steps] == [
        (_at(-100), "0.030"),
        (_at(-10), "0.031"),
    ]


def test_a_machine_is_put_together_from_cloud_and_node() -> None:
    groups = _groups(_Cloud(RUNNING))
    assert _only(groups).state == "launched"
    ready = _only(groups, _node())
    assert (ready.node, ready.joined_at, ready.ready_at) == ("ip-1", _at(-60), _at(-50))
    assert ready.state == "ready"


def test_what_was_seen_of_a_node_outlives_it() -> None:
    cloud = _Cloud(RUNNING)
    groups = _groups(cloud)
    groups.machines({"ip-1": _node(leaving_at=_at(-5))})
    cloud.instances = (replace(RUNNING, gone_at=_at(-1)),)
    groups.look()
    machine = _only(groups)
    assert machine.ready_at == _at(-50)
    assert machine.released_at == _at(-5)
    assert machine.gone_cause == "returned"


def test_a_release_taints_its_node_so_that_no_pod_comes_any_more() -> None:
    node = {"metadata": {"name": "ip-1", "resourceVersion": "7"}, "spec": {"taints": []}}
    server = Server([found(node), found(node)])
    groups = _groups(_Cloud(RUNNING), server)
    groups.release(_only(groups, _node()), NOW, "nobody needs it")
    change = server.asked[1].body
    assert change["spec"]["taints"][0]["key"] == labels.LEAVING
    assert change["metadata"]["resourceVersion"] == "7"
    assert _only(groups, _node()).released_at == NOW


def test_a_fresh_look_finds_a_pod_that_came_meanwhile_and_the_machine_stays() -> None:
    pod = {"metadata": {"name": "p", "labels": {"piecework.dev/pool": "scaled"}}}
    node = {"metadata": {"name": "ip-1", "resourceVersion": "7"}}
    cloud = _Cloud(RUNNING)
    server = Server([found(node), found(node), page(pod), found(node), found(node)])
    groups = _groups(cloud, server)
    machine = _only(groups, _node())
    groups.release(machine, NOW, "nobody needs it")
    assert not groups.give_back(machine)
    assert cloud.terminated == []
    assert server.asked[-1].body["spec"]["taints"] == []
    assert _only(groups, _node()).released_at is None


def test_an_empty_machine_is_terminated() -> None:
    done = {
        "metadata": {"name": "p", "labels": {"piecework.dev/pool": "scaled"}},
        "status": {"phase": "Succeeded"},
    }
    cloud = _Cloud(RUNNING)
    groups = _groups(cloud, Server([page(done)]))
    assert groups.give_back(_only(groups, _node()))
    assert cloud.terminated == ["i-1"]


def test_what_is_gone_stays_known_until_it_is_recorded_though_the_cloud_forgets_it() -> None:
    cloud = _Cloud(replace(RUNNING, gone_at=_at(-1)))
    groups = _groups(cloud)
    cloud.instances = ()
    groups.look()
    assert _only(groups).gone_at == _at(-1)


def test_later_looks_read_less_far_back_and_keep_the_time_of_the_purchase() -> None:
    cloud = _Cloud(RUNNING)
    groups = _groups(cloud)
    cloud.instances = (replace(RUNNING, requested_at=RUNNING.launched_at),)
    groups.look()
    assert _only(groups).requested_at == _at(-101)
    assert cloud.since == [NOW - timedelta(hours=24), NOW - timedelta(minutes=15)]


def test_a_machine_that_is_recorded_is_not_told_again() -> None:
    cloud = _Cloud(replace(RUNNING, gone_at=_at(-1)))
    groups = _groups(cloud)
    groups.forget(_only(groups))
    groups.look()
    assert groups.machines({}) == []
