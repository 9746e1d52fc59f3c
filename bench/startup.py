"""How long the command line takes to start, beside a Python that does nothing.

A command that people type must answer at once, and `plan` is typed before every change.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from bench.timing import Figure, Result, Spread, measure_pairs

_PIECEWORK = str(Path(sysconfig.get_path("scripts")) / "piecework")
_JOB = """\
  job{number}:
    python: job.py
    args: ["{number}"]
    machine: {{cpu: {cpu}, memory: {memory}Gi}}
    timeout: 30m
    {after}
"""


def _write_pipeline(folder: Path) -> Path:
    """Ten jobs of ten sizes, one after the other."""
    (folder / "job.py").write_text("print('hello')\n", encoding="utf-8")
    jobs = "".join(
        _JOB.format(
            number=number,
            cpu=2 + 2 * number,
            memory=4 + 8 * number,
            after=f"after: [job{number - 1}]" if number else "",
        )
        for number in range(10)
    )
    file = folder / "ten.yaml"
    file.write_text(f"pipeline: ten\nteam: bench\njobs:\n{jobs}", encoding="utf-8")
    return file


def run(quick: bool) -> Result:
    """Measures `--help` and `plan`; each against `python -c pass`."""
    pairs = 5 if quick else 20
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = _write_pipeline(folder)
        environ = os.environ | {"PIECEWORK_HOME": str(folder / "home")}
        # Installed packages are compiled; the round that is not counted compiles a checkout.
        environ.pop("PYTHONDONTWRITEBYTECODE", None)

        def start(*command: str) -> None:
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environ, cwd=folder)

        def start_python() -> None:
            start(sys.executable, "-c", "pass")

        help_ = measure_pairs(lambda: start(_PIECEWORK, "--help"), start_python, pairs)
        plan = measure_pairs(lambda: start(_PIECEWORK, "plan", str(file)), start_python, pairs)
    python_ms = Spread.of(1000 * seconds for seconds in help_.baseline + plan.baseline)
    return Result(
        "startup",
        (
            Figure("piecework --help / python -c pass", help_.ratio(), at_most=10),
            Figure("piecework plan, ten jobs / python -c pass", plan.ratio(), at_most=25),
            Figure("python -c pass", python_ms, "ms"),
        ),
    )
