"""`piecework advise` and what `show` says of use, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from piecework import config
from piecework.cli import main, use_text
from piecework.ledger.store import open_ledger
from tests.unit.report.test_observed import attempt

Call = Callable[..., str]


@pytest.fixture
def call(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Call:
    """Runs a command in a folder whose ledger knows two runs of a job; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "piecework.toml").write_text(
        '[pools.local]\ntypes = ["m6a.large", "m6a.xlarge", "m6a.2xlarge"]\n'
    )
    with open_ledger(config.load().ledger_url) as ledger:
        ledger.append(attempt("etl.clean.aa.1"))
        ledger.append(attempt("etl.clean.ab.1", 1000))
        ledger.append(attempt("etl.load.ac.1", 2000, outcome="error"))

    def run(*args: str) -> str:
        assert main.main(list(args)) == 0
        return capsys.readouterr().out

    return run


def test_a_job_gets_a_size_a_range_and_what_to_write(call: Call) -> None:
    said = call("advise", "clean")
    assert said.startswith("etl.clean\n  Now         m6a.2xlarge (8 vCPU, 32 GiB): about $")
    assert "  Cheaper     m6a.large (2 vCPU, 8 GiB): $" in said
    assert "(from 2 runs)" in said
    assert "  To do so    machine: {type: m6a.large}" in said


def test_all_jobs_or_those_of_a_pipeline_are_told_one_after_the_other(call: Call) -> None:
    said = call("advise")
    assert said == call("advise", "etl")
    assert "\n\netl.load\n  No advice   no run of it has succeeded yet\n" in said


def test_a_run_is_judged_by_itself(call: Call) -> None:
    assert "(from 1 run)" in call("advise", "etl.clean.aa")


def test_programs_get_exact_amounts(call: Call) -> None:
    (found,) = json.loads(call("advise", "etl.clean", "--json"))["advice"]
    assert found["verdict"] == "change"
    assert found["better"]["instance_type"] == "m6a.large"
    assert isinstance(found["better"]["cost"], str)


def test_without_runs_there_is_nothing_to_advise(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main.main(["advise"]) == 0
    assert capsys.readouterr().out == "No advice: no job has run yet.\n"


def _attempt(**use: Any) -> dict[str, Any]:
    shares = {
        "cpu_seconds": 100.0,
        "spark": None,
        "cores": 4,
        "memory_bytes": 8 << 30,
        "cpu_share": 0.25,
        "running_share": 0.5,
        "memory_share": 0.031,
        "counted_seconds": None,
    }
    return {
        "cpu_seconds": 100.0,
        "peak_memory_bytes": 1 << 28,
        "machine_seconds": 100.0,
        "machines": ["m0"],
        "use": {**shares, **use},
    }


def test_use_is_told_in_words() -> None:
    assert use_text.cpu(_attempt()) == (
        "1m 40s: 25% of what was paid for (4 cores for 1m 40s), 50% while it ran"
    )
    assert use_text.memory(_attempt()) == "256 MiB: 3.1% of the 8 GiB for the job"
    gang = {**_attempt(running_share=None), "machines": ["m0", "m1"], "machine_seconds": 200.0}
    assert use_text.cpu(gang) == (
        "1m 40s: 25% of what was paid for (2 machines of 4 cores for 1m 40s)"
    )
    assert use_text.cpu(_attempt(cpu_share=None)) == "1m 40s"
    assert use_text.cpu(_attempt(cpu_seconds=None)) is None
    counted = _attempt(counted_seconds=90.0)
    assert (use_text.cpu(counted) or "").startswith("at least 1m 40s (its kubelet's count): 25%")
    elsewhere = _attempt(spark={"elsewhere": 1})
    assert (use_text.cpu(elsewhere) or "").startswith("at least 1m 40s: 25%")
    assert use_text.memory(elsewhere) == "256 MiB in its own pod, beside Spark's executors"


def test_the_slots_of_spark_and_the_threads_of_dask_are_told_in_words() -> None:
    spark = {
        "slots": 8, "tasks": 1200, "busy_share": 0.41, "driver_share": 0.37, "idle_share": 0.22,
        "failed_tasks": 3, "spilled_bytes": 1 << 30, "gc_seconds": 12.0,
    }  # fmt: skip
    assert use_text.spark(spark) == (
        "8 slots: 41% of their time busy with 1,200 tasks, 37% with only the driver at work, 22% "
        "idle beside tasks in other slots (3 failed, 1 GiB spilled to disk, 12s of garbage "
        "collection)"
    )
    assert use_text.spark(None) is None
    dask = {"threads": 4, "busy_threads": 2.13, "busy_share": 0.53}
    assert use_text.dask(dask) == "2.1 of 4 threads busy on average (53%)"
    assert use_text.dask({"threads": 4}) is None
