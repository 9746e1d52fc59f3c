"""Runs of several machines: all of them or none, one line in the bill, and nothing is left.

Also the pods that an engine makes while its run goes on, as Spark's driver makes executors: here a
test makes them, so that no engine is needed to see what becomes of them.
"""

from __future__ import annotations

import copy
import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from piecework import clock
from piecework.kube.client import POD
from piecework.ledger.charges import bill_machine
from piecework.ledger.events import Outcome
from piecework.ledger.occupancy import Attempt
from piecework.ledger.store import open_ledger
from piecework.plan import labels
from piecework.report.runs import find_run
from testbed import faults, images, record
from testbed.api import Object
from testbed.place import Place
from tests.cluster import container_records
from tests.cluster.aftermath import TOLERANCE_SECONDS
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground
from tests.cluster.rounds import KINDS, work
from tests.cluster.spark_jobs import Jobs, processes

MakeGround = Callable[..., Ground]

#: A program that ends well, but only when it is told to.
UNTIL_TOLD = "trap 'exit 0' USR1; while sleep 0.2; do : until told; done"
THREE = {"cpu": 1, "memory": "2Gi", "count": 3}


@pytest.fixture
def make(one: Cluster, request: pytest.FixtureRequest, tmp_path: Any) -> Iterator[MakeGround]:
    """Makes a pool of a kind, with a keeper; `more` are lines of its table in piecework.toml."""
    made: list[Ground] = []

    def make_pool(kind: str, more: str = "", **options: Any) -> Ground:
        here, api = request.getfixturevalue("here"), one.api
        new = request.getfixturevalue(f"{kind}_cluster_pool")
        pool = new(more=more, types=("m6a.large",), **options)
        ground = Ground(here, api, tmp_path / f"home-{pool.name}", one.shell, pool)
        made.append(ground)
        ground.start_keeper()
        return ground

    yield make_pool
    for ground in made:
        print(ground.keeper_log())
        ground.stop_keepers()


def _tell_to_end(attempt: str) -> None:
    """To a program that is UNTIL_TOLD."""
    # A fork of its shell may be seen as well, for a moment.
    program, *_ = processes("until told", attempt)
    program.send_signal(signal.SIGUSR1)


def _check_bills(ground: Ground) -> None:
    """Each machine was billed for as long as the testbed's seller says that it was paid for."""
    lives = record.read(ground.here)
    for each in ground.timeline().machines.values():
        life = next(life for name, life in lives.items() if ground.is_of(name, each))
        bill = bill_machine(each, clock.now())
        assert bill is not None
        assert life.bought is not None
        assert life.returned is not None
        billed = (bill.until - bill.start) / 1_000_000
        beyond = billed - (life.returned - life.bought).total_seconds()
        assert abs(beyond) <= TOLERANCE_SECONDS, (each.id, beyond)


def _given_back(ground: Ground, attempt: str) -> Attempt:
    """The attempt, once nothing of it is left; the ledger adds up."""
    ended = ground.ended(attempt)
    ground.read(attempt)
    ground.machines_gone()
    ground.api.wait("its pods to be gone", lambda: not ground.pods(attempt), 60)
    with open_ledger(ground.settings.ledger_url) as ledger:
        found = ledger.verify()
    assert found.ok, found.problems
    return ended


def _change_request(pod: Object, **more: Any) -> None:
    noted = pod["metadata"]["annotations"]
    noted[labels.REQUEST] = json.dumps({**json.loads(noted[labels.REQUEST]), **more})


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_three_machines_has_each_alone_and_is_one_line_in_the_bill(
    kind: str, make: MakeGround
) -> None:
    ground = make(kind)
    attempt = ground.submit("gang", work(5), machine=THREE)
    ended = _given_back(ground, attempt)
    assert ended.outcome is Outcome.SUCCESS
    machines = ground.timeline().machines
    assert len(machines) == 3
    assert ended.machines == tuple(sorted(machines))
    for each in machines.values():
        assert [occupancy.attempt for occupancy in each.occupancies] == [attempt]
    ran = container_records.read(ground.here, [ground.made.namespace])
    assert len({each.machine for each in ran}) == 3
    with open_ledger(ground.settings.ledger_url) as ledger:
        run = find_run(ledger, ended.run)
    assert run is not None
    (line,) = run.attempts
    assert len(line.machines) == 3
    _check_bills(ground)


def test_containers_of_a_gang_start_when_all_are_there_and_find_the_first(
    here: Place,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    jobs_of: Callable[[ClusterPool], Jobs],
) -> None:
    image = images.shipped(here, "python")
    jobs = jobs_of(karpenter_cluster_pool(more=f'image = "{image}"'))
    find = "import os, socket; print(socket.gethostbyname(os.environ['PIECEWORK_HEAD']))"
    attempt = jobs.start(
        container={"image": image, "command": ["python3", "-c", find]},
        machine={"cpu": 1, "memory": "2Gi", "count": 2},
        timeout="3m",
    )
    ended = jobs.ended(attempt)
    assert ended.outcome is Outcome.SUCCESS, ended.cause
    pods = [pod["status"] for pod in jobs.pods(attempt)]
    assert jobs.log(attempt).strip() in {pod["podIP"] for pod in pods}

    def starts(kind: str) -> list[str]:
        return [pod[kind][0]["state"]["terminated"]["startedAt"] for pod in pods]

    assert min(starts("containerStatuses")) >= max(starts("initContainerStatuses"))


def test_a_gang_of_which_one_machine_never_joins_gets_another(make: MakeGround) -> None:
    ground = make("karpenter", 'join_timeout = "20s"')
    faults.never_join(ground.here, ground.made.name, 1)
    attempt = ground.submit("gang", work(5), machine=THREE)
    ended = _given_back(ground, attempt)
    assert ended.outcome is Outcome.SUCCESS, ended.cause
    machines = ground.timeline().machines.values()
    # A new one, or one of its own that is through by then.
    assert len(machines) in (3, 4)
    (never,) = [each for each in machines if each.gone_cause != "returned"]
    assert never.gone_cause == "never-joined"
    assert not never.occupancies


def test_a_gang_for_which_a_group_is_too_small_gives_all_back(make: MakeGround) -> None:
    ground = make("asg", 'start_timeout = "30s"', most=2)
    attempt = ground.submit("gang", work(600), machine=THREE)
    ended = _given_back(ground, attempt)
    assert ended.outcome is Outcome.NEVER_STARTED, ended.cause


def test_a_gang_is_admitted_only_when_all_of_it_fits(make: MakeGround) -> None:
    ground = make("karpenter", "max_machines = 3")
    alone = ground.submit("alone", work(15))
    ground.wait_running(alone)
    gang = ground.submit("gang", work(1), machine=THREE)
    ground.api.wait(
        "the reason to wait",
        lambda: "is at its limit of 3 machines" in str(ground.waiting_reason(gang)),
        30,
    )
    assert len(ground.claims()) == 1
    assert ground.ended(alone).outcome is Outcome.SUCCESS
    ground.read(alone)
    ended = _given_back(ground, gang)
    assert ended.outcome is Outcome.SUCCESS
    # The machine of the other was handed over to it.
    assert len(ground.timeline().machines) == 3
    _check_bills(ground)


def test_a_machine_of_a_gang_that_dies_ends_all_of_it(make: MakeGround) -> None:
    ground = make("karpenter")
    attempt = ground.submit("gang", work(600), machine=THREE)
    nodes = _all_running(ground, attempt)
    faults.kill_machine(ground.here, nodes[2], gone_from_cloud=True)
    ended = _given_back(ground, attempt)
    assert ended.outcome is Outcome.INTERRUPTED, ended.cause
    causes = sorted(str(each.gone_cause) for each in ground.timeline().machines.values())
    assert causes == ["lost", "returned", "returned"]


def test_a_gang_with_a_head_goes_on_without_a_lost_worker_and_ends_as_its_head_does(
    make: MakeGround,
) -> None:
    ground = make("karpenter")

    def lead(pod: Object) -> None:
        _change_request(pod, led=True)
        # The head's program ends when it is told to; its workers' would not.
        if pod["metadata"]["labels"][labels.INDEX] == "0":
            pod["spec"]["containers"][0]["command"] = ["sh", "-c", UNTIL_TOLD]

    attempt = ground.submit("gang", work(600), machine=THREE, change=lead)
    nodes = _all_running(ground, attempt)
    faults.kill_machine(ground.here, nodes[2], gone_from_cloud=True)

    def lost() -> bool:
        return any(each.gone_cause == "lost" for each in ground.timeline().machines.values())

    ground.api.wait("the machine to be missed", lost)
    _tell_to_end(attempt)
    ended = _given_back(ground, attempt)
    assert (ended.outcome, ended.exit_code) == (Outcome.SUCCESS, 0), ended.cause
    causes = sorted(str(each.gone_cause) for each in ground.timeline().machines.values())
    assert causes == ["lost", "returned", "returned"]


@pytest.mark.parametrize("kind", KINDS)
def test_pods_that_an_engine_makes_get_machines_of_their_run_and_end_with_it(
    kind: str, make: MakeGround
) -> None:
    ground = make(kind)

    def be_driver(pod: Object) -> None:
        _change_request(pod, machines=2, per_machine=1, beside_head=1)
        pod["spec"]["containers"][0]["resources"] = _share("100m", "128Mi")

    attempt = ground.submit("driver", UNTIL_TOLD, change=be_driver)
    driver_node = ground.wait_running(attempt)
    (driver,) = ground.pods(attempt)
    for number in range(3):
        ground.kube.create(POD, _follower_of(driver, number))

    def nodes() -> set[str] | None:
        found = [pod for pod in _followers(ground, attempt) if pod["spec"].get("nodeName")]
        running = all(pod["status"].get("phase") == "Running" for pod in found)
        return {pod["spec"]["nodeName"] for pod in found} if running and len(found) == 2 else None

    taken = ground.api.wait("its followers to run", nodes)
    assert driver_node in taken
    assert len(taken) == 2
    (late,) = [pod for pod in _followers(ground, attempt) if not pod["spec"].get("nodeName")]
    told = json.loads(late["metadata"]["annotations"][labels.WAITING])
    assert told["reason"] == "its run may hold 2 machines, and 2 such pods fit on them"
    _tell_to_end(attempt)
    ended = ground.ended(attempt)
    assert ended.outcome is Outcome.SUCCESS
    ground.api.wait("its followers to be gone", lambda: not _followers(ground, attempt), 60)
    ended = _given_back(ground, attempt)
    machines = ground.timeline().machines
    assert ended.machines == tuple(sorted(machines))
    assert len(machines) == 2
    for each in machines.values():
        (occupancy,) = each.occupancies
        assert occupancy.attempt == attempt
        assert occupancy.vacated
    _check_bills(ground)


def _all_running(ground: Ground, attempt: str) -> list[str]:
    """The nodes of a gang's pods by their number, once all run."""

    def look() -> list[str] | None:
        pods = sorted(ground.pods(attempt), key=lambda pod: pod["metadata"]["name"])
        running = all(pod["status"].get("phase") == "Running" for pod in pods)
        return [pod["spec"]["nodeName"] for pod in pods] if running else None

    found: list[str] = ground.api.wait(f"all of {attempt} to run", look, 120)
    return found


def _share(cpu: str, memory: str) -> Object:
    return {"requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}


def _follower_of(driver: Object, number: int) -> Object:
    """A pod as an engine makes it: of which one fits on a machine, beside the driver or alone."""
    metadata = driver["metadata"]
    request = {labels.REQUEST: metadata["annotations"][labels.REQUEST]}
    named = {**metadata["labels"], labels.ROLE: labels.FOLLOWER}
    spec = copy.deepcopy(driver["spec"])
    for each in ("nodeName", "serviceAccount"):
        spec.pop(each, None)
    spec["schedulingGates"] = [{"name": labels.GATE}]
    spec["containers"][0]["resources"] = _share("1", "256Mi")
    spec["containers"][0]["command"] = ["sh", "-c", work(600)]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": f"{metadata['name']}-follower-{number}",
            "namespace": metadata["namespace"],
            "labels": named,
            "annotations": request,
        },
        "spec": spec,
    }


def _followers(ground: Ground, attempt: str) -> list[Object]:
    return [
        pod
        for pod in ground.pods(attempt)
        if pod["metadata"]["labels"].get(labels.ROLE) == labels.FOLLOWER
    ]
