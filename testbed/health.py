"""Whether a component's health check over plain HTTP is content, asked once."""

from __future__ import annotations

import http.client
from contextlib import closing, suppress


def answers(host: str, port: int, path: str) -> bool:
    """True where it answers 200; False for anything else, and where nobody answers."""
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection(host, port, timeout=2)) as connection,
    ):
        connection.request("GET", path)
        return connection.getresponse().status == 200
    return False
