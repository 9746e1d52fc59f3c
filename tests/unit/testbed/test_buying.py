from __future__ import annotations

import lzma
from datetime import UTC, datetime
from pathlib import Path

import pytest

from testbed import aws, found, karpenter, machine, provider
from testbed.errors import MissingProgramError


def test_a_groups_tags_tell_the_autoscaler_what_its_machines_are() -> None:
    group = aws.Group(
        "g", "g4dn.xlarge", labels={"a/b": "c"}, taints={"d": "e:NoSchedule"},
        options={"scaledownunneededtime": "2s"},
    )  # fmt: skip
    tags = aws.tags(group, "cluster")
    prefix = "k8s.io/cluster-autoscaler/"
    assert tags[f"{prefix}enabled"] == "true"
    assert tags[f"{prefix}cluster"] == "owned"
    assert tags[f"{prefix}node-template/label/a/b"] == "c"
    assert tags[f"{prefix}node-template/taint/d"] == "e:NoSchedule"
    assert tags[f"{prefix}node-template/autoscaling-options/scaledownunneededtime"] == "2s"
    assert tags[f"{prefix}node-template/resources/cpu"] == "4"
    assert tags[f"{prefix}node-template/resources/nvidia.com/gpu"] == "1"


def test_an_instance_becomes_a_machine_with_its_groups_labels_and_taints() -> None:
    group = aws.Group("g", "m6a.large", labels={"a": "b"}, taints={"d": "e:NoSchedule"})
    tags = [{"Key": key, "Value": value} for key, value in aws.tags(group, "c").items()]
    instance = {"InstanceId": "i-1", "InstanceType": "m6a.large", "AvailabilityZone": "us-east-1a"}
    bought = provider.from_instance({"AutoScalingGroupName": "g", "Tags": tags}, instance)
    assert bought.provider_id == "aws:///us-east-1a/i-1"
    assert bought.labels["a"] == "b"
    assert bought.labels["topology.kubernetes.io/region"] == "us-east-1"
    assert bought.taints == ("d=e:NoSchedule",)
    assert machine.parse_taint(bought.taints[0]) == {
        "key": "d",
        "value": "e",
        "effect": "NoSchedule",
    }


def test_user_data_decides_labels_and_taints_whatever_the_tags_promise() -> None:
    group = aws.Group("g", "m6a.large", labels={"a": "b"}, taints={"d": "e:NoSchedule"})
    tags = [{"Key": key, "Value": value} for key, value in aws.tags(group, "c").items()]
    instance = {"InstanceId": "i-1", "InstanceType": "m6a.large", "AvailabilityZone": "us-east-1a"}
    user_data = "flags:\n  - --node-labels=x/y=z,v=w\n  - --register-with-taints=k=l:NoSchedule\n"
    listed = {"AutoScalingGroupName": "g", "Tags": tags}
    bought = provider.from_instance(listed, instance, user_data)
    assert (bought.labels["x/y"], bought.labels["v"]) == ("z", "w")
    assert "a" not in bought.labels
    assert bought.taints == ("k=l:NoSchedule",)


def test_karpenters_nodes_become_machines_unless_kwok_plays_them() -> None:
    labels = {"node.kubernetes.io/instance-type": "m6a.large", "karpenter.sh/nodepool": "p"}

    def node(provider_id: str, **more: str) -> dict[str, object]:
        metadata = {"labels": {**labels, **more}, "creationTimestamp": "2026-11-24T12:00:00Z"}
        return {"metadata": metadata, "spec": {"providerID": provider_id}}

    found_nodes = provider.from_nodes(
        {
            "one": node("kwok://one"),
            "played": node("kwok://played", **{provider.NO_KUBELET: "true"}),
            "other": node("aws:///z/i-1"),
        }
    )
    assert [(item.name, item.type, item.pool, item.at) for item in found_nodes] == [
        ("one", "m6a.large", "p", datetime(2026, 11, 24, 12, tzinfo=UTC))
    ]


def test_karpenters_types_have_the_prices_of_the_price_list_and_none_out_of_stock() -> None:
    types = {item["name"]: item for item in karpenter.instance_types(["m6a.large"])}
    assert "m6a.large" not in types
    assert types["m6a.xlarge"]["resources"]["cpu"] == "4"
    prices = {
        offering["Requirements"][0]["values"][0]: offering["Price"]
        for offering in types["m6a.xlarge"]["offerings"]
    }
    assert 0 < prices["spot"] < prices["on-demand"]


def test_a_program_is_found_in_a_named_folder_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "kueue-0.19.2.xz").write_bytes(lzma.compress(b"#!/bin/sh\n"))
    (folder / "kueue-0.19.2.tgz").write_bytes(b"a chart")
    monkeypatch.setenv("PIECEWORK_TESTBED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIECEWORK_TESTBED_PROGRAMS", str(folder))
    program = found.find("kueue")
    assert program.read_bytes() == b"#!/bin/sh\n"
    assert program.stat().st_mode & 0o111
    assert found.find("kueue") == program
    assert found.find_chart("kueue") == folder / "kueue-0.19.2.tgz"


def test_a_program_that_is_nowhere_is_asked_for_with_the_places_that_were_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIECEWORK_TESTBED_PROGRAMS", str(tmp_path))
    with pytest.raises(MissingProgramError, match=r"PIECEWORK_TESTBED_PROGRAMS, PATH"):
        found.find("no-such-program")
