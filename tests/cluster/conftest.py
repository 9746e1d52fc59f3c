"""A real cluster for tests: the testbed's own, or any that $PIECEWORK_TESTBED_KUBECONFIG names.

The testbed's cluster is started once a session under a name of its own, so that it never meets a
contributor's, and must leave nothing behind. Machines, namespaces and pools are made for each test
and removed after it. On somebody's own cluster the tests that need the testbed's powers (machines,
faults, autoscalers) are skipped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from testbed import (
    aws,
    cluster,
    components,
    found,
    images,
    karpenter,
    machine,
    place,
    programs,
    wishes,
)
from testbed.api import Api, is_ready
from testbed.errors import MissingProgramError
from testbed.place import Place
from testbed.size import size_of
from tests.cluster import cluster_pools
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.pool_place import PoolPlace, pool_with_a_machine
from tests.cluster.spark_jobs import Jobs, jobs_on

_CLAIMS = "karpenter.sh/v1"
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Cluster:
    """A cluster that tests may use."""

    api: Api
    kubeconfig: Path
    #: A small image with a shell that its machines can pull.
    shell: str
    #: The testbed that runs it; None where it is somebody's own.
    place: Place | None


@dataclass(frozen=True)
class Pool:
    """Machines that are bought when a pod with this selector and toleration waits."""

    name: str
    select: dict[str, str]
    tolerate: tuple[str, ...]


#: Starts a machine of an instance type, waits until it is ready, returns its name.
StartMachine = Callable[..., str]


@pytest.fixture(autouse=True)
def _needs_a_cluster(required_layer: Callable[[str], None]) -> None:
    required_layer("cluster")


@pytest.fixture(scope="session")
def whole_cluster() -> Iterator[Cluster]:
    foreign = os.environ.get("PIECEWORK_TESTBED_KUBECONFIG")
    if foreign:
        image = os.environ.get("PIECEWORK_TESTBED_IMAGE", "busybox:1.37")
        with Api(Path(foreign)) as api:
            yield Cluster(api, Path(foreign), image, None)
        return
    name = f"test-{os.getpid()}"
    try:
        here = cluster.up(name, programs.say, without=["helm"])
        with Api(here.admin) as api:
            yield Cluster(api, here.admin, images.name_in(here, images.SHELL), here)
    finally:
        claimed = place.look(name)
        cluster.down(name)
        left = cluster.leftovers(claimed) if claimed else []
    assert not left, f"the testbed left behind: {left}"


@pytest.fixture
def one(whole_cluster: Cluster) -> Cluster:
    """The cluster of this session."""
    return whole_cluster


@pytest.fixture
def api(one: Cluster) -> Api:
    """The administrator's view of it."""
    return one.api


@pytest.fixture
def here(one: Cluster) -> Iterator[Place]:
    """The testbed itself, for tests that start machines or break something."""
    if one.place is None:
        pytest.skip("somebody's own cluster: machines and faults are the testbed's")
    yield one.place
    wishes.clear(one.place)


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A fresh namespace, ready to take pods; deleted with all that is in it."""
    name = f"test-{os.getpid()}-{next(_numbers)}"
    api.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    api.wait("its account", lambda: api.get("ServiceAccount", "default", name))
    yield name
    for pod in api.list("Pod", name):
        api.delete("Pod", pod["metadata"]["name"], name, grace_seconds=0)
    api.delete("Namespace", name)


@pytest.fixture
def start_machine(here: Place, api: Api) -> Iterator[StartMachine]:
    """Starts machines, which are removed after the test."""
    started = []

    def start(instance_type: str = "m6a.large", *, ready: bool = True, **more: object) -> str:
        name = f"machine-{next(_numbers)}"
        started.append(name)
        machine.start(here, name, size_of(instance_type), **more)  # type: ignore[arg-type]  # handed on
        if ready:
            api.wait(f"{name} to be ready", lambda: (n := api.get("Node", name)) and is_ready(n))
        return name

    yield start
    for name in started:
        machine.stop(here, name, why="the test is over")
        api.delete("Node", name)


@pytest.fixture
def cluster_pool(
    one: Cluster, here: Place, namespace: str, start_machine: StartMachine, tmp_path: Path
) -> Iterator[PoolPlace]:
    """A pool with one machine that is there already, and no keeper."""
    with pool_with_a_machine(one, here, namespace, start_machine, tmp_path) as place:
        yield place


@pytest.fixture
def nodes(one: Cluster, request: pytest.FixtureRequest) -> list[str]:
    """Two ready nodes that take pods; somebody's own cluster may have but one."""
    if one.place is not None:
        start: StartMachine = request.getfixturevalue("start_machine")
        return [start(), start()]
    ready = [
        node["metadata"]["name"]
        for node in one.api.list("Node")
        if is_ready(node) and not node["spec"].get("taints")
    ]
    assert ready, "the cluster has no ready node without taints"
    return ready[:2]


def _none_of(here: Place, names: set[str]) -> bool:
    return not names & set(machine.names(here))


def _nothing_bought(api: Api, selector: str) -> bool:
    claims = api.list("NodeClaim", api_version=_CLAIMS, selector=selector)
    return not claims and not api.list("Node", selector=selector)


@pytest.fixture
def asg_pool(here: Place, api: Api) -> Iterator[Callable[..., Pool]]:
    """Makes Auto Scaling groups that the real cluster-autoscaler scales from zero."""
    made = []
    try:
        found.find(aws.AUTOSCALER)
    except MissingProgramError as error:
        pytest.skip(str(error))  # the one skip that CI allows: no registry has this program
    aws.start(here)

    def make(instance_type: str = "m6a.xlarge", **more: object) -> Pool:
        name = f"g{next(_numbers)}"
        made.append(name)
        labels, taints = {"test/pool": name}, {"test/pool": f"{name}:NoSchedule"}
        group = aws.Group(name, instance_type, labels=labels, taints=taints, **more)  # type: ignore[arg-type]  # handed on
        aws.make_group(here, group)
        # The autoscaler looks for new groups once a minute, and when it starts.
        components.stop(here, aws.AUTOSCALER)
        aws.start_autoscaler(here)
        return Pool(name, labels, ("test/pool",))

    yield make
    wishes.clear(here)
    for name in made:
        for pod in api.list("Pod", selector=f"test/pool={name}"):
            api.delete("Pod", pod["metadata"]["name"], pod["metadata"]["namespace"])
        bought = set(aws.instances(here, name))
        aws.delete_group(here, name)
        api.wait("its machines to be gone", partial(_none_of, here, bought))


@pytest.fixture
def karpenter_pool(here: Place, api: Api) -> Iterator[Callable[..., Pool]]:
    """Makes NodePools from which Karpenter buys; each pod names its run by the label test/run."""
    made = []
    karpenter.start(here)

    def make(**more: object) -> Pool:
        name = f"p{next(_numbers)}"
        made.append(name)
        api.apply(
            karpenter.node_pool(
                name,
                labels={"test/pool": name},
                taints={"test/pool": f"{name}:NoSchedule"},
                **more,  # type: ignore[arg-type]  # handed on
            )
        )
        return Pool(name, {"test/pool": name}, ("test/pool",))

    yield make
    wishes.clear(here)
    for name in made:
        api.delete("NodePool", name, api_version=_CLAIMS)
        mine = f"karpenter.sh/nodepool={name}"
        for claim in api.list("NodeClaim", api_version=_CLAIMS, selector=mine):
            api.delete("NodeClaim", claim["metadata"]["name"], api_version=_CLAIMS)
        for node in api.list("Node", selector=mine):
            on_it = f"spec.nodeName={node['metadata']['name']}"
            for pod in api.core.list_pod_for_all_namespaces(field_selector=on_it).items:
                api.delete("Pod", pod.metadata.name, pod.metadata.namespace, grace_seconds=0)
        api.wait(
            "its machines to be gone",
            partial(_nothing_bought, api, mine),
            120,
        )


@pytest.fixture
def karpenter_cluster_pool(
    here: Place, api: Api, tmp_path: Path
) -> Iterator[Callable[..., ClusterPool]]:
    """Makes pools of Karpenter as piecework renders them, each in a namespace of its own.

    `types` are instance types, `more` further lines of the pool's table in piecework.toml.
    """
    made = []

    def make(types: tuple[str, ...] = ("m6a.large", "m6a.xlarge"), more: str = "") -> ClusterPool:
        name = f"b{next(_numbers)}"
        pool = cluster_pools.make_karpenter_pool(here, api, name, tmp_path / name, types, more)
        made.append(pool)
        api.wait("its account", lambda: api.get("ServiceAccount", "default", name))
        return pool

    yield make
    wishes.clear(here)
    for pool in made:
        cluster_pools.remove(here, api, pool)


@pytest.fixture
def asg_cluster_pool(
    here: Place, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., ClusterPool]]:
    """The same on Auto Scaling groups, one for each type, two for those in `spot`."""
    made = []
    try:
        found.find(aws.AUTOSCALER)
    except MissingProgramError as error:
        pytest.skip(str(error))  # the one skip that CI allows: no registry has this program
    for variable, value in cluster_pools.AWS_ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)

    def make(
        types: tuple[str, ...] = ("m6a.large",), more: str = "", **options: object
    ) -> ClusterPool:
        name = f"s{next(_numbers)}"
        pool = cluster_pools.make_asg_pool(
            here, api, name, tmp_path / name, types, more, **options  # type: ignore[arg-type]  # handed on
        )  # fmt: skip
        made.append(pool)
        api.wait("its account", lambda: api.get("ServiceAccount", "default", name))
        return pool

    yield make
    wishes.clear(here)
    for pool in made:
        cluster_pools.remove(here, api, pool)


@pytest.fixture
def jobs_of(
    one: Cluster, here: Place, api: Api, tmp_path: Path
) -> Iterator[Callable[[ClusterPool], Jobs]]:
    """Starts a pool's keeper, which is stopped before the pool goes: ask for it after the pool."""
    with ExitStack() as stack:
        yield lambda made: stack.enter_context(jobs_on(made, here, api, one.shell, tmp_path))
