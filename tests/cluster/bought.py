"""Airflow on bought machines, for tests: a platform on this host, its keeper, and its pools.

In: the testbed, and whether there is to be a pool of Auto Scaling groups, too. Out: a Bought, whose
platform serves all tests of a file: its start is what costs.
"""

from __future__ import annotations

import itertools
import json
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pytest

from piecework import clock
from piecework.airflow import platform
from piecework.config import Settings
from piecework.ledger.charges import bill_machine
from piecework.ledger.events import Outcome
from piecework.ledger.store import open_ledger
from piecework.plan import labels
from piecework.runners.runner import AttemptStatus, run_id, runner_for
from piecework.spec.pool import load_pools
from testbed import images, record, wishes
from testbed.api import Object
from testbed.errors import MissingProgramError
from tests.cluster.cluster_pools import (
    AWS_ENVIRONMENT,
    ClusterPool,
    make_asg_pool,
    make_karpenter_pool,
    remove,
    settings_from,
)
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground
from tests.local.airflow_platform import PATIENCE_SECONDS, World, patient_client
from tests.local.attempts import wait_for

_CLAIMS = "karpenter.sh/v1"
#: An image of a user's own: it has a shell and nothing of piecework.
_DOCKERFILE = "ARG BASE\nFROM ${BASE}\nUSER 65532:65532\n"
#: Kubernetes tells whole seconds, cut off; and this host has two cores for all of this.
_RECORD_SECONDS = 2.0
#: How long until nothing of a job is left, its machine included.
GONE_SECONDS = 90.0

_numbers = itertools.count(1)


@dataclass
class Bought:
    """The platform, and its pools: for most tests, with a single machine, and of groups."""

    world: World
    ground: Ground
    narrow: Ground
    image: str
    #: None where they were not asked for, or the cluster-autoscaler is not here.
    groups: Ground | None = None

    def publish(self, name: str, script: str, more: str = "") -> str:
        job = f"container: {{image: '{self.image}', command: [sh, -c, {json.dumps(script)}]}}"
        return self.world.publish(f"job: {name}\n{job}\n{textwrap.dedent(more)}")

    def status(
        self, dag: str, task: str, run: str, pool: str | None = None
    ) -> AttemptStatus | None:
        settings = self.world.settings
        runner = runner_for(load_pools(settings)[pool or settings.pool], settings)
        found = runner.attempts(run_id(dag, task, run))
        return found[-1] if found else None

    def wait_until(
        self, what: str, dag: str, task: str, run: str, pool: str | None = None
    ) -> AttemptStatus:
        """Waits for a state, or, with "waits: WORDS", for a reason to wait that holds the words."""
        words = what.partition("waits: ")[2]

        def look() -> AttemptStatus | None:
            found = self.status(dag, task, run, pool)
            right = found and (words in (found.reason or "") if words else found.state == what)
            return found if right else None

        found: AttemptStatus = wait_for(look, f"{dag}.{task}: {what}", PATIENCE_SECONDS)
        return found

    def pods(self, dag: str, task: str, run: str) -> list[Object]:
        selector = f"{labels.RUN}={labels.run_label(run_id(dag, task, run))}"
        return self.ground.api.list("Pod", selector=selector)

    def nothing_left(self, dag: str, task: str, run: str) -> None:
        """No pod, and no machine that was bought for the run or kept for another."""
        label = labels.run_label(run_id(dag, task, run))
        api = self.ground.api

        def look() -> bool:
            mine = f"{labels.RUN}={label}"
            return not api.list("NodeClaim", api_version=_CLAIMS, selector=mine)

        self.no_pod_left(dag, task, run)
        wait_for(look, f"no machine to be left of {label}", GONE_SECONDS)

    def no_pod_left(self, dag: str, task: str, run: str) -> None:
        """No pod of the run; its machine has to be paid for some more, so it is kept a while."""
        wait_for(
            lambda: not self.pods(dag, task, run),
            f"no pod to be left of {dag}.{task}",
            GONE_SECONDS,
        )

    def check_pipeline(self, name: str, pool: str) -> tuple[str, str]:
        """A pipeline runs there with parameters, results and logs; returns its DAG and its run."""
        world = self.world
        (world.code / "told.py").write_text(
            "import json, os, sys\n"
            "print('line one')\nprint('line two', *sys.argv[1:])\n"
            "json.dump({'who': sys.argv[1]}, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
        )
        script = 'echo "in $PIECEWORK_JOB"; echo "{\\"got\\": \\"$0\\"}" > $PIECEWORK_RESULT'
        dag = world.publish(f"""
            pipeline: {name}
            params: {{who: world}}
            jobs:
              first:
                python: told.py
                args: ["{{{{ params.who }}}}"]
                pool: {pool}
              second:
                container: {{image: "{self.image}", command: [sh, -c, {json.dumps(script)}]}}
                args: ["{{{{ ti.xcom_pull('first')['who'] }}}}"]
                after: [first]
                pool: {pool}
        """)
        run = world.request(dag, {"who": "everybody"})
        world.expect("success", dag, run)
        assert world.client.result(dag, run, "first") == {"who": "everybody"}
        assert world.client.result(dag, run, "second") == {"got": "everybody"}
        log = world.log(dag, run, "first")
        told = [line for line in log if line.startswith("line ")]
        assert told == ["line one", "line two everybody"]
        assert world.log(dag, run, "second").count("in second") == 1
        for task in ("first", "second"):
            attempt = self.ground.ended(f"{run_id(dag, task, run)}.1")
            assert attempt.outcome == Outcome.SUCCESS
        return dag, run

    def check_bills(self) -> None:
        """Every machine is back, and was billed from its purchase to its return."""
        machines = self.ground.machines_gone()
        with open_ledger(self.world.settings.ledger_url) as ledger:
            found = ledger.verify()
        assert found.ok, found.problems
        lives = record.read(self.ground.here)
        for machine in machines:
            bill = bill_machine(machine, clock.now())
            if bill is None:
                continue
            life = next(life for name, life in lives.items() if self.ground.is_of(name, machine))
            assert life.bought, life
            assert life.returned, life
            late = bill.start / 1_000_000 - life.bought.timestamp()
            over = bill.until / 1_000_000 - life.returned.timestamp()
            assert max(abs(late), abs(over)) <= _RECORD_SECONDS, (machine.id, late, over)


class Written(Ground):
    """A Ground whose piecework.toml is written once: the platform's processes read it."""

    @cached_property
    def settings(self) -> Settings:
        return settings_from(f"{self.more}\n{self.made.keeper_tables}", self.home)


@contextmanager
def start_bought(one: Cluster, root: Path, *, groups: bool = False) -> Iterator[Bought]:
    """Renders and applies the pools, brings the platform up, and takes all of it down again."""
    here = one.place
    assert here is not None
    folder, code = root / "image", root / "code"
    folder.mkdir(parents=True)
    code.mkdir()
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    image = images.build(here, folder, "job:1", base=images.SHELL)
    python = images.push_base(here, lambda _: None)
    made: list[ClusterPool] = []
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in AWS_ENVIRONMENT.items():
            patch.setenv(variable, value)
        try:
            made.extend(_make_pools(one, root, f'image = "{python}"', groups=groups))
            more = f'pool = "{made[0].name}"\n' + "\n".join(p.keeper_tables for p in made[1:])
            grounds = [
                Written(here, one.api, root / "home", one.shell, pool, more) for pool in made
            ]
            settings = grounds[0].settings
            for ground in grounds[1:]:
                ground.settings = settings
            try:
                platform.up(settings)
                world = World(settings, code, patient_client(settings))
                wide, narrow, *rest = grounds
                yield Bought(world, wide, narrow, image, rest[0] if rest else None)
            finally:
                platform.down(settings)
                wishes.clear(here)
        finally:
            for pool in made:
                remove(here, one.api, pool)


def _make_pools(one: Cluster, root: Path, more: str, *, groups: bool) -> Iterator[ClusterPool]:
    """One platform submits and keeps, so it needs the rights of both."""
    here = one.place
    assert here is not None
    # A namespace of the platform before may still be going away: none has the name of another.
    own = next(_numbers)
    for kind, limit in (("wide", 3), ("narrow", 1)):
        name = f"{kind}{own}"
        lines = f"{more}\nmax_machines = {limit}"
        pool = make_karpenter_pool(here, one.api, name, root / name, ["m6a.large"], lines)
        yield _for_both(one, pool)
    if groups:
        name = f"groups{own}"
        with suppress(MissingProgramError):  # no registry has the cluster-autoscaler
            yield _for_both(
                one, make_asg_pool(here, one.api, name, root / name, ["m6a.large"], more)
            )


def _for_both(one: Cluster, pool: ClusterPool) -> ClusterPool:
    assert one.place is not None
    tables = pool.tables.replace(str(pool.submitter_kubeconfig), str(one.place.admin))
    return replace(pool, keeper_tables=tables)
