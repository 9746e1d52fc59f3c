"""Starts real attempts on this host for tests, and looks at what they leave."""

from __future__ import annotations

import json
import os
import signal
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from piecework import config
from piecework.config import Settings
from piecework.entrypoint import tree
from piecework.keeper import tend
from piecework.ledger.events import Event, Kind
from piecework.ledger.store import open_ledger
from piecework.machines import cgroup, host
from piecework.machines.local import Machines
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.runners.folder import AttemptFolder, folder_of
from piecework.runners.local import LocalRunner, host_for_plans
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner
from piecework.spec.job import Job
from piecework.spec.pool import load_pools
from piecework.units import Memory

#: Longer than anything takes on a busy machine with two cores.
PATIENCE_SECONDS = 240.0


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """The condition's first true value; fails with what was waited for."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = condition()
        if found:
            return found
        time.sleep(0.05)
    pytest.fail(f"waited {seconds} s for: {what}")


def kill(pid: int) -> None:
    """kill -9, of a process that is there."""
    os.kill(pid, signal.SIGKILL)


@dataclass
class Place:
    """A PIECEWORK_HOME, a folder of programs, and a runner."""

    home: Path
    code: Path
    settings: Settings

    @property
    def runner(self) -> LocalRunner:
        return LocalRunner(self.settings)

    def request(
        self,
        program: str,
        run: str = "test.job.1",
        number: int = 1,
        *,
        cpus: int = 1,
        memory: str = "512Mi",
        machine: Mapping[str, Any] | None = None,
        priority: int = 0,
        **job: Any,
    ) -> AttemptRequest:
        """A request for a program (its text); the machine's share of this host is as given."""
        file = self.code / f"{run}.{number}.py"
        file.write_text(textwrap.dedent(program))
        pool = load_pools(self.settings)["local"]
        asked = Job.model_validate({"python": file.name, "machine": machine or {}, **job})
        plan = plan_job(
            "job",
            asked,
            pool=pool,
            prices=load_price_book(pool),
            settings=self.settings,
            host=host_for_plans(pool),
        )
        plan = replace(plan, cpus=Decimal(cpus), memory=Memory.parse(memory))
        return AttemptRequest(
            run=run,
            number=number,
            plan=plan,
            owner=Owner("cli"),
            code=self.code,
            data=str(self.home / "data"),
            pipeline="test",
            pipeline_run="by hand",
            priority=priority,
        )

    def start(self, program: str, run: str = "test.job.1", **more: Any) -> str:
        """Starts an attempt; returns its id."""
        return self.runner.start(self.request(program, run, **more)).attempt

    def folder(self, attempt: str) -> AttemptFolder:
        found = folder_of(self.home, attempt)
        assert found is not None
        return found

    def status(self, attempt: str) -> AttemptStatus:
        found = self.runner.status(attempt)
        assert found is not None
        return found

    def wait(self, attempt: str, state: str = "ended") -> AttemptStatus:
        """Waits for a state; "started" is that the program itself runs."""

        def reached() -> AttemptStatus | None:
            status = self.status(attempt)
            if state == "started":
                return status if status.started_at is not None else None
            return status if status.state == state else None

        found: AttemptStatus = wait_for(reached, f"{attempt} is {state}")
        return found

    def wait_for_log(self, attempt: str, text: str) -> None:
        """Waits until the program has printed the text."""
        wait_for(lambda: text in self.log(attempt), f"{attempt} prints {text!r}")

    def log(self, attempt: str) -> str:
        return self.runner.read_log(attempt, 0).decode(errors="replace")

    def supervisor_of(self, attempt: str) -> int:
        file = self.folder(attempt).supervisor
        wait_for(lambda: file.exists() and file.read_text(), f"the supervisor of {attempt}")
        return int(json.loads(file.read_text())["pid"])

    def entrypoint_of(self, attempt: str) -> int:
        """The entrypoint's process id, whose parent is the supervisor."""
        supervisor = self.supervisor_of(attempt)
        children = [p.pid for p in tree.descendants(supervisor) if p.parent == supervisor]
        assert len(children) == 1
        return children[0]

    def processes(self, attempt: str) -> list[int]:
        """What of the attempt still runs: by the variable, and by the cgroup."""
        folder = self.folder(attempt)
        found = {p.pid for p in tree.with_environment("PIECEWORK_FOLDER", str(folder.path))}
        group = self.group(attempt)
        return sorted(found | set(group.members() if group is not None else ()))

    def group(self, attempt: str) -> cgroup.Cgroup | None:
        """The attempt's control group, while there is one."""
        try:
            folders = json.loads((self.folder(attempt).path / "cgroup.json").read_text())
        except FileNotFoundError:
            return None
        return cgroup.find(folders)

    def wait_for_reason(self, attempt: str, part: str) -> str:
        """Waits until the attempt says why it waits, with `part` in it."""

        def reason() -> str | None:
            found = self.status(attempt).reason
            return found if found and part in found else None

        found: str = wait_for(reason, f"{attempt} waits because of {part!r}")
        return found

    def wait_until_nothing_runs(self, attempt: str) -> None:
        """Waits until neither the program nor the supervisor of the attempt is there."""
        wait_for(lambda: not self.processes(attempt), f"no process of {attempt} is left")
        folder = self.folder(attempt)
        wait_for(lambda: not folder.is_supervised(), f"{attempt} has no supervisor")

    def machine_events(self) -> list[Event]:
        """All events of machines, from the ledger, in order of time."""
        tend(self.settings)
        with open_ledger(self.settings.ledger_url) as ledger:
            events = [event for event in ledger.events() if event.kind.value.startswith("machine.")]
        return sorted(events, key=lambda event: event.at)

    def assert_settled(self, *attempts: str) -> None:
        """Nothing runs, every occupancy is closed, all is recorded, and the ledger adds up."""
        for attempt in attempts:
            self.wait_until_nothing_runs(attempt)
            assert self.group(attempt) is None
        tend(self.settings)
        with Machines(self.home, "test", lambda _: True) as machines:
            assert [m for m in machines.machines() if m.attempt is not None] == []
            assert machines.waiting() == []
            assert machines.outbox() == []
        assert list((self.home / "open").iterdir()) == []
        with open_ledger(self.settings.ledger_url) as ledger:
            events = list(ledger.events())
            verification = ledger.verify()
        assert verification.problems == ()
        assert verification.bills_nanos == verification.charged_nanos
        for attempt in attempts:
            ended = [e for e in events if e.subject == attempt and e.kind is Kind.ATTEMPT_ENDED]
            assert len(ended) == 1
            assert ended[0].data["cause"]
        occupied = sum(event.kind is Kind.MACHINE_OCCUPIED for event in events)
        assert occupied == sum(event.kind is Kind.MACHINE_VACATED for event in events)


@contextmanager
def place(home: Path, code: Path) -> Iterator[Place]:
    """A place for attempts; at its end all of them are ended."""
    code.mkdir(exist_ok=True)
    found = Place(home, code, config.load(directory=code))
    try:
        yield found
    finally:
        for mark in (home / "open").iterdir() if (home / "open").is_dir() else ():
            found.runner.cancel(mark.name, "the test is over")
        for mark in (home / "open").iterdir() if (home / "open").is_dir() else ():
            folder = found.folder(mark.name)
            for process in tree.with_environment("PIECEWORK_FOLDER", str(folder.path)):
                tree.send(process, signal.SIGKILL)
        tend(found.settings)


def can_use_cgroups() -> bool:
    """Whether the kernel can enforce limits for this user."""
    group = cgroup.create(f"probe-{os.getpid()}", 2**26, host.capacity().cores)
    if group is None:
        return False
    group.remove()
    return True
