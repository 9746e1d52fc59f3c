"""Machines: their size, their network, their end."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable
from pathlib import Path

from piecework.units import GIBI
from testbed import cgroups, kubectl, machine, pods, record
from testbed.api import Api
from testbed.errors import TestbedError
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


def answers(ask: Callable[[], str]) -> bool:
    """Whether asking inside a pod works yet: services take a moment to be known on machines."""
    try:
        return bool(ask())
    except TestbedError:
        return False


def test_pods_reach_pods_services_dns_the_api_server_and_are_reached(
    one: Cluster, start_machine: StartMachine, namespace: str
) -> None:
    first, second = start_machine(), start_machine()
    serve = "echo hello > /tmp/index.html; echo ready; httpd -f -p 8080 -h /tmp"
    for name, node in (("a", first), ("b", second)):
        one.api.create(
            pods.make(name, namespace, one.shell, serve, node=node, labels={"app": "web"})
        )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    one.api.create(service)
    addresses = {name: _address(one.api, name, namespace) for name in ("a", "b")}

    def fetch(pod: str, url: str) -> str:
        # Not with -T: Debian's busybox crashes on it.
        return kubectl.execute(one.kubeconfig, namespace, pod, "wget", "-qO-", url)

    one.api.wait(
        "the service",
        lambda: answers(lambda: fetch("a", f"http://web.{namespace}.svc.cluster.local/")),
    )
    # Often enough that both pods have answered, the asking one among them.
    assert {fetch("a", "http://web/") for _ in range(8)} == {"hello\n"}
    assert fetch("a", f"http://{addresses['b']}:8080/") == "hello\n"
    assert fetch("b", f"http://{addresses['a']}:8080/") == "hello\n"
    told = kubectl.execute(
        one.kubeconfig, namespace, "a", "nslookup", "kubernetes.default.svc.cluster.local"
    )
    assert "Address: 10." in told
    # The API server answers by its service's address; it asks who is there.
    reached = kubectl.execute(
        one.kubeconfig, namespace, "a", "sh", "-c",
        "nc -w 5 kubernetes.default.svc.cluster.local 443 </dev/null && echo reached",
    )  # fmt: skip
    assert "reached" in reached
    assert one.api.logs("b", namespace) == "ready\n"
    with kubectl.forwarded(one.kubeconfig, namespace, "b", 8080) as port:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/") as answer:
            assert answer.read() == b"hello\n"
        with opener.open(f"http://{addresses['a']}:8080/") as answer:
            assert answer.read() == b"hello\n"


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
