"""How large a machine is, and how it is made to look so.

What enters is an instance type's name (from piecework's own price list) or a size; what leaves is
a Size, and files that stand in for what a kubelet reads of its computer: /proc/meminfo,
/proc/cpuinfo and two folders of /sys. They are mounted in the machine's own mount namespace, so
that a machine may report more than this host has.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from piecework.plan.price import load_price_book
from piecework.units import MEBI, Memory
from testbed.errors import TestbedError


@dataclass(frozen=True, slots=True)
class Size:
    """What a machine reports, and is held to as far as this host allows."""

    type: str
    cpus: int
    memory: Memory
    gpus: int = 0


def size_of(instance_type: str) -> Size:
    """The size of an instance type of the price list; raises TestbedError with a suggestion."""
    book = load_price_book()
    found = book.find(instance_type)
    if found is None:
        raise TestbedError(
            f"no instance type is called {instance_type!r}; {book.suggest(instance_type)}"
        )
    return Size(found.name, found.vcpus, found.memory, found.gpus)


def write_views(size: Size, folder: Path) -> None:
    """Writes meminfo, cpuinfo, cpu/ and node/ into `folder`, to be mounted over the real ones."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kibibytes = size.memory.bytes // 1024
    meminfo = []
    for line in Path("/proc/meminfo").read_text().splitlines():
        name = line.split(":")[0]
        whole = name in ("MemTotal", "MemFree", "MemAvailable")
        meminfo.append(f"{name + ':':<16}{kibibytes:>8} kB" if whole else line)
    (folder / "meminfo").write_text("\n".join(meminfo) + "\n")
    (folder / "cpuinfo").write_text(
        "".join(_cpuinfo(number, size.cpus) for number in range(size.cpus))
    )
    cpus = folder / "cpu"
    for number in range(size.cpus):
        topology = cpus / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(f"{number}\n")
        (topology / "physical_package_id").write_text("0\n")
        (cpus / f"cpu{number}" / "online").write_text("1\n")
    for name in ("online", "possible", "present"):
        (cpus / name).write_text(f"0-{size.cpus - 1}\n" if size.cpus > 1 else "0\n")
    # Without NUMA nodes the folders of the CPUs are counted instead.
    (folder / "node").mkdir()


def _cpuinfo(number: int, cpus: int) -> str:
    return (
        f"processor\t: {number}\nvendor_id\t: GenuineIntel\nmodel name\t: testbed\n"
        f"cpu MHz\t\t: 2500.000\ncache size\t: 32768 KB\nphysical id\t: 0\nsiblings\t: {cpus}\n"
        f"core id\t\t: {number}\ncpu cores\t: {cpus}\n\n"
    )


def cgroup_memory_bytes(size: Size) -> int:
    """The memory limit of a whole machine: its size, and what kubelet and containerd need.

    A real machine's system takes its part of the memory; here the node reports all of it, so that
    tests can compare it with the price list.
    """
    return size.memory.bytes + 256 * MEBI
