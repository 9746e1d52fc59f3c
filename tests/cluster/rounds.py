"""Rounds: a few runs, one fault, and what must hold whatever happened.

What enters is a pool on the testbed, of either kind, with keepers that are real processes and runs
that are started as the command line and Airflow start them; what leaves is what every test of
faults, the stress and the soak ask of it: that outcomes are true, that no machine had two runs at a
time (from the container runtimes' own records), that every second is billed as the testbed's own
record has it, and that nothing is left.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from piecework.config import Settings
from piecework.errors import ClusterError
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Attempt
from piecework.machines import access
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner, Runner, run_id
from piecework.runners.runner import runner_for as find_runner
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from testbed import aws, faults, images, karpenter, machine, record
from testbed.api import BUSY, Api, Object
from testbed.place import Place
from tests.cluster import cluster_pools
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.ground import Ground

KINDS = ("karpenter", "asg")
CLAIMS = "karpenter.sh/v1"
TYPES = (
    "m6a.large", "m6a.xlarge", "m6a.2xlarge", "m6a.4xlarge", "m6a.8xlarge", "m6a.12xlarge",
    "m6a.16xlarge", "m6a.24xlarge", "m6a.32xlarge",
)  # fmt: skip
#: Types of which groups have spot capacity, too; Karpenter buys it of all.
SPOT = TYPES[1:2]
#: The second type.
LARGER = {"cpu": 4, "memory": "8Gi"}
#: Types for runs whose machine has to be bought, and may not be an idle one: each such test has its
#: own.
FRESH = [{"type": name} for name in TYPES[2:]]
T = TypeVar("T")
_numbers = itertools.count(1)


def limits(machines: int) -> str:
    """What a pool has in piecework.toml besides its machines: limits that a test can wait for."""
    return f"""
max_machines = {machines}
lost_after = "15s"
pull_timeout = "10s"
join_timeout = "30s"
"""


def work(seconds: float, exit_code: int = 0) -> str:
    """A script that lasts that long, and ends at once when it is told to."""
    return f"trap 'exit 143' TERM; echo begun; sleep {seconds} & wait $!; exit {exit_code}"


@dataclass(frozen=True, slots=True)
class Asked:
    """An attempt as it was asked for: what it does, if nothing happens to it."""

    request: AttemptRequest
    seconds: float
    exit_code: int
    namespace: str


@dataclass(frozen=True, slots=True)
class Submitter:
    """Who asks for runs in a namespace, with the rights that piecework renders for that."""

    settings: Settings
    pool: Pool

    @property
    def runner(self) -> Runner:
        """A new one each time, as another process would have."""
        return find_runner(self.pool, self.settings)


@dataclass
class Arena:
    """A pool of either kind, its keepers, and all runs that were asked for on it."""

    here: Place
    api: Api
    made: ClusterPool
    home: Path
    image: str
    #: The keeper's side: its processes and its ledger, with the keeper's rights.
    ground: Ground
    #: Machines that the testbed had before the pool was made: not its own.
    others: frozenset[str]
    submitters: dict[str, Submitter] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    #: Machines that something was done to: when they end is known later than it happens.
    harmed: set[str] = field(default_factory=set)

    @property
    def kind(self) -> str:
        return self.ground.pool.provider

    @property
    def autoscaler(self) -> str:
        """The component that buys for it."""
        return karpenter.NAME if self.kind == "karpenter" else aws.AUTOSCALER

    @property
    def groups(self) -> list[str]:
        """Its Auto Scaling groups."""
        return [group.name for group in self.made.rendering.groups]

    @property
    def buys_as(self) -> list[str]:
        """The names by which the testbed's wishes know its purchases."""
        return self.groups or [self.made.name]

    @property
    def keeper(self) -> subprocess.Popen[bytes]:
        """A keeper that runs: the one that was started first, or a new one where none is left."""
        keepers = self.ground.keepers
        keepers[:] = [process for process in keepers if process.poll() is None]
        return keepers[0] if keepers else self.ground.start_keeper()

    def second_keeper(self) -> subprocess.Popen[bytes]:
        """Another one, beside the first, that is ready to take over."""
        identity = f"keeper-{next(_numbers)}"
        process = self.ground.start_keeper(identity)
        self.api.wait(
            "the second keeper", lambda: "keeping the pools" in self.ground.keeper_log(identity), 30
        )
        return process

    def submitter(self, namespace: str = "") -> Submitter:
        return self.submitters[namespace or self.made.namespace]

    def prepare(
        self, script: str, seconds: float = 0, exit_code: int = 0, **more: Any
    ) -> AttemptRequest:
        """A run of a shell script, as it may be handed to any number of runners."""
        namespace = more.pop("namespace", self.made.namespace)
        name = more.pop("name", f"job-{next(_numbers)}")
        asks = {"machine": {"cpu": 1, "memory": "2Gi"}, "timeout": "5m", **more}
        image = asks.pop("image", self.image)
        container = {"image": image, "command": ["sh", "-c", script]}
        job = Job.model_validate({"container": container, **asks})
        who = self.submitter(namespace)
        plan = plan_job(
            name, job, pool=who.pool, prices=load_price_book(who.pool), settings=who.settings
        )
        run = run_id(None, name, f"{self.made.name}-{next(_numbers)}")
        request = AttemptRequest(run, 1, plan, Owner("cli"), self.home, "")
        self.asked[request.attempt] = Asked(request, seconds, exit_code, namespace)
        return request

    def submit(self, seconds: float, exit_code: int = 0, **more: Any) -> str:
        """Starts a run that lasts that long and ends with that code; returns its attempt."""
        request = self.prepare(work(seconds, exit_code), seconds, exit_code, **more)
        self.start(request)
        return request.attempt

    def start(self, request: AttemptRequest) -> None:
        runner = self._runner_of(request.attempt)
        patiently(lambda: runner.start(request))

    def again(self, attempt: str) -> str:
        """Starts the next attempt of a run at once, as a task of Airflow would."""
        asked = self.asked[attempt]
        request = replace(asked.request, number=asked.request.number + 1)
        self.asked[request.attempt] = replace(asked, request=request)
        self.start(request)
        return request.attempt

    def cancel(self, attempt: str) -> None:
        runner = self._runner_of(attempt)
        patiently(lambda: runner.cancel(attempt, "somebody cancelled it"))

    def _runner_of(self, attempt: str) -> Runner:
        return self.submitter(self.asked[attempt].namespace).runner

    def status(self, attempt: str) -> AttemptStatus | None:
        runner = self._runner_of(attempt)
        return patiently(lambda: runner.status(attempt))

    def wait_status(
        self,
        attempt: str,
        what: str,
        condition: Callable[[AttemptStatus], object],
        seconds: float = 90,
    ) -> AttemptStatus:
        """The first status that fulfils a condition."""
        runner, until = self._runner_of(attempt), time.monotonic() + BUSY * seconds
        status = None
        while time.monotonic() < until:
            status = self.status(attempt)
            if status is not None and condition(status):
                return status
            runner.wait_for_change(self.asked[attempt].request.run, 1)
        raise AssertionError(f"{attempt} was not {what} within {BUSY * seconds:g} s: {status}")

    def running(self, attempt: str, seconds: float = 90) -> str:
        """The machine of an attempt, once it runs there."""
        running = self.wait_status(attempt, "running", lambda s: s.state == "running", seconds)
        return running.machines[0]

    def bound(self, attempt: str, seconds: float = 90) -> str:
        """The machine of an attempt, once it has one."""
        bound = self.wait_status(attempt, "bound", lambda s: s.machines, seconds)
        return bound.machines[0]

    def over(self, attempt: str, seconds: float = 150) -> AttemptStatus:
        """How an attempt ended, as its runner says; nobody has told it that this was read."""
        return self.wait_status(attempt, "over", lambda s: s.state == "ended", seconds)

    def ended(self, attempt: str, seconds: float = 150) -> Attempt:
        """How an attempt ended, as the ledger says, which is what its runner says."""
        status = self.over(attempt, seconds)
        known = self.ground.ended(attempt, 60)
        assert known.outcome == status.outcome, (attempt, known, status)
        if known.outcome in (Outcome.SUCCESS, Outcome.ERROR):
            assert known.exit_code == status.exit_code, (attempt, known, status)
        runner = self._runner_of(attempt)
        patiently(lambda: runner.acknowledge(attempt))
        return known

    def pod(self, attempt: str) -> Object | None:
        """An attempt's first pod."""
        namespace = self.asked[attempt].namespace
        found: Object | None = self.api.get("Pod", labels.pod_name(attempt), namespace)
        return found

    @contextmanager
    def out_of_stock(self, *types: str) -> Iterator[None]:
        """Meanwhile no machine of these types can be bought, neither on demand nor as spot."""
        groups = [group.name for group in self.submitter().pool.groups if group.type in types]
        if self.kind == "karpenter":
            faults.karpenter_out_of_stock(self.here, types)
        for name in groups:
            faults.out_of_stock(self.here, name)
        try:
            yield
        finally:
            if self.kind == "karpenter":
                faults.karpenter_out_of_stock(self.here, ())
            for name in groups:
                faults.out_of_stock(self.here, name, empty=False)

    def kill_machine(self, name: str, *, gone_from_cloud: bool = True) -> None:
        self.harmed.add(name)
        faults.kill_machine(self.here, name, gone_from_cloud=gone_from_cloud)

    def machines(self) -> list[str]:
        """Its machines that were started and not stopped."""
        return [name for name in machine.names(self.here) if self.is_mine(name)]

    def is_mine(self, name: str) -> bool:
        if name in self.others:
            return False
        life = record.read(self.here).get(name)
        prefix = "kwok://" if self.kind == "karpenter" else "aws:///"
        return life is not None and life.provider_id.startswith(prefix)

    def wait_bought(self, known: Sequence[str], seconds: float = 60) -> str:
        """A machine that was not among those known, as soon as it is there."""

        def look() -> str | None:
            return next((name for name in self.machines() if name not in known), None)

        found: str = self.api.wait("a machine to be bought", look, seconds, 0.1)
        return found


def patiently(call: Callable[[], T], seconds: float = 60) -> T:
    """Calls something until the API server answers, as everybody who asks for runs does."""
    until = time.monotonic() + BUSY * seconds
    while True:
        try:
            return call()
        except ClusterError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def shell_image(here: Place) -> str:
    """The testbed's shell with a user, as restricted namespaces ask for one."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nUSER 65532\n")
        return images.build(here, Path(name), "rounds:1", base=images.SHELL)


@contextmanager
def arena(
    here: Place, api: Api, kind: str, home: Path, more: str, *, second: bool = False
) -> Iterator[Arena]:
    """A pool with a keeper; `second` is for another namespace in which runs may be asked for.

    What is there at the end is removed, whether it should be there or not.
    """
    name = f"{kind[0]}{next(_numbers)}"
    others = frozenset(record.read(here))
    if kind == "karpenter":
        made = cluster_pools.make_karpenter_pool(here, api, name, home / name, TYPES, more)
    else:
        made = cluster_pools.make_asg_pool(here, api, name, home / name, TYPES, more, spot=SPOT)
    api.wait("its account", lambda: api.get("ServiceAccount", "default", name))
    image = shell_image(here)
    ground = Ground(here, api, home / "keeper", image, made)
    found = Arena(here, api, made, home, image, ground, others)
    _add_submitter(found, name)
    if second:
        _add_second(found)
    with _credentials():
        try:
            yield found
        finally:
            ground.stop_keepers()
            cluster_pools.remove(here, api, made)
            for namespace in found.submitters.keys() - {name}:
                api.delete("Namespace", namespace)


@contextmanager
def _credentials() -> Iterator[None]:
    """Keepers of Auto Scaling groups find their credentials in the environment."""
    before = {name: os.environ.get(name) for name in cluster_pools.AWS_ENVIRONMENT}
    os.environ.update(cluster_pools.AWS_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _add_submitter(found: Arena, namespace: str) -> None:
    made = found.made
    tables = made.tables.replace(f'namespace = "{made.namespace}"', f'namespace = "{namespace}"')
    settings = cluster_pools.settings_from(tables, found.home / f"submitter-{namespace}")
    pool = cluster_pools.pool_from(tables, made.name, settings.home)
    found.submitters[namespace] = Submitter(settings, pool)


def _add_second(found: Arena) -> None:
    """Another namespace whose runs take machines of the same pool."""
    name = f"{found.made.name}-second"
    first = found.submitter().pool
    pools = [first, first.model_copy(update={"namespace": name})]
    found.api.apply(*access.render_namespaces(pools), *access.render_access(pools))
    found.api.wait("its account", lambda: found.api.get("ServiceAccount", "default", name))
    _add_submitter(found, name)


def kill(process: subprocess.Popen[bytes]) -> None:
    """kill -9."""
    process.kill()
    process.wait(20)


@contextmanager
def asleep(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """A process stands still for a while."""
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
