"""Airflow on this host, its pods on a testbed: brought up in a cgroup, so that all it uses counts.

In: the text of a piecework.toml whose pools are on the testbed. Out: the settings, a client of that
Airflow, and the CPU time of everything that it ever started, ended workers included.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from piecework.airflow import platform
from piecework.airflow.client import AirflowClient
from piecework.airflow.configuration import PlatformFolder
from piecework.config import Settings
from testbed import cgroups, components
from testbed.place import Place
from tests.cluster.cluster_pools import AWS_ENVIRONMENT, settings_from

_NAME = "airflow"
_START_SECONDS = 300.0
_REPOSITORY = Path(__file__).parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class ClusterPlatform:
    """A platform, and the testbed that its jobs run on."""

    here: Place
    settings: Settings
    client: AirflowClient

    def add_dags(self, name: str, text: str, *dags: str) -> None:
        """Writes a DAG file of that name, and waits until Airflow has read its DAGs."""
        file = PlatformFolder(self.settings.home).root / "dags" / f"bench_{name}.py"
        file.write_text(text)
        for dag in dags:
            self.client.wait_for_dag(dag, timeout_seconds=_START_SECONDS)

    def cpu_seconds(self) -> float:
        """What all of its processes have used until now, the keeper's among them."""
        return _cpu_seconds(components.group_of(self.here, _NAME))

    def keeper_cpu_seconds(self) -> float:
        """What the keeper has used of that."""
        found = {part.name: part.pid for part in platform.status(self.settings).components}
        pid = found.get("keeper")
        return process_cpu_seconds(pid) if pid else 0.0


@contextmanager
def running(
    here: Place, tables: str, home: Path, environment: Mapping[str, str] | None = None
) -> Iterator[ClusterPlatform]:
    """Brings a platform up in `home`, and takes it down again."""
    settings = settings_from(tables, home)
    try:
        components.spawn(
            components.group_of(here, _NAME),
            [sys.executable, "-m", "piecework", "up"],
            here.logs / f"{_NAME}.log",
            {
                "PIECEWORK_HOME": str(home),
                "PIECEWORK_CONFIG": str(home / "piecework.toml"),
                **AWS_ENVIRONMENT,
                **(environment or {}),
            },
            _REPOSITORY,
        )
        components.wait_until(
            "Airflow to be healthy",
            lambda: platform.status(settings).state == "up",
            _START_SECONDS,
            log=here.logs / f"{_NAME}.log",
        )
        yield ClusterPlatform(here, settings, platform.connect(settings))
    finally:
        platform.down(settings)


def process_cpu_seconds(pid: int) -> float:
    """The CPU time of one process, in user and in kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def process_memory_bytes(pid: int) -> int:
    """The memory of one process; what it shares with others counts in parts (PSS)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_seconds(group: str) -> float:
    for tree in cgroups.hierarchies():
        usage = tree / group / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        stat = tree / group / "cpu.stat"
        if stat.exists() and "usage_usec" in (text := stat.read_text()):
            fields = dict(line.split() for line in text.splitlines())
            return int(fields["usage_usec"]) / 1e6
    raise RuntimeError(f"no cgroup tree counts the CPU time of {group}")
