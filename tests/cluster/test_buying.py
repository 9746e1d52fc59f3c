"""Machines are bought and given back, by the real cluster-autoscaler and the real Karpenter."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from testbed import aws, components, faults, karpenter, kwok, machine, pods, provider, record
from testbed.api import Api, Object
from testbed.place import Place
from tests.cluster.conftest import Cluster, Pool, StartMachine

_CLAIMS = "karpenter.sh/v1"
MakePool = Callable[..., Pool]


def _job(
    one: Cluster, namespace: str, name: str, pool: Pool, script: str, **more: object
) -> Object:
    return pods.make(
        name,
        namespace,
        one.shell,
        script,
        select=pool.select,
        tolerate=pool.tolerate,
        **more,  # type: ignore[arg-type]  # handed on
    )


def _over(api: Api, namespace: str, name: str, seconds: float = 120) -> Object:
    ended: Object = api.wait(
        f"pod {name} to end",
        lambda: pods.is_over(p := api.get("Pod", name, namespace)) and p,
        seconds,
    )
    return ended


def _gone(here: Place, api: Api, name: str) -> None:
    api.wait(f"{name} to be gone", lambda: name not in machine.names(here), 120)
    api.wait(f"the node of {name} to be gone", lambda: api.get("Node", name) is None)


def test_the_autoscaler_buys_a_machine_for_a_pod_and_gives_it_back(
    one: Cluster, here: Place, asg_pool: MakePool, namespace: str
) -> None:
    pool = asg_pool("m6a.2xlarge")
    script = "sleep 2; echo done"
    one.api.create(_job(one, namespace, "job", pool, script, cpu="6", memory="20Gi"))
    name = one.api.wait(
        "the pod's machine",
        lambda: (p := one.api.get("Pod", "job", namespace)) and p["spec"].get("nodeName"),
        120,
    )
    node = one.api.get("Node", name)
    assert node is not None
    assert node["status"]["capacity"]["cpu"] == "8"
    assert node["metadata"]["labels"]["test/pool"] == pool.name
    taint = {"key": "test/pool", "value": pool.name, "effect": "NoSchedule"}
    assert taint in node["spec"]["taints"]
    ended = _over(one.api, namespace, "job")
    assert pods.exit_code(ended) == 0
    assert one.api.logs("job", namespace) == "done\n"
    life = record.read(here)[name]
    assert life.type == "m6a.2xlarge"
    assert life.provider_id == f"aws:///{aws.ZONE}/{name}"
    _gone(here, one.api, name)
    assert aws.instances(here, pool.name) == []
    life = record.read(here)[name]
    assert life.bought
    assert life.started
    assert life.returned
    assert life.stopped
    assert life.bought < life.started < life.returned < life.stopped


def test_an_interrupted_spot_machine_has_notice_and_its_group_tells_why_it_is_gone(
    one: Cluster, here: Place, asg_pool: MakePool, namespace: str
) -> None:
    pool = asg_pool("m6a.large", spot=True)
    one.api.create(_job(one, namespace, "job", pool, "sleep 1000"))
    name = one.api.wait(
        "the pod to run",
        lambda: (
            pods.phase(p := one.api.get("Pod", "job", namespace)) == "Running"
            and p
            and p["spec"]["nodeName"]
        ),
        120,
    )
    faults.interrupt(here, name, 1)
    _gone(here, one.api, name)
    (reservation,) = aws.client(here, "ec2").describe_instances(InstanceIds=[name])["Reservations"]
    (instance,) = reservation["Instances"]
    assert instance["InstanceLifecycle"] == "spot"
    assert instance["State"]["Name"] == "terminated"
    assert instance["StateTransitionReason"].startswith("Server.SpotInstanceTermination")
    life = record.read(here)[name]
    assert life.interrupted
    assert life.returned
    assert life.interrupted < life.returned


@pytest.mark.parametrize("way", ["asg_pool", "karpenter_pool"])
def test_an_autoscaler_that_was_killed_buys_when_it_is_back(
    one: Cluster, here: Place, namespace: str, way: str, request: pytest.FixtureRequest
) -> None:
    make: MakePool = request.getfixturevalue(way)
    pool = make()
    for component in (aws.AUTOSCALER if way == "asg_pool" else karpenter.NAME, provider.NAME):
        faults.kill(here, component)
        assert not components.running(here, component)
    one.api.create(_job(one, namespace, "job", pool, "echo done"))
    for component in (aws.AUTOSCALER if way == "asg_pool" else karpenter.NAME, provider.NAME):
        faults.restart(here, component)
    assert pods.exit_code(_over(one.api, namespace, "job")) == 0


def test_a_group_out_of_stock_buys_nothing_and_then_again(
    one: Cluster, here: Place, asg_pool: MakePool, namespace: str
) -> None:
    pool = asg_pool("m6a.large")
    faults.out_of_stock(here, pool.name)
    one.api.create(_job(one, namespace, "waits", pool, "true"))

    def events() -> str:
        return " ".join(
            f"{event['reason']} {event.get('message', '')}"
            for event in one.api.list("Event", namespace)
        )

    one.api.wait("the autoscaler's try", lambda: "TriggeredScaleUp" in events(), 120)

    def failures() -> list[Object]:
        found: list[Object] = aws.client(here, "autoscaling").describe_scaling_activities(
            AutoScalingGroupName=pool.name
        )["Activities"]
        return found

    said = one.api.wait("the failed purchase", failures, 60)
    assert "InsufficientInstanceCapacity" in said[0]["StatusMessage"]
    assert aws.instances(here, pool.name) == []
    assert pods.phase(one.api.get("Pod", "waits", namespace)) == "Pending"
    faults.out_of_stock(here, pool.name, empty=False)
    _over(one.api, namespace, "waits", 240)


def test_karpenter_buys_a_machine_stamped_with_the_run_that_it_is_for(
    one: Cluster, here: Place, karpenter_pool: MakePool, namespace: str
) -> None:
    pool = karpenter_pool(requirements=[{"key": "test/run", "operator": "Exists"}])
    for run in ("one", "two"):
        job = _job(one, namespace, run, pool, "echo done", cpu="500m", memory="1Gi")
        job["spec"]["nodeSelector"]["test/run"] = run
        one.api.create(job)
    ended = [_over(one.api, namespace, run) for run in ("one", "two")]
    nodes = [pod["spec"]["nodeName"] for pod in ended]
    assert len(set(nodes)) == 2
    for run, name in zip(("one", "two"), nodes, strict=True):
        node = one.api.get("Node", name)
        assert node is not None
        assert node["metadata"]["labels"]["test/run"] == run
        life = record.read(here)[name]
        assert node["metadata"]["labels"]["node.kubernetes.io/instance-type"] == life.type
    for claim in one.api.list("NodeClaim", api_version=_CLAIMS):
        one.api.delete("NodeClaim", claim["metadata"]["name"], api_version=_CLAIMS)
    for name in nodes:
        _gone(here, one.api, name)
        assert record.read(here)[name].stopped


def test_karpenter_finds_no_offering_of_types_that_are_out_of_stock(
    one: Cluster, here: Place, karpenter_pool: MakePool, namespace: str
) -> None:
    types = ["m6a.large", "m6a.xlarge"]
    only = {"key": "node.kubernetes.io/instance-type", "operator": "In", "values": types}
    pool = karpenter_pool(requirements=[only])
    faults.karpenter_out_of_stock(here, ["m6a.large"])
    try:
        one.api.create(_job(one, namespace, "second", pool, "true", cpu="1"))
        name = _over(one.api, namespace, "second")["spec"]["nodeName"]
    finally:
        faults.karpenter_out_of_stock(here, [])
    assert record.read(here)[name].type == "m6a.xlarge"


def test_a_machine_that_never_joins_costs_and_takes_no_pod(
    one: Cluster, here: Place, karpenter_pool: MakePool, namespace: str
) -> None:
    pool = karpenter_pool()
    faults.never_join(here, pool.name, 1)
    one.api.create(_job(one, namespace, "waits", pool, "true"))

    def bought() -> list[str]:
        mine = f"karpenter.sh/nodepool={pool.name}"
        return [n["metadata"]["name"] for n in one.api.list("Node", selector=mine)]

    (name,) = one.api.wait("the purchase", bought)
    one.api.wait("its start", lambda: name in machine.names(here) and machine.is_alive(here, name))
    one.api.wait("containerd", lambda: machine.program_runs(here, name, "containerd"))
    assert not machine.program_runs(here, name, "kubelet")
    assert pods.phase(one.api.get("Pod", "waits", namespace)) == "Pending"
    life = record.read(here)[name]
    assert life.started
    assert life.joined is None


def test_a_gpu_that_appears_late_lets_its_pod_wait_until_then(
    one: Cluster, here: Place, karpenter_pool: MakePool, namespace: str
) -> None:
    pool = karpenter_pool()
    faults.late_gpus(here, pool.name, 5)
    one.api.create(_job(one, namespace, "gpu", pool, "echo $NVIDIA_VISIBLE_DEVICES", gpus=1))
    ended = _over(one.api, namespace, "gpu")
    assert one.api.logs("gpu", namespace).strip() == "gpu-0"
    node = one.api.get("Node", ended["spec"]["nodeName"])
    assert node is not None
    assert node["status"]["capacity"]["nvidia.com/gpu"] == "1"


def test_gpus_that_never_appear_leave_a_ready_machine_without_them(
    one: Cluster, api: Api, start_machine: StartMachine
) -> None:
    name = start_machine("g4dn.xlarge", gpus_advertised=False)
    node = api.get("Node", name)
    assert node is not None
    assert "nvidia.com/gpu" not in node["status"]["capacity"]


def test_kwok_plays_machines_that_karpenter_buys(
    one: Cluster, here: Place, karpenter_pool: MakePool, namespace: str
) -> None:
    kwok.start(here)
    pool = karpenter_pool(kubelets=False, requirements=[{"key": "test/run", "operator": "Exists"}])
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        job = _job(one, namespace, name, pool, "true", annotations={kwok.RUN_FOR: "1s"})
        job["spec"]["nodeSelector"]["test/run"] = name
        one.api.create(job)
    ended = [_over(one.api, namespace, name) for name in names]
    nodes = {pod["spec"]["nodeName"] for pod in ended}
    assert len(nodes) == 20
    assert not nodes & set(machine.names(here))
