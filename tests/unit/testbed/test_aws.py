from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import pytest
from werkzeug.test import Client

from testbed import aws_server, record, wishes
from testbed.place import Place

Ask = Callable[..., ET.Element]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("t", tmp_path, 0)


@pytest.fixture
def ask(place: Place) -> Ask:
    """Sends a request to AWS as it is played here; gives the answer without its namespaces."""
    from moto.moto_api._internal.models import moto_api_backend

    client = Client(aws_server.application(place))
    moto_api_backend.reset()

    def send(service: str, action: str, **parameters: object) -> ET.Element:
        scope = f"Credential=testbed/20261124/us-east-1/{service}/aws4_request"
        answer = client.post(
            "/",
            data=urlencode({"Action": action, "Version": "2011-01-01", **parameters}),
            headers={
                "Host": f"{service}.us-east-1.amazonaws.com",
                "Authorization": f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0",
                "Content-Type": "application/x-www-form-urlencoded",
            },
        )
        assert answer.status_code == 200, answer.text
        root = ET.fromstring(answer.text)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]
        return root

    return send


def _make_group(ask: Ask, name: str, **more: str) -> None:
    template = ask(
        "ec2", "CreateLaunchTemplate", LaunchTemplateName=name,
        **{"LaunchTemplateData.ImageId": "ami-1", "LaunchTemplateData.InstanceType": "m6a.large"},
        **more,
    )  # fmt: skip
    ask(
        "autoscaling", "CreateAutoScalingGroup", AutoScalingGroupName=name, MinSize=0, MaxSize=4,
        DesiredCapacity=0,
        **{
            "AvailabilityZones.member.1": "us-east-1a",
            "LaunchTemplate.LaunchTemplateId": template.findtext(".//launchTemplateId"),
            "LaunchTemplate.Version": "$Latest",
        },
    )  # fmt: skip


def _activities(ask: Ask, group: str) -> list[tuple[str | None, str | None]]:
    told = ask("autoscaling", "DescribeScalingActivities", AutoScalingGroupName=group)
    return [
        (item.findtext("Description"), item.findtext("StatusCode")) for item in told.iter("member")
    ]


def _instances(ask: Ask) -> dict[str, ET.Element]:
    told = ask("ec2", "DescribeInstances")
    return {str(item.findtext("instanceId")): item for item in told.findall(".//instancesSet/item")}


def test_every_launch_and_termination_is_told_newest_first_and_recorded(
    ask: Ask, place: Place
) -> None:
    _make_group(ask, "g")
    ask("autoscaling", "SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=2)
    one, two = _instances(ask)
    ask(
        "autoscaling", "TerminateInstanceInAutoScalingGroup", InstanceId=one,
        ShouldDecrementDesiredCapacity="true",
    )  # fmt: skip
    assert _activities(ask, "g") == [
        (f"Terminating EC2 instance: {one}", "Successful"),
        (f"Launching a new EC2 instance: {two}", "Successful"),
        (f"Launching a new EC2 instance: {one}", "Successful"),
    ]
    assert _activities(ask, "another") == []
    lives = record.read(place)
    assert lives[one].type == "m6a.large"
    assert lives[one].provider_id == f"aws:///us-east-1a/{one}"
    life = lives[one]
    assert life.bought
    assert life.returned
    assert life.bought <= life.returned
    assert lives[two].returned is None


def test_a_terminated_instance_tells_when_and_of_which_group_it_was(ask: Ask) -> None:
    _make_group(ask, "g")
    ask("autoscaling", "SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
    (name,) = _instances(ask)
    ask(
        "autoscaling", "TerminateInstanceInAutoScalingGroup", InstanceId=name,
        ShouldDecrementDesiredCapacity="true",
    )  # fmt: skip
    gone = _instances(ask)[name]
    assert gone.findtext("instanceState/name") == "terminated"
    reason = gone.findtext("reason") or ""
    assert reason.startswith("User initiated (")
    assert reason.endswith(" GMT)")
    tags = {item.findtext("key"): item.findtext("value") for item in gone.findall("tagSet/item")}
    assert tags["aws:autoscaling:groupName"] == "g"


def test_spot_instances_say_so_and_why_they_were_taken_and_are_replaced(
    ask: Ask, place: Place
) -> None:
    _make_group(ask, "g", **{"LaunchTemplateData.InstanceMarketOptions.MarketType": "spot"})
    ask("autoscaling", "SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
    (name,) = _instances(ask)
    assert _instances(ask)[name].findtext("instanceLifecycle") == "spot"
    Client(aws_server.application(place)).post(f"{aws_server.INTERRUPT_PATH}?instance={name}")
    there = _instances(ask)
    assert (there[name].findtext("reason") or "").startswith("Server.SpotInstanceTermination (")
    states = sorted(str(item.findtext("instanceState/name")) for item in there.values())
    assert states == ["running", "terminated"]
    assert record.read(place)[name].returned


def test_a_group_out_of_stock_fails_to_launch_and_tells_of_it(ask: Ask, place: Place) -> None:
    _make_group(ask, "g")
    wishes.write(place, "g", wishes.Wishes(out_of_stock=True))
    ask("autoscaling", "SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
    assert _instances(ask) == {}
    told = ask("autoscaling", "DescribeScalingActivities", AutoScalingGroupName="g")
    assert "InsufficientInstanceCapacity" in (told.findtext(".//StatusMessage") or "")
    assert _activities(ask, "g") == [("Launching a new EC2 instance", "Failed")]
    wishes.clear(place)
    ask("autoscaling", "SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=1)
    assert len(_instances(ask)) == 1


def test_spot_prices_are_told_for_the_types_that_are_asked_for(ask: Ask) -> None:
    told = ask(
        "ec2", "DescribeSpotPriceHistory",
        **{"InstanceType.1": "m6a.large", "InstanceType.2": "none", "InstanceType.3": "c6a.large"},
    )  # fmt: skip
    found = {
        item.findtext("instanceType"): float(item.findtext("spotPrice") or 0)
        for item in told.findall(".//item")
    }
    assert sorted(str(name) for name in found) == ["c6a.large", "m6a.large"]
    assert all(price > 0 for price in found.values())


def test_activities_come_in_pages(ask: Ask) -> None:
    _make_group(ask, "g")
    ask("autoscaling", "SetDesiredCapacity", AutoScalingGroupName="g", DesiredCapacity=3)
    first = ask("autoscaling", "DescribeScalingActivities", MaxRecords=2)
    assert len(list(first.iter("member"))) == 2
    token = first.findtext(".//NextToken")
    rest = ask("autoscaling", "DescribeScalingActivities", MaxRecords=2, NextToken=token)
    assert len(list(rest.iter("member"))) == 1
    assert rest.findtext(".//NextToken") is None
