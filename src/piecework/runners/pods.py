"""How an attempt is, and why it ended, read from its pods alone: pure, for runner and keeper alike.

Enters: pods as the API server has them, with what piecework wrote on them (piecework.plan.labels).
Leaves: phases, times, an Ending, an AttemptStatus. Whoever asks gets the same answer, because
nothing else is asked; a pod that is not there is never a success.

The kubelet's times are whole seconds, cut off. Where a program exited with 0 in the same second in
which somebody ended its pod, nobody can tell which came first, and it counts as ended from outside.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from piecework import clock
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.outcome import Ending, signal_name
from piecework.runners.runner import AttemptStatus, Owner
from piecework.units import Memory

#: An object of Kubernetes, as its JSON.
Object = Mapping[str, Any]

_NAMED_CONTAINER = "kubectl.kubernetes.io/default-container"
_KUEUE_GATE = "kueue.x-k8s.io/admission"
_KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"
#: What a kubelet gives as the reason where it ended a pod for its own machine's sake.
_EVICTIONS = ("Evicted", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated")
#: The states of a container that is being made, in which nothing is wrong.
_IN_THE_MAKING = ("ContainerCreating", "PodInitializing", "")
_LONGEST_MESSAGE = 400
_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class End:
    """Why somebody ended a pod from outside, and when: the annotation END."""

    outcome: Outcome
    cause: str
    at: datetime

    def to_json(self) -> str:
        """The annotation's value."""
        at = clock.to_text(self.at)
        return json.dumps({"outcome": str(self.outcome), "cause": self.cause, "at": at})


def read_request(pod: Object) -> Mapping[str, Any]:
    """What the keeper needs of the attempt (REQUEST); empty where it is missing or broken."""
    return _json_annotation(pod, labels.REQUEST)


def end_of(pod: Object) -> End | None:
    """Why somebody ended the pod from outside, where that was written on it."""
    raw = _json_annotation(pod, labels.END)
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
    states = [status.get("state", {}) for status in _container_statuses(pod)]
    return bool(states) and all("terminated" in state for state in states)


def ending_of(pod: Object) -> Ending | None:
    """Why the pod ended; None while it has not.

    An exit code of 0 is a success only where nobody had ended the pod before: neither by END, nor
    by deleting or evicting it. Otherwise END says why, where it is there.
    """
    if not is_final(pod):
        return None
    ended = _terminated(pod)
    code = ended.get("exitCode") if ended else None
    phase = pod.get("status", {}).get("phase")
    finished = _time(ended.get("finishedAt")) if ended else None
    end, deleted = end_of(pod), _deleted_at(pod)
    if code == 0 and phase != "Failed" and _is_before(finished, end.at if end else None, deleted):
        return Ending(Outcome.SUCCESS, "exit code 0", 0)
    if end is not None and not (ended and _is_before(finished, end.at)):
        return Ending(end.outcome, end.cause, code)
    if pod.get("status", {}).get("reason") == "DeadlineExceeded":
        seconds = pod["spec"].get("activeDeadlineSeconds")
        limit = "" if seconds is None else f" of {seconds:g} s"
        return Ending(Outcome.TIMEOUT, f"ran longer than its timeout{limit}", code)
    if not (ended and _is_before(finished, deleted, _disrupted_at(pod))):
        return _interruption(pod, code)
    return _eviction(pod, code) or _failure(pod, ended, code)


def queued_at(pod: Object) -> datetime | None:
    """When its run was asked for, by the request; else when the pod was made."""
    return _time(read_request(pod).get("queued_at")) or _time(
        pod["metadata"].get("creationTimestamp")
    )


def admitted_at(pod: Object) -> datetime | None:
    """When the keeper opened its gate."""
    return _time(_json_annotation(pod, labels.ADMITTED).get("at"))


def bound_at(pod: Object) -> datetime | None:
    """When the scheduler gave it its machine."""
    condition = _condition(pod, "PodScheduled")
    if condition is None or condition.get("status") != "True":
        return None
    return _time(condition.get("lastTransitionTime"))


def started_at(pod: Object) -> datetime | None:
    """When its program started, whether it still runs or not; None where none ever did."""
    status = _main_status(pod)
    for state in (status.get("state", {}), status.get("lastState", {})):
        for name in ("running", "terminated"):
            started = _time(state.get(name, {}).get("startedAt"))
            if started is not None:
                return started
    return None


def ended_at(pod: Object) -> datetime | None:
    """When it ended: its program, or where none ended, whoever ended the pod; None before."""
    if not is_final(pod):
        return None
    ended = _terminated(pod)
    end = end_of(pod)
    candidates = (
        _time(ended.get("finishedAt")) if ended else None,
        end.at if end else None,
        _deleted_at(pod),
        _disrupted_at(pod),
        _last_transition(pod),
        _time(pod["metadata"].get("creationTimestamp")),
    )
    return next((at for at in candidates if at is not None), None)


def use_of(pod: Object) -> Mapping[str, Any] | None:
    """What the program used, as its launcher measured it; None where nobody did."""
    use = _launcher_message(pod).get("use")
    return use if isinstance(use, Mapping) else None


def result_of(pod: Object) -> Any:
    """What the job wrote as its result; None where it wrote none, or no JSON.

    The launcher's message holds it; a container's own message is it.
    """
    if read_request(pod).get("engine") != "container":
        return _unpack(_launcher_message(pod))
    try:
        return json.loads(_message(pod))
    except ValueError:
        return None


def waiting_of(pod: Object) -> tuple[str, datetime | None]:
    """What a pod that does not run waits for, in words for its user, and since when."""
    told = _json_annotation(pod, labels.WAITING)
    reason, since = str(told.get("reason") or ""), _time(told.get("since"))
    phase = phase_of(pod)
    if phase == "gated":
        if reason:
            return reason, since
        return _gate_of(pod), _time(pod["metadata"].get("creationTimestamp"))
    if phase == "waiting":
        admitted = admitted_at(pod)
        if reason and since is not None and (admitted is None or since >= admitted):
            return reason, since
        return _why_unscheduled(pod), admitted
    return _why_not_started(pod), bound_at(pod)


def attempt_status(pods: Sequence[Object], now: datetime) -> AttemptStatus:
    """How the attempt is that these pods make up, one or a gang; `pods` must not be empty.

    It has ended when all have, and as the first of them did that did not succeed.
    """
    ordered = sorted(pods, key=_index_of)
    first = ordered[0]
    request = read_request(first)
    phases = [phase_of(pod) for pod in ordered]
    complete = len(ordered) >= (_whole(request.get("count")) or 1)
    over = all(phase == "ended" for phase in phases)
    running = "running" in phases or ("ended" in phases and complete)
    state = "ended" if over else "running" if running else "waiting"
    reason, since = None, None
    if state == "waiting":
        reason, since = _why_all_wait(ordered, complete=complete)
    decisive = _decisive(ordered) if over else first
    ending = ending_of(decisive) if over else None
    success = ending is not None and ending.outcome is Outcome.SUCCESS
    memory = _whole(request.get("memory_bytes"))
    return AttemptStatus(
        attempt=attempt_of(first),
        state=state,
        reason=reason,
        since=min(since, now) if since is not None else None,
        machines=tuple(pod["spec"]["nodeName"] for pod in ordered if pod["spec"].get("nodeName")),
        queued_at=queued_at(first),
        started_at=min(filter(None, map(started_at, ordered)), default=None),
        ended_at=max(filter(None, map(ended_at, ordered)), default=None) if over else None,
        outcome=ending.outcome if ending else None,
        cause=ending.cause if ending else None,
        exit_code=ending.exit_code if ending else None,
        result=result_of(first) if success else None,
        owner=_owner(request.get("owner")),
        memory=Memory(memory) if memory is not None else None,
    )


def attempt_of(pod: Object) -> str:
    """The id of its attempt; its label, or name, where it carries no request."""
    request = read_request(pod)
    if "run" in request and "number" in request:
        return f"{request['run']}.{request['number']}"
    label: str | None = pod["metadata"].get("labels", {}).get(labels.ATTEMPT)
    name: str = label or pod["metadata"]["name"]
    return name


def _decisive(pods: Sequence[Object]) -> Object:
    """Whose ending is the attempt's: the first that failed by itself, else the first that failed.

    A gang of which one is gone is ended by others, with END; that is not why.
    """

    def order(pod: Object) -> tuple[bool, datetime, int]:
        return end_of(pod) is not None, ended_at(pod) or _NEVER, _index_of(pod)

    failed = [pod for pod in pods if (e := ending_of(pod)) and e.outcome is not Outcome.SUCCESS]
    return min(failed, key=order) if failed else pods[0]


def _why_all_wait(pods: Sequence[Object], *, complete: bool) -> tuple[str, datetime | None]:
    """Of a gang's reasons, that of the pod that is farthest from running."""
    if not complete:
        return "its pods are being made", _time(pods[0]["metadata"].get("creationTimestamp"))
    order = ("gated", "waiting", "pulling", "running", "ended")
    return waiting_of(min(pods, key=lambda pod: order.index(phase_of(pod))))


def _gate_of(pod: Object) -> str:
    gates = [gate["name"] for gate in pod["spec"].get("schedulingGates", ())]
    if _KUEUE_GATE in gates:
        queue = pod["metadata"].get("labels", {}).get(_KUEUE_QUEUE, "")
        return f"waits in Kueue's queue {queue}".rstrip()
    if labels.GATE in gates:
        return "waits for the keeper to admit it"
    return f"waits for whoever opens its gate {gates[0]}"


def _why_unscheduled(pod: Object) -> str:
    condition = _condition(pod, "PodScheduled") or {}
    said = _line(condition.get("message"))
    return f"waits for a machine: {said}" if said else "waits for a machine"


def _why_not_started(pod: Object) -> str:
    machine = pod["spec"].get("nodeName", "")
    for status in _container_statuses(pod, init=True):
        waiting = status.get("state", {}).get("waiting")
        if waiting is None:
            continue
        reason, said = waiting.get("reason", ""), _line(waiting.get("message"))
        if reason in _IN_THE_MAKING:
            continue
        if "Image" in reason:
            image = status.get("image") or _image(pod, status.get("name"))
            return f"its image {image} cannot be pulled ({reason}): {said or 'no reason given'}"
        return f"its container cannot be made on {machine} ({reason}): {said or 'no reason given'}"
    return f"its image is being pulled on {machine}"


def _interruption(pod: Object, code: int | None) -> Ending:
    """The ending of a pod that somebody ended, or whose machine refused or lost it."""
    status = pod.get("status", {})
    condition = _condition(pod, "DisruptionTarget")
    if condition is not None and condition.get("status") == "True":
        why = _why(condition) or "no reason given"
        return Ending(Outcome.INTERRUPTED, f"its pod was disrupted ({why})", code)
    evicted = _eviction(pod, code)
    if evicted is not None:
        return evicted
    if pod["metadata"].get("deletionTimestamp"):
        when = "" if started_at(pod) else " before its program had started"
        return Ending(Outcome.INTERRUPTED, f"its pod was deleted by somebody{when}", code)
    why = _why(status) or "nobody saw its program end"
    if started_at(pod) is None:
        return Ending(Outcome.NEVER_STARTED, f"its machine refused the pod: {why}", code)
    return Ending(Outcome.INTERRUPTED, f"its pod failed: {why}", code)


def _eviction(pod: Object, code: int | None) -> Ending | None:
    """The ending of a pod that its kubelet gave up, where it says so."""
    status = pod.get("status", {})
    if status.get("reason") not in _EVICTIONS:
        return None
    return Ending(Outcome.INTERRUPTED, f"its machine ended the pod ({_why(status)})", code)


def _failure(pod: Object, ended: Mapping[str, Any], code: int | None) -> Ending:
    """The ending of a program that failed by itself."""
    message = _launcher_message(pod)
    reason = ended.get("reason") or ""
    if message.get("failed"):
        return Ending(Outcome.ERROR, str(message["failed"]))
    if reason == "OOMKilled" or message.get("out_of_memory"):
        memory = _whole(read_request(pod).get("memory_bytes"))
        limit = "" if memory is None else f" of {Memory(memory).rounded()}"
        return Ending(Outcome.OUT_OF_MEMORY, f"used all of its memory{limit}", code)
    if reason in ("StartError", "ContainerCannotRun"):
        return Ending(Outcome.ERROR, f"its command cannot be started: {_line(_message(pod))}", code)
    if not code:
        return _failure_beside(pod)
    signal = f" ({signal_name(code - 128)})" if 128 < code < 128 + 65 else ""
    return Ending(Outcome.ERROR, f"exit code {code}{signal}", code)


def _failure_beside(pod: Object) -> Ending:
    """The ending of a pod that failed although its main container did not."""
    for status in _container_statuses(pod, init=True):
        code = status.get("state", {}).get("terminated", {}).get("exitCode")
        if code:
            what = f"exit code {code} of its container {status.get('name')}"
            return Ending(Outcome.ERROR, what, code)
    why = _why(pod.get("status", {})) or "no reason given"
    return Ending(Outcome.INTERRUPTED, f"its pod failed: {why}")


def _is_before(finished: datetime | None, *ends: datetime | None) -> bool:
    """Whether a program had surely ended before all of these, as far as they happened.

    `finished` is a whole second, cut off; so are the ends, here.
    """
    known = [end.replace(microsecond=0) for end in ends if end is not None]
    if not known:
        return True
    return finished is not None and finished < min(known)


def _deleted_at(pod: Object) -> datetime | None:
    """When somebody asked for its deletion: the API server writes when its grace will be over."""
    metadata = pod["metadata"]
    over = _time(metadata.get("deletionTimestamp"))
    if over is None:
        return None
    return over - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)


def _disrupted_at(pod: Object) -> datetime | None:
    condition = _condition(pod, "DisruptionTarget") or {}
    return _time(condition.get("lastTransitionTime")) if condition.get("status") == "True" else None


def _main_name(pod: Object) -> str:
    """The container that the pod is about: the one that it names as such, else its first."""
    named: str | None = pod["metadata"].get("annotations", {}).get(_NAMED_CONTAINER)
    first: str = pod["spec"]["containers"][0]["name"]
    return named or first


def _main_status(pod: Object) -> Mapping[str, Any]:
    name = _main_name(pod)
    for status in _container_statuses(pod):
        if status.get("name") == name:
            return status
    return {}


def _container_statuses(pod: Object, *, init: bool = False) -> Iterable[Mapping[str, Any]]:
    status = pod.get("status", {})
    first = status.get("initContainerStatuses") or () if init else ()
    return [*first, *(status.get("containerStatuses") or ())]


def _terminated(pod: Object) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = _main_status(pod).get("state", {}).get("terminated")
    return found


def _message(pod: Object) -> str:
    return str((_terminated(pod) or {}).get("message") or "")


def _launcher_message(pod: Object) -> Mapping[str, Any]:
    """What the launcher left as the pod's termination message; empty where it left nothing."""
    try:
        found = json.loads(_message(pod))
    except ValueError:
        return {}
    is_launchers = isinstance(found, dict) and "use" in found and "result" in found
    return found if is_launchers else {}


def _unpack(message: Mapping[str, Any]) -> Any:
    """The result in a launcher's message, which is packed where it is long."""
    if "packed" not in message:
        return message.get("result")
    try:
        return json.loads(zlib.decompress(base64.b64decode(message["packed"])))
    except (ValueError, TypeError, zlib.error):
        return None


def _image(pod: Object, container: str | None) -> str:
    for each in pod["spec"]["containers"]:
        if each["name"] == container:
            return str(each.get("image", ""))
    return ""


def _condition(pod: Object, kind: str) -> Mapping[str, Any] | None:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return None


def _last_transition(pod: Object) -> datetime | None:
    conditions = pod.get("status", {}).get("conditions") or ()
    times = (_time(condition.get("lastTransitionTime")) for condition in conditions)
    return max(filter(None, times), default=None)


def _index_of(pod: Object) -> int:
    text = pod["metadata"].get("labels", {}).get(labels.INDEX, "0")
    return int(text) if text.isdigit() else 0


def _owner(raw: object) -> Owner | None:
    try:
        return Owner(**raw) if isinstance(raw, dict) else None
    except TypeError:  # of a later version
        return None


def _whole(value: object) -> int | None:
    """A number of something, where that is what was written."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _json_annotation(pod: Object, name: str) -> Mapping[str, Any]:
    text = (pod["metadata"].get("annotations") or {}).get(name)
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _time(text: object) -> datetime | None:
    """A time of Kubernetes'; None where there is none, or the zero that stands for none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        at = clock.from_text(text)
    except ValueError:
        return None
    return at if at.year > 1970 else None


def _why(status: Mapping[str, Any]) -> str:
    """Reason and message of a status or condition, as one line."""
    return ": ".join(filter(None, (status.get("reason"), _line(status.get("message")))))


def _line(text: object) -> str:
    """A message on one line, cut where it is long."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "..."
