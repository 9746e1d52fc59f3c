"""Many short runs on few machines: one at a time on each, and nothing bought that was not used."""

from __future__ import annotations

from pathlib import Path

import pytest

from testbed import aws, found
from testbed.errors import MissingProgramError
from tests.cluster.aftermath import say, settle
from tests.cluster.conftest import Cluster
from tests.cluster.rounds import arena, limits
from tests.cluster.soak import stress

_RUNS, _LONGEST_SECONDS, _MACHINES = 40, 5, 4


def test_short_runs_of_two_namespaces_share_few_machines_one_at_a_time(
    one: Cluster, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """On groups, where nothing but the pods' own anti-affinity keeps them apart."""
    if one.place is None:
        pytest.skip("somebody's own cluster: machines and faults are the testbed's")
    try:
        found.find(aws.AUTOSCALER)
    except MissingProgramError as error:
        pytest.skip(str(error))  # the one skip that CI allows: no registry has this program
    with arena(one.place, one.api, "asg", tmp_path, limits(_MACHINES), second=True) as ground:
        assert ground.keeper
        stress(ground, _RUNS, _LONGEST_SECONDS, seed=1)
        measured = settle(ground)
        say(pytestconfig, f"stress on {ground.kind}: {measured}")
        assert measured.containers == _RUNS
        assert measured.unused == 0
        assert measured.hand_overs >= _RUNS - 2 * _MACHINES
