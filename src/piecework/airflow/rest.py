"""How Airflow's REST API is asked: who asks, repeats, refusals.

In: a base URL and who asks. Out: what the answers say, as plain JSON. Standard library only.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from piecework.airflow.configuration import PlatformFolder, read_json, url_of
from piecework.config import Settings
from piecework.errors import PlatformError

_TIMEOUT_SECONDS = 30.0
#: Pauses before a request that got no answer is sent again.
_PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)
_PAGE = 100
#: Tokens of this process, by Airflow and user: one is enough for all clients.
_tokens: dict[tuple[str, str | None], str] = {}


class RefusedError(PlatformError):
    """Airflow answered, and refused: `status` is HTTP's, `detail` what it said."""

    retryable = False

    def __init__(self, message: str, status: int, detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


@functools.cache
def _open_anywhere() -> urllib.request.OpenerDirector:
    """One for all clients: each takes a millisecond to make, and there are thousands."""
    return urllib.request.build_opener()


@functools.cache
def open_here() -> urllib.request.OpenerDirector:
    """The same, which no proxy comes between."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(slots=True)
class Rest:
    """One Airflow, asked as one user."""

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    timeout_seconds: float = _TIMEOUT_SECONDS
    #: How often a request without an answer is repeated: a restart takes a few seconds.
    pauses: tuple[float, ...] = _PAUSES
    #: Where pipelines are published for this Airflow, if it is the platform of this computer.
    settings: Settings | None = field(default=None, repr=False)
    opener: urllib.request.OpenerDirector = field(default_factory=_open_anywhere, repr=False)

    def _find(self, path: str) -> dict[str, Any] | None:
        try:
            return self._send("GET", path, None)
        except NotFoundError:
            return None

    def _list(self, path: str, name: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._send("GET", f"{path}?limit={_PAGE}&offset={len(found)}", None)
            found += page[name]
            if not page[name] or len(found) >= int(page["total_entries"]):
                return found

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        authorized: bool = True,
        pauses: tuple[float, ...] | None = None,
    ) -> dict[str, Any]:
        waits = iter(self.pauses if pauses is None else pauses)
        renewed = False
        while True:
            headers = {"Accept": "application/json"}
            try:
                if authorized:
                    headers["Authorization"] = f"Bearer {self._authorize()}"
                return self._send_once(method, path, body, headers)
            except RefusedError as refused:
                renewable = refused.status == http.client.UNAUTHORIZED and self.password
                if not authorized or renewed or not renewable:
                    raise
                renewed, self.token = True, None  # it has expired, or Airflow has a new secret
                _tokens.pop((self.url, self.user), None)
            except PlatformError:
                pause = next(waits, None)
                if pause is None:
                    raise
                time.sleep(pause)
                self._find_platform()

    def _find_platform(self) -> None:
        """A platform that was started anew may have had to take another port."""
        state = read_json(PlatformFolder(self.settings.home).state) if self.settings else {}
        if "port" in state:
            self.url = url_of(state)

    def _authorize(self) -> str:
        if self.token is None:
            self.token = _tokens.get((self.url, self.user))
        if self.token is None:
            if not self.user or not self.password:
                raise RefusedError(
                    f"Airflow at {self.url} wants to know who asks; set PIECEWORK_AIRFLOW_TOKEN, "
                    "or PIECEWORK_AIRFLOW_USER and PIECEWORK_AIRFLOW_PASSWORD",
                    http.client.UNAUTHORIZED,
                    "",
                )
            body = {"username": self.user, "password": self.password}
            found = self._send_once("POST", "/auth/token", body, {"Accept": "application/json"})
            self.token = _tokens[self.url, self.user] = str(found["access_token"])
        return self.token

    def _send_once(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the URL is the user's own setting
            self.url + path, method=method, headers=dict(headers)
        )
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        what = f"{method} {self.url}{path}"
        try:
            with self.opener.open(request, timeout=self.timeout_seconds) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(what, error.code, _detail(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise PlatformError(
                f"Airflow at {self.url} does not answer: {getattr(error, 'reason', error)}; "
                "`piecework status` says whether it runs"
            ) from error
        try:
            found = json.loads(text) if text else {}
        except ValueError as error:
            raise PlatformError(f"{what}: the answer is not JSON: {text[:200]!r}") from error
        return found if isinstance(found, dict) else {"found": found}


class NotFoundError(RefusedError):
    """There is no such thing."""


def _refusal(what: str, status: int, detail: str) -> PlatformError:
    message = f"{what}: {status} {http.client.responses.get(status, '')}: {detail}"
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return PlatformError(message)
    if status == http.client.NOT_FOUND:
        return NotFoundError(message, status, detail)
    return RefusedError(message, status, detail)


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        text = error.read().decode(errors="replace")
    except OSError:
        return str(error.reason)
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict) and "detail" in found:
            detail = found["detail"]
            return detail if isinstance(detail, str) else json.dumps(detail)
    return text[:1000]
