"""Advice on sizes, tried: a job runs on a large machine, then on the one that is advised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from testbed import images, programs
from testbed.api import Api
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground

#: Two cores and one; the testbed holds a job to what its machine has.
LARGE, SMALL = "m7a.large", "m7a.medium"
#: Keeps one core busy and some memory, then waits, as a job does that reads from elsewhere.
PROGRAM = """
    import time
    kept = bytearray(128 << 20)
    while time.process_time() < 4:
        pass
    time.sleep(6)
    """


def test_the_size_that_is_advised_costs_what_was_said_of_it(
    one: Cluster,
    here: Place,
    api: Api,
    karpenter_cluster_pool: Callable[..., ClusterPool],
    tmp_path: Path,
) -> None:
    image = images.push_base(here, programs.say)
    made = karpenter_cluster_pool((LARGE, SMALL), more=f'image = "{image}"')
    # Who runs a job here also keeps: one command's settings have the rights of both.
    tables = made.tables.replace(str(made.submitter_kubeconfig), str(here.admin))
    made = replace(made, keeper_tables=tables)
    ground = Ground(here, api, tmp_path / "home", one.shell, made, f'pool = "{made.name}"')
    try:
        ground.start_keeper()
        before = run(ground, tmp_path, LARGE)
        (advice,) = told(ground, "advise", "burn")["advice"]
        assert advice["verdict"] == "change", advice
        assert advice["now"]["instance_type"] == LARGE
        better = advice["better"]
        assert better["instance_type"] == SMALL
        after = run(ground, tmp_path, SMALL)
        assert Decimal(better["least_cost"]) <= after <= Decimal(better["most_cost"])
        saved = before - after
        assert Decimal(advice["least_saving"]) <= saved <= Decimal(advice["most_saving"])
        ground.machines_gone()
        ground.check_ledger()
    finally:
        ground.stop_keepers()


def run(ground: Ground, folder: Path, instance_type: str) -> Decimal:
    """Runs the job on a machine of this type; returns what the ledger says that it cost."""
    (folder / "burn.py").write_text(textwrap.dedent(PROGRAM))
    file = folder / "burn.yaml"
    file.write_text(f"job: burn\npython: burn.py\nmachine: {{type: {instance_type}}}\n")
    (done,) = told(ground, "run", str(file), "--job", "burn")["runs"]
    ground.machines_gone()
    assert "of what was paid for" in ground.run("show", done["run"])
    found = told(ground, "show", done["run"])
    assert found["attempts"][0]["instance_type"] == instance_type
    return Decimal(found["cost"])


def told(ground: Ground, *arguments: str) -> dict[str, Any]:
    """What a command prints for programs."""
    assert ground.settings
    file = {"PIECEWORK_CONFIG": str(ground.home / "piecework.toml")}
    environ = {**os.environ, "PIECEWORK_HOME": str(ground.home), **file}
    command = [sys.executable, "-m", "piecework", *arguments, "--json"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
