"""`piecework demo`: real flights through a real Airflow, Spark and Dask; and Ctrl-C in it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.layer("airflow", "spark", "dask")

Piecework = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]
NothingLeft = Callable[[Path], None]

JOBS = ["ingest", "delays", "model", "weather", "report"]


def test_the_demo_prints_its_bill_and_results_and_leaves_nothing(
    home: Path, piecework: Piecework, start: Start, assert_nothing_left: NothingLeft
) -> None:
    process = start("demo")
    out, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    assert_nothing_left(home)
    for job in JOBS:
        assert re.search(rf"^{job} +success +\S+ .*\$", out, re.MULTILINE), out
        assert f"{job}: running" in err
    assert re.search(r"^sum .*\$", out, re.MULTILINE)
    assert "24x7 cluster" in out
    auc = re.search(r"^AUC on held-out flights: (0\.\d+)", out, re.MULTILINE)
    assert auc is not None
    assert 0.6 < float(auc[1]) < 1
    report = re.search(r"^Report: (.+)$", out, re.MULTILINE)
    assert report is not None
    assert "<img" in Path(report[1]).read_text()
    verified = piecework("ledger", "verify", "--json")
    assert verified.returncode == 0, verified.stdout
    assert Decimal(json.loads(verified.stdout)["difference"]) == 0


def test_ctrl_c_in_the_demo_ends_spark_and_the_platform_and_leaves_nothing(
    home: Path, piecework: Piecework, start: Start, assert_nothing_left: NothingLeft
) -> None:
    process = start("demo", "--json")
    _wait_for_job(piecework, "delays")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert_nothing_left(home)
    found = json.loads(out)
    assert found["outcome"] == "cancelled"
    outcomes = {run["job"]: run["outcome"] for run in found["runs"]}
    assert outcomes["ingest"] == "success"
    assert outcomes["delays"] == "cancelled"
    assert "report" not in outcomes
    assert Decimal(found["cost"]) > 0


def _wait_for_job(piecework: Piecework, job: str, seconds: float = 600.0) -> None:
    limit = time.monotonic() + seconds
    while True:
        listed = piecework("ls", "--state", "running", "--json")
        runs: list[dict[str, Any]] = json.loads(listed.stdout)["runs"]
        if any(run["job"] == job and run["attempts"][-1]["started_at"] for run in runs):
            return
        assert time.monotonic() < limit, f"{job} did not begin"
        time.sleep(1)
