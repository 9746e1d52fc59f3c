"""An API server at the wire: answers that a test wrote, in order, and what was asked.

No fake of Kubernetes: it knows no objects. Whoever needs its behaviour uses the testbed.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from piecework.kube.transport import UnreachableError

Object = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """One request as the server got it."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    headers: Mapping[str, str]


class Written:
    """An answer that is there in full, or whose pieces come and then break off or hang."""

    def __init__(
        self, status: int, pieces: Sequence[bytes], *, breaks: bool = False, hangs: bool = False
    ) -> None:
        self.status = status
        self.pieces = list(pieces)
        self.breaks = breaks
        self.hangs = hangs
        self.closed = threading.Event()

    def read(self) -> bytes:
        return b"".join(self.pieces)

    def stream(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.hangs:
            self.closed.wait(30)
            raise UnreachableError("closed while it was read")
        if self.breaks:
            raise UnreachableError("the connection broke")

    def close(self) -> None:
        self.closed.set()


#: What a server answers: a written answer, an error to raise, or a function of the request.
Reply = Written | Exception | Callable[[Asked], Written]


@dataclass
class Server:
    """Answers requests in the order of `replies`, then with `otherwise`."""

    replies: list[Reply] = field(default_factory=list)
    otherwise: Reply = field(default_factory=lambda: UnreachableError("no more answers"))
    asked: list[Asked] = field(default_factory=list)
    ca_file: str | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

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
        request = Asked(method, path, dict(query), json.loads(body) if body else None, headers)
        with self._lock:
            self.asked.append(request)
            reply = self.replies.pop(0) if self.replies else self.otherwise
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Written) else reply(request)


def found(obj: object, status: int = 200) -> Written:
    return Written(status, [json.dumps(obj).encode()])


def refused(code: int, reason: str = "", message: str = "no", **details: Any) -> Written:
    status = {"kind": "Status", "code": code, "reason": reason, "message": message}
    return found({**status, "details": details}, code)


def page(*items: Object, version: str = "1", more: str = "") -> Written:
    metadata = {"resourceVersion": version, **({"continue": more} if more else {})}
    return found({"metadata": metadata, "items": list(items)})


def events(*told: tuple[str, Object], breaks: bool = False, hangs: bool = False) -> Written:
    lines = [json.dumps({"type": kind, "object": obj}).encode() + b"\n" for kind, obj in told]
    return Written(200, lines, breaks=breaks, hangs=hangs)


def pod(name: str, version: str = "1", uid: str = "", **rest: Any) -> Object:
    metadata = {
        "name": name,
        "namespace": "jobs",
        "resourceVersion": version,
        "uid": uid or f"uid-{name}",
    }
    return {"kind": "Pod", "metadata": metadata, **rest}
