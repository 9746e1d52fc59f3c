"""Machines: their size, their network, their end."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

from piecework.units import GIBI
from testbed import cgroups, machine, pods, record
from testbed.api import Api
from testbed.place import Place
from tests.cluster.conftest import Cluster, StartMachine


def _address(api: Api, name: str, namespace: str) -> str:
    pod = api.wait(
        f"pod {name} to run",
        lambda: (p := api.get("Pod", name, namespace)) and pods.phase(p) == "Running" and p,
    )
    address: str = pod["status"]["podIP"]
    return address


def test_a_machine_larger_than_this_host_reports_and_runs_what_its_type_has(
    one: Cluster, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine("m6a.4xlarge", labels={"test/size": "large"})
    node = one.api.get("Node", name)
    assert node is not None
    assert node["status"]["capacity"]["cpu"] == "16"
    assert node["status"]["capacity"]["memory"] == "64Gi"
    assert node["metadata"]["labels"]["test/size"] == "large"
    pod = pods.make(
        "large",
        namespace,
        one.shell,
        "true",
        cpu="14",
        memory="50Gi",
        select={"test/size": "large"},
    )
    one.api.create(pod)
    done = one.api.wait(
        "the pod", lambda: pods.is_over(p := one.api.get("Pod", "large", namespace)) and p
    )
    assert pods.exit_code(done) == 0


def test_a_machine_holds_its_pods_to_its_memory(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine("t3.nano")  # 512 MiB
    # The pod has no limit of its own.
    hog = pods.make("hog", namespace, one.shell, "tail /dev/zero", node=name)
    one.api.create(hog)
    ended = one.api.wait(
        "the pod", lambda: pods.is_over(p := one.api.get("Pod", "hog", namespace)) and p
    )
    assert pods.exit_code(ended) == 137
    limits = [
        Path(tree, machine.group_of_pods(here, name), file)
        for tree in cgroups.hierarchies()
        for file in ("memory.limit_in_bytes", "memory.max")
    ]
    assert [int(path.read_text()) for path in limits if path.exists()] == [GIBI // 2]


def test_a_machine_smaller_than_this_host_is_held_to_its_cpus(
    one: Cluster, here: Place, start_machine: StartMachine
) -> None:
    name = start_machine("t2.micro")  # one vCPU
    node = one.api.get("Node", name)
    assert node is not None
    assert node["status"]["capacity"]["cpu"] == "1"
    limits = {}
    for tree in cgroups.hierarchies():
        for file in ("cpu.cfs_quota_us", "cpu.max"):
            path = Path(tree, machine.group_of_pods(here, name), file)
            if path.exists():
                limits[file] = path.read_text().split()[0]
    assert set(limits.values()) == {"100000" if (os.cpu_count() or 1) > 1 else "-1"}


def test_this_host_reaches_pods_and_pods_reach_this_host(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine()
    script = f"ping -c 1 {here.host} && httpd -f -p 8080 -h /etc"
    one.api.create(pods.make("a", namespace, one.shell, script, node=name))
    address = _address(one.api, "a", namespace)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def fetched() -> bool:
        with opener.open(f"http://{address}:8080/hostname", timeout=5) as answer:
            return bool(answer.read() == b"a\n")

    one.api.wait("the pod to answer", fetched)


def test_a_machine_disappears_completely_and_its_record_encloses_its_life(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    name = start_machine()
    index = machine.load(here, name).index
    one.api.create(pods.make("stays", namespace, one.shell, "sleep 1000", node=name))
    _address(one.api, "stays", namespace)
    before = record.read(here)[name]
    assert before.stopped is None
    machine.stop(here, name)
    assert not machine.folder_of(here, name).exists()
    assert not any((tree / machine.group_of(here, name)).exists() for tree in cgroups.hierarchies())
    from testbed import network

    assert f"m{index}:" not in network.run([*network.in_hub(here), "ip", "link", "show"])
    life = record.read(here)[name]
    assert life.bought
    assert life.started
    assert life.stopped
    assert life.bought <= life.started < life.stopped


def test_a_pod_sees_nothing_of_other_machines(
    one: Cluster, start_machine: StartMachine, namespace: str
) -> None:
    first, second = start_machine(), start_machine()
    one.api.create(pods.make("quiet", namespace, one.shell, "sleep 1000", node=first))
    shows = pods.make("shows", namespace, one.shell, "hostname; ps", node=second)
    shows["spec"] |= {"hostPID": True, "hostNetwork": True}
    one.api.create(shows)
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "shows", namespace)))
    said = one.api.logs("shows", namespace)
    assert said.startswith(second)
    assert "kubelet" in said
    assert "sleep 1000" not in said
    assert "etcd" not in said
