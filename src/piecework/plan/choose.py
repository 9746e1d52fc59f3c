"""The choice of a machine: the cheapest one of the pool that fits, and why no other.

What enters is a job, its pool, the price book, and what the caller knows of this host and of the
job's past; what leaves is a Plan. Pure: the same input gives the same plan.

The rule. A machine fits if it has the job's architecture, at least the vCPUs, memory and GPUs that
were asked for, and is one that the pool may buy. Machines with GPUs are only for jobs that ask for
one, burstable ones only for jobs that allow them. Of those that fit the cheapest is taken, the
first by name among equals; one without a price only where no priced one fits. `type:` pins one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from piecework.config import Settings
from piecework.errors import NoMachineError
from piecework.plan.estimate import MINIMUM, estimate_cost
from piecework.plan.plan import History, Host, InstanceType, Plan
from piecework.plan.price import PriceBook
from piecework.plan.rejection import explain_rejections
from piecework.plan.request import (
    Request,
    describe_shortfall,
    find_exclusions,
    is_large_enough,
    read_request,
)
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from piecework.units import Memory, Money, format_cpu


def plan_job(
    job_name: str,
    job: Job,
    *,
    pool: Pool,
    prices: PriceBook,
    settings: Settings,
    host: Host | None = None,
    history: History | None = None,
    memory_at_least: Memory | None = None,
) -> Plan:
    """Plans one run: the machine, its price, the estimate, and why no other machine.

    `host` caps what the pool `local` can give; without it the nameplate is what the job gets.
    `memory_at_least` is what a retry after out-of-memory asks for.
    Raises NoMachineError, which names the largest machine there is.
    """
    prices = prices.for_pool(pool)
    request = read_request(job.machine, pool, memory_at_least)
    chosen = _choose(job_name, request, pool, prices)
    usable, warnings = _fit_to_host(chosen, job.machine.count, pool, host)
    warnings += _warn_of_prices(chosen, request, job, pool)
    hourly = None if chosen.usd_per_hour is None else Money(chosen.usd_per_hour)
    return Plan(
        job_name=job_name,
        job=job,
        pool=pool.name,
        provider=pool.provider,
        instance_type=chosen,
        count=usable.count,
        cpus=usable.cpus,
        memory=usable.memory,
        gpus=usable.gpus,
        price_per_hour=hourly,
        minimum=MINIMUM,
        timeout=job.timeout or settings.timeout,
        deadline=job.deadline or settings.deadline,
        estimate=estimate_cost(hourly, usable.count, job.timeout, history),
        rejected=explain_rejections(request, chosen, prices.cheapest_first),
        warnings=tuple(warnings),
        as_if=pool.provider == "local",
        reason=_say_reason(chosen, request, job, memory_at_least),
    )


def _choose(job_name: str, request: Request, pool: Pool, prices: PriceBook) -> InstanceType:
    if request.type is not None:
        return _find_pinned(job_name, request, request.type, pool, prices)
    for machine in prices.cheapest_first:
        if is_large_enough(request, machine) and not find_exclusions(request, machine):
            return machine
    allowed = [m for m in prices.cheapest_first if not find_exclusions(request, m)]
    where = f"no {request.architecture} machine of pool {pool.name!r} has that"
    asked = f"job {job_name!r} asks for {request}"
    raise NoMachineError(
        f"{asked}; {where}{_name_largest(allowed)}; ask for less, or for more machines (count)"
    )


def _say_reason(
    chosen: InstanceType, request: Request, job: Job, memory_at_least: Memory | None
) -> str:
    if request.type is not None:
        return "which the job pins"
    rank = "smallest" if chosen.usd_per_hour is None else "cheapest"
    asked = job.machine.memory
    if memory_at_least is not None and (asked is None or asked < memory_at_least):
        return f"the {rank} with {request}, after more memory was needed"
    default = asked is None and job.machine.cpu is None and not request.gpus
    return f"the {rank} with {request}{', the default' if default else ''}"


def _find_pinned(
    job_name: str, request: Request, name: str, pool: Pool, prices: PriceBook
) -> InstanceType:
    machine = prices.find(name)
    pins = f"job {job_name!r} pins machine type {name!r}"
    if machine is None:
        raise NoMachineError(f"{pins}, which is not in the price list; {prices.suggest(name)}")
    exclusions = find_exclusions(request, machine)
    if exclusions:
        other = machine.architecture != request.architecture
        hint = f"; set arch: {machine.architecture}" if other else "; pin one of them, or none"
        raise NoMachineError(f"{pins}, which {' and '.join(exclusions)} (pool {pool.name!r}){hint}")
    if not is_large_enough(request, machine):
        shortfall = describe_shortfall(request, machine)
        raise NoMachineError(
            f"{pins}, which has {shortfall}, and needs {request}; pin a larger type, or none"
        )
    return machine


def _name_largest(machines: Sequence[InstanceType]) -> str:
    """The largest there is: by GPUs, then vCPUs, and by memory where that is another one."""
    if not machines:
        return ", nor any of that kind"
    by_cpu = max(machines, key=lambda machine: (machine.gpus, machine.vcpus, machine.memory))
    by_memory = max(machines, key=lambda machine: (machine.memory, machine.vcpus, machine.gpus))
    named = [_describe(by_cpu)]
    if by_memory.memory > by_cpu.memory:
        named.append(_describe(by_memory))
    return ", the largest " + ("is " if len(named) == 1 else "are ") + " and ".join(named)


def _describe(machine: InstanceType) -> str:
    gpus = f", {machine.gpus} GPU{'' if machine.gpus == 1 else 's'}" if machine.gpus else ""
    return f"{machine.name} ({machine.vcpus} vCPUs, {machine.memory.rounded()}{gpus})"


@dataclass(frozen=True, slots=True)
class _Usable:
    """What the job can use of each machine, and how many there are."""

    count: int
    cpus: Decimal
    memory: Memory
    gpus: int


def _fit_to_host(
    machine: InstanceType, count: int, pool: Pool, host: Host | None
) -> tuple[_Usable, list[str]]:
    """The nameplate, or, on the pool `local`, as much of it as this host has for each machine."""
    usable = _Usable(count, Decimal(machine.vcpus), machine.memory, machine.gpus)
    if pool.provider != "local" or host is None:
        return usable, []
    cores = max(1, min(host.cpus, int(pool.cpus) if pool.cpus is not None else host.cpus))
    memory = min(host.memory, pool.memory or host.memory)
    # Every machine has whole cores of its own, so a gang has as many machines as cores at most.
    machines = min(count, cores)
    usable = _Usable(
        machines,
        Decimal(min(machine.vcpus, cores // machines)),
        min(machine.memory, Memory(memory.bytes // machines)),
        min(machine.gpus, host.gpus // machines),
    )
    return usable, _warn_of_caps(machine, count, usable)


def _warn_of_caps(machine: InstanceType, count: int, usable: _Usable) -> list[str]:
    caps = []
    if usable.cpus < machine.vcpus:
        caps.append(f"{format_cpu(usable.cpus)} of {machine.vcpus} vCPUs")
    if usable.memory < machine.memory:
        caps.append(f"{usable.memory.rounded()} of {machine.memory.rounded()}")
    if usable.gpus < machine.gpus:
        caps.append(f"{usable.gpus} of {machine.gpus} GPUs")
    warnings = []
    if usable.count < count:
        warnings.append(
            f"this host has cores for {usable.count} of the {count} machines; only these are billed"
        )
    if caps:
        each = "each machine" if usable.count > 1 else "the job"
        warnings.append(
            f"this host is smaller than {machine.name}: {each} gets {', '.join(caps)}, "
            "and is priced as the whole"
        )
    return warnings


def _warn_of_prices(chosen: InstanceType, request: Request, job: Job, pool: Pool) -> list[str]:
    warnings = []
    if chosen.usd_per_hour is None:
        why = "it is pinned" if request.type else "no machine that fits has a price"
        warnings.append(
            f"{chosen.name} is unpriced in pool {pool.name!r} and taken because {why}; "
            "its cost will be unknown, not zero"
        )
    if job.machine.spot != "never":
        warnings.append(
            f"spot: {job.machine.spot}: there are no spot prices; it is priced on demand"
        )
    return warnings
