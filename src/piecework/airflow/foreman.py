"""The foreman: a small detached process that keeps the platform's components running.

`python -m piecework.airflow.foreman` (settings come by the environment) starts Airflow's
scheduler, API server, DAG processor and triggerer, and the keeper of clusters where a pool is on
one; restarts one that dies, calls the keeper of this host every few seconds, and ends all of them
when it is told to end. If it is killed, the kernel tells its
components (see component.py), and the next `up` ends what is left.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from piecework import config
from piecework.airflow.configuration import (
    KEEPER,
    PLATFORM_VARIABLE,
    PlatformFolder,
    components_of,
    read_json,
    write_private,
)
from piecework.airflow.processes import Identity, end_session, identify
from piecework.config import Settings

_log = logging.getLogger("piecework.foreman")
_ARGUMENTS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
    KEEPER: (KEEPER,),
}
_LOOP_SECONDS = 0.2
_TEND_SECONDS = 3.0
#: A component that lived this long is not in a crash loop: its back-off starts anew.
_SETTLED_SECONDS = 60.0
_LONGEST_PAUSE_SECONDS = 30.0
_PATIENCE_SECONDS = 4.0


def environment(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The platform's environment: these settings, and nothing of another Airflow."""
    folder = PlatformFolder(settings.home)
    kept = {name: value for name, value in environ.items() if not name.startswith("AIRFLOW")}
    kept |= {
        "AIRFLOW_HOME": str(folder.root),
        "AIRFLOW_CONFIG": str(folder.config),
        PLATFORM_VARIABLE: str(folder.root),
        "PIECEWORK_HOME": str(settings.home),
        "PIECEWORK_LEDGER_URL": settings.ledger_url,
        "PIECEWORK_POOL": settings.pool,
        "PIECEWORK_TIMEOUT": f"{settings.timeout.total_seconds():.0f}s",
        "PIECEWORK_DEADLINE": f"{settings.deadline.total_seconds():.0f}s",
        "PIECEWORK_DATA": settings.data,
        "PIECEWORK_STORE": settings.store,
        "PIECEWORK_SUBMIT_ROOTS": settings.submit_roots,
        "NO_PROXY": _unproxied(environ),
        "no_proxy": _unproxied(environ),
        "PYTHONUNBUFFERED": "1",
    }
    if settings.file is not None:
        kept["PIECEWORK_CONFIG"] = str(settings.file.absolute())
    return kept


def _unproxied(environ: Mapping[str, str]) -> str:
    """The platform speaks to itself without a proxy, and to a cluster as its user does."""
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    return ",".join(filter(None, [given, "127.0.0.1,localhost"]))


@dataclass(slots=True)
class _Component:
    name: str
    process: subprocess.Popen[bytes] | None = None
    identity: Identity | None = None
    started: float = 0.0
    restarts: int = -1
    pause: float = 0.5
    due: float = 0.0
    error: str | None = None


@dataclass(slots=True)
class _Foreman:
    settings: Settings
    folder: PlatformFolder
    components: list[_Component] = field(init=False)
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.components = [_Component(name) for name in components_of(self.settings)]

    def run(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.stopping.set())
        signal.signal(signal.SIGINT, lambda *_: self.stopping.set())
        keeper = threading.Thread(target=self._tend, name="keeper", daemon=True)
        keeper.start()
        try:
            while not self.stopping.is_set():
                for component in self.components:
                    self._watch(component)
                self.stopping.wait(_LOOP_SECONDS)
        finally:
            self._end_all()
        keeper.join(timeout=_PATIENCE_SECONDS)

    def _watch(self, component: _Component) -> None:
        now = time.monotonic()
        if component.process is None:
            if now >= component.due:
                self._start(component)
            return
        code = component.process.poll()
        if code is None:
            return
        _log.warning("%s ended with %s", component.name, code)
        if component.identity is not None:
            end_session(component.identity, self.folder.root, patience_seconds=0)
        settled = now - component.started > _SETTLED_SECONDS
        component.pause = 0.5 if settled else min(component.pause * 2, _LONGEST_PAUSE_SECONDS)
        component.due = now + component.pause
        component.error = f"ended with {_explain(code)}"
        component.process = component.identity = None
        self._record()

    def _start(self, component: _Component) -> None:
        # Always in the main thread: the kernel's "parent died" means the thread that forked.
        with self.folder.log(component.name).open("ab") as log:
            component.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "piecework.airflow.component",
                    str(os.getpid()),
                    *_ARGUMENTS[component.name],
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder.root,
                start_new_session=True,
            )
        component.identity = identify(component.process.pid)
        component.started = time.monotonic()
        component.restarts += 1
        self._record()

    def _record(self) -> None:
        state = {
            component.name: {
                "identity": component.identity.to_json() if component.identity else None,
                "restarts": max(component.restarts, 0),
                "error": component.error,
            }
            for component in self.components
        }
        own = identify(os.getpid())
        state["foreman"] = {"identity": own.to_json() if own else None, "restarts": 0}
        write_private(self.folder.components, json.dumps(state))

    def _end_all(self) -> None:
        for component in self.components:
            if component.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    component.process.terminate()
        end = time.monotonic() + _PATIENCE_SECONDS
        for component in self.components:
            if component.process is not None and component.identity is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    component.process.wait(timeout=max(0.0, end - time.monotonic()))
                end_session(component.identity, self.folder.root, patience_seconds=0)
                component.process.wait()
        self.folder.components.unlink(missing_ok=True)

    def _tend(self) -> None:
        """Lets the keeper record what happened, close what died and give back what is idle."""
        failing = ""
        while not self.stopping.wait(_TEND_SECONDS):
            try:
                from piecework.keeper import tend

                tend(self.settings)
                failing = ""
            except Exception as error:  # the platform must outlive a full disk or a locked ledger
                if str(error) != failing:
                    failing = str(error)
                    _log.exception("the keeper failed; it is called again")


def _explain(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return f"signal {signal.Signals(-code).name}"


def end_leftovers(folder: PlatformFolder) -> None:
    """Ends what a foreman that was killed left running, by what it had recorded."""
    recorded = read_json(folder.components)
    for component in recorded.values():
        if component.get("identity"):
            end_session(Identity.from_json(component["identity"]), folder.root, patience_seconds=3)
    folder.components.unlink(missing_ok=True)


def main() -> None:
    """Detaches and runs until SIGTERM. A second foreman of the same platform ends at once."""
    if os.fork():
        os._exit(0)
    settings = config.load()
    folder = PlatformFolder(settings.home)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    with Path(folder.foreman_lock).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another foreman runs this platform") from None
        _Foreman(settings, folder).run()


if __name__ == "__main__":
    main()
