"""Objects behind the wire: what an API server keeps, with the rules that a runner relies on.

Creation of a name that is there is refused; a patch that names another version is refused; an
object with finalizers outlives its deletion; a watch tells what happened after its version. No
kubelet, no scheduler: tests do to pods what those would do. What depends on the real thing is
tested on the testbed.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from piecework.kube.transport import UnreachableError
from tests.unit.kube.server import Written, found, refused

Object = dict[str, Any]


class Watching(Written):
    """An answer that goes on until it is closed."""

    def __init__(self, objects: Objects, path: str, after: int) -> None:
        super().__init__(200, [])
        self.objects = objects
        self.path = path
        self.after = after

    def stream(self) -> Iterator[bytes]:
        told = 0
        while not self.closed.is_set():
            with self.objects.changed:
                if len(self.objects.history) == told:
                    self.objects.changed.wait(0.05)
                news = self.objects.history[told:]
                told = len(self.objects.history)
            for version, kind, path, obj in news:
                if version > self.after and path.startswith(self.path):
                    yield json.dumps({"type": kind, "object": obj}).encode() + b"\n"
        raise UnreachableError("closed while it was read")


class Objects:
    """A Transport."""

    ca_file: str | None = None

    def __init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.kept: dict[str, Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.version = 0
        self.asked: list[tuple[str, str]] = []
        self.refusal: Written | None = None
        #: Answers to whoever asks to make something of that kind.
        self.refuse: dict[str, Written] = {}
        self.log: Callable[[Mapping[str, str]], Written] = lambda _: Written(200, [])

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        silence_seconds: float = 60.0,
    ) -> Written:
        path = unquote(path)
        with self.changed:
            self.asked.append((method, path))
            if "watch" in query:
                return Watching(self, path, int(query["resourceVersion"]))
            if path.endswith("/log"):
                return self.log(query)
            if method == "POST" and self.refusal is not None:
                return self.refusal
            if method == "POST" and path.rpartition("/")[2] in self.refuse:
                return self.refuse[path.rpartition("/")[2]]
            if method == "GET" and path in self.kept:
                return found(self.kept[path])
            if method == "GET" and path.count("/") == (5 if path.startswith("/api/") else 6):
                return self._list(path, query.get("labelSelector", ""))
            given = json.loads(body) if body else {}
            if method == "POST":
                return self._create(path, given)
            if path not in self.kept:
                return refused(404, "NotFound")
            return self._patch(path, given) if method == "PATCH" else self._delete(path)

    def pods(self) -> list[Object]:
        return [obj for path, obj in self.kept.items() if "/pods/" in path]

    def change(self, name: str, how: Callable[[Object], object], kind: str = "pods") -> None:
        """What a kubelet or a keeper would do to a pod, or somebody to something else."""
        with self.changed:
            (path,) = [path for path in self.kept if path.endswith(f"/{kind}/{name}")]
            obj = copy.deepcopy(self.kept[path])
            how(obj)
            self._keep(path, obj, "MODIFIED")

    def vanish(self, name: str) -> None:
        """A forced deletion, or the last finalizer's end."""
        with self.changed:
            (path,) = [path for path in self.kept if path.endswith(f"/pods/{name}")]
            self._tell("DELETED", path, self.kept.pop(path))

    def _list(self, path: str, selector: str) -> Written:
        def fits(obj: Object) -> bool:
            labels = obj["metadata"].get("labels", {})
            return all(_fits(labels, term) for term in selector.split(",") if term)

        items = [o for p, o in self.kept.items() if p.startswith(path + "/") and fits(o)]
        return found({"metadata": {"resourceVersion": str(self.version)}, "items": items})

    def _create(self, path: str, obj: Object) -> Written:
        path = f"{path}/{obj['metadata']['name']}"
        if path in self.kept:
            return refused(409, "AlreadyExists")
        obj["metadata"]["uid"] = f"uid-{self.version}"
        obj["metadata"]["creationTimestamp"] = "2026-11-24T12:00:00Z"
        obj.setdefault("status", {"phase": "Pending"})
        return self._keep(path, obj, "ADDED")

    def _patch(self, path: str, change: Object) -> Written:
        obj = copy.deepcopy(self.kept[path])
        wanted = change.get("metadata", {}).pop("resourceVersion", None)
        if wanted not in (None, obj["metadata"]["resourceVersion"]):
            return refused(409, "Conflict")
        _merge(obj, change)
        return self._keep(path, obj, "MODIFIED")

    def _delete(self, path: str) -> Written:
        obj = copy.deepcopy(self.kept[path])
        metadata = obj["metadata"]
        if not metadata.get("finalizers"):
            self._tell("DELETED", path, self.kept.pop(path))
            return found({})
        grace = 30 if obj["spec"].get("nodeName") else 0
        metadata["deletionTimestamp"] = f"2026-11-24T12:10:{grace:02d}Z"
        metadata["deletionGracePeriodSeconds"] = grace
        return self._keep(path, obj, "MODIFIED")

    def _keep(self, path: str, obj: Object, kind: str) -> Written:
        self.kept[path] = obj
        self._tell(kind, path, obj)
        return found(obj, 201)

    def _tell(self, kind: str, path: str, obj: Object) -> None:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self.history.append((self.version, kind, path, copy.deepcopy(obj)))
        self.changed.notify_all()


def _fits(labels: Mapping[str, str], term: str) -> bool:
    """One term of a selector: that a label is there, has a value, or has not."""
    label, unequal, value = term.partition("!=")
    if unequal:
        return labels.get(label) != value
    label, equal, value = term.partition("=")
    return labels.get(label) == value if equal else label in labels


def _merge(obj: Object, change: Mapping[str, Any]) -> None:
    for name, value in change.items():
        if value is None:
            obj.pop(name, None)
        elif isinstance(value, dict) and isinstance(obj.get(name), dict):
            _merge(obj[name], value)
        else:
            obj[name] = value
