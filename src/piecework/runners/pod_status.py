"""How an attempt is, read from its pods alone: pure, for runner and keeper alike.

Enters: all pods of an attempt, one, a gang, or with those that its engine makes. Leaves: an
AttemptStatus, with what it waits for in words for its user.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.pod_fields import (
    Object,
    condition_of,
    container_statuses,
    image_of,
    index_of,
    init_statuses,
    is_follower,
    launcher_message,
    message_of,
    one_line,
    read_annotation,
    read_kept,
    read_time,
    read_whole,
    unpack_result,
)
from piecework.runners.pods import (
    admitted_at,
    attempt_of,
    bound_at,
    end_of,
    ended_at,
    ending_of,
    phase_of,
    queued_at,
    read_request,
    started_at,
)
from piecework.runners.runner import AttemptStatus, Owner
from piecework.units import MOST_MEMORY, Memory

_KUEUE_GATE = "kueue.x-k8s.io/admission"
_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
#: The states of a container that is being made, in which nothing is wrong.
_IN_THE_MAKING = ("ContainerCreating", "PodInitializing", "")
_NEVER = datetime.max.replace(tzinfo=UTC)


def result_of(pod: Object) -> Any:
    """What the job wrote as its result; None where it wrote none, or no JSON.

    The launcher's message holds it; a container's own message is it.
    """
    if read_request(pod).get("engine") != "container":
        return unpack_result(launcher_message(pod))
    try:
        return json.loads(message_of(pod))
    except ValueError:
        return None


def waiting_of(pod: Object) -> tuple[str, datetime | None]:
    """What a pod that does not run waits for, in words for its user, and since when."""
    told = read_annotation(pod, labels.WAITING)
    reason, since = str(told.get("reason") or ""), read_time(told.get("since"))
    phase = phase_of(pod)
    if phase == "gated":
        if reason:
            return reason, since
        return _gate_of(pod), read_time(pod["metadata"].get("creationTimestamp"))
    if phase == "waiting":
        admitted = admitted_at(pod)
        if reason and since is not None and (admitted is None or since >= admitted):
            return reason, since
        return _why_unscheduled(pod), admitted
    return _why_not_started(pod), bound_at(pod)


def attempt_status(pods: Sequence[Object], now: datetime) -> AttemptStatus:
    """How the attempt is that these pods make up, one or a gang; some must be its own.

    It has ended when all have: as its head did, of a gang that has one, and else as the first of
    them did that did not succeed. What its engine made says nothing about it.
    """
    ordered = sorted((pod for pod in pods if not is_follower(pod)), key=index_of)
    first = ordered[0]
    request = read_request(first)
    phases = [phase_of(pod) for pod in ordered]
    complete = len(ordered) >= (read_whole(request.get("count")) or 1)
    over = all(phase == "ended" for phase in phases)
    running = "running" in phases or ("ended" in phases and complete)
    state = "ended" if over else "running" if running else "waiting"
    reason, since = None, None
    if state == "waiting":
        reason, since = _why_all_wait(ordered, complete=complete)
    elif state == "running":
        reason, since = _why_some_wait([pod for pod in pods if is_follower(pod)])
    decisive = _decisive(ordered) if over else first
    ending = ending_of(decisive) if over else None
    success = ending is not None and ending.outcome is Outcome.SUCCESS
    memory = read_whole(request.get("memory_bytes"))
    return AttemptStatus(
        attempt=attempt_of(first),
        state=state,
        reason=reason,
        since=min(since, now) if since is not None else None,
        machines=tuple(pod["spec"]["nodeName"] for pod in ordered if pod["spec"].get("nodeName")),
        queued_at=queued_at(first),
        started_at=min(filter(None, map(started_at, ordered)), default=None),
        ended_at=_ended_at(ordered) if over else None,
        outcome=ending.outcome if ending else None,
        cause=ending.cause if ending else None,
        exit_code=ending.exit_code if ending else None,
        result=result_of(first) if success else None,
        kept=read_kept(launcher_message(first)) if success else None,
        owner=_owner(request.get("owner")),
        memory=Memory(memory) if memory is not None and memory <= MOST_MEMORY else None,
    )


def _head(pods: Sequence[Object]) -> Object | None:
    """Of a gang's pods, the one that decides for all, where it is among them."""
    request = read_request(pods[0])
    return pods[0] if request.get("led") is True and index_of(pods[0]) == 0 else None


def _ended_at(pods: Sequence[Object]) -> datetime | None:
    head = _head(pods)
    if head is not None:
        return ended_at(head)
    return max(filter(None, map(ended_at, pods)), default=None)


def _decisive(pods: Sequence[Object]) -> Object:
    """Whose ending is the attempt's: the head's, where there is one.

    Else that of the first that failed by itself, else of the first that failed. A gang of which
    one is gone is ended by others, with END; that is not why.
    """
    head = _head(pods)
    if head is not None:
        return head

    def order(pod: Object) -> tuple[bool, datetime, int]:
        return end_of(pod) is not None, ended_at(pod) or _NEVER, index_of(pod)

    failed = [pod for pod in pods if (e := ending_of(pod)) and e.outcome is not Outcome.SUCCESS]
    return min(failed, key=order) if failed else pods[0]


def _why_all_wait(pods: Sequence[Object], *, complete: bool) -> tuple[str, datetime | None]:
    """Of a gang's reasons, that of the pod that is farthest from running."""
    if not complete:
        return "its pods are being made", read_time(pods[0]["metadata"].get("creationTimestamp"))
    order = ("gated", "waiting", "pulling", "running", "ended")
    return waiting_of(min(pods, key=lambda pod: order.index(phase_of(pod))))


def _why_some_wait(followers: Sequence[Object]) -> tuple[str | None, datetime | None]:
    """What pods wait for that an engine has asked for while its run goes on, where any do."""
    waiting = [pod for pod in followers if phase_of(pod) in ("gated", "waiting", "pulling")]
    if not waiting:
        return None, None
    why, since = waiting_of(min(waiting, key=lambda pod: str(pod["metadata"]["name"])))
    return f"{len(waiting)} of its {len(followers)} executors wait: {why}", since


def _gate_of(pod: Object) -> str:
    gates = [gate["name"] for gate in pod["spec"].get("schedulingGates", ())]
    if _KUEUE_GATE in gates:
        queue = pod["metadata"].get("labels", {}).get(_KUEUE_QUEUE, "")
        return f"waits in Kueue's queue {queue}".rstrip()
    if labels.GATE in gates:
        return "waits for the keeper to admit it"
    return f"waits for whoever opens its gate {gates[0]}"


def _why_unscheduled(pod: Object) -> str:
    condition = condition_of(pod, "PodScheduled") or {}
    said = one_line(condition.get("message"))
    return f"waits for a machine: {said}" if said else "waits for a machine"


def _why_not_started(pod: Object) -> str:
    machine = pod["spec"].get("nodeName", "")
    for status in init_statuses(pod):
        if status.get("state", {}).get("running"):
            if status.get("name") == labels.MEETING:
                return "waits for the other machines of its gang"
            return f"its container {status.get('name')} comes first, and is at work on {machine}"
    for status in container_statuses(pod, init=True):
        waiting = status.get("state", {}).get("waiting")
        if waiting is None:
            continue
        reason, said = waiting.get("reason", ""), one_line(waiting.get("message"))
        if reason in _IN_THE_MAKING:
            continue
        if "Image" in reason:
            image = status.get("image") or image_of(pod, status.get("name"))
            return f"its image {image} cannot be pulled ({reason}): {said or 'no reason given'}"
        return f"its container cannot be made on {machine} ({reason}): {said or 'no reason given'}"
    return f"its image is being pulled on {machine}"


def _owner(raw: object) -> Owner | None:
    try:
        return Owner(**raw) if isinstance(raw, dict) else None
    except TypeError:  # of a later version
        return None
