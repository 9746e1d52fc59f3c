"""SparkApplications without a driver: each has an end, a record, and is cleared away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from piecework.keeper.cluster.applications import Applications, Step, judge
from piecework.kube.client import SPARK_APPLICATION, Kube, Object
from piecework.ledger.events import Event, Kind, Outcome
from piecework.plan import labels
from piecework.runners.pods import End
from piecework.spec.pool import Pool
from tests.unit.keeper.cluster.worlds import NOW, at, pod, pool, request_json, text, world
from tests.unit.runners.objects import Objects

OPERATED = pool().model_copy(update={"spark_operator": True})
SOON, LATE = timedelta(seconds=1), OPERATED.start_timeout + timedelta(seconds=1)


def application(state: str = "", *, attempts: int = 0, seen: bool = False) -> Object:
    template = {
        "metadata": {
            "labels": {labels.POOL: "spot", labels.RUN: "a-abc"},
            "annotations": {labels.REQUEST: request_json("a")},
            "finalizers": [labels.FINALIZER],
        },
        "spec": {"schedulingGates": [{"name": labels.GATE}], "containers": [{"name": "job"}]},
    }
    return {
        "metadata": {
            "name": "a-0",
            "namespace": OPERATED.namespace,
            "uid": "1",
            "creationTimestamp": text(0),
            "labels": {labels.POOL: "spot"},
            "annotations": {labels.SEEN: "true"} if seen else {},
        },
        "spec": {"driver": {"podName": "a-0", "template": template}},
        "status": {"applicationState": {"state": state}, "executionAttempts": attempts},
    }


def judged(made: Object, after: timedelta, **known: Any) -> Step | None:
    driver = pod("a", **known) if known else None
    return judge(made, driver, OPERATED, NOW + after)


@pytest.mark.parametrize("state", ["", "SUBMITTED", "SUSPENDED"])
def test_one_without_a_driver_has_its_time_and_then_an_end_that_says_why(state: str) -> None:
    made = application(state)
    assert judged(made, SOON) is None
    step = judged(made, LATE)
    assert step is not None
    assert step.kind == "end"
    assert step.why.startswith("there was no driver after 15m")


def test_a_drivers_pod_says_by_itself_how_it_is() -> None:
    for state in ("SUBMITTED", "RUNNING", "FAILED", "COMPLETED", "PENDING_RERUN"):
        assert judged(application(state), LATE, node="n", started=1) is None


def test_a_second_driver_is_never_made() -> None:
    for known in ({}, {"node": "n", "started": 1, "ended": 2}):
        step = judged(application("PENDING_RERUN"), SOON, **known)
        assert step is not None
        assert step.kind == "remove"


def test_one_that_is_over_goes_when_it_was_read_or_nobody_asks() -> None:
    made = application("SUBMISSION_FAILED")
    assert judged(made, SOON) is None
    assert judged(application("SUBMISSION_FAILED", seen=True), SOON) is not None
    assert judged(made, timedelta(hours=2)) is not None


class Kept:
    """An API server with applications, and the events that were told."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.kube = Kube(self.objects)
        self.told: list[Event] = []
        self.applications = Applications(self.kube, {"spot": OPERATED}, self.put)
        self.applications.start()

    def put(self, events: Iterable[Event]) -> None:
        self.told += events

    def ended(self) -> list[Event]:
        return [event for event in self.told if event.kind is Kind.ATTEMPT_ENDED]

    def look_until(self, condition: Callable[[], object], after: timedelta) -> None:
        snapshot = world(now=NOW + after)
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end
            self.applications.look(snapshot)
            time.sleep(0.01)


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.applications.stop()


def test_what_had_no_driver_in_time_is_ended_recorded_and_left_alone(kept: Kept) -> None:
    kept.kube.create(SPARK_APPLICATION, application())

    def is_ended() -> bool:
        (made,) = kept.objects.kept.values()
        return labels.END in made["metadata"]["annotations"]

    # The objects behind the wire were made half an hour after the worlds of these tests.
    kept.look_until(is_ended, timedelta(days=1))
    (made,) = kept.objects.kept.values()
    assert made["spec"]["suspend"] is True
    assert kept.ended()[0].data["outcome"] == "never-started"
    assert kept.ended()[0].subject == "a.abc.1"


def test_one_that_was_cancelled_and_deleted_is_in_the_ledger(kept: Kept) -> None:
    kept.kube.create(SPARK_APPLICATION, application())
    kept.look_until(lambda: kept.applications._mirrors[0].objects, SOON)
    end = {
        "metadata": {"annotations": {labels.END: End(Outcome.CANCELLED, "enough", at(1)).to_json()}}
    }
    kept.kube.patch(SPARK_APPLICATION, "a-0", end, OPERATED.namespace)
    kept.kube.delete(SPARK_APPLICATION, "a-0", OPERATED.namespace)
    kept.look_until(kept.ended, SOON)
    assert kept.ended()[0].data["outcome"] == "cancelled"
    assert kept.ended()[0].data["cause"] == "enough"


def test_pools_without_an_operator_have_nothing_watched() -> None:
    objects = Objects()
    plain: Pool = pool()
    made = Applications(Kube(objects), {"spot": plain}, lambda _: None)
    made.start()
    made.look(world(now=NOW))
    made.stop()
    assert objects.asked == []
