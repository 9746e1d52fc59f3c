from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from piecework.keeper.cluster.actions import Action, Admit, EndAttempt, MarkRecorded
from piecework.keeper.cluster.apply import Done
from piecework.keeper.cluster.state import State
from piecework.keeper.cluster.tending import Tending
from piecework.keeper.cluster.writer import Writer
from piecework.kube.client import Kube, Object
from piecework.ledger.events import Event, Kind
from piecework.machines.karpenter import Karpenter
from piecework.plan import labels
from tests.unit.keeper.cluster.worlds import NOW, at, pod_json, pool, text
from tests.unit.kube.server import Server


@dataclass
class _Cluster:
    """What watches would tell, as a test wrote it."""

    pods: list[Object] = field(default_factory=list)
    nodes: list[Object] = field(default_factory=list)
    claims_now: dict[str, Object] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def claims(self) -> dict[str, Object]:
        return self.claims_now

    def drain(self, state: State, now: datetime) -> int:
        for pod in self.pods:
            state.take_pod(pod, now=now)
        for node in self.nodes:
            state.take_node(node)
        return len(self.pods)

    def errors(self) -> list[str]:
        return self.problems


@dataclass
class _Executor:
    """Notes what is to be done, and does none of it."""

    actions: list[Action] = field(default_factory=list)

    def apply(self, actions: Iterable[Action]) -> list[Done]:
        self.actions = list(actions)
        return []


@dataclass
class _Keeper:
    cluster: _Cluster = field(default_factory=_Cluster)
    executor: _Executor = field(default_factory=_Executor)
    written: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        def append(events: Iterable[Event]) -> int:
            self.written += events
            return len(self.written)

        kube, kept = Kube(Server()), pool(lost_after="1m")
        self.tending = Tending(
            kube=kube,
            pools={"spot": kept},
            teams={},
            providers={"spot": Karpenter(kube, [kept], self.cluster.claims)},
            sources=self.cluster,  # type: ignore[arg-type]  # as much of it as is asked for
            writer=Writer(append),
            executor=self.executor,  # type: ignore[arg-type]  # the same
            wake=threading.Event(),
            now=lambda: NOW,
        )

    def tick(self) -> list[Action]:
        self.tending.tick()
        self.tending.writer.flush()
        return self.executor.actions


def _claim_json(name: str) -> Object:
    life = (("Launched", -600), ("Registered", -590), ("Initialized", -580))
    return {
        "metadata": {
            "name": name,
            "resourceVersion": "1",
            "creationTimestamp": text(-601),
            "labels": {labels.POOL: "spot", labels.RUN: "run-abc"},
            "annotations": {labels.ATTEMPT: "run.abc.1"},
            "finalizers": [labels.FINALIZER],
        },
        "status": {
            "nodeName": f"node-{name}",
            "conditions": [
                {"type": kind, "status": "True", "lastTransitionTime": text(second)}
                for kind, second in life
            ],
        },
    }


def _node_json(name: str, **condition: Any) -> Object:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": text(-580), **condition}
    return {
        "metadata": {
            "name": f"node-{name}",
            "resourceVersion": "1",
            "creationTimestamp": text(-595),
            "labels": {labels.POOL: "spot", labels.RUN: "run-abc"},
        },
        "status": {"conditions": [ready]},
    }


def test_a_tick_admits_and_records_what_it_sees() -> None:
    keeper = _Keeper()
    keeper.cluster.pods.append(pod_json("run", gated=True))
    (action,) = keeper.tick()
    assert isinstance(action, Admit)
    assert [event.kind for event in keeper.written] == [Kind.ATTEMPT_QUEUED]


def test_a_keeper_that_does_not_lead_looks_on_and_knows_all_when_it_does() -> None:
    keeper = _Keeper()
    keeper.tending.may_act = lambda: False
    keeper.cluster.pods.append(pod_json("run", gated=True))
    assert keeper.tick() == []
    assert keeper.written == []
    keeper.cluster.pods.clear()
    keeper.tending.may_act = lambda: True
    assert [action.kind for action in keeper.tick()] == ["admit"]
    assert len(keeper.written) == 1


def test_a_keeper_that_cannot_see_records_and_does_nothing() -> None:
    keeper = _Keeper()
    keeper.cluster.problems = ["node claims are forbidden"]
    keeper.cluster.pods.append(pod_json("run", gated=True))
    assert keeper.tick() == []
    assert [event.kind for event in keeper.written] == [Kind.ATTEMPT_QUEUED]
    keeper.cluster.problems = []
    assert [action.kind for action in keeper.tick()] == ["admit"]


def test_a_pod_is_marked_only_in_a_tick_after_its_end_was_written() -> None:
    keeper = _Keeper()
    keeper.cluster.claims_now["m"] = _claim_json("m")
    keeper.cluster.nodes.append(_node_json("m"))
    keeper.cluster.pods.append(pod_json("run", node="node-m", started=-20, ended=-1, admitted=-30))
    assert not any(isinstance(action, MarkRecorded) for action in keeper.tick())
    kinds = [event.kind for event in keeper.written]
    assert Kind.ATTEMPT_ENDED in kinds
    assert Kind.MACHINE_VACATED in kinds
    assert any(isinstance(action, MarkRecorded) for action in keeper.tick())
    assert len(keeper.written) == len(kinds)


@dataclass
class _SlowExecutor(_Executor):
    """Begins what is to be done, and goes on only when it may."""

    begun: threading.Event = field(default_factory=threading.Event)
    may_go_on: threading.Event = field(default_factory=threading.Event)
    calls: int = 0

    def apply(self, actions: Iterable[Action]) -> list[Done]:
        self.calls += 1
        self.begun.set()
        assert self.may_go_on.wait(60)
        return super().apply(actions)


def test_what_happens_is_recorded_while_something_is_done_that_takes_its_time() -> None:
    executor = _SlowExecutor()
    keeper = _Keeper(executor=executor)
    keeper.cluster.pods.append(pod_json("waits", gated=True))
    tending = keeper.tending
    thread = threading.Thread(target=tending.run)
    thread.start()
    try:
        assert executor.begun.wait(60)
        keeper.cluster.pods.append(pod_json("other", node="node-m", started=-20, ended=-1))
        tending.wake.set()
        until = time.monotonic() + 60
        while Kind.ATTEMPT_ENDED not in [event.kind for event in keeper.written]:
            assert time.monotonic() < until
            tending.writer.flush()
            time.sleep(0.01)
        assert executor.calls == 1
    finally:
        executor.may_go_on.set()
        tending.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_a_keeper_decides_again_when_something_has_changed() -> None:
    executor = _SlowExecutor()
    executor.may_go_on.set()
    keeper = _Keeper(executor=executor)
    thread = threading.Thread(target=keeper.tending.run)
    thread.start()
    try:
        assert executor.begun.wait(60)
        keeper.cluster.pods.append(pod_json("waits", gated=True))
        until = time.monotonic() + 60
        while not executor.actions:
            assert time.monotonic() < until
            keeper.tending.wake.set()
            time.sleep(0.01)
    finally:
        keeper.tending.stop()
        thread.join(60)
    assert isinstance(executor.actions[0], Admit)


def test_a_node_that_fell_silent_while_the_api_server_was_away_is_given_its_time() -> None:
    keeper = _Keeper()
    keeper.cluster.claims_now["m"] = _claim_json("m")
    silent = _node_json("m", status="Unknown", lastTransitionTime=text(-300))
    keeper.cluster.nodes.append(silent)
    keeper.cluster.pods.append(pod_json("run", node="node-m", bound=-570, started=-560))
    keeper.cluster.problems = ["the API server does not answer"]
    assert keeper.tick() == []
    keeper.cluster.problems = []
    assert keeper.tick() == []
    keeper.tending.now = lambda: at(61)
    assert any(isinstance(action, EndAttempt) for action in keeper.tick())
