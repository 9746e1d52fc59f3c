"""`piecework pools`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from piecework.cli import main

TOML = """
[pools.burst]
provider = "karpenter"
types = ["m6a.large", "c6a.large"]
max_machines = 8
max_usd_per_hour = 2.5

[pools.groups]
provider = "asg"
cluster = "production"
groups = [{name = "jobs", type = "m6a.large"}, {name = "jobs-gpu", type = "g4dn.xlarge"}]
"""


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    monkeypatch.setenv("PIECEWORK_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "piecework.toml").write_text(TOML)

    def run(*args: str) -> tuple[int, str, str]:
        code = main.main(["pools", *args])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_pools_are_listed_with_their_limits(call: Any) -> None:
    code, out, _ = call("ls")
    assert code == 0
    (burst,) = [line for line in out.splitlines() if line.startswith("burst")]
    assert "karpenter" in burst
    assert "at most 8" in burst
    assert "at most $2.5" in burst
    _, out, _ = call("ls", "--json")
    assert [pool["name"] for pool in json.loads(out)["pools"]] == ["local", "burst", "groups"]


def test_what_is_rendered_is_yaml_to_apply(call: Any) -> None:
    code, out, err = call("render")
    assert code == 0
    kinds = [found["kind"] for found in yaml.safe_load_all(out)]
    assert {"Namespace", "NodePool", "MutatingAdmissionPolicy", "ConfigMap"} <= set(kinds)
    assert "Deployment" not in kinds
    assert "--groups" in err


def test_one_pool_is_rendered_alone(call: Any) -> None:
    _, out, _ = call("render", "burst", "--no-policies", "--keeper-image", "a/keeper:1")
    kinds = [found["kind"] for found in yaml.safe_load_all(out)]
    assert kinds.count("NodePool") == 1
    assert "ConfigMap" not in kinds
    assert kinds[-1] == "Deployment"


def test_what_belongs_to_the_cloud_is_printed_apart(call: Any) -> None:
    code, out, _ = call("render", "groups", "--groups", "--cluster", "other")
    assert code == 0
    for text in ("AZRebalance", "k8s.io/cluster-autoscaler/other=owned", "kind: NodeConfig"):
        assert text in out
    assert "--scan-interval=2s" in out
    _, out, err = call("render", "burst", "--groups")
    assert (out, "No pool here" in err) == ("", True)


def test_programs_get_all_of_it_as_json(call: Any) -> None:
    _, out, _ = call("render", "--json")
    found = json.loads(out)
    assert [group["AutoScalingGroupName"] for group in found["groups"]] == ["jobs", "jobs-gpu"]
    assert found["objects"]
    assert found["autoscaler_flags"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("render", "brust"), "did you mean burst?"),
        (("render", "local"), "which needs nothing applied"),
        (("check", "brust"), "did you mean burst?"),
    ],
)
def test_a_pool_that_cannot_be_rendered_is_told(
    call: Any, args: tuple[str, ...], told: str
) -> None:
    code, _, err = call(*args)
    assert code == 2
    assert told in err


def test_pools_of_several_clusters_are_named_one_at_a_time(call: Any, tmp_path: Path) -> None:
    (tmp_path / "piecework.toml").write_text(TOML.replace('ter"\n', 'ter"\ncontext = "a"\n', 1))
    code, _, err = call("render")
    assert code == 2
    assert "several clusters; name one of them: burst, groups" in err


def test_without_a_cluster_there_is_nothing_to_check(call: Any, tmp_path: Path) -> None:
    (tmp_path / "piecework.toml").write_text("")
    code, _, err = call("check")
    assert code == 0
    assert "nothing to check" in err


def test_a_cluster_that_cannot_be_found_is_told(call: Any, tmp_path: Path) -> None:
    (tmp_path / "piecework.toml").write_text(
        '[pools.burst]\nprovider = "karpenter"\nkubeconfig = "none.yaml"\n'
    )
    code, _, err = call("check")
    assert code == 2
    assert "none.yaml" in err


def test_a_plan_says_which_other_types_will_do(
    call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("job: a\npool: any\ncontainer: {image: 'a:1'}\n")
    (tmp_path / "piecework.toml").write_text('[pools.any]\nprovider = "karpenter"\n')
    assert main.main(["plan", "a.yaml", "--why"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "a: where there is no c7a.medium to be had, one of these will do: c8a.medium" in out
