"""The platform of this computer: one Airflow and the keeper, brought up and down by one call.

In: the settings. Out: a running Airflow on 127.0.0.1, with everything in `$PIECEWORK_HOME/airflow`.
`up` may be called twice, at the same time, and after a crash: it finds what runs, ends what was
left behind, and starts what is missing. Jobs are not ended by `down`: their supervisors are their
own, and the next `up` finds them.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from piecework.airflow.client import AirflowClient
from piecework.airflow.configuration import (
    COMPONENTS,
    KEEPER,
    USER,
    PlatformFolder,
    components_of,
    configure,
    read_json,
    url_of,
)
from piecework.airflow.foreman import end_leftovers, environment
from piecework.airflow.processes import Identity, end_session, members, wait_until
from piecework.config import Settings
from piecework.errors import PlatformError

#: Longer than any honest start; a component that keeps dying is told earlier.
_START_SECONDS = 240.0
_CRASHES = 3


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One component. `state`: "healthy", "starting", or "down"; memory is what it adds (PSS)."""

    name: str
    state: str
    pid: int | None
    restarts: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    """The platform. `state`: "up" (all healthy), "starting" (or restarting a part), "down".

    A keeper of clusters counts for itself: without it jobs of this host run all the same.
    """

    state: str
    url: str | None
    components: tuple[ComponentStatus, ...]
    user: str
    password_file: Path
    logs: Path

    @property
    def memory_bytes(self) -> int:
        return sum(component.memory_bytes for component in self.components)

    def to_json(self) -> dict[str, object]:
        """For programs; says where the password is, not what it is."""
        return {
            "state": self.state,
            "url": self.url,
            "user": self.user,
            "password_file": str(self.password_file),
            "logs": str(self.logs),
            "memory_bytes": self.memory_bytes,
            "components": [
                {
                    "name": component.name,
                    "state": component.state,
                    "pid": component.pid,
                    "restarts": component.restarts,
                    "memory_bytes": component.memory_bytes,
                }
                for component in self.components
            ],
        }


def up(settings: Settings, progress: Callable[[str], None] = lambda _: None) -> PlatformStatus:
    """Brings the platform up, or finds it up; returns when all of it is healthy.

    Raises PlatformError with the last lines of a component that does not start.
    """
    folder = PlatformFolder(settings.home)
    with _locked(folder, progress):
        if not _foreman_runs(folder):
            end_leftovers(folder)
            configure(settings)
            _migrate(settings, folder, progress)
            progress("starting Airflow: " + ", ".join(components_of(settings)))
            with _finished_first():
                _start_foreman(settings, folder)
        _wait_until_healthy(settings, folder, progress)
    return status(settings)


def down(settings: Settings) -> None:
    """Ends the platform: foreman, components, and whatever they started but the jobs."""
    folder = PlatformFolder(settings.home)
    if not folder.root.is_dir():
        return
    with _locked(folder, lambda _: None):
        foreman = _foreman(folder)
        if foreman is not None and foreman.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(foreman.pid, signal.SIGTERM)
            if not wait_until(lambda: not _foreman_runs(folder), 30):
                end_session(foreman, folder.root, patience_seconds=0)
        end_leftovers(folder)


def status(settings: Settings) -> PlatformStatus:
    """How the platform is; starts nothing, waits for nothing but one answer of the API."""
    folder = PlatformFolder(settings.home)
    recorded = read_json(folder.components)
    runs = _foreman_runs(folder)
    state = read_json(folder.state)
    url = url_of(state) if runs and "port" in state else None
    health = _health(url) if url else {}
    components = []
    for name in components_of(settings):
        known = recorded.get(name, {})
        identity = Identity.from_json(known["identity"]) if known.get("identity") else None
        alive = identity is not None and identity.alive
        components.append(
            ComponentStatus(
                name=name,
                state=("healthy" if health.get(name) else "starting") if alive else "down",
                pid=identity.pid if identity is not None and alive else None,
                restarts=int(known.get("restarts", 0)),
                memory_bytes=_memory(identity, folder) if identity is not None else 0,
            )
        )
    healthy = all(c.state == "healthy" for c in components if c.name != KEEPER)
    return PlatformStatus(
        state=("up" if healthy else "starting") if runs else "down",
        url=url,
        components=tuple(components),
        user=USER,
        password_file=folder.passwords,
        logs=folder.logs,
    )


def connect(settings: Settings) -> AirflowClient:
    """A client of the Airflow that the settings name, by default the platform of this computer."""
    return AirflowClient.from_settings(settings)


@contextlib.contextmanager
def _locked(folder: PlatformFolder, progress: Callable[[str], None]) -> Iterator[None]:
    folder.root.mkdir(parents=True, exist_ok=True)
    with folder.lock.open("w") as lock:
        if not _lock(lock):
            progress("waiting for another up or down of this platform")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _foreman_runs(folder: PlatformFolder) -> bool:
    """A foreman holds its lock as long as it lives, however it ends."""
    try:
        with folder.foreman_lock.open("r") as stream:
            return not _lock(stream)
    except FileNotFoundError:
        return False


def _foreman(folder: PlatformFolder) -> Identity | None:
    known = read_json(folder.components).get("foreman", {})
    return Identity.from_json(known["identity"]) if known.get("identity") else None


@contextlib.contextmanager
def _finished_first() -> Iterator[None]:
    """An interrupt waits until the block is done: a foreman that nobody recorded can't be ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    names = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {
        name: signal.signal(name, lambda number, _: held.append(number))
        for name in names
        if signal.getsignal(name) not in (signal.SIG_IGN, None)
    }
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
        if held:
            signal.raise_signal(held[0])


def _start_foreman(settings: Settings, folder: PlatformFolder) -> None:
    for name in components_of(settings):
        _keep_previous(folder.log(name))
    with folder.log("foreman").open("wb") as log:
        # It forks and detaches, so it is nobody's child: `up` may end, or stay, without a zombie.
        subprocess.run(
            [sys.executable, "-m", "piecework.airflow.foreman"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder.root,
            env=environment(settings, os.environ),
            start_new_session=True,
            check=False,
        )

    def started() -> bool:
        foreman = _foreman(folder)
        return foreman is not None and foreman.alive

    if not wait_until(started, 60):
        raise PlatformError(
            f"the platform's foreman did not start; its log:\n{_tail(folder.log('foreman'))}"
        )


def _keep_previous(log: Path) -> None:
    """One log a start, and the one before it: a log of months is of use to nobody."""
    with contextlib.suppress(FileNotFoundError):
        log.replace(log.with_suffix(".previous.log"))


def _migrate(settings: Settings, folder: PlatformFolder, progress: Callable[[str], None]) -> None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        wanted = version("apache-airflow")
    except PackageNotFoundError:
        raise PlatformError(
            "Airflow is not installed here; install piecework with its extra: "
            'pip install "piecework[airflow]"'
        ) from None
    stamp = folder.root / "migrated"
    if folder.database.exists() and stamp.exists() and stamp.read_text() == wanted:
        return
    progress(f"preparing the database of Airflow {wanted}")
    with folder.log("migrate").open("wb") as log:
        ended = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder.root,
            env=environment(settings, os.environ),
            check=False,
        )
    if ended.returncode:
        raise PlatformError(
            f"Airflow could not prepare its database {folder.database}:\n"
            f"{_tail(folder.log('migrate'))}"
        )
    folder.database.chmod(0o600)
    stamp.write_text(wanted)


def _wait_until_healthy(
    settings: Settings, folder: PlatformFolder, progress: Callable[[str], None]
) -> None:
    told: set[str] = set()
    end = time.monotonic() + _START_SECONDS
    while True:
        now = status(settings)
        for component in now.components:
            if component.state == "healthy" and component.name not in told:
                told.add(component.name)
                progress(f"{component.name} is up")
        if now.state == "up":
            return
        # Jobs of this host need no keeper of a cluster, so nobody waits for one.
        airflow = [c for c in now.components if c.name in COMPONENTS]
        broken = [c.name for c in airflow if c.restarts >= _CRASHES and c.state != "healthy"]
        late = time.monotonic() >= end
        if not _foreman_runs(folder):
            broken = ["foreman"]
        if broken or late:
            name = (broken or [c.name for c in airflow if c.state != "healthy"])[0]
            why = f"did not become healthy in {_START_SECONDS:.0f} s" if late else "keeps ending"
            raise PlatformError(
                f"Airflow's {name} {why}; the end of {folder.log(name)}:\n{_tail(folder.log(name))}"
            )
        time.sleep(0.3)


def _health(url: str) -> dict[str, bool]:
    """Which components Airflow itself calls healthy, by our names for them."""
    try:
        found = AirflowClient(url).health()
    except PlatformError:
        return {}
    return {
        "api-server": found.get("metadatabase") == "healthy",
        "scheduler": found.get("scheduler") == "healthy",
        "dag-processor": found.get("dag_processor") == "healthy",
        "triggerer": found.get("triggerer") == "healthy",
        KEEPER: True,  # it lives, and tells the rest by its lease and metrics
    }


def _memory(leader: Identity, folder: PlatformFolder) -> int:
    """Proportional set size of a session: shared pages are shared out, so sums are true."""
    total = 0
    for pid in members(leader, folder.root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def _tail(path: Path, lines: int = 15) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return f"(no {path})"
    return "\n".join(text.splitlines()[-lines:]) or "(empty)"
