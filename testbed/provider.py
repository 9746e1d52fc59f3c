"""Turns what was bought into machines: instances of Auto Scaling groups, and Karpenter's nodes.

What enters is what AWS lists, and the Node objects that Karpenter's KWOK provider makes; what
leaves are machines: one for each, started when it appears and removed when it is gone. It keeps
nothing in memory that it could not find again, so it can be killed and started at any time.
"""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from piecework.clock import from_text, now
from testbed import components, machine, record, wishes
from testbed.api import Api, Object, is_ready
from testbed.errors import TestbedError
from testbed.place import Place
from testbed.size import Size, size_of

NAME = "provider"
#: What is bought with this label gets no machine: KWOK plays its node.
NO_KUBELET = "testbed.piecework.dev/no-kubelet"
_AWS_PREFIX = "aws:///"
_KARPENTER_PREFIX = "kwok://"
_POLL_SECONDS = 0.25
_ABANDONED_SECONDS = 5
#: As old as a machine has to be before Karpenter's provider for AWS collects it.
_COLLECTED_SECONDS = 30
_REGISTERED = "karpenter.sh/registered"
_SEEN_AT_ONCE = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Bought:
    """What was bought, and shall be a machine."""

    name: str
    type: str
    pool: str
    provider_id: str
    labels: dict[str, str]
    taints: tuple[str, ...] = ()
    #: In whole seconds, cut off; None where its seller writes the record itself.
    at: datetime | None = None


def start(place: Place) -> None:
    """Starts the provider; does nothing where it runs."""
    components.start(
        place,
        NAME,
        [sys.executable, "-m", "testbed.provider", str(place.folder), str(place.number)],
        {
            "PYTHONPATH": str(Path(__file__).parents[1]),
            # A clean environment would otherwise move the cache.
            "PIECEWORK_TESTBED_CACHE": str(place.folder.parents[1]),
        },
        in_hub=False,
    )


class Provider:
    """Brings the machines of one testbed into line with what was bought."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._workers = ThreadPoolExecutor(max_workers=4)
        self._busy: set[str] = set()
        self._guard = threading.Lock()
        #: What was bought, by the beginning of its provider's ids, as it was last seen.
        self._bought: dict[str, dict[str, Bought]] = {}
        self._changed = threading.Event()
        #: All Node objects, by name, as they were last seen; None until they were.
        self.nodes: dict[str, Object] | None = None

    def see(self, prefix: str, bought: list[Bought]) -> None:
        """Takes note of all that a provider has."""
        self._bought[prefix] = {item.name: item for item in bought}
        self._changed.set()

    def run(self) -> None:
        """Starts what is missing and removes what is gone, for ever.

        A machine that changes while it is being started or removed is seen at the next look.
        """
        while True:
            self._changed.wait(_POLL_SECONDS)
            self._changed.clear()
            for prefix, wanted in list(self._bought.items()):
                played = {name for name, item in wanted.items() if NO_KUBELET in item.labels}
                if prefix == _AWS_PREFIX:
                    self._play({name: wanted[name] for name in played})
                real = {name: item for name, item in wanted.items() if name not in played}
                self._reconcile(prefix, real)

    def _play(self, wanted: dict[str, Bought]) -> None:
        """Makes the Node objects of instances that get no machine, and removes them."""
        if self.nodes is None:
            return
        there = {
            name
            for name, node in list(self.nodes.items())
            if NO_KUBELET in node["metadata"].get("labels", {})
            and node["spec"].get("providerID", "").startswith(_AWS_PREFIX)
        }
        for name in wanted.keys() - there:
            self._once(name, partial(self._make_node, wanted[name]))
        for name in there - wanted.keys():
            self._once(name, partial(self._delete_node, name))

    def _make_node(self, item: Bought) -> None:
        node = make_node(item.name, size_of(item.type), item.labels)
        node["spec"] = {
            "providerID": item.provider_id,
            "taints": [machine.parse_taint(taint) for taint in item.taints],
        }
        with Api(self._place.admin) as api:
            api.apply(node)

    def _delete_node(self, name: str) -> None:
        with Api(self._place.admin) as api:
            api.delete("Node", name)

    def _reconcile(self, prefix: str, wanted: dict[str, Bought]) -> None:
        there = set()
        for name in machine.names(self._place):
            try:
                if machine.load(self._place, name).provider_id.startswith(prefix):
                    there.add(name)
            except TestbedError:
                continue
        # AWS writes itself into the record when it sells a machine and takes it back; for Karpenter
        # that is when its Node comes and goes, which is told here as it happens.
        missing = wanted.keys() - there
        lives = record.read(self._place) if missing else {}
        for name in missing:
            if name in lives and lives[name].why == machine.DIED:
                continue  # it has died, and its Node is still there: nobody starts it again
            item = wanted[name]
            if item.at is not None and name not in lives:
                # While the API server was away nobody saw it: then its own time is better.
                at = item.at if now() - item.at > _SEEN_AT_ONCE else None
                told = {"type": item.type, "provider_id": item.provider_id}
                record.write(self._place, name, "bought", at=at, **told)
            self._once(name, partial(self._start, item))
        for name in there - wanted.keys():
            if self._once(name, partial(self._stop, name)) and prefix == _KARPENTER_PREFIX:
                record.write(self._place, name, "returned")

    def _once(self, name: str, action: Callable[[], None]) -> bool:
        """Runs an action in the background, unless one for the same machine is under way.

        Returns whether it does.
        """
        with self._guard:
            if name in self._busy:
                return False
            self._busy.add(name)

        def run() -> None:
            try:
                action()
            except Exception:
                traceback.print_exc()
            finally:
                with self._guard:
                    self._busy.discard(name)

        self._workers.submit(run)
        return True

    def _start(self, item: Bought) -> None:
        wished = wishes.read(self._place, item.pool)
        joins = not wishes.take_never_join(self._place, item.pool)
        print(f"{item.name}: bought, a {item.type} of {item.pool}", flush=True)  # noqa: T201
        size = size_of(item.type)
        if size.gpus and item.provider_id.startswith(_KARPENTER_PREFIX):
            self._hide_gpus(item.name)
        machine.start(
            self._place,
            item.name,
            size,
            labels=item.labels,
            taints=item.taints,
            provider_id=item.provider_id,
            with_kubelet=joins,
            boot_seconds=wished.boot_seconds,
            gpus_advertised=wished.gpus_appear,
            gpu_delay_seconds=wished.gpu_seconds,
        )

    def _hide_gpus(self, name: str) -> None:
        """Takes the GPUs out of a Node that Karpenter made: only a device plug-in tells of them.

        The Node is not ready before its kubelet is, so no pod comes in between.
        """
        hidden = {"nvidia.com/gpu": None}
        with Api(self._place.admin) as api:
            api.patch_status("Node", name, {"capacity": hidden, "allocatable": hidden})

    def _stop(self, name: str) -> None:
        machine.stop(self._place, name, why="given back")
        print(f"{name}: given back", flush=True)  # noqa: T201
        # A cloud's controller manager would do this.
        self._delete_node(name)


def follow_aws(place: Place, provider: Provider) -> None:
    """Follows the Auto Scaling groups, for ever."""
    from testbed import aws

    autoscaling = None
    user_data: dict[str, str] = {}
    while True:
        time.sleep(_POLL_SECONDS)
        if not components.running(place, aws.AWS):
            autoscaling, user_data = None, {}
            continue
        autoscaling = autoscaling or aws.client(place, "autoscaling")
        try:
            groups = autoscaling.describe_auto_scaling_groups()["AutoScalingGroups"]
            for group in groups:
                name = group["AutoScalingGroupName"]
                if name not in user_data:
                    user_data[name] = aws.user_data(place, name)
        except Exception as error:
            print(f"AWS did not answer: {error}", flush=True)  # noqa: T201
            continue
        bought = [
            from_instance(group, item, user_data[group["AutoScalingGroupName"]])
            for group in groups
            for item in group["Instances"]
        ]
        provider.see(_AWS_PREFIX, bought)


def make_node(name: str, size: Size, labels: dict[str, str] | None = None) -> Object:
    """A Node object without a machine, for KWOK to keep alive."""
    resources = {
        "cpu": str(size.cpus), "memory": f"{size.memory.bytes // 1024}Ki", "pods": "110",
        "ephemeral-storage": "100Gi",
    }  # fmt: skip
    if size.gpus:
        resources["nvidia.com/gpu"] = str(size.gpus)
    standard = {
        NO_KUBELET: "true", "kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": size.type,
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {**standard, **(labels or {})}},
        "status": {"capacity": resources, "allocatable": resources},
    }


def from_instance(group: dict[str, Any], instance: dict[str, Any], user_data: str = "") -> Bought:
    """An instance as the Auto Scaling API lists it, as its kubelet was told to be.

    `user_data` is its launch template's. Where there is none, its kubelet does what the group's
    tags promise; where there is some, tags only tell the autoscaler, as on AWS.
    """
    labels, taints = _told_kubelet(user_data) if user_data else _promised(group)
    zone = instance["AvailabilityZone"]
    labels |= {
        "node.kubernetes.io/instance-type": instance["InstanceType"],
        "topology.kubernetes.io/zone": zone,
        "topology.kubernetes.io/region": zone[:-1],
    }
    name = instance["InstanceId"]
    return Bought(
        name, instance["InstanceType"], group["AutoScalingGroupName"],
        f"{_AWS_PREFIX}{zone}/{name}", labels, taints,
    )  # fmt: skip


def _told_kubelet(user_data: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Labels and taints of the kubelet's flags in a machine's user data."""
    flags = dict(re.findall(r"--(node-labels|register-with-taints)=([^\s'\"]+)", user_data))
    labels = [pair for pair in flags.get("node-labels", "").split(",") if pair]
    taints = [taint for taint in flags.get("register-with-taints", "").split(",") if taint]
    return dict(pair.split("=", 1) for pair in labels), tuple(taints)


def _promised(group: dict[str, Any]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Labels and taints of which a group's tags tell the autoscaler."""
    template = "k8s.io/cluster-autoscaler/node-template/"
    tags = {tag["Key"]: tag["Value"] for tag in group["Tags"]}
    taints = tuple(f"{key}={value}" for key, value in _below(f"{template}taint/", tags).items())
    return _below(f"{template}label/", tags), taints


def _below(prefix: str, tags: dict[str, str]) -> dict[str, str]:
    return {
        key.removeprefix(prefix): value for key, value in tags.items() if key.startswith(prefix)
    }


def follow_nodes(place: Place, provider: Provider) -> None:
    """Follows the Node objects, for ever: Karpenter's are to become machines, all are recorded."""
    joined: set[str] = set()
    while True:
        try:
            with Api(place.admin) as api:
                nodes: dict[str, Object] = {n["metadata"]["name"]: n for n in api.list("Node")}
                provider.nodes = nodes
                provider.see(_KARPENTER_PREFIX, from_nodes(nodes))
                for kind, node in api.watch("Node"):
                    name = node["metadata"]["name"]
                    if kind == "DELETED":
                        nodes.pop(name, None)
                    else:
                        nodes[name] = node
                    if is_ready(node) and name not in joined:
                        joined.add(name)
                        if name in machine.names(place):
                            record.write(place, name, "joined")
                    if node["spec"].get("providerID", "").startswith(_KARPENTER_PREFIX):
                        provider.see(_KARPENTER_PREFIX, from_nodes(nodes))
        except Exception as error:
            print(f"the API server did not answer: {error}", flush=True)  # noqa: T201
            time.sleep(0.5)


def end_abandoned(place: Place, provider: Provider) -> None:
    """Ends machines of Karpenter that no claim knows, for ever.

    A cloud's provider would terminate the instance with its claim. The KWOK provider leaves that
    to the Node's finalizer, which a Node gets only when it has joined. And a cloud's collects, once
    they are old enough, machines for which another was bought, because Karpenter died before it
    had written them down.
    """
    while True:
        time.sleep(_ABANDONED_SECONDS)
        waiting = {
            name: node
            for name, node in list((provider.nodes or {}).items())
            if node["spec"].get("providerID", "").startswith(_KARPENTER_PREFIX)
            and _REGISTERED not in node["metadata"].get("labels", {})
            and _age_seconds(node) > _ABANDONED_SECONDS
        }
        if not waiting:
            continue
        try:
            with Api(place.admin) as api:
                # By name: a claim learns its provider's id some time after its Node is there.
                claims = api.list("NodeClaim", api_version="karpenter.sh/v1")
                known = {f"kwok-{c['metadata']['name']}-": c.get("status", {}) for c in claims}
                for name, node in waiting.items():
                    told = [
                        s.get("providerID") for start, s in known.items() if name.startswith(start)
                    ]
                    strange = all(told) and node["spec"]["providerID"] not in told
                    if not told or (strange and _age_seconds(node) > _COLLECTED_SECONDS):
                        api.delete("Node", name)
        except Exception as error:
            print(f"the API server did not answer: {error}", flush=True)  # noqa: T201


def _age_seconds(node: Object) -> float:
    return (now() - from_text(node["metadata"]["creationTimestamp"])).total_seconds()


def from_nodes(nodes: dict[str, Object]) -> list[Bought]:
    """Those of these Node objects, by name, that Karpenter made for machines with kubelets."""
    found = []
    for name, node in nodes.items():
        labels = node["metadata"].get("labels", {})
        provider_id = node["spec"].get("providerID", "")
        if provider_id.startswith(_KARPENTER_PREFIX) and NO_KUBELET not in labels:
            found.append(
                Bought(
                    name,
                    labels["node.kubernetes.io/instance-type"],
                    labels.get("karpenter.sh/nodepool", ""),
                    provider_id,
                    {},
                    at=from_text(node["metadata"]["creationTimestamp"]),
                )
            )
    return found


def main() -> None:
    """Runs until it is killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("number", type=int)
    options = parser.parse_args()
    place = Place(options.folder.name, options.folder, options.number)
    provider = Provider(place)
    threading.Thread(target=follow_aws, args=(place, provider), daemon=True).start()
    threading.Thread(target=follow_nodes, args=(place, provider), daemon=True).start()
    threading.Thread(target=end_abandoned, args=(place, provider), daemon=True).start()
    provider.run()


if __name__ == "__main__":
    main()
