"""What every cluster does with pods: this file runs against other people's clusters too."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable

from testbed import kubectl, pods
from testbed.api import Api
from testbed.errors import TestbedError
from tests.cluster.conftest import Cluster


def _address(api: Api, name: str, namespace: str) -> str:
    pod = api.wait(
        f"pod {name} to run",
        lambda: (p := api.get("Pod", name, namespace)) and pods.phase(p) == "Running" and p,
        120,
    )
    address: str = pod["status"]["podIP"]
    return address


def _answers(ask: Callable[[], str]) -> bool:
    """Whether asking inside a pod works yet: services take a moment to be known on machines."""
    try:
        return bool(ask())
    except TestbedError:
        return False


def test_a_pod_runs_to_its_end_and_its_log_is_read(
    one: Cluster, nodes: list[str], namespace: str
) -> None:
    one.api.create(pods.make("ends", namespace, one.shell, "echo done; exit 3", node=nodes[0]))
    ended = one.api.wait(
        "the pod", lambda: pods.is_over(p := one.api.get("Pod", "ends", namespace)) and p, 120
    )
    assert pods.exit_code(ended) == 3
    assert one.api.logs("ends", namespace) == "done\n"


def test_a_pod_over_its_memory_limit_is_killed_for_that(
    one: Cluster, nodes: list[str], namespace: str
) -> None:
    hog = pods.make("hog", namespace, one.shell, "tail /dev/zero", node=nodes[0])
    hog["spec"]["containers"][0]["resources"]["limits"]["memory"] = "32Mi"
    one.api.create(hog)
    ended = one.api.wait(
        "the pod", lambda: pods.is_over(p := one.api.get("Pod", "hog", namespace)) and p, 120
    )
    (status,) = ended["status"]["containerStatuses"]
    assert status["state"]["terminated"]["reason"] == "OOMKilled"


def test_a_gated_pod_waits_until_its_gate_is_opened(
    one: Cluster, nodes: list[str], namespace: str
) -> None:
    pod = pods.make("gated", namespace, one.shell, "true")
    pod["spec"]["schedulingGates"] = [{"name": "test/gate"}]
    pod["spec"]["nodeSelector"] = {"kubernetes.io/hostname": nodes[0]}
    one.api.create(pod)
    gated = one.api.wait(
        "the gate to be seen",
        lambda: (
            (p := one.api.get("Pod", "gated", namespace)) and p["status"].get("conditions") and p
        ),
    )
    assert gated["status"]["conditions"][0]["reason"] == "SchedulingGated"
    one.api.patch("Pod", "gated", {"spec": {"schedulingGates": []}}, namespace)
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "gated", namespace)), 120)


def test_pods_reach_pods_services_dns_and_the_api_server_and_are_reached(
    one: Cluster, nodes: list[str], namespace: str
) -> None:
    serve = "echo hello > /tmp/index.html; echo ready; httpd -f -p 8080 -h /tmp"
    for name, node in (("a", nodes[0]), ("b", nodes[-1])):
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

    web = f"http://web.{namespace}.svc.cluster.local/"
    one.api.wait("the service", lambda: _answers(lambda: fetch("a", web)))
    # Often enough that both pods have answered, the asking one among them.
    assert {fetch("a", "http://web/") for _ in range(8)} == {"hello\n"}
    assert fetch("a", f"http://{addresses['b']}:8080/") == "hello\n"
    assert fetch("b", f"http://{addresses['a']}:8080/") == "hello\n"
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
