"""How a pod is, and why it ended, read from it alone: pure, for runner and keeper alike.

Enters: a pod as the API server has it, with what piecework wrote on it (piecework.plan.labels).
Leaves: its phase, its times, an Ending. Whoever asks gets the same answer, because nothing else is
asked; a pod that is not there is never a success.

The kubelet's times are whole seconds, cut off. Where a program exited with 0 in the same second in
which somebody ended its pod, nobody can tell which came first, and it counts as ended from outside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from piecework import clock
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.outcome import Ending, signal_name
from piecework.runners.pod_fields import (
    Object,
    condition_of,
    container_statuses,
    deleted_at,
    disrupted_at,
    disruption_of,
    init_statuses,
    knew_of_deletion,
    last_transition,
    launcher_message,
    main_status,
    message_of,
    one_line,
    read_annotation,
    read_time,
    read_whole,
    said_by,
    terminated_of,
)
from piecework.units import Memory

#: What a kubelet gives as the reason where it ended a pod for its own machine's sake.
_EVICTIONS = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated")
#: What a kubelet gives as the reason where it knows a container no more: its machine was started
#: anew, or lost it. Exit code and times are made up.
_FORGOTTEN = "ContainerStatusUnknown"
#: How a kubelet begins to say that it refuses a pod; none of its containers ever runs.
_REFUSED = "Pod was rejected"
#: How the cause begins where a pod was deleted: by a person or program, or by Kubernetes itself.
DELETED, DISRUPTED = "its pod was deleted by somebody", "its pod was disrupted"
_LOST = Ending(Outcome.INTERRUPTED, "its machine lost its program: nobody saw that end")
#: Exit codes above it tell of the signal that ended the program.
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class End:
    """Why somebody ended a pod from outside, and when: the annotation END.

    `at` is not after the deletion of the pod, by the API server's clock.
    """

    outcome: Outcome
    cause: str
    at: datetime

    def to_json(self) -> str:
        """The annotation's value."""
        at = clock.to_text(self.at)
        return json.dumps({"outcome": str(self.outcome), "cause": self.cause, "at": at})

    def not_after(self, deleted: datetime | None) -> End:
        """The same, as of the pod's deletion where that was before, in whole seconds."""
        if deleted is None or deleted >= self.at.replace(microsecond=0):
            return self
        return replace(self, at=deleted)


def read_request(pod: Object) -> Mapping[str, Any]:
    """What the keeper needs of the attempt (REQUEST); empty where it is missing or broken."""
    return read_annotation(pod, labels.REQUEST)


def end_of(pod: Object) -> End | None:
    """Why somebody ended the pod from outside, where that was written on it."""
    raw = read_annotation(pod, labels.END)
    try:
        return End(Outcome(raw["outcome"]), str(raw["cause"]), clock.from_text(raw["at"]))
    except (KeyError, ValueError, TypeError):
        return None


def phase_of(pod: Object) -> str:
    """The phase that the pod is in: gated, waiting, pulling, running or ended.

    "waiting" is for a machine; "pulling" is on its machine, where nothing of it has run yet.
    """
    if is_final(pod):
        return "ended"
    if pod["spec"].get("schedulingGates"):
        return "gated"
    if not pod["spec"].get("nodeName"):
        return "waiting"
    return "pulling" if started_at(pod) is None else "running"


def is_final(pod: Object) -> bool:
    """Whether nothing of the pod runs any more, or ever will."""
    if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        return True
    metadata = pod["metadata"]
    if not metadata.get("deletionTimestamp"):
        return False
    if not pod["spec"].get("nodeName") or metadata.get("deletionGracePeriodSeconds") == 0:
        return True
    states = [status.get("state", {}) for status in container_statuses(pod)]
    return bool(states) and all("terminated" in state for state in states)


def ending_of(pod: Object) -> Ending | None:
    """Why the pod ended; None while it has not.

    An exit code of 0 is a success only where nobody had ended the pod before: neither by END, nor
    by deleting or evicting it. Otherwise END says why, where it is there.
    """
    if not is_final(pod):
        return None
    ended = terminated_of(pod)
    code = ended.get("exitCode") if ended else None
    phase = pod.get("status", {}).get("phase")
    finished = read_time(ended.get("finishedAt")) if ended else None
    end, deleted = end_of(pod), deleted_at(pod)
    if not pod["metadata"].get("deletionGracePeriodSeconds") and knew_of_deletion(pod):
        # From 1.36 on the API server moves the time of a deletion to that of its last step, which
        # is after the program's end (k8s.io/apiserver, registry/rest/delete.go). END remembers it:
        # it is never written later than the deletion is asked for.
        deleted = end.at if end else finished or deleted
    if code == 0 and phase != "Failed" and _is_before(finished, end.at if end else None, deleted):
        lost = lost_of(pod)
        return Ending(Outcome.SUCCESS, f"exit code 0; {lost}" if lost else "exit code 0", 0)
    if end is not None and not (ended and _is_before(finished, end.at)):
        return Ending(end.outcome, end.cause, code)
    if pod.get("status", {}).get("reason") == "DeadlineExceeded":
        seconds = pod["spec"].get("activeDeadlineSeconds")
        limit = "" if seconds is None else f" of {seconds:g} s"
        return Ending(Outcome.TIMEOUT, f"ran longer than its timeout{limit}", code)
    if _was_taken_away(pod, ended, finished):
        return Ending(Outcome.INTERRUPTED, "its machine was taken away by its seller", code)
    if _is_refused(pod):
        return _refusal(said_by(pod["status"]))
    if not (ended and _is_before(finished, deleted, disrupted_at(pod))):
        return _interruption(pod, code)
    return _eviction(pod, code) or _failure(pod, ended, code)


def queued_at(pod: Object) -> datetime | None:
    """When its run was asked for, by the request; else when the pod was made."""
    return read_time(read_request(pod).get("queued_at")) or read_time(
        pod["metadata"].get("creationTimestamp")
    )


def admitted_at(pod: Object) -> datetime | None:
    """When the keeper opened its gate."""
    return read_time(read_annotation(pod, labels.ADMITTED).get("at"))


def bound_at(pod: Object) -> datetime | None:
    """When the scheduler gave it its machine."""
    condition = condition_of(pod, "PodScheduled")
    if condition is None or condition.get("status") != "True":
        return None
    return read_time(condition.get("lastTransitionTime"))


def started_at(pod: Object) -> datetime | None:
    """When its program started, whether it still runs or not; None where none ever did."""
    status = main_status(pod)
    for state in (status.get("state", {}), status.get("lastState", {})):
        for name in ("running", "terminated"):
            started = read_time(state.get(name, {}).get("startedAt"))
            if started is not None:
                return started
    return None


def ended_at(pod: Object) -> datetime | None:
    """When it ended: its program, or where none ended, whoever ended the pod; None before."""
    if not is_final(pod):
        return None
    ended = terminated_of(pod)
    end = end_of(pod)
    candidates = (
        read_time(ended.get("finishedAt")) if ended else None,
        end.at if end else None,
        deleted_at(pod),
        disrupted_at(pod),
    )
    found = next((at for at in candidates if at is not None), None)
    if found is not None:
        return found
    # Of a pod that was refused conditions say nothing new: the latest that is known of it.
    created = read_time(pod["metadata"].get("creationTimestamp"))
    return max(filter(None, (last_transition(pod), admitted_at(pod), created)), default=None)


def is_forgotten(pod: Object) -> bool:
    """Whether its kubelet does not know any more what became of its program."""
    return (terminated_of(pod) or {}).get("reason") == _FORGOTTEN and not _is_refused(pod)


def deletion_of(pod: Object) -> str:
    """In words, why a pod ended that was deleted, where nobody wrote that on it."""
    condition = disruption_of(pod)
    if condition is not None:
        return f"{DISRUPTED} ({said_by(condition) or 'no reason given'})"
    return DELETED if started_at(pod) else f"{DELETED} before its program had started"


def use_of(pod: Object) -> Mapping[str, Any] | None:
    """What the program used, as its launcher measured it; None where nobody did."""
    use = launcher_message(pod).get("use")
    return use if isinstance(use, Mapping) else None


def artifacts_of(pod: Object) -> int:
    """How many files of the pod's artifacts are in the store."""
    told = launcher_message(pod).get("artifacts")
    return read_whole(told.get("files")) or 0 if isinstance(told, Mapping) else 0


def lost_of(pod: Object) -> str | None:
    """What of the pod's artifacts could not be kept, and why, in words."""
    lost = launcher_message(pod).get("lost")
    return one_line(lost) if lost else None


def attempt_of(pod: Object) -> str:
    """The id of its attempt; its label, or name, where it carries no request."""
    request = read_request(pod)
    if "run" in request and "number" in request:
        return f"{request['run']}.{request['number']}"
    label: str | None = pod["metadata"].get("labels", {}).get(labels.ATTEMPT)
    name: str = label or pod["metadata"]["name"]
    return name


def _was_taken_away(
    pod: Object, ended: Mapping[str, Any] | None, finished: datetime | None
) -> bool:
    """Whether it ended with its machine, after a notice of the machine's seller.

    A kubelet that is shut down may still tell of the signal that it, or its host, sent the program.
    """
    noticed = read_time(read_annotation(pod, labels.NOTICE).get("at"))
    if noticed is None:
        return False
    if ended is None:
        return True
    killed = int(ended.get("exitCode") or 0) > _SIGNALLED and ended.get("reason") != "OOMKilled"
    return killed and not _is_before(finished, noticed)


def _interruption(pod: Object, code: int | None) -> Ending:
    """The ending of a pod that somebody ended, or whose machine refused or lost it."""
    status = pod.get("status", {})
    if disrupted_at(pod) is not None:
        return Ending(Outcome.INTERRUPTED, deletion_of(pod), code)
    evicted = _eviction(pod, code)
    if evicted is not None:
        return evicted
    if pod["metadata"].get("deletionTimestamp"):
        return Ending(Outcome.INTERRUPTED, deletion_of(pod), code)
    if is_forgotten(pod):
        return _LOST
    why = said_by(status) or "nobody saw its program end"
    if started_at(pod) is None:
        before = _failure_before(pod)
        if before is not None:
            return before
        return _refusal(why)
    return Ending(Outcome.INTERRUPTED, f"its pod failed: {why}", code)


def _eviction(pod: Object, code: int | None) -> Ending | None:
    """The ending of a pod that its kubelet gave up, where it says so."""
    status = pod.get("status", {})
    if status.get("reason") not in _EVICTIONS:
        return None
    return Ending(Outcome.INTERRUPTED, f"its machine ended the pod ({said_by(status)})", code)


def _failure(pod: Object, ended: Mapping[str, Any], code: int | None) -> Ending:
    """The ending of a program that failed by itself."""
    message = launcher_message(pod)
    reason = ended.get("reason") or ""
    if message.get("failed"):
        return Ending(Outcome.ERROR, str(message["failed"]))
    if reason == _FORGOTTEN:
        return _LOST
    if reason == "OOMKilled" or message.get("out_of_memory"):
        memory = read_whole(read_request(pod).get("memory_bytes"))
        limit = "" if memory is None else f" of {Memory(memory).rounded()}"
        return Ending(Outcome.OUT_OF_MEMORY, f"used all of its memory{limit}", code)
    if reason in ("StartError", "ContainerCannotRun"):
        return Ending(
            Outcome.ERROR, f"its command cannot be started: {one_line(message_of(pod))}", code
        )
    if not code:
        return _failure_beside(pod)
    signal = f" ({signal_name(code - _SIGNALLED)})" if 0 < code - _SIGNALLED < 65 else ""
    return Ending(Outcome.ERROR, f"exit code {code}{signal}", code)


def _is_refused(pod: Object) -> bool:
    """Whether its kubelet refused it; it may say later that it has forgotten the containers."""
    status = pod.get("status", {})
    refused = str(status.get("message")).startswith(_REFUSED)
    return status.get("phase") == "Failed" and refused and status.get("reason") not in _EVICTIONS


def _refusal(why: str | None) -> Ending:
    return Ending(Outcome.NEVER_STARTED, f"its machine refused the pod: {why}")


def _failure_before(pod: Object) -> Ending | None:
    """The ending of a pod that a container failed which comes before the main one."""
    for status in init_statuses(pod):
        ended = status.get("state", {}).get("terminated", {})
        if not ended.get("exitCode"):
            continue
        message = one_line(ended.get("message"))
        if status.get("name") == labels.MEETING and message:
            return Ending(Outcome.ERROR, message)
        code = int(ended["exitCode"])
        what = f"exit code {code} of its container {status.get('name')}, which comes first"
        return Ending(Outcome.ERROR, f"{what}: {message}" if message else what)
    return None


def _failure_beside(pod: Object) -> Ending:
    """The ending of a pod that failed although its main container did not."""
    for status in container_statuses(pod, init=True):
        code = status.get("state", {}).get("terminated", {}).get("exitCode")
        if code:
            what = f"exit code {code} of its container {status.get('name')}"
            return Ending(Outcome.ERROR, what, code)
    why = said_by(pod.get("status", {})) or "no reason given"
    return Ending(Outcome.INTERRUPTED, f"its pod failed: {why}")


def _is_before(finished: datetime | None, *ends: datetime | None) -> bool:
    """Whether a program had surely ended before all of these, as far as they happened.

    `finished` is a whole second, cut off; so are the ends, here.
    """
    known = [end.replace(microsecond=0) for end in ends if end is not None]
    if not known:
        return True
    return finished is not None and finished < min(known)
