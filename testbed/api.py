"""The Kubernetes API, as the testbed and its tests use it.

What enters is a kubeconfig (the testbed's, or anybody's); what leaves are objects as plain
dictionaries. A thin layer over the official client that gives every kind the same few verbs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.rest import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError, ResourceNotFoundError

from testbed.errors import TestbedError

#: A Kubernetes object, as in YAML.
Object = dict[str, Any]

#: How much longer than on an idle machine something may take where others use the machine as well.
BUSY = 4.0

_FIELD_MANAGER = "piecework-testbed"


class Api:
    """One user's view of one cluster. Close it, or use it in a `with` block."""

    def __init__(self, kubeconfig: Path, context: str | None = None) -> None:
        self.kubeconfig = kubeconfig
        self.http: Any = config.new_client_from_config(str(kubeconfig), context=context)
        self._dynamic: Any = None

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.http.close()
        self.http.rest_client.pool_manager.clear()

    @property
    def core(self) -> Any:
        """The official client's core API, for logs and evictions."""
        return client.CoreV1Api(self.http)

    def resource(self, kind: str, api_version: str = "v1") -> Any:
        """The client of a kind; asks again when the kind was defined since the last time."""
        try:
            return self._discovered().resources.get(api_version=api_version, kind=kind)
        except ResourceNotFoundError:
            self._discovered().resources.invalidate_cache()
            return self._discovered().resources.get(api_version=api_version, kind=kind)

    def _discovered(self) -> Any:
        if self._dynamic is None:
            self._dynamic = DynamicClient(self.http, cache_file=None, discoverer=_lazy())
        return self._dynamic

    def apply(self, *objects: Object) -> None:
        """Creates or changes objects, by server-side apply."""
        for item in objects:
            self.resource(item["kind"], item["apiVersion"]).server_side_apply(
                body=item,
                name=item["metadata"]["name"],
                namespace=item["metadata"].get("namespace"),
                field_manager=_FIELD_MANAGER,
                force_conflicts=True,
            )

    def apply_text(self, text: str) -> None:
        """Applies a YAML text of any number of documents."""
        self.apply(*(item for item in yaml.safe_load_all(text) if item))

    def create(self, item: Object) -> Object:
        """Creates an object; raises the client's ConflictError where it exists."""
        resource = self.resource(item["kind"], item["apiVersion"])
        created: Object = resource.create(
            body=item, namespace=item["metadata"].get("namespace")
        ).to_dict()
        return created

    def get(
        self, kind: str, name: str, namespace: str | None = None, api_version: str = "v1"
    ) -> Object | None:
        """The object, or None where there is none."""
        try:
            found: Object = (
                self.resource(kind, api_version).get(name=name, namespace=namespace).to_dict()
            )
        except NotFoundError:
            return None
        return found

    def list(
        self,
        kind: str,
        namespace: str | None = None,
        api_version: str = "v1",
        selector: str | None = None,
    ) -> list[Object]:
        """All objects of a kind, of one namespace or of all."""
        answer = self.resource(kind, api_version).get(namespace=namespace, label_selector=selector)
        items: list[Object] = answer.to_dict()["items"]
        return items

    def patch(
        self,
        kind: str,
        name: str,
        change: Mapping[str, Any],
        namespace: str | None = None,
        api_version: str = "v1",
    ) -> None:
        """Merges a change into an object."""
        self.resource(kind, api_version).patch(
            body=dict(change),
            name=name,
            namespace=namespace,
            content_type="application/merge-patch+json",
        )

    def patch_status(
        self, kind: str, name: str, change: Mapping[str, Any], api_version: str = "v1"
    ) -> None:
        """Merges a change into the status of an object of the cluster."""
        self.resource(kind, api_version).status.patch(
            body={"status": dict(change)},
            name=name,
            content_type="application/merge-patch+json",
        )

    def delete(
        self,
        kind: str,
        name: str,
        namespace: str | None = None,
        api_version: str = "v1",
        grace_seconds: int | None = None,
    ) -> None:
        """Deletes an object; fine where there is none."""
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            options["gracePeriodSeconds"] = grace_seconds
        try:
            self.resource(kind, api_version).delete(name=name, namespace=namespace, body=options)
        except (NotFoundError, ConflictError):
            return

    def delete_all(self, kind: str, namespace: str | None = None, api_version: str = "v1") -> None:
        """Deletes all objects of a kind, of one namespace or of the cluster."""
        # The client wants a selector where no name is given; this one selects all.
        everything = "!testbed.piecework.dev/kept"
        self.resource(kind, api_version).delete(namespace=namespace, label_selector=everything)

    def watch(
        self, kind: str, api_version: str = "v1", timeout_seconds: int = 300
    ) -> Iterator[tuple[str, Object]]:
        """Changes of all objects of a kind: (ADDED | MODIFIED | DELETED, object), from now on.

        Begins with an ADDED for each that is there; ends after the time, or when the server does.
        """
        resource = self.resource(kind, api_version)
        for event in resource.watch(timeout=timeout_seconds):
            yield event["type"], event["raw_object"]

    def logs(self, pod: str, namespace: str, container: str | None = None) -> str:
        """What a container has written so far."""
        answer = self.core.read_namespaced_pod_log(
            pod, namespace, container=container, _preload_content=False
        )
        text: str = answer.data.decode(errors="replace")
        return text

    def wait(
        self,
        what: str,
        check: Callable[[], Any],
        timeout_seconds: float = 60,
        poll_seconds: float = 0.1,
    ) -> Any:
        """Waits until a check returns something true, and returns that.

        A server that is away for a moment is asked again. The time is what an idle machine may
        need; as others may use the machine too, TestbedError is raised after BUSY times as long.
        """
        timeout_seconds *= BUSY
        deadline = time.monotonic() + timeout_seconds
        last: Exception | None = None
        while True:
            try:
                result = check()
                if result:
                    return result
                last = None
            except (ApiException, OSError, _transport_error()) as error:
                last = error
            if time.monotonic() > deadline:
                raise TestbedError(f"waited {timeout_seconds:.0f} s for {what}, in vain") from last
            time.sleep(poll_seconds)


def _lazy() -> Any:
    from kubernetes.dynamic.discovery import LazyDiscoverer

    return LazyDiscoverer


def _transport_error() -> type[Exception]:
    from urllib3.exceptions import HTTPError

    return HTTPError


def is_ready(node: Object) -> bool:
    """Whether a node says that it is ready."""
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in node.get("status", {}).get("conditions", ())
    )
