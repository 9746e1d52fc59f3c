"""Buying machines the second way: Karpenter with its KWOK provider.

What enters are NodePools that tests or piecework render, and a list of instance types made from
piecework's price list; what leaves are NodeClaims whose Node objects real kubelets take over
(`provider.py` does that), or which KWOK keeps alive without any, for thousands of machines.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from piecework.plan.price import load_price_book
from testbed import components, health, programs, provider
from testbed.api import Api, Object
from testbed.aws_server import SPOT_SHARE
from testbed.certificates import write_kubeconfig
from testbed.place import Place

NAME = "karpenter"
GROUP = "karpenter.kwok.sh"
ZONE = "us-east-1a"
NAMESPACE = "kube-system"
_METRICS_PORT, _PROBE_PORT = 8086, 8087
_ROLE = Path(__file__).parent / "manifests" / "karpenter.yaml"


def instance_types(out_of_stock: Collection[str] = ()) -> list[Object]:
    """The price list as Karpenter's KWOK provider reads it.

    A type out of stock is left out: the provider takes every offering that is listed for available.
    Types without a price are left out too.
    """
    types = []
    for item in load_price_book().types.values():
        if item.usd_per_hour is None or item.name in out_of_stock:
            continue
        price = float(item.usd_per_hour)
        resources = {
            "cpu": str(item.vcpus),
            "memory": f"{item.memory.bytes // 2**20}Mi",
            "ephemeral-storage": "100Gi",
            "pods": "110",
        }
        if item.gpus:
            resources["nvidia.com/gpu"] = str(item.gpus)
        types.append(
            {
                "name": item.name,
                "architecture": item.architecture,
                "operatingSystems": ["linux"],
                "resources": resources,
                "offerings": [
                    _offering("on-demand", price),
                    _offering("spot", round(price * float(SPOT_SHARE), 6)),
                ],
            }
        )
    return types


def _offering(capacity_type: str, price: float) -> Object:
    return {
        "Price": price,
        "Available": True,
        "Requirements": [
            {"key": "karpenter.sh/capacity-type", "operator": "In", "values": [capacity_type]},
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [ZONE]},
        ],
    }


def start(
    place: Place,
    *,
    out_of_stock: Collection[str] = (),
    settings: Mapping[str, str] | None = None,
) -> None:
    """Starts Karpenter, its definitions, and whoever turns its nodes into machines.

    `settings` are Karpenter's environment variables (BATCH_IDLE_DURATION and others).
    """
    with Api(place.admin) as api:
        _define(api)
        api.apply_text(_ROLE.read_text())
    file = place.folder / "instance-types.json"
    file.write_text(json.dumps(instance_types(out_of_stock)))
    kubeconfig = write_kubeconfig(place, place.folder / f"{NAME}.kubeconfig", NAME)
    components.start(
        place,
        NAME,
        [str(programs.find("karpenter"))],
        {
            "KUBECONFIG": str(kubeconfig),
            "SYSTEM_NAMESPACE": NAMESPACE,
            "CLUSTER_NAME": place.name,
            "DISABLE_LEADER_ELECTION": "true",
            "METRICS_PORT": str(_METRICS_PORT),
            "HEALTH_PROBE_PORT": str(_PROBE_PORT),
            "INSTANCE_TYPES_FILE_PATH": str(file),
            "LOG_LEVEL": "info",
            **(settings or {}),
        },
    )
    components.wait_until(
        "Karpenter to be ready",
        lambda: is_ready(place),
        60,
        alive=lambda: components.running(place, NAME),
        log=place.logs / f"{NAME}.log",
    )
    provider.start(place)


def _define(api: Api) -> None:
    folder = programs.find("karpenter").parent
    names = set()
    for path in sorted(folder.glob("**/crds/*.yaml")):
        if path.name not in names:
            names.add(path.name)
            api.apply_text(path.read_text())
    for kind in ("NodePool", "NodeClaim"):
        api.wait(f"the kind {kind}", lambda kind=kind: _is_known(api, kind))  # type: ignore[misc]
    node_class = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "KWOKNodeClass"}
    api.wait("the kind KWOKNodeClass", lambda: _is_known(api, "KWOKNodeClass", f"{GROUP}/v1alpha1"))
    api.apply({**node_class, "metadata": {"name": "default"}})


def _is_known(api: Api, kind: str, api_version: str = "karpenter.sh/v1") -> bool:
    from kubernetes.client.rest import ApiException
    from kubernetes.dynamic.exceptions import ResourceNotFoundError

    try:
        api.list(kind, api_version=api_version)
    except (ResourceNotFoundError, ApiException):
        return False
    return True


def is_ready(place: Place) -> bool:
    """Whether Karpenter's readiness check is content, asked once."""
    return health.answers(place.hub, _PROBE_PORT, "/readyz")


def node_pool(
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    taints: Mapping[str, str] | None = None,
    requirements: Collection[Object] = (),
    kubelets: bool = True,
    empty_after: str = "Never",
) -> Object:
    """A NodePool whose machines are removed `empty_after` their last pod.

    `taints` maps a key to VALUE:EFFECT. Without kubelets, KWOK plays the machines.
    """
    all_labels = {**(labels or {})}
    if not kubelets:
        all_labels[provider.NO_KUBELET] = "true"
    written = []
    for key, text in (taints or {}).items():
        value, _, effect = text.rpartition(":")
        written.append({"key": key, "value": value, "effect": effect})
    return {
        "apiVersion": "karpenter.sh/v1",
        "kind": "NodePool",
        "metadata": {"name": name},
        "spec": {
            "template": {
                "metadata": {"labels": all_labels},
                "spec": {
                    "taints": written,
                    "requirements": [
                        {"key": "kubernetes.io/arch", "operator": "In", "values": ["amd64"]},
                        {"key": "karpenter.sh/capacity-type", "operator": "In",
                         "values": ["on-demand"]},
                        *requirements,
                    ],
                    "nodeClassRef": {"group": GROUP, "kind": "KWOKNodeClass", "name": "default"},
                    "expireAfter": "720h",
                },
            },
            "disruption": {
                "consolidationPolicy": "WhenEmpty",
                "consolidateAfter": empty_after,
                "budgets": [{"nodes": "100%"}],
            },
        },
    }  # fmt: skip
