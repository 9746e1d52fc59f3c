"""Carries actions out: patches, deletions, and the seller's API. Everything can be done twice.

Enters: actions. Leaves: the objects as the API server has them now, so that the next decision sees
what this one did before a watch tells. An action that fails is told and left: the next tick decides
it again, from what is true then.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

from piecework import clock
from piecework.errors import PieceworkError
from piecework.keeper.cluster.actions import (
    Action,
    Admit,
    AdmitFollowers,
    EndAttempt,
    ForgetMachine,
    GiveBack,
    MarkRecorded,
    NoteDeletion,
    NoteInterruption,
    Release,
    RemovePod,
    StampMachine,
    TellWaiting,
)
from piecework.keeper.cluster.snapshot import KUEUE_GATE, KUEUE_GROUP, PodSeen
from piecework.kube.client import NODE, POD, ConflictError, Kind, Kube, Object
from piecework.ledger.events import Outcome
from piecework.machines.provider import Provider
from piecework.plan import labels
from piecework.runners.pods import End

logger = logging.getLogger(__name__)

#: What Kueue has of a pod, or of all pods of a gang by the gang's name.
WORKLOAD = Kind("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
#: Requests to the API server at the same time.
THREADS = 8
#: How long one tick may act, in seconds; what is left is decided again, from what is true then.
LONGEST_SECONDS = 0.5
_TOLD_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """What became of an action. `objects` are those that it changed, as they are now."""

    action: Action
    error: str | None = None
    pods: tuple[Object, ...] = ()
    nodes: tuple[Object, ...] = ()


@dataclass
class Executor:
    """Does what was decided.

    `may_act` is asked before each action: a keeper that has lost its lease stops at once.
    """

    kube: Kube
    providers: Mapping[str, Provider]
    may_act: Callable[[], bool] = lambda: True
    longest_seconds: float = LONGEST_SECONDS
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="keeper")
    )
    #: For the pods of one action: a gang's, or a hundred executors. They wait for nobody else.
    pod_threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(THREADS, thread_name_prefix="keeper-pods")
    )
    _told_until: dict[tuple[str, str], float] = field(default_factory=dict)

    def apply(self, actions: Iterable[Action]) -> list[Done]:
        """Does the actions, in their order where they are about one machine or attempt.

        After `longest_seconds` the rest is left: what happens meanwhile must be looked at.
        """
        chains: dict[str, list[Action]] = {}
        for action in actions:
            chains.setdefault(_subject(action), []).append(action)
        left, done = deque(chains.values()), list[Done]()
        deadline = time.monotonic() + self.longest_seconds
        begun: set[Future[list[Done]]] = set()
        while begun or (left and time.monotonic() < deadline):
            while left and len(begun) < THREADS and time.monotonic() < deadline:
                begun.add(self.threads.submit(self._chain, left.popleft()))
            over, begun = wait(begun, return_when=FIRST_COMPLETED)
            for future in over:
                done += future.result()
        return done

    def _chain(self, actions: list[Action]) -> list[Done]:
        done: list[Done] = []
        for action in actions:
            if not self.may_act():
                break
            result = self._one(action)
            done.append(result)
            if result.error is not None:
                break
        return done

    def _one(self, action: Action) -> Done:
        try:
            pods, nodes = self._do(action)
        except PieceworkError as error:
            self._tell_failure(action, error)
            return Done(action, str(error))
        level = logging.DEBUG if action.kind in ("tell-waiting", "mark-recorded") else logging.INFO
        logger.log(level, "%s", action, extra={"action": action.kind, "subject": _subject(action)})
        return Done(action, None, tuple(pods), tuple(nodes))

    def _tell_failure(self, action: Action, error: PieceworkError) -> None:
        """A failure is tried again every second, and told once a minute."""
        key, now = (action.kind, _subject(action)), time.monotonic()
        if now < self._told_until.get(key, 0.0):
            return
        self._told_until = {k: until for k, until in self._told_until.items() if until > now}
        self._told_until[key] = now + _TOLD_SECONDS
        logger.warning("%s: failed: %s", action, error, extra={"action": action.kind})

    def _do(self, action: Action) -> tuple[list[Object], list[Object]]:
        match action:
            case Admit() | AdmitFollowers():
                return self._admit(action)
            case EndAttempt():
                return self._end(action), []
            case TellWaiting():
                text = {"reason": action.reason, "since": clock.to_text(action.since)}
                return self._annotate(
                    action.pod, labels.WAITING, json.dumps({**text, "number": action.number})
                ), []
            case NoteDeletion():
                end = End(Outcome.INTERRUPTED, action.cause, action.at).to_json()
                return self._annotate(action.pod, labels.END, end, only_first=True), []
            case MarkRecorded():
                return self._annotate(action.pod, labels.RECORDED, "true"), []
            case RemovePod():
                return self._remove(action.pod), []
            case StampMachine():
                self._provider(action).stamp(action.machine, action.attempt)
            case NoteInterruption():
                pods = self._warn(action)
                self._provider(action).note_interruption(action.machine, action.at)
                return pods, []
            case Release():
                self._provider(action).release(action.machine, action.at, action.reason)
            case GiveBack():
                self._provider(action).give_back(action.machine)
            case ForgetMachine():
                self._provider(action).forget(action.machine)
        return [], []

    def _provider(
        self, action: StampMachine | NoteInterruption | Release | GiveBack | ForgetMachine
    ) -> Provider:
        return self.providers[action.machine.pool]

    def _admit(self, action: Admit | AdmitFollowers) -> tuple[list[Object], list[Object]]:
        """Hands machines over, then opens the gates, each with the time of its admission."""
        nodes = []
        for machine in action.handed:
            if machine.provider == "karpenter" and machine.node is not None:
                change = {"metadata": {"labels": {labels.RUN: action.attempt.first.run}}}
                node = self.kube.patch(NODE, machine.node, change)
                if node is None:
                    raise _VanishedError(f"machine {machine.id} has gone meanwhile")
                nodes.append(node)
        names = {pod.key: m.id for pod, m in zip(action.pods, action.handed, strict=False)}

        def open_gate(pod: PodSeen) -> list[Object]:
            told = action.told if pod is action.attempt.first else None
            opened = self._open(pod, clock.to_text(action.at), names.get(pod.key), told)
            return [] if opened is None else [opened]

        return self._for_each([pod for pod in action.pods if pod.gated], open_gate), nodes

    def _for_each(
        self, pods: Sequence[PodSeen], do: Callable[[PodSeen], list[Object]]
    ) -> list[Object]:
        """Does it for several pods at the same time; returns what was changed."""
        if len(pods) == 1:
            return do(pods[0])
        return [changed for some in self.pod_threads.map(do, pods) for changed in some]

    def _open(self, pod: PodSeen, at: str, machine: str | None, told: str | None) -> Object | None:
        gates = [gate["name"] for gate in pod.raw["spec"].get("schedulingGates", ())]
        index = gates.index(labels.GATE)
        admitted = json.dumps({"at": at, "machine": machine})
        change: list[dict[str, Any]] = [
            {"op": "test", "path": "/metadata/uid", "value": pod.uid},
            {"op": "test", "path": f"/spec/schedulingGates/{index}/name", "value": labels.GATE},
            {"op": "remove", "path": f"/spec/schedulingGates/{index}"},
            {"op": "add", "path": _path(labels.ADMITTED), "value": admitted},
        ]
        if told is not None:
            number = 0 if pod.waiting is None else pod.waiting.number + 1
            waits = json.dumps({"reason": told, "since": at, "number": number})
            change.append({"op": "add", "path": _path(labels.WAITING), "value": waits})
        if KUEUE_GATE in gates or "annotations" not in pod.raw["metadata"]:
            raise _VanishedError(f"pod {'/'.join(pod.key)} is not ready to be admitted")
        try:
            return self.kube.patch(POD, pod.key[1], change, pod.key[0], json_patch=True)
        except ConflictError:
            return self.kube.get(POD, pod.key[1], pod.key[0])

    def _end(self, action: EndAttempt) -> list[Object]:
        def end_pod(pod: PodSeen) -> list[Object]:
            changed = []
            if pod.end is None:
                end = End(action.outcome, action.cause, action.at).not_after(pod.deleted_at)
                changed += self._annotate(pod, labels.END, end.to_json(), only_first=True)
            grace = 0 if action.force or pod.node is None else None
            namespace, name = pod.key
            self.kube.delete(POD, name, namespace, grace_seconds=grace, uid=pod.uid)
            now = self.kube.get(POD, name, namespace)
            return changed if now is None else [*changed, now]

        return self._for_each([pod for pod in action.pods if pod.is_live], end_pod)

    def _warn(self, action: NoteInterruption) -> list[Object]:
        notice = json.dumps({"at": clock.to_text(action.at)})
        return [
            changed
            for pod in action.pods
            for changed in self._annotate(pod, labels.NOTICE, notice, only_first=True)
        ]

    def _annotate(
        self, pod: PodSeen, name: str, value: str, *, only_first: bool = False
    ) -> list[Object]:
        namespace, pod_name = pod.key
        metadata: dict[str, Any] = {"uid": pod.uid, "annotations": {name: value}}
        if only_first:
            current = self.kube.get(POD, pod_name, namespace)
            if current is None or current["metadata"]["uid"] != pod.uid:
                return []
            if name in current["metadata"].get("annotations", {}):
                return [current]
            metadata["resourceVersion"] = current["metadata"]["resourceVersion"]
        try:
            changed = self.kube.patch(POD, pod_name, {"metadata": metadata}, namespace)
        except ConflictError:
            changed = self.kube.get(POD, pod_name, namespace)
        return [] if changed is None else [changed]

    def _remove(self, pod: PodSeen) -> list[Object]:
        namespace, name = pod.key
        if pod.deleting_at is None:
            self.kube.delete(POD, name, namespace, uid=pod.uid, grace_seconds=0)
        current = release_pod(self.kube, name, namespace, pod.uid)
        group = pod.raw["metadata"].get("labels", {}).get(KUEUE_GROUP)
        if current is not None and group is not None:
            # Of a gang Kueue keeps the pods until its Workload is gone (kueue#5130).
            self.kube.delete(WORKLOAD, group, namespace)
        return [] if current is None else [current]


class _VanishedError(PieceworkError):
    retryable = True


def release_pod(kube: Kube, name: str, namespace: str, uid: str | None = None) -> Object | None:
    """Takes piecework's finalizer off a pod, if it is on it; the pod as it is then, if it is."""
    for _ in range(5):
        pod = kube.get(POD, name, namespace)
        if pod is None or (uid is not None and pod["metadata"]["uid"] != uid):
            return None
        held = pod["metadata"].get("finalizers", [])
        if labels.FINALIZER not in held:
            return pod
        path = f"/metadata/finalizers/{held.index(labels.FINALIZER)}"
        change = [
            {"op": "test", "path": path, "value": labels.FINALIZER},
            {"op": "remove", "path": path},
        ]
        try:
            return kube.patch(POD, name, change, namespace, json_patch=True)
        except ConflictError:
            continue
    raise _VanishedError(
        f"pod {namespace}/{name} changes too often to take piecework's finalizer off; it is tried "
        "again"
    )


def _subject(action: Action) -> str:
    match action:
        case Admit() | AdmitFollowers() | EndAttempt():
            return action.attempt.id
        case TellWaiting() | NoteDeletion() | MarkRecorded() | RemovePod():
            return action.pod.attempt
        case _:
            return action.machine.id


def _path(annotation: str) -> str:
    return "/metadata/annotations/" + annotation.replace("~", "~0").replace("/", "~1")
