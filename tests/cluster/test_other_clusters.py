"""The same tests run against any cluster that a kubeconfig names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from testbed.place import Place
from tests.cluster.conftest import Cluster, StartMachine

_HERE = Path(__file__).parent


def test_tests_run_on_somebody_elses_cluster_and_skip_what_needs_the_testbed(
    one: Cluster, here: Place, start_machine: StartMachine
) -> None:
    start_machine()
    environment = {
        **{name: value for name, value in os.environ.items() if "PIECEWORK" not in name},
        "PIECEWORK_TESTBED_KUBECONFIG": str(one.kubeconfig),
        "PIECEWORK_TESTBED_IMAGE": one.shell,
        # kubectl is the one that was built.
        "PIECEWORK_TESTBED_CACHE": str(here.folder.parents[1]),
    }
    files = [str(_HERE / name) for name in ("test_pods.py", "test_faults.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=_HERE.parents[1],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    summary = done.stdout.strip().splitlines()[-1]
    assert "4 passed" in summary
    assert "skipped" in summary
    assert "somebody's own cluster: machines and faults are the testbed's" in done.stdout
