from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from piecework.kube.client import Kube
from piecework.machines.karpenter import LONE_STRAY, Karpenter, read_claim, release_claim
from piecework.machines.provider import NodeSeen, read_node
from piecework.plan import labels
from piecework.spec.pool import Pool
from tests.unit.kube.server import Server, found, refused

POOL = Pool.model_validate({"name": "spot", "provider": "karpenter"})


def _time(second: int) -> datetime:
    return datetime(2026, 11, 24, 12, 0, second, tzinfo=UTC)


def _text(second: int) -> str:
    return f"2026-11-24T12:00:{second:02}Z"


def _claim(
    *conditions: tuple[str, int], version: str = "1", deleting: int | None = None, **more: Any
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "spot-abcde",
        "resourceVersion": version,
        "creationTimestamp": _text(0),
        "labels": {
            labels.POOL: "spot",
            labels.RUN: "delays-1",
            "node.kubernetes.io/instance-type": "m6a.large",
            "karpenter.sh/capacity-type": "spot",
        },
        "annotations": {},
        "finalizers": ["karpenter.sh/termination", labels.FINALIZER],
        **more,
    }
    if deleting is not None:
        metadata["deletionTimestamp"] = _text(deleting)
    told = [
        {"type": name, "status": "True", "lastTransitionTime": _text(second)}
        for name, second in conditions
    ]
    return {"metadata": metadata, "spec": {}, "status": {"conditions": told, "nodeName": "node"}}


LIFE = (("Launched", 1), ("Registered", 9), ("Initialized", 10))


def test_conditions_tell_a_machines_life() -> None:
    machine = read_claim(_claim(*LIFE), POOL)
    assert (machine.requested_at, machine.launched_at) == (_time(0), _time(1))
    assert (machine.joined_at, machine.ready_at) == (_time(9), _time(10))
    assert (machine.run, machine.instance_type, machine.spot) == ("delays-1", "m6a.large", True)
    assert machine.state == "ready"
    assert machine.held


def test_a_machine_that_drains_is_paid_for_until_its_instance_terminates() -> None:
    assert read_claim(_claim(*LIFE, deleting=30), POOL).gone_at is None
    ended = read_claim(_claim(*LIFE, ("InstanceTerminating", 36), deleting=30), POOL)
    assert ended.gone_at == _time(36)
    assert ended.state == "gone"


def test_a_claim_that_karpenter_has_done_with_is_gone_since_its_deletion() -> None:
    vanished = _claim(*LIFE, deleting=30, finalizers=[labels.FINALIZER])
    assert read_claim(vanished, POOL).gone_at == _time(30)


def test_marks_of_the_keeper_are_read_back() -> None:
    noted = {
        labels.RELEASED: "2026-11-24T12:00:20Z nobody needs it",
        labels.ATTEMPT: "flights.delays.1.1",
        "piecework.dev/interrupted": _text(15),
    }
    machine = read_claim(_claim(*LIFE, annotations=noted), POOL)
    assert (machine.released_at, machine.release_reason) == (_time(20), "nobody needs it")
    assert machine.attempt == "flights.delays.1.1"
    assert machine.interrupted_at == _time(15)


def test_the_run_is_read_from_the_requirements_where_no_label_says_it() -> None:
    claim = _claim()
    del claim["metadata"]["labels"][labels.RUN]
    required = [{"key": labels.RUN, "operator": "In", "values": ["delays-1"]}]
    claim["spec"]["requirements"] = required
    assert read_claim(claim, POOL).run == "delays-1"


def test_why_a_machine_cannot_be_bought_is_told() -> None:
    claim = _claim()
    failed = {"type": "Launched", "status": "Unknown", "reason": "LaunchFailed", "message": "no"}
    claim["status"]["conditions"] = [failed]
    claims = {"c": claim}
    karpenter = Karpenter(Kube(Server()), [POOL], lambda: claims)
    assert [machine.problem for machine in karpenter.machines({})] == ["no"]
    assert karpenter.failures("spot") == "no"
    assert karpenter.failures("other") is None


def test_machines_of_pools_that_it_does_not_keep_are_left_out() -> None:
    other = _claim()
    other["metadata"]["labels"][labels.POOL] = "other"
    assert Karpenter(Kube(Server()), [POOL], lambda: {"c": other}).machines({}) == []


def test_a_claim_that_vanished_although_it_was_not_held_is_gone() -> None:
    claims = {"c": _claim(*LIFE, finalizers=["karpenter.sh/termination"])}
    karpenter = Karpenter(Kube(Server()), [POOL], lambda: claims, now=lambda: _time(50))
    karpenter.machines({})
    claims.clear()
    (machine,) = karpenter.machines({})
    assert machine.gone_at == _time(50)


def test_an_unchanged_claim_is_read_once() -> None:
    claims = {"c": _claim(*LIFE)}
    karpenter = Karpenter(Kube(Server()), [POOL], lambda: claims)
    assert karpenter.machines({})[0] is karpenter.machines({})[0]


def test_a_stamp_adds_what_is_missing_and_nothing_twice() -> None:
    claim = _claim(*LIFE, finalizers=["karpenter.sh/termination"])
    server = Server([found(claim), found(claim)])
    karpenter = Karpenter(Kube(server), [POOL], dict)
    karpenter.stamp(read_claim(claim, POOL), "flights.delays.1.1")
    paths = [operation["path"] for operation in server.asked[1].body]
    assert "/metadata/finalizers" in paths
    assert "/metadata/annotations/piecework.dev~1attempt" in paths
    stamped = _claim(*LIFE, annotations={labels.ATTEMPT: "flights.delays.1.1"})
    again = Server([found(stamped)])
    Karpenter(Kube(again), [POOL], dict).stamp(read_claim(stamped, POOL), "flights.delays.1.1")
    assert [asked.method for asked in again.asked] == ["GET"]


def test_the_finalizer_is_taken_off_though_others_change_the_claim() -> None:
    claim = _claim(*LIFE)
    server = Server([found(claim), refused(409, "Conflict"), found(claim), found(claim)])
    release_claim(Kube(server), "spot-abcde")
    assert [asked.method for asked in server.asked] == ["GET", "PATCH", "GET", "PATCH"]
    assert server.asked[3].body[1] == {"op": "remove", "path": "/metadata/finalizers/1"}


class _Strays:
    """A Karpenter whose NodeClaim is another node's than the one that has joined."""

    def __init__(self, second: int = 40) -> None:
        self.claim = _claim(*LIFE, annotations={labels.ATTEMPT: "flights.delays.1.1"})
        self.claim["status"] |= {"providerID": "aws:///zone/i-2"}
        self.second = second
        self.nodes = {"stray": _node("stray", "aws:///zone/i-1")}
        self.karpenter = Karpenter(
            Kube(Server()), [POOL], lambda: {"c": self.claim}, now=lambda: _time(self.second)
        )

    def look(self) -> list[str]:
        return [machine.id for machine in self.karpenter.machines(self.nodes)]


def _node(name: str, provider_id: str, ready: str = "True", **more: str) -> NodeSeen:
    named = {
        labels.POOL: "spot",
        labels.RUN: "delays-1",
        "karpenter.sh/nodepool": "spot",
        "karpenter.sh/capacity-type": "spot",
        "node.kubernetes.io/instance-type": "m6a.large",
        **more,
    }
    metadata = {"name": name, "creationTimestamp": _text(20), "labels": named}
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": _text(21)}
    told = {"conditions": [condition]}
    return read_node({"metadata": metadata, "spec": {"providerID": provider_id}, "status": told})


def test_a_machine_that_karpenter_bought_and_forgot_is_known_by_its_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    strays = _Strays()
    _, stray = strays.karpenter.machines(strays.nodes)
    assert "machine stray is paid for: no NodeClaim knows it" in caplog.text
    assert (stray.id, stray.node, stray.state) == ("stray", "stray", "leaving")
    assert (stray.launched_at, stray.joined_at, stray.ready_at) == (_time(0), _time(20), _time(21))
    assert (stray.attempt, stray.instance_type, stray.spot) == (
        "flights.delays.1.1",
        "m6a.large",
        True,
    )
    strays.nodes.clear()
    strays.second = 50
    _, stray = strays.karpenter.machines(strays.nodes)
    assert (stray.gone_at, stray.gone_cause) == (_time(50), "returned")
    strays.karpenter.forget(stray)  # asks nobody for a NodeClaim of that name
    assert strays.look() == ["spot-abcde"]


def test_a_forgotten_machine_is_paid_for_since_it_joined_if_nothing_else_is_known() -> None:
    strays = _Strays(second=59)
    strays.claim["metadata"]["creationTimestamp"] = "2026-11-24T11:00:00Z"
    assert strays.look() == ["spot-abcde"]  # its own claim may not be known yet
    strays.nodes["stray"] = replace(strays.nodes["stray"], joined_at=_time(20) - LONE_STRAY)
    _, stray = strays.karpenter.machines(strays.nodes)
    assert (stray.launched_at, stray.attempt) == (_time(20) - LONE_STRAY, None)


def test_a_node_is_no_stray_while_it_may_still_find_its_claim() -> None:
    young = _Strays(second=29)
    assert young.look() == ["spot-abcde"]
    not_ready = _Strays()
    not_ready.nodes["stray"] = _node("stray", "aws:///zone/i-1", ready="False")
    assert not_ready.look() == ["spot-abcde"]
    unwritten = _Strays()
    del unwritten.claim["status"]["providerID"]
    assert unwritten.look() == ["spot-abcde"]
    unwritten.claim["status"]["providerID"] = "aws:///zone/i-2"  # which is another one
    assert unwritten.look() == ["spot-abcde", "stray"]


def test_nodes_that_a_claim_knows_or_knew_are_no_strays() -> None:
    strays = _Strays()
    strays.nodes["stray"] = _node("stray", "aws:///zone/i-2")
    assert strays.look() == ["spot-abcde"]
    strays.claim["status"]["providerID"] = "aws:///zone/i-3"  # as if the first claim were gone
    assert strays.look() == ["spot-abcde"]
    registered = _Strays()
    registered.nodes["stray"] = _node(
        "stray", "aws:///zone/i-1", **{"karpenter.sh/registered": "true"}
    )
    assert registered.look() == ["spot-abcde"]


def test_what_is_written_down_of_a_stray_is_kept_without_a_claim() -> None:
    strays = _Strays()
    strays.claim["metadata"]["annotations"] = {}
    _, stray = strays.karpenter.machines(strays.nodes)
    assert stray.attempt is None
    strays.karpenter.stamp(stray, "flights.delays.1.1")
    strays.karpenter.note_interruption(stray, _time(41))
    _, stray = strays.karpenter.machines(strays.nodes)
    assert (stray.attempt, stray.interrupted_at) == ("flights.delays.1.1", _time(41))
