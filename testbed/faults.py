"""Faults on demand: what goes wrong in clouds and clusters, as functions.

What enters is a Place and what is to break; what leaves is a broken cluster, and for lasting
faults a function that mends it. `python -m testbed fault` offers the same on the command line.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from kubernetes.dynamic.exceptions import NotFoundError

from piecework.clock import now, to_text
from testbed import (
    aws,
    components,
    control_plane,
    hdfs,
    karpenter,
    kwok,
    machine,
    network,
    postgresql,
    provider,
    record,
    registry,
    wishes,
)
from testbed.api import Api, Object
from testbed.errors import TestbedError
from testbed.place import API_PORT, REGISTRY_PORT, Place

#: The taint that AWS's node termination handler puts on a machine with an interruption notice.
INTERRUPTION_TAINT = "aws-node-termination-handler/spot-itn"
INTERRUPTION_ANNOTATION = "testbed.piecework.dev/interrupted-at"
_KUBELET_PORT = 10250


def kill_machine(place: Place, name: str, *, gone_from_cloud: bool = False) -> None:
    """A machine dies at once; its Node object stays, as in life.

    With `gone_from_cloud` its provider notices: the instance is terminated, so that the machine
    and its Node object vanish within a second.
    """
    provider_id = machine.load(place, name).provider_id
    machine.die(place, name)
    if gone_from_cloud:
        _gone_from_cloud(place, name, provider_id)


def _gone_from_cloud(place: Place, name: str, provider_id: str) -> None:
    if provider_id.startswith("aws:///"):
        aws.interrupt(place, name)
        return
    record.write(place, name, "returned")
    machine.stop(place, name, why=machine.DIED)
    with Api(place.admin) as api:
        api.delete("Node", name)
        # In life Karpenter lets go of the Node of an instance that its cloud does not know any
        # more. To the KWOK provider the Node is the instance, so that it would go on draining it.
        with suppress(NotFoundError):
            api.patch("Node", name, {"metadata": {"finalizers": None}})


def interrupt(place: Place, name: str, notice_seconds: float = 120) -> None:
    """A spot interruption: notice, then death. Returns when the machine is dead.

    The notice is a taint, an annotation with the time of death and an event, as the handlers that
    people run put them on a Node.
    """
    give_notice(place, name, notice_seconds)
    time.sleep(notice_seconds)
    kill_machine(place, name, gone_from_cloud=True)


def give_notice(place: Place, name: str, notice_seconds: float) -> None:
    """Only the notice of an interruption."""
    record.write(place, name, "interrupted", why="spot interruption")
    dies_at = to_text(now() + timedelta(seconds=notice_seconds))
    with Api(place.admin) as api:
        node = api.get("Node", name)
        if node is None:
            raise TestbedError(f"there is no node {name!r} to interrupt")
        taints = [
            *node["spec"].get("taints", []),
            {"key": INTERRUPTION_TAINT, "effect": "NoSchedule"},
        ]
        change = {
            "metadata": {"annotations": {INTERRUPTION_ANNOTATION: dies_at}},
            "spec": {"taints": taints},
        }
        api.patch("Node", name, change)
        api.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{name}.interrupted", "namespace": "default"},
                "involvedObject": {"kind": "Node", "name": name, "uid": node["metadata"]["uid"]},
                "type": "Warning",
                "reason": "SpotInterruption",
                "message": f"this machine will be taken away at {dies_at}",
                "source": {"component": "testbed"},
                "firstTimestamp": dies_at[:19] + "Z",
                "lastTimestamp": dies_at[:19] + "Z",
                "count": 1,
            }
        )


def slow_boot(place: Place, pool: str, seconds: float) -> None:
    """From now on the machines of a pool take this long to boot."""
    wishes.write(place, pool, replace(wishes.read(place, pool), boot_seconds=seconds))


def never_join(place: Place, pool: str, count: int = 1) -> None:
    """The next machines of a pool (-1: all) boot, cost, and never join."""
    wishes.write(place, pool, replace(wishes.read(place, pool), never_join=count))


def late_gpus(place: Place, pool: str, seconds: float | None) -> None:
    """From now on the GPUs of a pool's machines appear this late; None: never."""
    changed = replace(
        wishes.read(place, pool), gpus_appear=seconds is not None, gpu_seconds=seconds or 0
    )
    wishes.write(place, pool, changed)


def out_of_stock(place: Place, group: str, *, empty: bool = True) -> None:
    """An Auto Scaling group can't buy any more; with `empty=False` it buys what it lacks."""
    wishes.write(place, group, replace(wishes.read(place, group), out_of_stock=empty))
    if not empty:
        aws.buy_desired(place, group)


def karpenter_out_of_stock(place: Place, types: Collection[str]) -> None:
    """Karpenter finds no offering of these instance types; an empty collection ends that.

    It reads its list when it starts, so it is started anew.
    """
    components.stop(place, karpenter.NAME)
    karpenter.start(place, out_of_stock=types)


def forget_purchase(place: Place, claim: str) -> None:
    """Karpenter dies before it has written down what it bought for a NodeClaim, and comes back.

    It buys again, and the first machine is nobody's. The moment is too short to be met, so what
    was written is taken back.
    """
    components.kill(place, karpenter.NAME)
    nothing: Object = {"providerID": None, "nodeName": None, "imageID": None, "conditions": []}
    with Api(place.admin) as api:
        api.patch_status("NodeClaim", claim, nothing, "karpenter.sh/v1")
    karpenter.start(place)


def cut_network(place: Place, name: str) -> None:
    """Cuts a machine, and its pods, off from the API server, both ways; the rest goes on."""
    for rule in _cut_rules(place, name):
        network.run([*network.in_hub(place), "iptables", "--wait", "-I", *rule])


def mend_network(place: Place, name: str) -> None:
    """Takes back `cut_network`."""
    for rule in _cut_rules(place, name):
        network.run([*network.in_hub(place), "iptables", "--wait", "-D", *rule])


def _cut_rules(place: Place, name: str) -> list[list[str]]:
    index = machine.load(place, name).index
    rules = []
    for address in (place.machine_address(index), place.pod_range(index)):
        rules.append(["INPUT", "-s", address, "-p", "tcp", "--dport", str(API_PORT), "-j", "DROP"])
        rules.append(
            ["OUTPUT", "-d", address, "-p", "tcp", "--dport", str(_KUBELET_PORT), "-j", "DROP"]
        )
    return rules


def slow_pulls(place: Place, name: str, kilobits_per_second: int) -> None:
    """A machine pulls images at this speed only; all its other traffic is as fast as before."""
    port = f"m{machine.load(place, name).index}"
    fast_pulls(place, name)
    from_registry = f"match ip sport {REGISTRY_PORT} 0xffff"
    for command in (
        f"qdisc add dev {port} root handle 1: htb default 10",
        f"class add dev {port} parent 1: classid 1:10 htb rate 10gbit",
        f"class add dev {port} parent 1: classid 1:20 htb rate {kilobits_per_second}kbit",
        f"filter add dev {port} parent 1: protocol ip u32 {from_registry} flowid 1:20",
    ):
        network.run([*network.in_hub(place), "tc", *command.split()])


def fast_pulls(place: Place, name: str) -> None:
    """Takes back `slow_pulls`."""
    port = f"m{machine.load(place, name).index}"
    shown = network.run([*network.in_hub(place), "tc", "qdisc", "show", "dev", port])
    if "htb" in shown:
        network.run([*network.in_hub(place), "tc", "qdisc", "delete", "dev", port, "root"])


def fill_disk(place: Place, data_node: str) -> None:
    """The disk of a DataNode is full: what is there can be read, nothing can be added."""
    _known(place, data_node)
    hdfs.fill(place, data_node)


def kill(place: Place, component: str) -> None:
    """Kills a component: etcd, kube-apiserver, cluster-autoscaler, karpenter, registry, ..."""
    _known(place, component)
    components.kill(place, component)


def freeze(place: Place, component: str) -> None:
    """A component stops answering without closing a connection; `thaw` ends that."""
    _known(place, component)
    components.freeze(place, component)


def thaw(place: Place, component: str) -> None:
    """A frozen component goes on."""
    _known(place, component)
    components.thaw(place, component)


def restart(place: Place, component: str) -> None:
    """Starts a component that was killed or stopped (or runs), and waits until it is ready."""
    components.stop(place, component)
    if component in control_plane.NAMES:
        control_plane.start(place, component)
        control_plane.wait(place, component)
    elif component == registry.NAME:
        registry.start(place)
        registry.wait(place)
    elif component == karpenter.NAME:
        karpenter.start(place)
    elif component == aws.AUTOSCALER:
        aws.start_autoscaler(place)
    elif component == aws.AWS:
        aws.start(place)
    elif component == provider.NAME:
        provider.start(place)
    elif component == kwok.NAME:
        kwok.start(place)
    elif component == postgresql.NAME:
        postgresql.start(place)
    elif component.startswith("hdfs-"):
        hdfs.restart(place, component)
    else:
        _known(place, component)


def _known(place: Place, component: str) -> None:
    there = components.names(place)
    if component not in there:
        raise TestbedError(
            f"testbed {place.name} has no component {component!r}; there are: {', '.join(there)}"
        )
