"""The control plane is as people run it: TLS, least privilege, Pod Security, metrics."""

from __future__ import annotations

import json
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from kubernetes.client.rest import ApiException

from testbed import certificates, command, control_plane, kubectl, pods
from testbed.api import Api
from testbed.place import Place
from tests.cluster.conftest import Cluster, StartMachine


def _user(here: Place, folder: Path, name: str, groups: tuple[str, ...] = ()) -> Api:
    return Api(certificates.write_kubeconfig(here, folder / "kubeconfig", name, groups))


def test_the_api_server_is_refused_by_who_does_not_know_its_authority(here: Place) -> None:
    with pytest.raises(urllib.error.URLError) as refused:
        urllib.request.urlopen(f"{here.server}/readyz", context=ssl.create_default_context())
    assert isinstance(refused.value.reason, ssl.SSLCertVerificationError)


def test_every_component_says_that_it_is_ready(here: Place) -> None:
    assert {
        name: control_plane.is_ready(here, name) for name in control_plane.NAMES
    } == dict.fromkeys(control_plane.NAMES, True)


def test_status_tells_what_runs_and_what_memory_it_uses(
    here: Place, start_machine: StartMachine, capsys: pytest.CaptureFixture[str]
) -> None:
    name = start_machine()
    capsys.readouterr()
    assert command.main(["--name", here.name, "status", "--json"]) == 0
    told = [item for item in json.loads(capsys.readouterr().out) if item["testbed"] == here.name]
    names = {item["name"] for item in told}
    assert {*control_plane.NAMES, "registry", name} <= names
    assert all(item["memory_bytes"] > 2**20 and item["processes"] for item in told)
    assert command.main(["--name", here.name, "status"]) == 0
    assert f"{here.name}: {here.server}" in capsys.readouterr().out


def test_a_user_may_do_what_was_granted_and_nothing_else(
    here: Place, api: Api, namespace: str, tmp_path: Path
) -> None:
    with _user(here, tmp_path, f"reader-of-{namespace}") as reader:
        with pytest.raises(ApiException, match="Forbidden"):
            reader.list("Pod", namespace)
        role = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": "reader", "namespace": namespace},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}],
        }
        user = {
            "kind": "User",
            "name": f"reader-of-{namespace}",
            "apiGroup": "rbac.authorization.k8s.io",
        }
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "reader", "namespace": namespace},
            "roleRef": {
                "kind": "Role",
                "name": "reader",
                "apiGroup": "rbac.authorization.k8s.io",
            },
            "subjects": [user],
        }
        api.apply(role, binding)
        # The API server takes a moment to learn of it.
        api.wait("the right to list", lambda: reader.list("Pod", namespace) == [])
        with pytest.raises(ApiException, match="Forbidden"):
            reader.list("Secret", namespace)


def test_a_machine_may_not_touch_another_machines_node(
    here: Place, api: Api, namespace: str, tmp_path: Path
) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"other-{namespace}"}}
    api.apply(node)
    try:
        with _user(here, tmp_path, "system:node:mine", ("system:nodes",)) as kubelet:
            with pytest.raises(ApiException, match="Forbidden"):
                kubelet.patch("Node", f"other-{namespace}", {"metadata": {"labels": {"a": "b"}}})
            with pytest.raises(ApiException, match="Forbidden"):
                kubelet.list("Secret", namespace)
    finally:
        api.delete("Node", f"other-{namespace}")


def test_pod_security_refuses_a_privileged_pod(one: Cluster, namespace: str) -> None:
    strict = {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "baseline"}}}
    one.api.patch("Namespace", namespace, strict)
    pod = pods.make("strong", namespace, one.shell, "true")
    pod["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(ApiException, match="violates PodSecurity"):
        one.api.create(pod)


def test_a_service_account_gets_a_token_that_the_api_server_knows(
    one: Cluster, namespace: str
) -> None:
    token = kubectl.run(
        one.kubeconfig, "create", "token", "default", f"--namespace={namespace}"
    ).strip()
    review = one.api.create(
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "metadata": {},
            "spec": {"token": token},
        }
    )
    user = f"system:serviceaccount:{namespace}:default"
    assert review["status"]["user"]["username"] == user


def test_components_tell_metrics_to_who_may_see_them(here: Place) -> None:
    for port, metric in ((10257, "workqueue_depth"), (10259, "scheduler_pending_pods")):
        url = f"https://{here.hub}:{port}/metrics"
        context = ssl.create_default_context(cafile=str(certificates.ca_file(here)))
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(url, context=context)
        context.load_cert_chain(*certificates.issue(here, "kubelet-client", ""))
        with urllib.request.urlopen(url, context=context) as answer:
            assert metric in answer.read().decode()


def test_this_host_gets_one_interface_and_no_packet_filter_rule(here: Place) -> None:
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    assert "KUBE-" not in rules
    assert here.network not in rules
