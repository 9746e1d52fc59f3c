"""Who uses the platform of this computer, so that the last one takes down what a `run` brought up.

A `run` that finds the platform down brings it up and leaves the mark `borrowed`. Every `run`
registers itself as a user. The last user to leave takes the platform down if the mark is there;
`up` and `--keep` remove the mark. A user that was killed is known by its process and doesn't count.

    $PIECEWORK_HOME/platform-users/
        lock            held while somebody decides
        borrowed        present: a `run` brought the platform up, and nobody asked to keep it
        PID.json        one user
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from piecework.config import Settings


class PlatformUsers:
    """The users of the platform whose state is in the settings' home."""

    def __init__(self, settings: Settings) -> None:
        self._folder = settings.home / "platform-users"
        self._mark = self._folder / "borrowed"

    @contextlib.contextmanager
    def deciding(self) -> Iterator[None]:
        """One process at a time decides whether the platform goes up or down."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def enter(self) -> None:
        """Registers this process."""
        from piecework.airflow.processes import identify

        identity = identify(os.getpid())
        assert identity is not None  # it runs
        self._file().write_text(json.dumps(identity.to_json()))

    def leave(self) -> None:
        """Removes this process."""
        self._file().unlink(missing_ok=True)

    def _file(self) -> Path:
        return self._folder / f"{os.getpid()}.json"

    def others(self) -> list[int]:
        """The process ids of the living users but this one; forgets those that are dead."""
        from piecework.airflow.processes import Identity

        found = []
        for path in self._folder.glob("*.json"):
            try:
                identity = Identity.from_json(json.loads(path.read_text()))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # being written by another
            if not identity.alive:
                path.unlink(missing_ok=True)
            elif identity.pid != os.getpid():
                found.append(identity.pid)
        return sorted(found)

    @property
    def borrowed(self) -> bool:
        """Whether the last user is to take the platform down."""
        return self._mark.exists()

    def borrow(self) -> None:
        """Marks the platform as one that goes with its last user."""
        self._mark.touch()

    def keep(self) -> None:
        """The platform stays when its last user leaves."""
        self._mark.unlink(missing_ok=True)


@contextlib.contextmanager
def platform_in_use(
    settings: Settings, *, keep: bool, progress: Callable[[str], None]
) -> Iterator[None]:
    """Inside, the platform is up; after, it is as it was before, unless others still need it.

    An Airflow that `airflow_url` names is somebody else's: it is neither started nor stopped.
    """
    if settings.airflow_url is not None:
        yield
        return
    from piecework.airflow import platform

    users = PlatformUsers(settings)
    with users.deciding():
        if platform.status(settings).state == "down":
            users.borrow()
        users.enter()
    try:
        platform.up(settings, progress)
        yield
    finally:
        _leave(settings, users, keep, progress)


def _leave(
    settings: Settings, users: PlatformUsers, keep: bool, progress: Callable[[str], None]
) -> None:
    from piecework.airflow import platform
    from piecework.cli.interrupts import cleaning_up

    left = "the platform may still be running; `piecework down` stops it"
    with cleaning_up(left), users.deciding():
        users.leave()
        if keep:
            # Not before: another `run` may have found it down meanwhile, and marked it as its own.
            users.keep()
        if not users.borrowed:
            return
        if users.others():
            progress("leaving the platform up: another piecework uses it")
            return
        progress("taking the platform down")
        platform.down(settings)
        users.keep()
