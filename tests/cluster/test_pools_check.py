"""`piecework pools check` on a real cluster and against an AWS: what is rendered does not hurt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from piecework.machines.groups import TEMPLATE
from piecework.machines.render import AUTOSCALER_NAMESPACE
from testbed import aws
from testbed.api import Api
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool, settings_from
from tests.cluster.conftest import Cluster
from tests.cluster.ground import Ground

MakePool = Callable[..., ClusterPool]


def check(home: Path, tables: str, pool: str) -> tuple[int, list[dict[str, str]]]:
    """What the command says: its exit code and findings."""
    assert settings_from(tables, home)
    done = subprocess.run(
        [sys.executable, "-m", "piecework", "pools", "check", pool, "--json"],
        env={**os.environ, "PIECEWORK_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode in (0, 1), done.stderr
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    return done.returncode, findings


def as_administrator(made: ClusterPool, here: Place) -> str:
    return made.tables.replace(str(made.submitter_kubeconfig), str(here.admin))


def hurting(findings: list[dict[str, str]]) -> list[str]:
    return [each["what"] for each in findings if each["severity"] != "note"]


@pytest.mark.parametrize("kind", ["karpenter_cluster_pool", "asg_cluster_pool"])
def test_a_pool_as_rendered_lacks_nothing_but_a_keeper(
    one: Cluster, here: Place, api: Api, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    make: MakePool = request.getfixturevalue(kind)
    made = make()
    tables = as_administrator(made, here)
    code, found = check(tmp_path / "check", tables, made.name)
    (told,) = hurting(found)
    assert code == 1
    assert "no keeper has ever run" in told
    home = tmp_path / "keeper"
    home.mkdir()
    ground = Ground(here, api, home, one.shell, made)
    ground.start_keeper()
    try:
        api.wait("a keeper", lambda: api.get("Lease", "piecework-keeper", made.namespace), 30)
        code, found = check(tmp_path / "check", tables, made.name)
        assert hurting(found) == []
        assert code == 0
    finally:
        ground.stop_keepers()


def test_who_may_not_look_is_told_what_was_not_seen(
    here: Place, karpenter_cluster_pool: MakePool, tmp_path: Path
) -> None:
    made = karpenter_cluster_pool()
    _, found = check(tmp_path, made.tables, made.name)
    notes = [each["what"] for each in found if each["severity"] == "note"]
    assert any("NodePools could not be looked at" in note for note in notes)
    assert not any("there is no NodePool" in told for told in hurting(found))


def test_a_node_pool_that_somebody_changed_is_told(
    here: Place, api: Api, karpenter_cluster_pool: MakePool, tmp_path: Path
) -> None:
    made = karpenter_cluster_pool()
    changed = {"spec": {"disruption": {"consolidateAfter": "0s", "budgets": [{"nodes": "10%"}]}}}
    api.patch("NodePool", made.name, changed, api_version="karpenter.sh/v1")
    _, found = check(tmp_path, as_administrator(made, here), made.name)
    told = " ".join(hurting(found))
    assert "removes idle machines after 0s" in told
    assert "a disruption budget of 10% for empty machines" in told


def test_a_group_that_somebody_changed_is_told(
    here: Place, api: Api, asg_cluster_pool: MakePool, tmp_path: Path
) -> None:
    made = asg_cluster_pool(("m6a.large",))
    (group,) = made.rendering.groups
    autoscaling = aws.client(here, "autoscaling")
    autoscaling.resume_processes(AutoScalingGroupName=group.name, ScalingProcesses=["AZRebalance"])
    unneeded = f"{TEMPLATE}autoscaling-options/scaledownunneededtime"
    tag = {"ResourceId": group.name, "ResourceType": "auto-scaling-group", "Key": unneeded}
    autoscaling.delete_tags(Tags=[{**tag, "Value": "2s"}])
    autoscaling.update_auto_scaling_group(AutoScalingGroupName=group.name, MaxSize=3)
    api.delete("ConfigMap", "cluster-autoscaler-priority-expander", AUTOSCALER_NAMESPACE)
    _, found = check(tmp_path, as_administrator(made, here), made.name)
    told = " ".join(each["what"] for each in found)
    assert "keeps idle machines for 10m" in told
    assert "at most 3 machines, and the pool says 8" in told
    assert "may balance its machines over zones" in told
