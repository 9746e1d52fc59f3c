"""The keeper on a real cluster: admits, records, hands over, gives back, whatever dies."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from piecework.ledger.events import Outcome
from piecework.plan import labels
from testbed import faults, machine, wishes
from testbed.api import Api
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground

MakeGround = Callable[..., Ground]


@dataclass(frozen=True)
class Airflow:
    """Where it is, and the states of its tasks; one without a state makes it answer 503."""

    url: str
    states: dict[str, str]


_LARGE = {"cpu": 1, "memory": "2Gi"}
_XLARGE = {"cpu": 3, "memory": "8Gi"}


@pytest.fixture
def on_karpenter(
    one: Cluster,
    here: Place,
    api: Api,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> Iterator[MakeGround]:
    """Makes a pool of Karpenter; `tables` is more of the keeper's piecework.toml."""
    made: list[Ground] = []

    def make(more: str = "", tables: str = "") -> Ground:
        pool = karpenter_cluster_pool(more=more)
        made.append(Ground(here, api, tmp_path / f"home-{pool.name}", one.shell, pool, tables))
        return made[-1]

    yield make
    for ground in made:
        ground.stop_keepers()


@pytest.fixture
def on_groups(
    one: Cluster,
    here: Place,
    api: Api,
    asg_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> Iterator[MakeGround]:
    """Makes a pool of Auto Scaling groups."""
    made: list[Ground] = []

    def make(more: str = "", tables: str = "", **options: Any) -> Ground:
        pool = asg_cluster_pool(more=more, **options)
        made.append(Ground(here, api, tmp_path / f"home-{pool.name}", one.shell, pool, tables))
        return made[-1]

    yield make
    for ground in made:
        ground.stop_keepers()


def test_a_run_gets_a_machine_of_its_own_which_is_given_back_and_billed(
    on_karpenter: MakeGround,
) -> None:
    ground = on_karpenter()
    ground.start_keeper()
    attempt = ground.submit("one", "echo hello; sleep 2")
    ended = ground.ended(attempt)
    assert (ended.outcome, ended.exit_code) == (Outcome.SUCCESS, 0)
    ground.read(attempt)
    (bought,) = ground.machines_gone()
    assert bought.bought_for == attempt
    assert [occupancy.attempt for occupancy in bought.occupancies] == [attempt]
    assert bought.gone_cause == "returned"
    assert bought.released_at is not None
    assert bought.instance_type == "m6a.large"
    assert ended.machines == (bought.id,)
    ground.check_ledger()
    ground.api.wait("its pod to be gone", lambda: not ground.pods(attempt), 30)


def test_an_idle_machine_is_handed_over_and_limits_are_kept(on_karpenter: MakeGround) -> None:
    ground = on_karpenter("max_machines = 1")
    ground.start_keeper()
    first = ground.submit("first", "sleep 3")
    ground.wait_bound(first)
    second = ground.submit("second", "sleep 1")
    urgent = ground.submit("urgent", "sleep 1", priority=5)
    ground.api.wait(
        "the reason to wait",
        lambda: "is at its limit of 1 machine" in str(ground.waiting_reason(second)),
        60,
    )
    for attempt in (first, urgent, second):
        assert ground.ended(attempt).outcome is Outcome.SUCCESS
        ground.read(attempt)
    larger = ground.submit("larger", "true", machine=_XLARGE)
    assert ground.ended(larger).outcome is Outcome.SUCCESS
    ground.read(larger)
    machines = ground.machines_gone()
    by_type = {machine.instance_type: machine for machine in machines}
    assert len(machines) == 2
    handed = [occupancy.attempt for occupancy in by_type["m6a.large"].occupancies]
    assert handed == [first, urgent, second]
    # The smaller one was in its way: it went before its minimum was used up.
    assert by_type["m6a.large"].release_reason is not None
    assert "its place was needed" in by_type["m6a.large"].release_reason
    assert by_type["m6a.large"].gone_at is not None
    assert by_type["m6a.xlarge"].requested_at is not None
    assert by_type["m6a.large"].gone_at <= by_type["m6a.xlarge"].requested_at
    ground.check_ledger()


def test_another_keeper_takes_over_and_nothing_is_lost_or_written_twice(
    on_karpenter: MakeGround,
) -> None:
    ground = on_karpenter()
    killed = ground.start_keeper("first")
    attempt = ground.submit("long", "sleep 25")
    ground.wait_running(attempt)
    ground.start_keeper("second")
    killed.kill()
    began = time.monotonic()
    ground.api.wait(
        "the other one", lambda: "second is the keeper now" in ground.keeper_log("second")
    )
    assert time.monotonic() - began < 15
    assert ground.ended(attempt).outcome is Outcome.SUCCESS
    # Nobody keeps while this one ends, and its machine is lost.
    late = ground.submit("late", "sleep 3")
    ground.wait_running(late)
    ground.stop_keepers()
    time.sleep(8)
    node = ground.wait_bound(late)
    claim = ground.claim_on(node)
    ground.api.delete("NodeClaim", claim, api_version="karpenter.sh/v1")
    ground.api.wait("its machine to be gone", lambda: node not in machine.names(ground.here), 60)
    time.sleep(2)
    ground.start_keeper("third")
    assert ground.ended(late).outcome is Outcome.SUCCESS
    for name in (attempt, late):
        ground.read(name)
    assert len(ground.machines_gone()) <= 2
    ground.check_ledger()


def test_what_a_container_used_is_counted_by_its_kubelet(on_karpenter: MakeGround) -> None:
    ground = on_karpenter()
    ground.start_keeper()
    # For so long that what nobody sees of its end is little.
    script = "timeout 100 sh -c 'while :; do :; done'; times > /dev/termination-log"
    attempt = ground.submit("busy", script)
    found = ground.ended(attempt, 300)
    assert found.outcome is Outcome.SUCCESS
    (status,) = ground.pods(attempt)[0]["status"]["containerStatuses"]
    ground.read(attempt)
    times = re.findall(r"(\d+)m([\d.]+)s", status["state"]["terminated"]["message"])
    itself = sum(60 * int(minutes) + float(seconds) for minutes, seconds in times)
    print(f"counted {found.cpu_seconds} of {itself} s, in {found.counted_seconds} s")
    assert found.cpu_seconds is not None
    assert found.counted_seconds is not None
    assert found.peak_memory_bytes
    assert 0.5 * itself <= found.cpu_seconds <= 1.05 * itself + 1
    assert "is not known" not in ground.keeper_log()
    ground.machines_gone()
    ground.check_ledger()


def test_machines_that_never_join_and_pods_that_nobody_owns_are_ended(
    on_karpenter: MakeGround,
) -> None:
    ground = on_karpenter('join_timeout = "20s"\nstart_timeout = "30s"\npull_timeout = "15s"')
    faults.never_join(ground.here, ground.made.name, -1)
    ground.start_keeper()
    waits = ground.submit("waits", "true")
    ended = ground.ended(waits)
    assert ended.outcome is Outcome.NEVER_STARTED
    # Its machine was given back, and another bought, which was not waited for as long.
    bought = ground.machines_gone()
    assert "never-joined" in {each.gone_cause for each in bought}
    for never in bought:
        assert never.ready_at is None
        assert not never.occupancies
    wishes.clear(ground.here)
    bad = ground.submit("bad", "true", container={"image": f"{ground.shell}-missing"})
    ended = ground.ended(bad)
    assert ended.outcome is Outcome.NEVER_STARTED
    assert "image pull" in str(ended.cause)
    gated = ground.submit("cancelled", "sleep 100")
    ground.wait_running(gated)
    ground.cancel(gated)
    assert ground.ended(gated).outcome is Outcome.CANCELLED
    for attempt in (waits, bad, gated):
        ground.read(attempt)
    ground.machines_gone()
    ground.check_ledger()


@pytest.fixture
def airflow() -> Iterator[Airflow]:
    """An Airflow at the wire: it answers about one task, whose state a test sets."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            task = {"task_id": "clean", "map_index": -1, "max_tries": 0, "state": states["clean"]}
            answer = {"access_token": "token", "task_instances": [task]}
            body = json.dumps(answer).encode()
            self.send_response(200 if states["clean"] else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Says nothing."""

    states = {"clean": "running"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Airflow(f"http://127.0.0.1:{server.server_port}", states)
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_attempt_whose_airflow_task_failed_is_ended_and_one_of_a_silent_airflow_is_not(
    on_karpenter: MakeGround, airflow: Airflow
) -> None:
    ground = on_karpenter()
    (ground.home / "airflow").mkdir(parents=True)
    (ground.home / "airflow" / "api.json").write_text(json.dumps({"url": airflow.url}))
    ground.start_keeper()
    owner = {"kind": "airflow", "dag_id": "flights", "dag_run_id": "one", "task_id": "clean"}
    attempt = ground.submit("owned", "sleep 300", owner=owner)
    ground.wait_running(attempt)
    airflow.states["clean"] = ""
    time.sleep(8)
    assert not ground.pods(attempt)[0]["metadata"].get("deletionTimestamp")
    assert "no orphans" in ground.run("orphans")
    airflow.states["clean"] = "failed"
    ended = ground.ended(attempt, 60)
    assert ended.outcome is Outcome.CANCELLED
    assert ended.cause == "the Airflow task flights.clean is failed"
    ground.api.wait("its pod to be gone", lambda: not ground.pods(attempt), 60)


def test_a_group_buys_for_a_run_and_its_machine_is_given_back_and_billed(
    on_groups: MakeGround,
) -> None:
    ground = on_groups()
    ground.start_keeper()
    attempts = [ground.submit(f"job-{number}", "sleep 2") for number in range(2)]
    for attempt in attempts:
        assert ground.ended(attempt).outcome is Outcome.SUCCESS
        ground.read(attempt)
    machines = ground.machines_gone()
    shared = [occupancy for machine in machines for occupancy in machine.occupancies]
    assert sorted(occupancy.attempt for occupancy in shared) == sorted(attempts)
    ground.check_ledger()


def test_uninstalling_leaves_no_finalizer_behind(on_karpenter: MakeGround) -> None:
    ground = on_karpenter()
    ground.start_keeper()
    attempt = ground.submit("left", "sleep 60")
    ground.wait_running(attempt)
    gated = ground.submit("gated", "true", machine=_XLARGE)
    ground.stop_keepers(signal.SIGTERM)
    said = ground.run("keeper", "--uninstall")
    assert "runs" in said
    objects = [*ground.pods(attempt), *ground.pods(gated), *ground.claims()]
    assert objects
    for item in objects:
        assert labels.FINALIZER not in item["metadata"].get("finalizers", ())
