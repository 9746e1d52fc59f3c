"""Every fault of tests/cluster/test_faults_on_clusters.py, on both kinds of pool.

CI tries each on one of them. Told are how many went wrong, and what the tests themselves tell: how
long machines were paid for without need, how far bills are from the testbed's record, how soon a
second keeper took over. Needs root on Linux.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree as ET

from bench.timing import Figure, Result, Spread

_TESTS = "tests/cluster/test_faults_on_clusters.py"
#: What the tests tell begins with one of these.
_TOLD = ("karpenter: ", "asg: ", "karpenter, seed", "asg, seed", "the second keeper")


def run(quick: bool) -> Result:
    """All faults on both kinds of pool (quick: as in CI, each on one)."""
    environment = os.environ | ({} if quick else {"PIECEWORK_TESTBED_KINDS": "both"})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", _TESTS]
        done = subprocess.run(
            command, env=environment, stdout=sys.stderr, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
        cases = list(ET.parse(report).iter("testcase"))
    sys.stderr.write(done.stderr)
    skipped = [case for case in cases if case.find("skipped") is not None]
    wrong = [
        case.get("name", "")
        for case in cases
        if case.find("failure") is not None or case.find("error") is not None
    ]
    notes = [line for line in done.stderr.splitlines() if line.startswith(_TOLD)]
    notes += [f"went wrong: {name}" for name in wrong]
    notes += [f"skipped: {case.get('name')}" for case in skipped]
    seconds = [float(case.get("time", "0")) for case in cases if case not in skipped]
    return Result(
        "faults",
        (
            Figure("faults that were tried", Spread.of([len(cases) - len(skipped)]), ""),
            Figure("of which went wrong", Spread.of([len(wrong)]), "", at_most=0),
            Figure("a fault and what follows", Spread.of(seconds), "s"),
        ),
        tuple(notes),
    )
