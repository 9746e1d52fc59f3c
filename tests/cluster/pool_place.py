"""A pool whose only machine is there already, and attempts on it, without a keeper.

What enters is a cluster and a folder; what leaves is a runner whose attempts a test admits itself.
The machine has the label and the taint of the pool, as an autoscaler would give it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from piecework.config import Settings
from piecework.kube.client import POD, PRIORITY_CLASS, AlreadyThereError, Kube, Object
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.placement import INSTANCE_TYPE
from piecework.plan.price import load_price_book
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pod_view import PodView
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner
from piecework.spec.job import Job
from piecework.spec.pool import Group
from piecework.spec.pool import Pool as MachinePool
from testbed import images, programs
from testbed.api import BUSY
from testbed.place import Place

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster, StartMachine

TYPE = "m6a.large"


@dataclass
class PoolPlace:
    """A pool with a machine, a folder of programs, and a runner."""

    kube: Kube
    pool: MachinePool
    settings: Settings
    view: PodView
    code: Path

    def change(self, **settings: Any) -> None:
        """Other settings from now on."""
        self.settings = replace(self.settings, **settings)

    @property
    def runner(self) -> KubernetesRunner:
        """A new one each time, as another process would have."""
        return KubernetesRunner(self.pool, self.settings, view=self.view)

    def request(self, number: int = 1, run: str = "test.job.0a1b2c", **job: Any) -> AttemptRequest:
        asked = Job.model_validate(job)
        plan = plan_job(
            "job",
            asked,
            pool=self.pool,
            prices=load_price_book(self.pool),
            settings=self.settings,
        )
        return AttemptRequest(
            run, number, plan, Owner("cli"), self.code, self.settings.data, pipeline="test"
        )

    def start_python(self, program: str, **job: Any) -> str:
        """Starts a program given as its text, with its gate open."""
        (self.code / "job.py").write_text(program)
        return self.start(python="job.py", **job)

    def start(self, **job: Any) -> str:
        attempt = self.runner.start(self.request(**job)).attempt
        self.admit(attempt)
        return attempt

    def pods(self) -> list[Object]:
        return self.kube.list(POD, self.pool.namespace).items

    def admit(self, attempt: str) -> None:
        name = labels.pod_name(attempt)
        change = [{"op": "remove", "path": "/spec/schedulingGates/0"}]
        assert self.kube.patch(POD, name, change, self.pool.namespace, json_patch=True)

    def wait(
        self, attempt: str, condition: Callable[[AttemptStatus], object], seconds: float = 90
    ) -> AttemptStatus:
        end = time.monotonic() + BUSY * seconds
        runner, run = self.runner, attempt.rpartition(".")[0]
        status = None
        while time.monotonic() < end:
            status = runner.status(attempt)
            if status is not None and condition(status):
                return status
            runner.wait_for_change(run, 5)
        pytest.fail(f"{attempt} is {status}")

    def ended(self, attempt: str, seconds: float = 90) -> AttemptStatus:
        return self.wait(attempt, lambda status: status.state == "ended", seconds)

    def running(self, attempt: str) -> AttemptStatus:
        return self.wait(attempt, lambda status: status.state == "running")

    def log(self, attempt: str) -> bytes:
        runner, data = self.runner, b""
        while chunk := runner.read_log(attempt, len(data)):
            data += chunk
        return data


@contextlib.contextmanager
def pool_with_a_machine(
    one: Cluster, here: Place, namespace: str, start_machine: StartMachine, folder: Path
) -> Iterator[PoolPlace]:
    """The pool, until the test is over; its attempts' pods lose their finalizers then."""
    kube = Kube.connect(one.kubeconfig)
    pool = MachinePool(
        name="work",
        provider="asg",
        kubeconfig=one.kubeconfig,
        namespace=namespace,
        image=images.push_base(here, programs.say),
        groups=(Group(name="work", type=TYPE),),
    )
    priority: Object = {"metadata": {"name": "piecework"}, "value": 0, "preemptionPolicy": "Never"}
    with contextlib.suppress(AlreadyThereError):
        kube.create(PRIORITY_CLASS, priority)
    start_machine(
        TYPE,
        labels={labels.POOL: pool.name, INSTANCE_TYPE: TYPE},
        taints=[f"{labels.POOL}={pool.name}:NoSchedule"],
    )
    code = folder / "code"
    code.mkdir()
    settings = Settings(home=folder / "home", ledger_url=f"sqlite:///{folder}/ledger.sqlite")
    view = PodView(kube, namespace)
    place = PoolPlace(kube, pool, settings, view, code)
    try:
        yield place
    finally:
        view.close()
        for pod in place.pods():  # without a keeper nobody takes the finalizers off
            change = {"metadata": {"finalizers": None}}
            kube.patch(POD, pod["metadata"]["name"], change, namespace)
