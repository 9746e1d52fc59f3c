"""Gives idle machines back whose time is up, as of the moment at which it was.

Nobody waits for that moment: an idle machine costs nothing on this host, so whoever comes by next
writes it down.
"""

from __future__ import annotations

from pathlib import Path

from piecework import clock
from piecework.clock import Clock
from piecework.machines import host
from piecework.machines.local import Machines


def give_back(home: Path, now: Clock = clock.now) -> int:
    """Gives back the idle machines of this host whose time is up; returns how many."""
    if not (home / "host.sqlite").exists():
        return 0
    with Machines(home, f"sweep:{host.host_name()}", lambda _: True) as machines:
        return machines.release_expired(now())
