"""Buying machines the first way: Auto Scaling groups and the real cluster-autoscaler.

What enters are groups (instance type, labels, taints, limits) and the autoscaler's flags; what
leaves are groups that the autoscaler scales from zero, and whose instances become real machines
(`provider.py` does that). AWS itself is played by moto.
"""

from __future__ import annotations

import base64
import http.client
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from testbed import components, found, health, provider
from testbed.api import Api
from testbed.aws_server import INTERRUPT_PATH
from testbed.certificates import write_kubeconfig
from testbed.place import AWS_PORT, Place
from testbed.size import size_of

REGION = "us-east-1"
ZONE = "us-east-1a"
AWS = "aws"
AUTOSCALER = "cluster-autoscaler"
# Nobody looks at what would be on the disk.
_IMAGE = "ami-00000000000000001"
_TAG = "k8s.io/cluster-autoscaler/"
#: A machine is bought and given back as quickly as the autoscaler can.
FAST_FLAGS = (
    "--scan-interval=1s",
    "--scale-down-unneeded-time=2s",
    "--scale-down-unready-time=10s",
    "--scale-down-delay-after-add=0s",
    "--scale-down-delay-after-delete=0s",
    "--scale-down-delay-after-failure=1s",
    "--node-delete-delay-after-taint=0s",
    "--unremovable-node-recheck-timeout=2s",
    "--initial-node-group-backoff-duration=10s",
    "--max-node-provision-time=5m",
    "--skip-nodes-with-local-storage=false",
    "--skip-nodes-with-system-pods=false",
    "--ignore-daemonsets-utilization=true",
    "--expander=least-waste",
)
_CLOUD = """[Global]
zone={zone}
[ServiceOverride "1"]
Service="autoscaling"
Region="{region}"
URL="{url}"
SigningRegion="{region}"
[ServiceOverride "2"]
Service="ec2"
Region="{region}"
URL="{url}"
SigningRegion="{region}"
"""
_ROLE = Path(__file__).parent / "manifests" / "cluster-autoscaler.yaml"


@dataclass(frozen=True, slots=True)
class Group:
    """An Auto Scaling group, with all that the autoscaler must know to scale it from zero.

    `taints` maps a key to VALUE:EFFECT; `options` are the autoscaler's own for a group, as
    {"scaledownunneededtime": "2s"}.
    """

    name: str
    type: str
    most: int = 8
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    spot: bool = False


def client(place: Place, service: str) -> Any:
    """A boto3 client of the played AWS."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=place.aws,
        region_name=REGION,
        aws_access_key_id="testbed",
        aws_secret_access_key="testbed",  # noqa: S106  # there is no secret: moto takes any
    )


def start(place: Place) -> None:
    """Starts AWS, and whoever turns its instances into machines; fine where they run."""
    components.start(
        place,
        AWS,
        [sys.executable, "-m", "testbed.aws_server", str(place.folder), str(place.number)],
        {"PYTHONPATH": str(Path(__file__).parents[1]), "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
    )
    components.wait_until(
        "AWS to answer",
        lambda: health.answers(place.hub, AWS_PORT, "/moto-api/"),
        60,
        alive=lambda: components.running(place, AWS),
        log=place.logs / f"{AWS}.log",
    )
    provider.start(place)


def make_group(place: Place, group: Group) -> None:
    """Makes an Auto Scaling group of no instances; does nothing where it exists."""
    _make(place, group.name, group.type, group.most, tags(group, place.name), spot=group.spot)


def make_rendered_group(
    place: Place, settings: Mapping[str, Any], instance_type: str, *, spot: bool = False
) -> None:
    """Makes a group as piecework renders its settings: with those tags and no others, and with
    user data from which its machines' kubelets take their labels and taints.
    """
    _make(
        place, settings["AutoScalingGroupName"], instance_type, settings["MaxSize"],
        {tag["Key"]: tag["Value"] for tag in settings["Tags"]},
        spot=spot, suspended=settings["SuspendedProcesses"], user_data=settings["UserData"],
    )  # fmt: skip


def _make(
    place: Place,
    name: str,
    instance_type: str,
    most: int,
    tagged: Mapping[str, str],
    *,
    spot: bool = False,
    suspended: Sequence[str] = (),
    user_data: str = "",
) -> None:
    autoscaling, ec2 = client(place, "autoscaling"), client(place, "ec2")
    known = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])
    if known["AutoScalingGroups"]:
        return
    data: dict[str, Any] = {"ImageId": _IMAGE, "InstanceType": size_of(instance_type).type}
    if spot:
        data["InstanceMarketOptions"] = {"MarketType": "spot"}
    if user_data:
        data["UserData"] = base64.b64encode(user_data.encode()).decode()
    template = ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)
    subnets = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": [ZONE]}])
    autoscaling.create_auto_scaling_group(
        AutoScalingGroupName=name,
        MinSize=0,
        MaxSize=most,
        DesiredCapacity=0,
        VPCZoneIdentifier=subnets["Subnets"][0]["SubnetId"],
        LaunchTemplate={
            "LaunchTemplateId": template["LaunchTemplate"]["LaunchTemplateId"],
            "Version": "$Latest",
        },
        NewInstancesProtectedFromScaleIn=True,
        Tags=[
            {"Key": key, "Value": value, "PropagateAtLaunch": True, "ResourceId": name,
             "ResourceType": "auto-scaling-group"}
            for key, value in tagged.items()
        ],
    )  # fmt: skip
    if suspended:
        autoscaling.suspend_processes(AutoScalingGroupName=name, ScalingProcesses=list(suspended))


def tags(group: Group, cluster: str) -> dict[str, str]:
    """The tags by which the autoscaler finds a group and knows its machines before one exists."""
    template = f"{_TAG}node-template/"
    found_tags = {f"{_TAG}enabled": "true", f"{_TAG}{cluster}": "owned"}
    found_tags |= {f"{template}label/{key}": value for key, value in group.labels.items()}
    found_tags |= {f"{template}taint/{key}": value for key, value in group.taints.items()}
    found_tags |= {
        f"{template}autoscaling-options/{key}": value for key, value in group.options.items()
    }
    size = size_of(group.type)
    found_tags |= {
        f"{template}resources/cpu": str(size.cpus),
        f"{template}resources/memory": str(size.memory.bytes),
    }
    if size.gpus:
        found_tags[f"{template}resources/nvidia.com/gpu"] = str(size.gpus)
    return found_tags


def user_data(place: Place, group: str) -> str:
    """What the machines of a group are told when they boot; empty where nothing is."""
    versions = client(place, "ec2").describe_launch_template_versions(LaunchTemplateName=group)
    data = versions["LaunchTemplateVersions"][-1]["LaunchTemplateData"]
    return base64.b64decode(data.get("UserData", "")).decode()


def start_autoscaler(place: Place, flags: Sequence[str] = FAST_FLAGS) -> None:
    """Starts the cluster-autoscaler; raises MissingProgramError where it is not here."""
    program = found.find(AUTOSCALER)
    with Api(place.admin) as api:
        api.apply_text(_ROLE.read_text())
    kubeconfig = place.folder / f"{AUTOSCALER}.kubeconfig"
    write_kubeconfig(place, kubeconfig, AUTOSCALER)
    cloud = place.folder / "cloud.conf"
    cloud.write_text(_CLOUD.format(zone=ZONE, region=REGION, url=place.aws))
    components.start(
        place,
        AUTOSCALER,
        [
            str(program), "--cloud-provider=aws", f"--cloud-config={cloud}",
            f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--v=2",
            "--aws-use-static-instance-list=true", f"--address={place.hub}:8085",
            f"--node-group-auto-discovery=asg:tag={_TAG}enabled,{_TAG}{place.name}",
            *flags,
        ],
        {
            "AWS_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ACCESS_KEY_ID": "testbed", "AWS_SECRET_ACCESS_KEY": "testbed",
        },
    )  # fmt: skip


def instances(place: Place, group: str) -> list[str]:
    """Ids of the instances that a group has now."""
    groups = client(place, "autoscaling").describe_auto_scaling_groups(
        AutoScalingGroupNames=[group]
    )["AutoScalingGroups"]
    return [item["InstanceId"] for found_group in groups for item in found_group["Instances"]]


def buy_desired(place: Place, group: str) -> None:
    """Has a group buy what its desired capacity asks for: AWS tries that again and again."""
    autoscaling = client(place, "autoscaling")
    known = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])
    for found_group in known["AutoScalingGroups"]:
        autoscaling.set_desired_capacity(
            AutoScalingGroupName=group, DesiredCapacity=found_group["DesiredCapacity"]
        )


def delete_group(place: Place, group: str) -> None:
    """Deletes a group with all of its instances."""
    autoscaling = client(place, "autoscaling")
    for instance in instances(place, group):
        terminate(place, instance)
    autoscaling.delete_auto_scaling_group(AutoScalingGroupName=group, ForceDelete=True)
    client(place, "ec2").delete_launch_template(LaunchTemplateName=group)


def terminate(place: Place, instance: str, *, lower_desired: bool = True) -> None:
    """Terminates an instance of a group, as a person at the console would."""
    client(place, "autoscaling").terminate_instance_in_auto_scaling_group(
        InstanceId=instance, ShouldDecrementDesiredCapacity=lower_desired
    )


def interrupt(place: Place, instance: str) -> None:
    """AWS takes a spot instance away; its group replaces it at once."""
    with closing(http.client.HTTPConnection(place.hub, AWS_PORT, timeout=30)) as connection:
        connection.request("POST", f"{INTERRUPT_PATH}?instance={instance}")
        connection.getresponse().read()
