"""What is asked of a machine, with the defaults filled in, and whether a machine meets it."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from piecework.plan.plan import InstanceType
from piecework.spec.machine import Machine
from piecework.spec.pool import Pool
from piecework.units import GIBI, Memory, format_cpu

#: What a job that does not say gets at least: enough for Python with a table in memory.
DEFAULT_CPUS = Decimal(1)
DEFAULT_MEMORY = Memory(2 * GIBI)


@dataclass(frozen=True, slots=True)
class Request:
    """The least that the machine must have.

    `types` are those that may be bought; None: any. `filled` are those that the system fills: of
    which nothing is left for a job.
    """

    cpus: Decimal
    memory: Memory
    gpus: int
    architecture: str
    burstable: bool
    type: str | None
    types: frozenset[str] | None
    filled: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """For people: 2 vCPUs, 4 GiB and 1 GPU."""
        size = f"{format_cpu(self.cpus)} vCPU{'' if self.cpus == 1 else 's'}"
        if not self.gpus:
            return f"{size} and {self.memory.rounded()}"
        return f"{size}, {self.memory.rounded()} and {self.gpus} GPU{'' if self.gpus == 1 else 's'}"


def read_request(
    machine: Machine,
    pool: Pool,
    memory_at_least: Memory | None = None,
    filled: frozenset[str] = frozenset(),
) -> Request:
    """The request of a job. A pinned type needs no size, so it gets no default."""
    none = Memory(0)
    pinned = machine.type is not None
    memory = machine.memory or (none if pinned else DEFAULT_MEMORY)
    return Request(
        cpus=machine.cpu or (Decimal(0) if pinned else DEFAULT_CPUS),
        memory=max(memory, memory_at_least or none),
        gpus=machine.gpu,
        architecture=machine.arch,
        burstable=machine.burstable,
        type=machine.type,
        types=pool.allowed_types(machine.spot),
        filled=filled,
    )


def is_large_enough(request: Request, machine: InstanceType) -> bool:
    """Whether the machine has the size; a plan asks this of a thousand machines."""
    return (
        machine.vcpus >= request.cpus
        and machine.memory.bytes >= request.memory.bytes
        and machine.gpus >= request.gpus
    )


def describe_shortfall(request: Request, machine: InstanceType) -> str:
    """What the machine lacks in size, in words; empty where it is large enough."""
    lacks = []
    if machine.gpus < request.gpus:
        lacks.append(f"{machine.gpus or 'no'} GPU{'' if machine.gpus == 1 else 's'}")
    if machine.vcpus < request.cpus:
        lacks.append(f"only {machine.vcpus} vCPU{'' if machine.vcpus == 1 else 's'}")
    if machine.memory < request.memory:
        lacks.append(f"only {machine.memory.rounded()}")
    return " and ".join(lacks)


def find_exclusions(request: Request, machine: InstanceType) -> list[str]:
    """Why a machine may not be taken whatever its size, in words; empty where it may.

    A pinned type may be of any kind, but must be of the job's architecture and of the pool.
    """
    why = []
    if machine.architecture != request.architecture:
        why.append(f"is {machine.architecture}, and the job is for {request.architecture}")
    if request.types is not None and machine.name not in request.types:
        why.append("is not among the pool's types")
    if machine.name in request.filled:
        why.append("is too small for the system of a cluster and a job")
    if request.type is not None:
        if machine.name != request.type:
            why.append(f"the job pins {request.type}")
        return why
    if machine.burstable and not request.burstable:
        why.append("is burstable, which the job does not allow")
    if machine.gpus and not request.gpus:
        why.append("has a GPU, which the job does not ask for")
    if request.gpus and not machine.gpus:
        why.append("has no GPU")
    return why
