"""Where Kueue is installed, runs wait for its quota first, and buy nothing meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from piecework.ledger.events import Outcome
from piecework.plan import labels
from testbed import charts
from testbed.api import Api, Object
from testbed.errors import MissingProgramError
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.conftest import Cluster, StartMachine
from tests.cluster.ground import Ground

_KUEUE = "kueue.x-k8s.io/v1beta2"
#: Room for one m6a.large.
_QUOTA = {"cpu": "2", "memory": "8Gi"}


@pytest.fixture
def queued_pool(
    here: Place,
    api: Api,
    start_machine: StartMachine,
    karpenter_cluster_pool: Callable[..., ClusterPool],
) -> Iterator[ClusterPool]:
    """A pool whose runs go through Kueue's queue `jobs`, which has quota for one machine."""
    made = karpenter_cluster_pool(("m6a.large",), 'queue = "jobs"')
    start_machine("m6a.xlarge")
    try:
        charts.install(here, "kueue", [made.namespace])
    except MissingProgramError as error:
        pytest.skip(str(error))  # no registry has this program
    api.apply(*_queue(made.namespace))
    yield made
    charts.uninstall(here, "kueue")


def _queue(namespace: str) -> list[Object]:
    resources = [{"name": name, "nominalQuota": most} for name, most in _QUOTA.items()]
    flavors = [{"name": "any", "resources": resources}]
    groups = [{"coveredResources": list(_QUOTA), "flavors": flavors}]
    spec = {"namespaceSelector": {}, "resourceGroups": groups}
    metadata = {"name": "jobs", "namespace": namespace}
    return [
        {"apiVersion": _KUEUE, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {
            "apiVersion": _KUEUE,
            "kind": "ClusterQueue",
            "metadata": {"name": namespace},
            "spec": spec,
        },
        {
            "apiVersion": _KUEUE,
            "kind": "LocalQueue",
            "metadata": metadata,
            "spec": {"clusterQueue": namespace},
        },
    ]


def test_a_run_waits_for_kueue_before_anything_is_bought_for_it(
    one: Cluster, here: Place, api: Api, queued_pool: ClusterPool, tmp_path: Path
) -> None:
    home = tmp_path / "keeper"
    home.mkdir()
    ground = Ground(here, api, home, one.shell, queued_pool)
    ground.start_keeper()
    try:
        first = ground.submit("first", "sleep 8")
        ground.wait_running(first)
        second = ground.submit("second", "true")
        api.wait("the second to say why it waits", lambda: ground.waiting_reason(second), 30)
        assert "Kueue's queue jobs" in str(ground.waiting_reason(second))
        (pod,) = ground.pods(second)
        gates = {gate["name"] for gate in pod["spec"]["schedulingGates"]}
        assert gates >= {labels.GATE, "kueue.x-k8s.io/admission"}
        assert len(ground.claims()) == 1
        for attempt in (first, second):
            assert ground.ended(attempt).outcome is Outcome.SUCCESS
            ground.read(attempt)
        # The second one came while the first one's machine had not used up its minimum.
        machines = ground.machines_gone()
        assert [one.attempt for machine in machines for one in machine.occupancies] == [
            first,
            second,
        ]
        assert len(machines) == 1
        ground.check_ledger()
    finally:
        ground.stop_keepers()


def test_a_gang_is_one_workload_for_kueue(
    one: Cluster, here: Place, api: Api, queued_pool: ClusterPool, tmp_path: Path
) -> None:
    home = tmp_path / "keeper"
    home.mkdir()
    ground = Ground(here, api, home, one.shell, queued_pool)
    ground.start_keeper()
    try:
        gang = ground.submit("gang", "true", machine={"cpu": 1, "count": 2})
        api.wait("Kueue to know it", lambda: api.list("Workload", queued_pool.namespace, _KUEUE))
        workloads = api.list("Workload", queued_pool.namespace, _KUEUE)
        assert len(workloads) == 1
        assert sum(pods["count"] for pods in workloads[0]["spec"]["podSets"]) == 2
        api.wait("it to say why it waits", lambda: ground.waiting_reason(gang), 30)
        assert ground.claims() == []  # two machines are more than the quota
        ground.cancel(gang)
        assert ground.ended(gang).outcome is Outcome.CANCELLED
        ground.read(gang)
        api.wait("its pods to be gone", lambda: not ground.pods(gang), 60)
    finally:
        ground.stop_keepers()
