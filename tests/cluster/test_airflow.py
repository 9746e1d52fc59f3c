"""Airflow on bought machines: a real platform on this host, a real cluster, a real autoscaler.

One platform, with the keeper that it brings up, serves all tests here: its start is what costs.
"""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from piecework import clock
from piecework.airflow import platform
from piecework.airflow.configuration import KEEPER
from piecework.config import Settings
from piecework.ledger.charges import bill_machine
from piecework.ledger.events import Outcome
from piecework.ledger.store import open_ledger
from piecework.plan import labels
from piecework.runners.runner import AttemptStatus, run_id, runner_for
from piecework.spec.pool import load_pools
from testbed import faults, images, record, wishes
from testbed.api import Object
from tests.cluster.cluster_pools import make_karpenter_pool, remove, settings_from
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground
from tests.local.airflow_platform import PATIENCE_SECONDS, World
from tests.local.attempts import wait_for

pytestmark = pytest.mark.layer("airflow")

_CLAIMS = "karpenter.sh/v1"
#: An image of a user's own: it has a shell and nothing of piecework.
_DOCKERFILE = "ARG BASE\nFROM ${BASE}\nUSER 65532:65532\n"
#: Kubernetes tells whole seconds, cut off; and this host has two cores for all of this.
_RECORD_SECONDS = 2.0
#: How long until nothing of a job is left, its machine included.
_GONE_SECONDS = 90.0


@dataclass
class Bought:
    """The platform, and two pools: one for most tests, and one that has a single machine."""

    world: World
    ground: Ground
    narrow: Ground
    image: str

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
            return not api.list("Pod", selector=mine) and not api.list(
                "NodeClaim", api_version=_CLAIMS, selector=mine
            )

        wait_for(look, f"nothing to be left of {label}", _GONE_SECONDS)


class Written(Ground):
    """A Ground whose piecework.toml is written once: the platform's processes read it."""

    @cached_property
    def settings(self) -> Settings:
        return settings_from(f"{self.more}\n{self.made.keeper_tables}", self.home)


@contextmanager
def start_bought(one: Cluster, root: Path) -> Iterator[Bought]:
    """Renders and applies the pools, brings the platform up, and takes all of it down again."""
    here = one.place
    assert here is not None
    folder, code = root / "image", root / "code"
    folder.mkdir(parents=True)
    code.mkdir()
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    image = images.build(here, folder, "job:1", base=images.SHELL)
    python = images.push_base(here, lambda _: None)
    made = []
    try:
        for name, limit in ((f"wide-{os.getpid()}", 3), (f"narrow-{os.getpid()}", 1)):
            more = f'image = "{python}"\nmax_machines = {limit}'
            pool = make_karpenter_pool(here, one.api, name, root / name, ["m6a.large"], more)
            # One platform submits and keeps, so it needs the rights of both.
            tables = pool.tables.replace(str(pool.submitter_kubeconfig), str(here.admin))
            made.append(replace(pool, keeper_tables=tables))
        first, second = made
        more = f'pool = "{first.name}"\n{second.keeper_tables}'
        wide, narrow = (
            Written(here, one.api, root / "home", one.shell, pool, more) for pool in made
        )
        narrow.settings = settings = wide.settings
        try:
            platform.up(settings)
            yield Bought(World(settings, code, platform.connect(settings)), wide, narrow, image)
        finally:
            platform.down(settings)
            wishes.clear(here)
    finally:
        for pool in made:
            remove(here, one.api, pool)


@pytest.fixture(scope="module")
def bought(whole_cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bought]:
    if whole_cluster.place is None:
        pytest.skip("somebody's own cluster: machines are the testbed's")
    with start_bought(whole_cluster, tmp_path_factory.mktemp("bought")) as found:
        yield found


def test_a_pipeline_runs_on_bought_machines_with_results_and_logs(bought: Bought) -> None:
    world = bought.world
    (world.code / "told.py").write_text(
        "import json, os, sys\n"
        "print('line one')\nprint('line two', *sys.argv[1:])\n"
        "json.dump({'who': sys.argv[1]}, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
    )
    script = 'echo "in $PIECEWORK_JOB"; echo "{\\"got\\": \\"$0\\"}" > $PIECEWORK_RESULT'
    dag = world.publish(f"""
        pipeline: greetings
        params: {{who: world}}
        jobs:
          first:
            python: told.py
            args: ["{{{{ params.who }}}}"]
          second:
            container: {{image: "{bought.image}", command: [sh, -c, {json.dumps(script)}]}}
            args: ["{{{{ ti.xcom_pull('first')['who'] }}}}"]
            after: [first]
    """)
    run = world.request(dag, {"who": "everybody"})
    world.expect("success", dag, run)
    assert world.client.result(dag, run, "first") == {"who": "everybody"}
    assert world.client.result(dag, run, "second") == {"got": "everybody"}
    log = world.log(dag, run, "first")
    assert [line for line in log if line.startswith("line ")] == ["line one", "line two everybody"]
    assert world.log(dag, run, "second").count("in second") == 1
    for task in ("first", "second"):
        attempt = bought.ground.ended(f"{run_id(dag, task, run)}.1")
        assert attempt.outcome == Outcome.SUCCESS
        bought.nothing_left(dag, task, run)


def test_status_shows_the_keeper(bought: Bought) -> None:
    found = platform.status(bought.world.settings)
    assert found.state == "up"
    assert {c.name: c.state for c in found.components}[KEEPER] == "healthy"


def test_a_task_that_fails_while_gated_waiting_or_running_leaves_nothing(bought: Bought) -> None:
    world, narrow = bought.world, bought.narrow
    on_narrow = f"pool: {narrow.made.name}\n"
    holder = bought.publish("holding", "sleep 600", on_narrow)
    held = world.request(holder)
    bought.wait_until("running", holder, "holding", held, narrow.made.name)

    gated = bought.publish("gated", "sleep 600", on_narrow)
    run = world.request(gated)
    bought.wait_until("waits: 1 machine", gated, "gated", run, narrow.made.name)
    world.client.mark_task(gated, run, "gated", "failed")
    bought.nothing_left(gated, "gated", run)

    world.client.mark_task(holder, held, "holding", "failed")
    bought.nothing_left(holder, "holding", held)

    here = narrow.here
    faults.never_join(here, narrow.made.name, -1)
    waiting = bought.publish("waiting", "sleep 600", on_narrow)
    run = world.request(waiting)
    wait_for(narrow.claims, "a machine to be bought", PATIENCE_SECONDS)
    assert world.task(waiting, run, "waiting").state == "deferred"
    world.client.mark_task(waiting, run, "waiting", "failed")
    bought.nothing_left(waiting, "waiting", run)
    wait_for(lambda: not narrow.claims(), "its machine to be given back", _GONE_SECONDS)
    wishes.clear(here)


def test_an_error_is_retried_by_airflow_and_each_try_is_an_attempt_of_its_own(
    bought: Bought,
) -> None:
    script = 'case "$PIECEWORK_ATTEMPT" in *.1) exit 3;; esac'
    dag = bought.publish("again", script, "retries: 1")
    run = bought.world.request(dag)
    bought.world.expect("success", dag, run)
    assert bought.world.task(dag, run, "again").try_number == 2
    name = run_id(dag, "again", run)
    outcomes = [bought.ground.ended(f"{name}.{number}").outcome for number in (1, 1001)]
    assert outcomes == [Outcome.ERROR, Outcome.SUCCESS]
    bought.nothing_left(dag, "again", run)


def test_a_cleared_task_runs_anew_and_never_twice_at_once(bought: Bought) -> None:
    world = bought.world
    script = 'case "$PIECEWORK_ATTEMPT" in *.1) exec sleep 600;; esac; echo anew'
    dag = bought.publish("cleared", script)
    run = world.request(dag)
    bought.wait_until("running", dag, "cleared", run)
    world.client.clear_task(dag, run, "cleared")
    world.expect("success", dag, run)
    name = run_id(dag, "cleared", run)
    first, second = (bought.ground.ended(f"{name}.{number}") for number in (1, 1001))
    assert (first.outcome, second.outcome) == (Outcome.CANCELLED, Outcome.SUCCESS)
    assert first.ended_at is not None
    assert second.started_at is not None
    assert first.ended_at <= second.started_at


def test_a_killed_triggerer_keeper_and_scheduler_cost_nothing_and_lines_come_once(
    bought: Bought,
) -> None:
    world = bought.world
    dag = bought.publish("outliving", "for i in 1 2 3 4 5 6 7 8; do echo number $i; sleep 4; done")
    run = world.request(dag)
    bought.wait_until("running", dag, "outliving", run)
    wait_for(
        lambda: "number 2" in world.log(dag, run, "outliving"), "its first lines", PATIENCE_SECONDS
    )
    world.kill("triggerer", "scheduler", KEEPER)
    world.expect("success", dag, run)
    log = world.log(dag, run, "outliving")
    lines = [line for line in log if line.startswith("number ")]
    assert lines == [f"number {number}" for number in range(1, 9)]
    assert len(bought.pods(dag, "outliving", run)) <= 1
    assert bought.ground.ended(f"{run_id(dag, 'outliving', run)}.1").outcome == Outcome.SUCCESS


def test_ten_at_once_share_three_machines(bought: Bought) -> None:
    world = bought.world
    jobs = "\n".join(
        f"  j{number}: {{container: {{image: '{bought.image}', command: [sh, -c, 'sleep 1']}}}}"
        for number in range(10)
    )
    dag = world.publish(f"pipeline: ten\njobs:\n{jobs}\n")
    run = world.request(dag)
    world.expect("success", dag, run)
    attempts = [bought.ground.ended(f"{run_id(dag, f'j{n}', run)}.1") for n in range(10)]
    assert {attempt.outcome for attempt in attempts} == {Outcome.SUCCESS}
    used = {machine for attempt in attempts for machine in attempt.machines}
    assert len(used) < 10


_DAG_FILE = """
from datetime import datetime
from airflow.sdk import DAG, task
from airflow.providers.cncf.kubernetes.callbacks import KubernetesPodOperatorCallback
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from kubernetes.client import models as k8s
from piecework.airflow.on_machine import on_machine
from piecework.airflow.pod_operator import MachinePodOperator


class Tell(KubernetesPodOperatorCallback):
    @staticmethod
    def on_pod_creation(*, pod, **kwargs):
        print("created", pod.metadata.name)

    @staticmethod
    def on_pod_completion(*, pod, **kwargs):
        print("completed", pod.status.phase)


AS_USER = k8s.V1PodSecurityContext(
    run_as_user=65532, run_as_non_root=True,
    seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
)
with DAG("pods", schedule=None, start_date=datetime(2024, 1, 1)):
    @task.piecework(machine={"cpu": 1})
    def add(left, right):
        return {"sum": left + right}

    add(2, 3)
    MachinePodOperator(
        task_id="written",
        image="SHELL",
        cmds=["sh", "-c"],
        arguments=["cat /data/word; echo $MODE $KEY; mkdir -p /airflow/xcom;"
                   "echo '{\\"n\\": 7}' > /airflow/xcom/return.json"],
        machine={"cpu": 1, "memory": "2Gi"},
        env_vars={"MODE": "{{ ds_nodash }}"},
        secrets=[Secret("env", "KEY", "word", "key")],
        init_containers=[k8s.V1Container(
            name="fetch", image="SHELL", command=["sh", "-c", "echo fetched > /data/word"],
            volume_mounts=[k8s.V1VolumeMount(name="data", mount_path="/data")],
        )],
        volumes=[k8s.V1Volume(name="data", empty_dir=k8s.V1EmptyDirVolumeSource())],
        volume_mounts=[k8s.V1VolumeMount(name="data", mount_path="/data")],
        security_context=AS_USER,
        do_xcom_push=True,
        callbacks=Tell,
    )
    KubernetesPodOperator(
        task_id="unchanged",
        image="SHELL",
        cmds=["sh", "-c", "echo hello from $(hostname); sleep 2"],
        **on_machine(cpu=1, memory="2Gi", security_context=AS_USER),
    )
"""


def test_pods_that_people_write_get_machines_of_their_own(bought: Bought) -> None:
    world, ground = bought.world, bought.ground
    namespace = ground.pool.namespace
    secret: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "word", "namespace": namespace},
        "stringData": {"key": "opensesame"},
    }
    ground.api.apply(secret)
    file = world.folder.root / "dags" / "pods.py"
    file.write_text(_DAG_FILE.replace("SHELL", ground.shell))
    world.client.wait_for_dag("pods", timeout_seconds=PATIENCE_SECONDS)
    run = world.request("pods")
    world.expect("success", "pods", run)
    log = world.log("pods", run, "written")
    assert "fetched" in log
    assert any(line.endswith(" opensesame") for line in log)
    assert any("created written-" in line for line in log)
    assert any("completed Succeeded" in line for line in log)
    assert world.client.result("pods", run, "written") == {"n": 7}
    assert any("hello from" in line for line in world.log("pods", run, "unchanged"))
    assert world.client.result("pods", run, "add") == {"sum": 5}

    def unchanged() -> list[Any]:
        attempts = ground.timeline().attempts.values()
        return [a for a in attempts if ".unchanged." in a.id and a.ended_at is not None]

    (attempt,) = wait_for(unchanged, "the unchanged operator's attempt", PATIENCE_SECONDS)
    assert attempt.outcome == Outcome.SUCCESS
    assert attempt.machines


def test_in_the_end_every_second_is_billed_and_every_machine_is_back(bought: Bought) -> None:
    machines = bought.ground.machines_gone()
    with open_ledger(bought.world.settings.ledger_url) as ledger:
        found = ledger.verify()
    assert found.ok, found.problems
    lives = record.read(bought.ground.here)
    for machine in machines:
        bill = bill_machine(machine, clock.now())
        if bill is None:
            continue
        life = next(life for name, life in lives.items() if bought.ground.is_of(name, machine))
        assert life.bought, life
        assert life.returned, life
        late = bill.start / 1_000_000 - life.bought.timestamp()
        over = bill.until / 1_000_000 - life.returned.timestamp()
        assert max(abs(late), abs(over)) <= _RECORD_SECONDS, (machine.id, late, over)
