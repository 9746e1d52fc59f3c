"""What stands where in a pod: annotations, conditions, containers, times. Pure.

Enters: a pod as the API server has it. Leaves: its parts, and None or nothing where one is missing,
broken or a zero that stands for none; what they mean is said in piecework.runners.pods.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from piecework import clock
from piecework.plan import labels

#: An object of Kubernetes, as its JSON.
Object = Mapping[str, Any]

_NAMED_CONTAINER = "kubectl.kubernetes.io/default-container"
_LONGEST_MESSAGE = 400


def is_follower(pod: Object) -> bool:
    """Whether an engine made it for its attempt; see labels.ROLE."""
    return bool(pod["metadata"].get("labels", {}).get(labels.ROLE) == labels.FOLLOWER)


def deleted_at(pod: Object) -> datetime | None:
    """When somebody asked for its deletion: the API server writes when its grace will be over."""
    metadata = pod["metadata"]
    over = read_time(metadata.get("deletionTimestamp"))
    if over is None:
        return None
    return over - timedelta(seconds=metadata.get("deletionGracePeriodSeconds") or 0)


def knew_of_deletion(pod: Object) -> bool:
    """Whether the pod's kubelet knew of its deletion when it last told how the pod is.

    A deletion raises the pod's generation, and a status says which one its kubelet had seen. Where
    Kubernetes does not say that (before 1.34), False.
    """
    generation = pod["metadata"].get("generation")
    observed = pod.get("status", {}).get("observedGeneration")
    if not isinstance(generation, int) or not isinstance(observed, int):
        return False
    return observed >= generation > 0 and deleted_at(pod) is not None


def disruption_of(pod: Object) -> Mapping[str, Any] | None:
    """The condition by which Kubernetes itself gave the pod up, where it did."""
    condition = condition_of(pod, "DisruptionTarget") or {}
    return condition if condition.get("status") == "True" else None


def disrupted_at(pod: Object) -> datetime | None:
    """When Kubernetes itself gave the pod up, where it says so."""
    return read_time((disruption_of(pod) or {}).get("lastTransitionTime"))


def main_name(pod: Object) -> str:
    """The container that the pod is about: the one that it names as such, else its first."""
    named: str | None = pod["metadata"].get("annotations", {}).get(_NAMED_CONTAINER)
    first: str = pod["spec"]["containers"][0]["name"]
    return named or first


def main_status(pod: Object) -> Mapping[str, Any]:
    """What the kubelet says of that container; empty where it has said nothing yet."""
    name = main_name(pod)
    for status in container_statuses(pod):
        if status.get("name") == name:
            return status
    return {}


def container_statuses(pod: Object, *, init: bool = False) -> Iterable[Mapping[str, Any]]:
    """What the kubelet says of all containers; with `init`, of those that come before them, too."""
    main = pod.get("status", {}).get("containerStatuses") or ()
    return [*init_statuses(pod), *main] if init else list(main)


def init_statuses(pod: Object) -> Iterable[Mapping[str, Any]]:
    """What the kubelet says of the containers that come before the others."""
    return pod.get("status", {}).get("initContainerStatuses") or ()


def terminated_of(pod: Object) -> Mapping[str, Any] | None:
    """How the main container ended; None while it has not."""
    status = main_status(pod)
    found: Mapping[str, Any] | None = status.get("state", {}).get("terminated")
    if found is None and pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
        # A kubelet that lost the program of a pod may call the container waiting for a moment.
        found = status.get("lastState", {}).get("terminated")
    return found


def message_of(pod: Object) -> str:
    """What the main container left as its termination message."""
    return str((terminated_of(pod) or {}).get("message") or "")


def launcher_message(pod: Object) -> Mapping[str, Any]:
    """What the launcher left as the pod's termination message; empty where it left nothing."""
    try:
        found = json.loads(message_of(pod))
    except ValueError:
        return {}
    is_launchers = isinstance(found, dict) and "use" in found and "result" in found
    return found if is_launchers else {}


def unpack_result(message: Mapping[str, Any]) -> Any:
    """The result in a launcher's message, which is packed where it is long."""
    if "packed" not in message:
        return message.get("result")
    try:
        return json.loads(zlib.decompress(base64.b64decode(message["packed"])))
    except (ValueError, TypeError, zlib.error):
        return None


@dataclass(frozen=True, slots=True)
class Kept:
    """A result that is in the store: the SHA-256 of its bytes, and how many they are."""

    sha256: str
    bytes: int


def read_kept(message: Mapping[str, Any]) -> Kept | None:
    """What a launcher's message says of a result in the store; the store's place it cannot say."""
    raw = message.get("kept")
    if not isinstance(raw, dict):
        return None
    sha256, size = raw.get("sha256"), raw.get("bytes")
    if not isinstance(sha256, str) or not isinstance(size, int):
        return None
    return Kept(sha256, size)


def image_of(pod: Object, container: str | None) -> str:
    """The image that the pod asks for, for that container."""
    for each in pod["spec"]["containers"]:
        if each["name"] == container:
            return str(each.get("image", ""))
    return ""


def condition_of(pod: Object, kind: str) -> Mapping[str, Any] | None:
    """The condition of that type, whether it holds or not."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition.get("type") == kind:
            found: Mapping[str, Any] = condition
            return found
    return None


def last_transition(pod: Object) -> datetime | None:
    """When any of its conditions changed last."""
    conditions = pod.get("status", {}).get("conditions") or ()
    times = (read_time(condition.get("lastTransitionTime")) for condition in conditions)
    return max(filter(None, times), default=None)


def index_of(pod: Object) -> int:
    """Its number in its gang."""
    text = pod["metadata"].get("labels", {}).get(labels.INDEX, "0")
    return int(text) if text.isdigit() else 0


def read_whole(value: object) -> int | None:
    """A number of something, where that is what was written."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def read_annotation(pod: Object, name: str) -> Mapping[str, Any]:
    """The object of JSON in an annotation; empty where there is none."""
    text = (pod["metadata"].get("annotations") or {}).get(name)
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_time(text: object) -> datetime | None:
    """A time of Kubernetes'; None where there is none, or the zero that stands for none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        at = clock.from_text(text)
    except ValueError:
        return None
    return at if at.year > 1970 else None


def said_by(status: Mapping[str, Any]) -> str:
    """Reason and message of a status or condition, as one line."""
    return ": ".join(filter(None, (status.get("reason"), one_line(status.get("message")))))


def one_line(text: object) -> str:
    """A message on one line, cut where it is long."""
    line = " ".join(str(text or "").split())
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "..."
