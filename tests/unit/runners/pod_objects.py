"""Pods as the API server shows them, in a few words."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from piecework import clock
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.pods import End

IMAGE = "registry.example.com/python:1"
T0 = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def text(seconds: float) -> str:
    """As Kubernetes writes times: whole seconds, cut off."""
    return f"{at(seconds):%Y-%m-%dT%H:%M:%SZ}"


def request(**changed: Any) -> str:
    return json.dumps(
        {
            "run": "flights.delays.7f3a9c1b04d2",
            "number": 1,
            "engine": "python",
            "count": 1,
            "memory_bytes": 2 * 2**30,
            "queued_at": clock.to_text(T0),
            "owner": {"kind": "cli"},
            **changed,
        }
    )


class Pod(dict[str, Any]):
    """A pod that is built up step by step; every step returns the pod."""

    def __init__(self, index: int = 0, **changed: Any) -> None:
        metadata = {
            "name": f"delays-7f3a9c1b04d2-1-{index}",
            "namespace": "jobs",
            "creationTimestamp": text(0),
            "labels": {labels.INDEX: str(index)},
            "annotations": {labels.REQUEST: request(**changed)},
        }
        container = {"name": "job", "image": IMAGE}
        gates = [{"name": labels.GATE}]
        super().__init__(
            metadata=metadata,
            spec={"containers": [container], "schedulingGates": gates},
            status={"phase": "Pending"},
        )

    def annotated(self, name: str, **value: Any) -> Pod:
        self["metadata"]["annotations"][name] = json.dumps(value)
        return self

    def admitted(self, seconds: float = 1) -> Pod:
        self["spec"].pop("schedulingGates", None)
        return self.annotated(labels.ADMITTED, at=clock.to_text(at(seconds)), machine=None)

    def bound(self, seconds: float = 5, node: str = "n1") -> Pod:
        self.admitted()
        self["spec"]["nodeName"] = node
        return self.condition("PodScheduled", "True", seconds)

    def condition(self, kind: str, status: str, seconds: float, **rest: Any) -> Pod:
        found = {"type": kind, "status": status, "lastTransitionTime": text(seconds), **rest}
        self["status"].setdefault("conditions", []).append(found)
        return self

    def container(self, **state: Any) -> Pod:
        self["status"]["containerStatuses"] = [{"name": "job", "state": state}]
        return self

    def running(self, seconds: float = 10) -> Pod:
        self.bound()
        self["status"]["phase"] = "Running"
        return self.container(running={"startedAt": text(seconds)})

    def exited(
        self,
        code: int,
        seconds: float = 20,
        message: str = "",
        reason: str = "",
        started: float = 10,
    ) -> Pod:
        self.bound()
        self["status"]["phase"] = "Succeeded" if code == 0 else "Failed"
        return self.container(
            terminated={
                "exitCode": code,
                "startedAt": text(started),
                "finishedAt": text(seconds),
                "message": message,
                "reason": reason or ("Completed" if code == 0 else "Error"),
            }
        )

    def deleted(self, seconds: float, grace: int = 30) -> Pod:
        self["metadata"]["deletionTimestamp"] = text(seconds + grace)
        self["metadata"]["deletionGracePeriodSeconds"] = grace
        return self

    def known_to_kubelet(self, known: bool = True) -> Pod:
        """Whether its kubelet knew of its deletion when it last told of it."""
        self["metadata"]["generation"] = 3
        self["status"]["observedGeneration"] = 3 if known else 2
        return self

    def ended(self, outcome: Outcome, cause: str, seconds: float) -> Pod:
        annotation = End(outcome, cause, at(seconds)).to_json()
        self["metadata"]["annotations"][labels.END] = annotation
        return self

    def status(self, **changed: Any) -> Pod:
        self["status"].update(changed)
        return self


def said(result: Any = None, *, failed: str | None = None, out_of_memory: bool = False) -> str:
    """What the launcher leaves behind."""
    use = {"cpu_seconds": 1.5, "peak_memory_bytes": 1, "read_bytes": 0, "written_bytes": 0}
    told = {"result": result, "use": use, "failed": failed, "out_of_memory": out_of_memory}
    return json.dumps(told)


def with_first(name: str, **state: Any) -> Pod:
    """A pod whose program has not started, because of a container that comes before it."""
    pod = Pod().bound().container(waiting={"reason": "PodInitializing"})
    return pod.status(initContainerStatuses=[{"name": name, "state": state}])
