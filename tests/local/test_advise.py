"""Advice on sizes, tried on this host: a job on a large machine, then on the one advised."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

#: Works on one core, and then waits: half of the machine would do.
PROGRAM = """
import time
kept = bytearray(64 << 20)
while time.process_time() < 1:
    pass
time.sleep(3)
"""


def test_the_size_that_is_advised_costs_what_was_said_of_it(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "piecework.toml").write_text('[pools.local]\ntypes = ["m7a.large", "m7a.medium"]\n')
    (folder / "work.py").write_text(PROGRAM)
    before = cost_of(run(folder, "m7a.large"))
    (advice,) = told(folder, "advise", "work")["advice"]
    assert advice["verdict"] == "change", advice
    better = advice["better"]
    assert better["instance_type"] == "m7a.medium"
    done = run(folder, "m7a.medium")
    after = cost_of(done)
    assert Decimal(better["least_cost"]) <= after <= Decimal(better["most_cost"])
    saved = before - after
    assert Decimal(advice["least_saving"]) <= saved <= Decimal(advice["most_saving"])
    used = told(folder, "show", done["run"])["attempts"][0]["use"]
    assert used["cores"] == 1
    assert 0 < used["cpu_share"] < used["running_share"]
    assert 0 < used["memory_share"] < 0.5


def run(folder: Path, instance_type: str) -> dict[str, Any]:
    """Runs the job on a machine of this type; returns what became of it."""
    (folder / "work.yaml").write_text(
        f"job: work\npython: work.py\nmachine: {{type: {instance_type}}}\n"
    )
    bill = told(folder, "run", "work.yaml", "--job", "work")
    assert bill["outcome"] == "success"
    (found,) = bill["runs"]
    return dict(found)


def cost_of(found: dict[str, Any]) -> Decimal:
    return Decimal(found["cost"])


def told(folder: Path, *arguments: str) -> dict[str, Any]:
    """What a command prints for programs."""
    command = [sys.executable, "-m", "piecework", *arguments, "--json"]
    done = subprocess.run(
        command, cwd=folder, env=dict(os.environ), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found
