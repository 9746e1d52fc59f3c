"""How the machines of a run are divided between Spark's driver and the executors that it makes.

Enters: the plan of a job whose executors are pods. Leaves: what the driver's pod and each executor
may have, and how many executors there are. Pure.

All executors are of one size, as Spark wants them, and so many on each machine that they fill it
beside a driver. The driver's share is small, and on the other machines it stays free: so each of
them, the driver's too, has executors for all of its cores.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from piecework.entrypoint.spark_sizes import LEAST_HEAP, executor_cores, memory_for, parse_size
from piecework.entrypoint.start import CannotStart
from piecework.errors import InputError, show
from piecework.plan.plan import Plan
from piecework.spec.job import H2oProgram, SparkProgram
from piecework.spec.templates import holds_template
from piecework.units import MEBI, Memory

#: Modes of Spark in which executors are pods.
MODES = ("kubernetes", "operator")
#: The driver asks for an eighth of its machine, of CPU and memory, within these limits.
_SHARE = 8
_MOST_DRIVER_CPUS = Decimal(1)
_LEAST_DRIVER_MIB, _MOST_DRIVER_MIB = 1024, 8192
#: What an executor, and a driver, cannot do with less of.
_LEAST_MIB = memory_for(LEAST_HEAP)


@dataclass(frozen=True, slots=True)
class Division:
    """Who gets what. CPU is what pods ask for: the tasks of a machine are as many as its cores."""

    driver_cpus: Decimal
    driver_memory: Memory
    executor_cpus: Decimal
    executor_memory: Memory
    executor_cores: int
    executor_gpus: int
    per_machine: int
    machines: int

    @property
    def executors(self) -> int:
        """How many there are on all machines together."""
        return self.per_machine * self.machines


def has_executors(plan: Plan) -> bool:
    """Whether the job's executors are pods, which its driver, a pod alone, makes."""
    program = program_of(plan)
    return plan.provider != "local" and program is not None and program.mode in MODES


def program_of(plan: Plan) -> SparkProgram | H2oProgram | None:
    """The job's program, where it is one of Spark's; H2O lives in Spark's executors."""
    return plan.job.spark or plan.job.h2o


def own_pods(plan: Plan) -> int:
    """How many pods whoever submits the attempt makes: those that decide how it ends."""
    return 1 if has_executors(plan) else plan.count


def divide(plan: Plan) -> Division:
    """Divides the plan's machines.

    Raises InputError where one is too small for a driver and an executor, or the job's conf asks
    for what does not fit.
    """
    cores = max(1, round(plan.cpus))
    each, per_machine = _executors_of(plan, cores)
    driver = _driver_mib(plan)
    rest = (plan.memory.bytes // MEBI - driver) // per_machine
    if rest < _LEAST_MIB:
        needed = driver + per_machine * _LEAST_MIB
        raise InputError(
            f"job {plan.job_name}: its machines have {plan.memory.bytes // MEBI} MiB for it, and a "
            f"driver with {per_machine} executor{'s' * (per_machine > 1)} beside it needs {needed} "
            "MiB; ask for more (machine: memory), or write mode: local, which needs less"
        )
    cpus = min(_MOST_DRIVER_CPUS, plan.cpus / _SHARE)
    return Division(
        driver_cpus=_millis(cpus),
        driver_memory=Memory(driver * MEBI),
        executor_cpus=_millis((plan.cpus - cpus) / per_machine),
        executor_memory=Memory(rest * MEBI),
        executor_cores=each,
        executor_gpus=plan.gpus // per_machine,
        per_machine=per_machine,
        machines=plan.count,
    )


def _executors_of(plan: Plan, cores: int) -> tuple[int, int]:
    """Cores of an executor, and how many a machine has; where there are GPUs, each has one."""
    wanted = _wanted(plan, "spark.executor.cores")
    if wanted is None:
        each, count = executor_cores(cores)
        if plan.gpus and count > plan.gpus:
            count = plan.gpus
            each = cores // count
        return each, count
    if not wanted.strip().isdecimal() or not 1 <= int(wanted) <= cores:
        raise InputError(
            f"job {plan.job_name}: spark.conf sets spark.executor.cores to {show(wanted)}; its "
            f"machines have {cores} cores, so a number from 1 to {cores} is right here"
        )
    return int(wanted), cores // int(wanted)


def _driver_mib(plan: Plan) -> int:
    """MiB of the driver's pod: what the job's conf says of its heap, or the driver's share."""
    wanted = _wanted(plan, "spark.driver.memory")
    memory = plan.memory.bytes // MEBI
    if wanted is None:
        return max(_LEAST_DRIVER_MIB, min(memory // _SHARE, _MOST_DRIVER_MIB))
    try:
        heap = parse_size(wanted, "spark.driver.memory") / MEBI
    except CannotStart as error:
        raise InputError(f"job {plan.job_name}: {error}") from error
    return max(_LEAST_MIB, memory_for(heap))


def _wanted(plan: Plan, key: str) -> str | None:
    """What the job's conf says; nothing yet where that is a template, before it is rendered."""
    program = program_of(plan)
    said = None if program is None else program.conf.get(key)
    return None if said is None or holds_template(said) else said


def _millis(cpus: Decimal) -> Decimal:
    """Whole thousandths, as Kubernetes counts CPU; never more than there is."""
    return Decimal(int(cpus * 1000)) / 1000
