"""Whatever comes while piecework goes, no finalizer is left."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from piecework.keeper.cluster import uninstall as subject
from piecework.kube.client import NODE_CLAIM, POD, Kind, Kube, Object
from piecework.plan import labels

RUN = "job-0a1b2c"


def held(name: str, **spec: Any) -> Object:
    named = {labels.POOL: "burst", labels.RUN: RUN}
    return {
        "metadata": {
            "name": name,
            "namespace": "jobs",
            "labels": named,
            "finalizers": [labels.FINALIZER, "karpenter.sh/termination"],
        },
        "spec": spec,
        "status": {},
    }


class Cluster:
    """Has a pod that was admitted; Karpenter makes its claim some looks later."""

    def __init__(self, claim_at_look: int) -> None:
        self.claim_at_look, self.looks = claim_at_look, 0
        self.pod = held("job-1", nodeSelector={labels.RUN: RUN})
        self.claim = held("burst-x7k2q")

    def list(self, kind: Kind, **_: Any) -> SimpleNamespace:
        if kind is POD:
            self.looks += 1
            return SimpleNamespace(items=[self.pod])
        there = kind is NODE_CLAIM and self.looks >= self.claim_at_look
        return SimpleNamespace(items=[self.claim] if there else [])


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def let_go(obj: Object) -> None:
        obj["metadata"]["finalizers"].remove(labels.FINALIZER)

    monkeypatch.setattr(subject, "_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(subject, "remove_unstarted", lambda *_: None)
    monkeypatch.setattr(subject, "release_pod", lambda kube, *_: let_go(kube.pod))
    monkeypatch.setattr(subject, "release_claim", lambda kube, _: let_go(kube.claim))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("claim_at_look", [1, 3])
def test_a_machine_that_is_being_bought_loses_its_finalizer_too(claim_at_look: int) -> None:
    cluster = Cluster(claim_at_look)
    left = subject.uninstall(cast("Kube", cluster), {"burst"})
    assert (left.pods, left.machines) == (1, 1)
    assert cluster.claim["metadata"]["finalizers"] == ["karpenter.sh/termination"]
    assert cluster.pod["metadata"]["finalizers"] == ["karpenter.sh/termination"]


@pytest.mark.usefixtures("quick")
def test_a_machine_that_never_comes_is_waited_for_a_while() -> None:
    left = subject.uninstall(cast("Kube", Cluster(10**9)), {"burst"}, patience_seconds=0.01)
    assert (left.pods, left.machines) == (1, 0)


@pytest.mark.usefixtures("quick")
def test_pods_of_other_pools_are_left_as_they_are() -> None:
    cluster = Cluster(1)
    left = subject.uninstall(cast("Kube", cluster), {"other"})
    assert (left.pods, left.machines) == (0, 0)
    assert labels.FINALIZER in cluster.pod["metadata"]["finalizers"]
