"""What the system and the daemons of a cluster take of a machine, and what is left for its job.

A pod must ask for less than its machine has, or no machine will ever do; and a pool that is scaled
to zero has no machine to look at. So there are three sources, the best one last:

1. Defaults, by the rules of Amazon's images for Kubernetes (`nodeadm`): CPU by the number of cores,
   memory by the number of pods that the machine may have; the threshold of eviction; the 7.5% of
   memory by which Karpenter takes a machine to be smaller than its nameplate (hypervisor, kernel);
   and what the usual daemons ask for (network, kube-proxy, disks, DNS cache).
2. What the pool's `reserve` says.
3. What the keeper learned from a machine of this type that has been there (`read_learned`).

Karpenter has an opinion of its own, and buys nothing for a pod that asks for more than it believes
a machine to have; so on its pools what was learned counts up to that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from piecework.plan.plan import InstanceType
from piecework.spec.pool import Pool
from piecework.units import MEBI, Memory, parse_cpu

#: The ConfigMap in a pool's namespace in which the keeper keeps what it learned, a key each type.
LEARNED = "piecework-learned"
#: What daemons ask for on each machine. Those of EKS with all usual add-ons ask for a little less.
DAEMON_MILLICPUS = 200
DAEMON_MEBIBYTES = 256
#: Less than this is no machine for a job.
LEAST_MILLICPUS = 100
LEAST_MEBIBYTES = 64

_EVICTION_MEBIBYTES = 100
_SYSTEM_MEBIBYTES = 255
_MEBIBYTES_A_POD = 11
#: vCPUs up to which a machine of AWS has so many pods (by its network interfaces).
_PODS = ((2, 29), (8, 58), (48, 234))
_MOST_PODS = 737


@dataclass(frozen=True, slots=True)
class Usable:
    """What one job can use of a machine."""

    cpus: Decimal
    memory: Memory


def usable(
    instance_type: InstanceType, pool: Pool, learned: Mapping[str, Usable] | None = None
) -> Usable:
    """What is left of the machine; never less than nothing."""
    known = (learned or {}).get(instance_type.name)
    if known is not None:
        return _believed(known, instance_type, pool)
    reserve = pool.reserve
    cpus = _default_cpu(instance_type.vcpus) if reserve.cpu is None else reserve.cpu
    memory = _default_memory(instance_type) if reserve.memory is None else reserve.memory.bytes
    return Usable(
        max(Decimal(0), Decimal(instance_type.vcpus) - cpus),
        Memory(max(0, instance_type.memory.bytes - memory) // MEBI * MEBI),
    )


def _believed(known: Usable, instance_type: InstanceType, pool: Pool) -> Usable:
    """What was learned, less what differs between machines of one type; see above."""
    memory = known.memory.bytes * 99 // 100
    if pool.provider != "karpenter":
        return Usable(known.cpus, Memory(memory // MEBI * MEBI))
    cpus = instance_type.vcpus - Decimal(_system_millicpus(instance_type.vcpus)) / 1000
    assumed = instance_type.memory.bytes - _system_memory(instance_type)
    return Usable(min(known.cpus, cpus), Memory(max(0, min(memory, assumed)) // MEBI * MEBI))


def is_enough(left: Usable) -> bool:
    """Whether a job can do anything with what is left."""
    least = Decimal(LEAST_MILLICPUS) / 1000
    return left.cpus >= least and left.memory.bytes >= LEAST_MEBIBYTES * MEBI


def read_learned(data: Mapping[str, str]) -> dict[str, Usable]:
    """What the ConfigMap `piecework-learned` says, by instance type.

    A value is JSON {"cpu": "1930m", "memory_bytes": n}: what a machine had to give, less what its
    daemons asked for. What cannot be read is left out: the defaults hold then.
    """
    learned = {}
    for name, text in data.items():
        try:
            value = json.loads(text)
            found = Usable(parse_cpu(value["cpu"]), Memory(int(value["memory_bytes"])))
        except (ValueError, TypeError, KeyError, OverflowError):
            continue
        if is_enough(found):
            learned[name] = found
    return learned


def max_pods(vcpus: int) -> int:
    """How many pods a machine of AWS of this size has room for, where nobody set another number."""
    return next((pods for most, pods in _PODS if vcpus <= most), _MOST_PODS)


def _default_cpu(vcpus: int) -> Decimal:
    return Decimal(_system_millicpus(vcpus) + DAEMON_MILLICPUS) / 1000


def _system_millicpus(vcpus: int) -> int:
    """Of the first core 6%, of the second 1%, of the next two 0.5%, of all others 0.25%."""
    quarters = 240 + 40 * (vcpus > 1) + 20 * max(0, min(vcpus, 4) - 2) + 10 * max(0, vcpus - 4)
    return -(-quarters // 4)


def _default_memory(instance_type: InstanceType) -> int:
    return _system_memory(instance_type) + DAEMON_MEBIBYTES * MEBI


def _system_memory(instance_type: InstanceType) -> int:
    """Bytes that hypervisor, kernel, kubelet and the threshold of eviction take."""
    hidden = -(-instance_type.memory.bytes * 75 // 1000)
    of_pods = _MEBIBYTES_A_POD * max_pods(instance_type.vcpus)
    return hidden + (_SYSTEM_MEBIBYTES + of_pods + _EVICTION_MEBIBYTES) * MEBI
