"""What AWS says of groups, read from its answers as they come over the wire."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from piecework.errors import ClusterError
from piecework.machines.check.aws import Region


class Aws:
    """Two clients of which every call has its answer prepared."""

    def __init__(self) -> None:
        given: dict[str, Any] = {
            "region_name": "us-east-1",
            "aws_access_key_id": "none",
            "aws_secret_access_key": "none",
        }
        self.autoscaling = Stubber(boto3.client("autoscaling", **given))
        self.ec2 = Stubber(boto3.client("ec2", **given))
        self.region = Region(self.autoscaling.client, self.ec2.client)

    def has_group(self, **more: Any) -> None:
        group = {
            "AutoScalingGroupName": "jobs",
            "MinSize": 0,
            "MaxSize": 8,
            "DesiredCapacity": 0,
            "DefaultCooldown": 300,
            "AvailabilityZones": ["us-east-1a"],
            "HealthCheckType": "EC2",
            "CreatedTime": "2026-11-24T12:00:00Z",
            **more,
        }
        self.autoscaling.add_response(
            "describe_auto_scaling_groups", {"AutoScalingGroups": [group]}
        )

    def has_template(self, **data: Any) -> None:
        versions = [{"LaunchTemplateId": "lt-1", "VersionNumber": 1, "LaunchTemplateData": data}]
        self.ec2.add_response(
            "describe_launch_template_versions", {"LaunchTemplateVersions": versions}
        )


@pytest.fixture
def aws() -> Iterator[Aws]:
    found = Aws()
    with found.autoscaling, found.ec2:
        yield found


TEMPLATE = {"LaunchTemplateId": "lt-1", "LaunchTemplateName": "jobs", "Version": "1"}


def test_a_group_is_read_with_its_launch_template(aws: Aws) -> None:
    aws.has_group(
        LaunchTemplate=TEMPLATE,
        Tags=[{"Key": "a", "Value": "b"}],
        SuspendedProcesses=[{"ProcessName": "AZRebalance"}],
        NewInstancesProtectedFromScaleIn=True,
    )
    text = "kind: NodeConfig"
    aws.has_template(InstanceType="m6a.large", UserData=base64.b64encode(text.encode()).decode())
    found = aws.region.groups(["jobs"])["jobs"]
    assert (found.min_size, found.max_size, found.zones) == (0, 8, ("us-east-1a",))
    assert (dict(found.tags), set(found.suspended)) == ({"a": "b"}, {"AZRebalance"})
    assert (found.instance_types, found.spot, found.protected) == (("m6a.large",), False, True)
    assert found.user_data == text


def test_spot_capacity_is_known_by_the_template_or_by_the_mix(aws: Aws) -> None:
    aws.has_group(LaunchTemplate=TEMPLATE)
    aws.has_template(InstanceType="m6a.large", InstanceMarketOptions={"MarketType": "spot"})
    assert aws.region.groups(["jobs"])["jobs"].spot
    aws.has_group(
        MixedInstancesPolicy={
            "LaunchTemplate": {
                "LaunchTemplateSpecification": TEMPLATE,
                "Overrides": [{"InstanceType": "m6a.large"}, {"InstanceType": "m5.large"}],
            },
            "InstancesDistribution": {
                "OnDemandBaseCapacity": 0,
                "OnDemandPercentageAboveBaseCapacity": 0,
            },
        }
    )
    aws.has_template(InstanceType="t3.micro")
    found = aws.region.groups(["jobs"])["jobs"]
    assert (found.spot, found.instance_types) == (True, ("m6a.large", "m5.large"))


def test_user_data_is_empty_where_a_template_has_none_and_unknown_where_it_is_no_text(
    aws: Aws,
) -> None:
    aws.has_group(LaunchTemplate=TEMPLATE)
    aws.has_template(InstanceType="m6a.large")
    assert aws.region.groups(["jobs"])["jobs"].user_data == ""
    aws.has_group(LaunchTemplate=TEMPLATE)
    aws.has_template(UserData=base64.b64encode(b"\x1f\x8b\xff").decode())
    assert aws.region.groups(["jobs"])["jobs"].user_data is None
    aws.has_group(LaunchConfigurationName="old")
    assert aws.region.groups(["jobs"])["jobs"].user_data is None


def test_a_refusal_of_aws_is_told(aws: Aws) -> None:
    aws.autoscaling.add_client_error(
        "describe_auto_scaling_groups", "AccessDenied", "not authorized"
    )
    with pytest.raises(ClusterError, match=r"AWS does not tell of Auto Scaling groups.*not auth"):
        aws.region.groups(["jobs"])
