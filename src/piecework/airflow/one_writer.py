"""One change at a time in Airflow's API server, because its database is SQLite.

Airflow 3.3 writes its audit log inside the event loop (`action_logging`), while another request
that has written may need that loop to commit: both then wait until SQLite gives up, and with them
the scheduler and the triggerer. With one process and no two changes at the same time that cannot
happen. Questions (GET) are not held up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from airflow.plugins_manager import AirflowPlugin

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]
_QUESTIONS = ("GET", "HEAD", "OPTIONS")


class OneWriter:
    """ASGI middleware: requests that may change something come one after the other."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._turn = asyncio.Lock()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        """Passes the request on, at its turn."""
        if scope["type"] != "http" or scope["method"] in _QUESTIONS:
            await self._app(scope, receive, send)
            return
        async with self._turn:
            await self._app(scope, receive, send)


class OneWriterPlugin(AirflowPlugin):
    """Brings the middleware into the API server of the platform."""

    name = "piecework_one_writer"
    fastapi_root_middlewares = [{"name": "one writer", "middleware": OneWriter}]  # noqa: RUF012 - as Airflow asks
