from __future__ import annotations

from typing import Any

from piecework.keeper.cluster.lease import Lease
from piecework.kube.client import Kube
from piecework.kube.transport import UnreachableError
from tests.unit.kube.server import Reply, Server, found, refused


def _lease_json(holder: str, version: str = "1", seconds: int = 10) -> dict[str, Any]:
    return {
        "metadata": {"name": "piecework-keeper", "namespace": "home", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": seconds, "leaseTransitions": 1},
    }


def _lease(*replies: Reply, lease_seconds: int = 10) -> tuple[Lease, Server]:
    server = Server(list(replies))
    lease = Lease(Kube(server), "home", "me", lease_seconds=lease_seconds, renew_seconds=0.01)
    return lease, server


def test_the_first_keeper_makes_the_lease() -> None:
    lease, server = _lease(refused(404), found(_lease_json("me")))
    lease.renew()
    assert lease.is_held()
    assert server.asked[1].method == "POST"
    assert server.asked[1].body["spec"]["holderIdentity"] == "me"


def test_a_lease_that_somebody_renews_is_not_taken() -> None:
    lease, server = _lease(
        found(_lease_json("other", "1")), found(_lease_json("other", "2")), lease_seconds=1
    )
    lease.renew()
    lease.renew()
    assert not lease.is_held()
    assert lease.holder == "other"
    assert {asked.method for asked in server.asked} == {"GET"}


def test_a_lease_that_nobody_renews_is_taken_after_its_length() -> None:
    stale = _lease_json("other", "1", seconds=0)
    lease, server = _lease(found(stale), found(_lease_json("me", "2")))
    stale["spec"]["leaseDurationSeconds"] = 0
    lease = Lease(Kube(server), "home", "me", lease_seconds=0, renew_seconds=0.0)
    lease.renew()
    assert server.asked[-1].method == "PUT"
    assert server.asked[-1].body["spec"]["leaseTransitions"] == 2


def test_a_lease_that_was_given_up_is_taken_at_once() -> None:
    lease, _ = _lease(found(_lease_json("")), found(_lease_json("me", "2")))
    lease.renew()
    assert lease.is_held()


def test_whoever_loses_a_race_for_it_does_not_act() -> None:
    lease, _ = _lease(found(_lease_json("")), refused(409, "Conflict"))
    lease.renew()
    assert not lease.is_held()


def test_an_api_server_that_is_away_leaves_the_lease_until_it_runs_out() -> None:
    away = UnreachableError("away")
    lease, _ = _lease(found(_lease_json("")), found(_lease_json("me", "2")), away)
    lease.renew()
    lease.renew()
    assert lease.is_held()
    short, _ = _lease(found(_lease_json("")), found(_lease_json("me", "2")), lease_seconds=0)
    short.renew()
    assert not short.is_held()


def test_stopping_gives_it_up() -> None:
    lease, server = _lease(
        found(_lease_json("")),
        found(_lease_json("me", "2")),
        found(_lease_json("me", "2")),
        found(_lease_json("", "3")),
    )
    lease.renew()
    lease.stop()
    assert not lease.is_held()
    assert server.asked[-1].body["spec"]["holderIdentity"] == ""
