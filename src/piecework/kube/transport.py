"""How a request reaches the API server of a cluster: the one seam that tests plug into.

Enters: a method, a path, a query and a body. Leaves: an Answer, whatever its status; or
UnreachableError where there was none. Addresses, credentials, certificates, proxies and the retries
of connections are those of the library `kubernetes`, which is imported here and nowhere else.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

from piecework.errors import ClusterError, ConfigError

#: How long a connection may take, and how long an answer may be silent where nothing is watched.
CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
#: A dead connection is found after about 10 + 3 x 5 s, however quiet a watch may be by itself.
_KEEP_ALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
]
#: Connections that are kept: a watch and a followed log hold one each. More are made where they
#: are needed, and each of those is complained about in the log of urllib3.
_POOL_SIZE = 512


class UnreachableError(ClusterError):
    """The API server did not answer, or said that it cannot answer now."""


class Answer(Protocol):
    """What the server answered. Whoever got one closes it."""

    status: int

    def read(self) -> bytes:
        """All of the body."""

    def stream(self) -> Iterator[bytes]:
        """The body in the pieces in which it arrives."""

    def close(self) -> None:
        """Gives the connection up; may be called from another thread, which ends a `stream`."""


class Transport(Protocol):
    """Sends requests to one API server; any number of threads at a time."""

    @property
    def ca_file(self) -> str | None:
        """The certificates by which the cluster is known; None where it is the system's."""

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        silence_seconds: float = READ_SECONDS,
    ) -> Answer:
        """The server's answer, of any status. Raises UnreachableError where there is none.

        `silence_seconds` is how long nothing may arrive.
        """


class LibraryTransport:
    """The connection pool of `kubernetes.client.ApiClient`."""

    def __init__(self, api: Any, where: str) -> None:
        self.api = api
        self.where = where

    @property
    def ca_file(self) -> str | None:
        """See Transport."""
        file: str | None = self.api.configuration.ssl_ca_cert
        return file

    def send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        silence_seconds: float = READ_SECONDS,
    ) -> Answer:
        """See Transport."""
        import urllib3
        from urllib3.exceptions import HTTPError

        host = self.api.configuration.host
        url = f"{host}{path}"
        own = {"User-Agent": "piecework", "Accept": "application/json", **headers}
        asked = list(query.items())
        try:
            self.api.update_params_for_auth(own, asked, ["BearerToken"])
            if asked:
                url += "?" + urlencode(asked)
            answer = self.api.rest_client.pool_manager.request(
                method,
                url,
                body=body,
                headers=own,
                preload_content=False,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=silence_seconds),
            )
        except (HTTPError, OSError) as error:
            raise unreachable(f"{method} {path}", self.where, error) from error
        return _LibraryAnswer(answer, f"{method} {path}", self.where)


class _LibraryAnswer:
    """An answer of urllib3, with its errors wrapped."""

    def __init__(self, answer: Any, asked: str, where: str) -> None:
        self.answer = answer
        self.asked = asked
        self.where = where
        self.status: int = answer.status

    def read(self) -> bytes:
        from urllib3.exceptions import HTTPError

        try:
            data: bytes = self.answer.read()
        except (HTTPError, OSError) as error:
            raise unreachable(self.asked, self.where, error) from error
        self.answer.release_conn()
        return data

    def stream(self) -> Iterator[bytes]:
        from urllib3.exceptions import HTTPError

        try:
            yield from self.answer.stream(1 << 16)
        except (HTTPError, OSError, ValueError, AttributeError) as error:
            # The latter two where another thread closed it under urllib3's hands.
            raise unreachable(self.asked, self.where, error) from error
        finally:
            self.answer.close()

    def close(self) -> None:
        """Only wakes a thread that reads, whose `stream` then closes; else the collector does."""
        with contextlib.suppress(ValueError, RuntimeError, OSError):
            self.answer.shutdown()


def unreachable(asked: str, where: str, error: Exception) -> UnreachableError:
    """The error of a request that got no answer."""
    reason = getattr(error, "reason", None) or error
    return UnreachableError(
        f"{asked}: the API server of {where} does not answer: {reason}. It is asked again where "
        "somebody waits; if it stays so, look whether the cluster is up and reachable from here"
    )


def connect(kubeconfig: Path | None, context: str | None) -> LibraryTransport:
    """A transport to the cluster of a kubeconfig and context.

    Where neither is given: the cluster that this process runs in, else the usual kubeconfig.
    Raises ConfigError where there is no such file or context, or no credentials.
    """
    import kubernetes.client
    import kubernetes.config

    configuration = kubernetes.client.Configuration()
    configuration.connection_pool_maxsize = _POOL_SIZE
    configuration.socket_options = _KEEP_ALIVE
    inside = kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ
    where = "the cluster of this pod" if inside else _name(kubeconfig, context)
    try:
        if inside:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        else:
            if kubeconfig is not None and not kubeconfig.is_file():
                raise ConfigError(f"{where}: there is no file {kubeconfig}; correct `kubeconfig`")
            kubernetes.config.load_kube_config(
                config_file=None if kubeconfig is None else str(kubeconfig),
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
    except kubernetes.config.ConfigException as error:
        raise ConfigError(
            f"{where}: {error}. Name a kubeconfig and a context that exist, in the pool or with "
            "KUBECONFIG"
        ) from error
    return LibraryTransport(kubernetes.client.ApiClient(configuration), where)


def _name(kubeconfig: Path | None, context: str | None) -> str:
    file = "the usual kubeconfig" if kubeconfig is None else f"kubeconfig {kubeconfig}"
    return f"{file}, context {context}" if context else file
