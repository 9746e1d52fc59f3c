"""How much of its machines an attempt used, in words; enters an attempt as JSON, as `show` has it.

Each answer is one line, or None where nobody measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from piecework.cli import bill
from piecework.units import Memory

#: From this share on a number is shown as a whole percentage.
_SMALL = 0.1


def cpu(attempt: Mapping[str, Any]) -> str | None:
    """The CPU time, and its share of what was paid for: cores times seconds."""
    use = attempt["use"]
    if use["cpu_seconds"] is None:
        return None
    spent = bill.span_text(use["cpu_seconds"])
    if (use["spark"] or {}).get("elsewhere"):
        spent = f"at least {spent}"  # of the Python workers of such executors nobody knows
    if use["counted_seconds"] is not None:
        spent = f"at least {spent} (its kubelet's count)"
    if use["cpu_share"] is None:
        return spent
    count, cores = max(1, len(attempt["machines"])), use["cores"]
    have = f"{cores} core{'' if cores == 1 else 's'}"
    machines = have if count == 1 else f"{count} machines of {have}"
    paid = bill.span_text(attempt["machine_seconds"] / count)
    share = f"{spent}: {percent(use['cpu_share'])} of what was paid for ({machines} for {paid})"
    if use["running_share"] is None:
        return share
    return f"{share}, {percent(use['running_share'])} while it ran"


def memory(attempt: Mapping[str, Any]) -> str | None:
    """The peak, and its share of what the job could use of one machine."""
    peak, use = attempt["peak_memory_bytes"], attempt["use"]
    if peak is not None and (use["spark"] or {}).get("elsewhere"):
        return f"{Memory(peak).rounded()} in its own pod, beside Spark's executors"
    if peak is None:
        return None
    if use["memory_share"] is None:
        return Memory(peak).rounded()
    usable = Memory(use["memory_bytes"]).rounded()
    return f"{Memory(peak).rounded()}: {percent(use['memory_share'])} of the {usable} for the job"


def spark(told: Mapping[str, float] | None) -> str | None:
    """How the time of Spark's slots was spent, and what is worth knowing besides."""
    if not told or "busy_share" not in told:
        return None
    slots, tasks = int(told.get("slots", 0)), int(told.get("tasks", 0))
    failed, spilled = int(told.get("failed_tasks", 0)), int(told.get("spilled_bytes", 0))
    text = (
        f"{slots} slot{'' if slots == 1 else 's'}: {percent(told['busy_share'])} of their time "
        f"busy with {tasks:,} task{'' if tasks == 1 else 's'}, "
        f"{percent(told['driver_share'])} with only the driver at work, "
        f"{percent(told['idle_share'])} idle beside tasks in other slots"
    )
    more = [f"{failed:,} failed"] if failed else []
    if spilled:
        more.append(f"{Memory(spilled).rounded()} spilled to disk")
    if told.get("jvm_bytes"):
        memory = Memory(int(told["jvm_bytes"])).rounded()
        python = Memory(int(told.get("python_bytes", 0))).rounded()
        more.append(f"an executor had {memory} in its JVM and {python} in Python at most")
    if told.get("gc_seconds"):
        more.append(f"{bill.span_text(told['gc_seconds'])} of garbage collection")
    return f"{text} ({', '.join(more)})" if more else text


def dask(told: Mapping[str, float] | None) -> str | None:
    """How many of Dask's threads were busy."""
    if not told or "busy_threads" not in told:
        return None
    threads = int(told["threads"])
    of = f"{threads} thread{'' if threads == 1 else 's'}"
    return f"{told['busy_threads']:.1f} of {of} busy on average ({percent(told['busy_share'])})"


def percent(share: float) -> str:
    """A share as a percentage of two digits or more."""
    return f"{share:.1%}" if 0 < share < _SMALL else f"{share:.0%}"
