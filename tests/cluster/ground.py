"""Pools of the testbed as piecework sees them, a keeper that can be killed, and runs for them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes.dynamic.exceptions import NotFoundError

from piecework import clock
from piecework.config import Settings
from piecework.engines.engine import launch
from piecework.kube.client import POD, Kube
from piecework.ledger.charges import bill_machine
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Attempt, Machine, Timeline
from piecework.ledger.store import open_ledger
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.manifest import PodRequest, pods_of
from piecework.plan.price import load_price_book
from piecework.runners.pods import End
from piecework.runners.runner import run_id
from piecework.spec.job import Job
from piecework.spec.pool import Pool, load_pools
from testbed import record
from testbed.api import Api, Object
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, settings_from

_CLAIMS = "karpenter.sh/v1"


@dataclass
class Ground:
    """One pool on the testbed, with a ledger of its own."""

    here: Place
    api: Api
    home: Path
    shell: str
    made: ClusterPool
    #: More of the keeper's piecework.toml: teams, a store.
    more: str = ""
    keepers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Those of the keeper, with its rights."""
        return settings_from(f"{self.more}\n{self.made.keeper_tables}", self.home)

    @property
    def pool(self) -> Pool:
        return load_pools(self.settings)[self.made.name]

    @property
    def kube(self) -> Kube:
        """The cluster, with the rights of whoever submits runs."""
        return Kube.connect(self.made.submitter_kubeconfig)

    def start_keeper(self, identity: str = "first") -> subprocess.Popen[bytes]:
        """A keeper as people start it; returns once it runs."""
        assert self.settings
        command = [sys.executable, "-m", "piecework", "keeper", "--pool", self.made.name]
        environment = {
            **os.environ,
            "PIECEWORK_HOME": str(self.home),
            "PIECEWORK_CONFIG": str(self.home / "piecework.toml"),
        }
        with (self.home / f"keeper-{identity}.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, "--identity", identity], stdout=log, stderr=log, env=environment
            )
        self.keepers.append(process)
        return process

    def run(self, *arguments: str) -> str:
        """A command of piecework with the keeper's settings; returns what it said."""
        assert self.settings
        environment = {
            **os.environ,
            "PIECEWORK_HOME": str(self.home),
            "PIECEWORK_CONFIG": str(self.home / "piecework.toml"),
        }
        command = [sys.executable, "-m", "piecework", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def keeper_log(self, identity: str = "first") -> str:
        return (self.home / f"keeper-{identity}.log").read_text()

    def stop_keepers(self, number: int = signal.SIGKILL) -> None:
        for process in self.keepers:
            if process.poll() is None:
                process.send_signal(number)
            process.wait(20)
        self.keepers.clear()

    def submit(self, name: str, script: str, **more: Any) -> str:
        """Makes the pods of an attempt that runs a shell script; returns its id.

        `change` is called with each pod before it is made.
        """
        change: Callable[[Object], None] = more.pop("change", lambda pod: None)
        machine = more.pop("machine", {"cpu": 1, "memory": "2Gi"})
        owner: Mapping[str, Any] = more.pop("owner", {"kind": "cli"})
        team, priority = more.pop("team", None), more.pop("priority", 0)
        number, run = more.pop("number", 1), more.pop("run", None)
        program = {"image": self.shell, "command": ["sh", "-c", script]}
        job = Job.model_validate(
            {"container": program, "machine": machine, "timeout": "10m", **more}
        )
        settings = self.settings
        plan = plan_job(name, job, pool=self.pool, prices=load_price_book(), settings=settings)
        run = run or run_id(None, name, uuid.uuid4().hex)
        request = PodRequest(run, number, plan, owner, team=team, priority=priority)
        told = launch(plan, self.home).to_json()
        for pod in pods_of(request, self.pool, told, clock.now()):
            # The testbed's shell image names no user.
            pod["spec"]["securityContext"]["runAsUser"] = 65532
            change(pod)
            self.kube.create(POD, pod)
        return request.attempt

    def pods(self, attempt: str) -> list[Object]:
        selector = f"{labels.ATTEMPT}={labels.attempt_label(attempt)}"
        return self.api.list("Pod", self.pool.namespace, selector=selector)

    def cancel(self, attempt: str, cause: str = "somebody cancelled it") -> None:
        """Ends an attempt as a runner does."""
        end = End(Outcome.CANCELLED, cause, clock.now()).to_json()
        for pod in self.pods(attempt):
            name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
            self.api.patch("Pod", name, {"metadata": {"annotations": {labels.END: end}}}, namespace)
            self.kube.delete(POD, name, namespace)

    def read(self, attempt: str) -> None:
        """Says that the attempt's end and log were read, as a runner does."""
        for pod in self.pods(attempt):
            seen = {"metadata": {"annotations": {labels.SEEN: "true"}}}
            name = pod["metadata"]["name"]
            # That of a machine that was lost may be gone by now.
            with suppress(NotFoundError):
                self.api.patch("Pod", name, seen, pod["metadata"]["namespace"])

    def timeline(self) -> Timeline:
        """All that the ledger knows."""
        from piecework.ledger.occupancy import read_timeline

        with open_ledger(self.settings.ledger_url) as ledger:
            return read_timeline(ledger.events())

    def attempt(self, attempt: str) -> Attempt | None:
        return self.timeline().attempts.get(attempt)

    def ended(self, attempt: str, seconds: float = 180) -> Attempt:
        """The attempt, once the ledger knows its end."""

        def look() -> Attempt | None:
            found = self.attempt(attempt)
            return found if found is not None and found.ended_at is not None else None

        found: Attempt = self.api.wait(f"the end of {attempt}", look, seconds, 0.5)
        return found

    def wait_bound(self, attempt: str, seconds: float = 120) -> str:
        """The node of an attempt's first pod, once it has one."""

        def look() -> str | None:
            pods = self.pods(attempt)
            return pods[0]["spec"].get("nodeName") if pods else None

        node: str = self.api.wait(f"{attempt} to be bound", look, seconds)
        return node

    def wait_running(self, attempt: str, seconds: float = 120) -> str:
        """The node of an attempt's first pod, once it runs there."""
        self.api.wait(
            f"{attempt} to run",
            lambda: (p := self.pods(attempt)) and p[0]["status"].get("phase") == "Running",
            seconds,
        )
        return self.wait_bound(attempt)

    def waiting_reason(self, attempt: str) -> str | None:
        """What its pod says about why it waits."""
        noted = self.pods(attempt)[0]["metadata"]["annotations"].get(labels.WAITING)
        return None if noted is None else str(json.loads(noted)["reason"])

    def claim_on(self, node: str) -> str:
        """The NodeClaim of a node."""
        claims = [c for c in self.claims() if c["status"].get("nodeName") == node]
        name: str = claims[0]["metadata"]["name"]
        return name

    def machines_gone(self, seconds: float = 180) -> list[Machine]:
        """The machines, once all that the ledger knows are gone."""

        def look() -> list[Machine] | None:
            machines = list(self.timeline().machines.values())
            gone = machines and all(machine.gone_at for machine in machines)
            return machines if gone and not self.claims() else None

        found: list[Machine] = self.api.wait("all machines to be gone", look, seconds, 0.5)
        return found

    def claims(self) -> list[Object]:
        if self.pool.provider != "karpenter":
            return []
        mine = f"{labels.POOL}={self.made.name}"
        return self.api.list("NodeClaim", api_version=_CLAIMS, selector=mine)

    def check_ledger(self) -> None:
        """The equation holds, and what is billed is what the testbed's seller has charged for."""
        with open_ledger(self.settings.ledger_url) as ledger:
            found = ledger.verify()
        assert found.ok, found.problems
        lives = record.read(self.here)
        for machine in self.timeline().machines.values():
            bill = bill_machine(machine, clock.now())
            if bill is None:
                continue
            life = next(life for name, life in lives.items() if self.is_of(name, machine))
            assert life.bought, life
            assert life.returned, life
            assert machine.gone_at, machine
            late = bill.start / 1_000_000 - life.bought.timestamp()
            over = bill.until / 1_000_000 - life.returned.timestamp()
            print(f"{machine.id}: billed {late:+.3f} s after the purchase, {over:+.3f} s after")
            # Kubernetes and AWS tell whole seconds, cut off.
            assert abs(late) <= TOLERANCE_SECONDS, (machine.id, late, over)
            assert abs(over) <= TOLERANCE_SECONDS, (machine.id, late, over)

    def is_of(self, testbed_name: str, machine: Machine) -> bool:
        """Whether the testbed's machine is the ledger's: Karpenter's nodes have the claim's name
        in theirs, instances are named by their id."""
        return testbed_name == machine.id or f"kwok-{machine.id}-" in f"{testbed_name}-"


#: Kubernetes and AWS tell their times in whole seconds, cut off, and the testbed sees that a
#: machine was returned a moment later: when its node is gone.
TOLERANCE_SECONDS = 1.5
