"""The API of one Kubernetes cluster: objects in, objects out, as the plain JSON that they are.

Enters: kinds, names, and objects as dicts. Leaves: the same, or errors that say what was asked and
what the server found. Nothing here waits or tries again, but `list`, which begins anew where its
pages grew too old; who watches for ever is `piecework.kube.watch`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from piecework import clock
from piecework.errors import ClusterError
from piecework.kube.transport import READ_SECONDS, Answer, Transport, UnreachableError, connect

#: An object of Kubernetes, as its JSON.
Object = dict[str, Any]
T = TypeVar("T")

#: Objects in one page of a list.
PAGE = 500
_METADATA_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
#: How often a list whose pages expired is begun anew.
_LIST_ATTEMPTS = 3
#: Longer messages of the server are cut.
_LONGEST_MESSAGE = 600


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object, and where the API has it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """`v1`, or `GROUP/VERSION`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """The path of one object, or of all of a namespace, or of all."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        if name:
            parts.append(name)
        return "/" + "/".join(quote(part, safe="") for part in parts)


POD = Kind("", "v1", "pods", "Pod")
NODE = Kind("", "v1", "nodes", "Node", namespaced=False)
EVENT = Kind("", "v1", "events", "Event")
CONFIG_MAP = Kind("", "v1", "configmaps", "ConfigMap")
NAMESPACE = Kind("", "v1", "namespaces", "Namespace", namespaced=False)
SERVICE = Kind("", "v1", "services", "Service")
SERVICE_ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
LEASE = Kind("coordination.k8s.io", "v1", "leases", "Lease")
PRIORITY_CLASS = Kind(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False
)
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
NODE_CLAIM = Kind("karpenter.sh", "v1", "nodeclaims", "NodeClaim", namespaced=False)
NODE_POOL = Kind("karpenter.sh", "v1", "nodepools", "NodePool", namespaced=False)
SPARK_APPLICATION = Kind("sparkoperator.k8s.io", "v1beta2", "sparkapplications", "SparkApplication")


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects as they were at one moment; a watch goes on from its `resource_version`."""

    items: list[Object]
    resource_version: str


class RefusedError(ClusterError):
    """The server says no, and will say it again: no right to do that, no such kind, a wrong object.

    `status` is that of HTTP.
    """

    retryable = False

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class MissingKindError(RefusedError):
    """The cluster does not know the kind: a CustomResourceDefinition is not installed."""


class AlreadyThereError(ClusterError):
    """An object of that kind and name exists."""


class ConflictError(ClusterError):
    """The object is not (any more) what the change was made for: read it again."""


class ExpiredError(ClusterError):
    """The server has forgotten that moment: list again."""


class Stream(Generic[T]):
    """What arrives, for as long as it arrives. `close` ends it, from whichever thread."""

    def __init__(self, answer: Answer, items: Iterator[T]) -> None:
        self._answer = answer
        self._items = items
        self.closed = False

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        if self.closed:
            raise StopIteration
        try:
            return next(self._items)
        except StopIteration:
            self.close()
            raise
        except UnreachableError:
            if self.closed:
                raise StopIteration from None
            self.close()
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Ends the stream; can be done twice."""
        self.closed = True
        self._answer.close()


class Kube:
    """One cluster. Holds connections and a counter; any number of threads may use it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._lock = threading.Lock()
        self._requests = 0

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str | None = None) -> Kube:
        """The cluster of a kubeconfig and context; nothing is sent yet.

        Neither given: the cluster that this process runs in, else the usual kubeconfig.
        Raises ConfigError where there is none.
        """
        return cls(connect(kubeconfig, context))

    @property
    def requests(self) -> int:
        """How many requests were sent, those that failed included."""
        return self._requests

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """The object; None where there is none."""
        path = kind.path(namespace, name)
        answer = self._send("GET", path, {})
        if answer.status == 404:
            answer.read()
            return None
        return _object(answer, f"GET {path}")

    def list(
        self,
        kind: Kind,
        namespace: str | None = None,
        *,
        labels: str = "",
        fields: str = "",
        metadata_only: bool = False,
    ) -> Listing:
        """All objects of a kind, of one namespace or of all: as they are now, page by page.

        `labels` and `fields` are selectors. With `metadata_only` objects come without what they
        hold, which may be much. Raises MissingKindError where the kind is not known.
        """
        headers = {"Accept": _METADATA_ONLY} if metadata_only else {}
        for attempt in range(1, _LIST_ATTEMPTS + 1):
            try:
                return self._list(kind, namespace, _selectors(labels, fields), headers)
            except ExpiredError:
                if attempt == _LIST_ATTEMPTS:
                    raise
        raise AssertionError("not reached")

    def create(self, kind: Kind, obj: Object) -> Object:
        """Makes the object and returns it as made. Raises AlreadyThereError."""
        metadata = obj["metadata"]
        path = kind.path(metadata.get("namespace"))
        whole = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        answer = self._send("POST", path, {}, whole)
        return _object(answer, f"POST {path} ({metadata.get('name')})")

    def patch(
        self,
        kind: Kind,
        name: str,
        change: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        namespace: str | None = None,
        *,
        subresource: str = "",
        json_patch: bool = False,
    ) -> Object | None:
        """Changes the object, by a merge patch or by a list of JSON patch operations.

        Returns it as changed; None where it is not there. Raises ConflictError where a "test" among
        the operations failed, where a path of theirs is not there, or where the change names a
        `resourceVersion` that is not the object's any more.
        """
        path = kind.path(namespace, name) + (f"/{subresource}" if subresource else "")
        form = "application/json-patch+json" if json_patch else "application/merge-patch+json"
        answer = self._send("PATCH", path, {}, change, {"Content-Type": form})
        if answer.status == 404:
            answer.read()
            return None
        return _object(answer, f"PATCH {path}", json_patch=json_patch)

    def replace(self, kind: Kind, obj: Object) -> Object:
        """Puts the object in the place of the one that it was read from. Raises ConflictError."""
        metadata = obj["metadata"]
        path = kind.path(metadata.get("namespace"), metadata["name"])
        whole = {"apiVersion": kind.api_version, "kind": kind.kind, **obj}
        return _object(self._send("PUT", path, {}, whole), f"PUT {path}")

    def delete(
        self,
        kind: Kind,
        name: str,
        namespace: str | None = None,
        *,
        grace_seconds: int | None = None,
        uid: str | None = None,
    ) -> bool:
        """Asks for the object's deletion; False where it is not there.

        With a `uid`, an object of that name that is another one counts as not there.
        """
        path = kind.path(namespace, name)
        options: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        answer = self._send("DELETE", path, {}, options)
        if answer.status == 404 or (answer.status == 409 and uid is not None):
            answer.read()
            return False
        _object(answer, f"DELETE {path}")
        return True

    def request_token(self, account: str, namespace: str, seconds: int) -> str:
        """A token of a service account that is good for so long. Raises RefusedError."""
        path = SERVICE_ACCOUNT.path(namespace, account) + "/token"
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        made = _object(self._send("POST", path, {}, asked), f"POST {path}")
        token: str = made["status"]["token"]
        return token

    def watch(
        self,
        kind: Kind,
        namespace: str | None,
        resource_version: str,
        *,
        labels: str = "",
        timeout_seconds: int = 300,
    ) -> Stream[tuple[str, Object]]:
        """What happens after `resource_version`: ADDED, MODIFIED, DELETED or BOOKMARK, and object.

        A BOOKMARK's object has nothing but the version to go on from. Ends by itself after
        `timeout_seconds`. Raises ExpiredError, here or while it is read, where the server has
        forgotten that version.
        """
        path = kind.path(namespace)
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
            **_selectors(labels, ""),
        }
        answer = self._send("GET", path, query, silence_seconds=timeout_seconds + 30.0)
        asked = f"watch of {path}"
        _raise_for(answer, asked)
        return Stream(answer, _events(answer, asked))

    def open_log(
        self,
        name: str,
        namespace: str,
        *,
        follow: bool,
        timestamps: bool,
        since_time: datetime | None = None,
        container: str | None = None,
    ) -> Stream[bytes]:
        """A pod's log in the pieces in which it arrives; with `follow`, until its container ends.

        Raises ClusterError where there is no such pod, or no log of it yet.
        """
        path = POD.path(namespace, name) + "/log"
        query = {"follow": "true"} if follow else {}
        if timestamps:
            query["timestamps"] = "true"
        if since_time is not None:
            query["sinceTime"] = clock.to_text(since_time)
        if container:
            query["container"] = container
        headers = {"Accept": "*/*"}
        silence = 24 * 3600.0 if follow else READ_SECONDS
        answer = self._send("GET", path, query, headers=headers, silence_seconds=silence)
        _raise_for(answer, f"log of pod {namespace}/{name}")
        return Stream(answer, answer.stream())

    def _list(
        self,
        kind: Kind,
        namespace: str | None,
        selectors: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> Listing:
        path = kind.path(namespace)
        items: list[Object] = []
        query = {"limit": str(PAGE), **selectors}
        while True:
            answer = self._send("GET", path, query, headers=headers)
            page = _object(answer, f"list of {path}", kind)
            items += page.get("items") or ()
            metadata = page["metadata"]
            query["continue"] = metadata.get("continue", "")
            if not query["continue"]:
                return Listing(items, metadata["resourceVersion"])

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: object = None,
        headers: Mapping[str, str] | None = None,
        silence_seconds: float = READ_SECONDS,
    ) -> Answer:
        with self._lock:
            self._requests += 1
        data = None if body is None else json.dumps(body).encode()
        own = {"Content-Type": "application/json"} if data is not None else {}
        return self.transport.send(
            method, path, query, data, {**own, **(headers or {})}, silence_seconds=silence_seconds
        )


def _selectors(labels: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: text for name, text in given.items() if text}


def _object(
    answer: Answer, asked: str, kind: Kind | None = None, *, json_patch: bool = False
) -> Object:
    """The answer's object; raises the error that the answer is."""
    _raise_for(answer, asked, kind, json_patch=json_patch)
    data = answer.read()
    try:
        found: Object = json.loads(data)
    except ValueError as error:
        raise UnreachableError(
            f"{asked}: the answer is no JSON ({error}); is that address a Kubernetes API server?"
        ) from error
    return found


def _raise_for(
    answer: Answer, asked: str, kind: Kind | None = None, *, json_patch: bool = False
) -> None:
    if 200 <= answer.status < 300:
        return
    try:
        status = json.loads(answer.read())
    except ValueError:
        status = {}
    finally:
        answer.close()
    status = status if isinstance(status, dict) else {}
    raise _error(answer.status, status, asked, kind, json_patch=json_patch)


def _error(
    code: int, status: Object, asked: str, kind: Kind | None = None, *, json_patch: bool = False
) -> ClusterError:
    """The error that a Status object of Kubernetes tells of."""
    reason = status.get("reason") or ""
    message = str(status.get("message") or f"HTTP status {code}")[:_LONGEST_MESSAGE]
    said = f"{asked}: the API server answers {code}{f' {reason}' if reason else ''}: {message}"
    if code == 410:
        return ExpiredError(f"{said}. List again")
    if code == 409:
        known: Callable[[str], ClusterError] = (
            AlreadyThereError if reason == "AlreadyExists" else ConflictError
        )
        return known(said)
    causes = (status.get("details") or {}).get("causes")
    if code == 422 and json_patch and not causes:
        # A test that failed and a path that is not there look alike, and mean the same to us.
        return ConflictError(f"{said}. The object is not as the change expects it; read it again")
    if code == 429 or code >= 500:
        return UnreachableError(f"{said}. It is asked again where somebody waits")
    if code == 404 and kind is not None:
        return MissingKindError(
            f"{said}. The cluster does not know {kind.plural}.{kind.group or 'core'}; install what "
            "brings that kind",
            code,
        )
    if code in (401, 403):
        said = f"{said}. Whoever the credentials belong to needs the right to do that"
    return RefusedError(said, code)


def _events(answer: Answer, asked: str) -> Iterator[tuple[str, Object]]:
    """The events of a watch: a line of JSON each."""
    for line in _lines(answer.stream()):
        try:
            event = json.loads(line)
            kind, obj = event["type"], event["object"]
        except (ValueError, KeyError, TypeError) as error:
            raise UnreachableError(f"{asked}: a line of it is no event ({error})") from error
        if kind == "ERROR":
            raise _error(int(obj.get("code") or 500), obj, asked)
        yield kind, obj


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines. A torn last one is dropped: whoever watches goes on from the one before."""
    kept = b""
    for piece in pieces:
        *lines, kept = (kept + piece).split(b"\n")
        yield from filter(None, lines)
