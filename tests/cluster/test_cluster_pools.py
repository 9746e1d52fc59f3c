"""What piecework renders for its pools is enough, and no more than enough, on a real cluster."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.rest import ApiException

from piecework.ledger.events import Outcome
from piecework.machines import access
from piecework.machines.render import render
from piecework.plan import labels
from testbed import aws, components, faults, images, postgresql, record
from testbed.api import Api
from testbed.place import Place
from tests.cluster.cluster_pools import ClusterPool
from tests.cluster.conftest import Cluster, StartMachine
from tests.cluster.ground import Ground

MakePool = Callable[..., ClusterPool]
_KEEPERS = f"app.kubernetes.io/name={access.KEEPER}"
_KINDS = ["karpenter_cluster_pool", "asg_cluster_pool"]


@pytest.fixture
def make_pool(request: pytest.FixtureRequest) -> MakePool:
    """Makes pools of the kind that the test is run for."""
    make: MakePool = request.getfixturevalue(request.param)
    return make


@pytest.mark.parametrize("make_pool", _KINDS, indirect=True)
def test_a_keeper_with_the_rendered_rights_alone_buys_bills_and_gives_back(
    one: Cluster, here: Place, api: Api, make_pool: MakePool, tmp_path: Path
) -> None:
    pool = make_pool()
    home = tmp_path / "keeper"
    home.mkdir()
    ground = Ground(here, api, home, one.shell, pool)
    ground.start_keeper()
    try:
        attempt = ground.submit("job", "sleep 2")
        ended = ground.ended(attempt)
        assert (ended.outcome, ended.exit_code) == (Outcome.SUCCESS, 0)
        ground.read(attempt)
        (machine,) = ground.machines_gone()
        assert [occupancy.attempt for occupancy in machine.occupancies] == [attempt]
        ground.check_ledger()
        api.wait("its pod to be gone", lambda: not ground.pods(attempt), 30)
    finally:
        ground.stop_keepers()
    said = ground.keeper_log().lower()
    assert "forbidden" not in said
    assert "traceback" not in said


@pytest.mark.layer("postgresql")
def test_the_keeper_runs_in_the_cluster_as_it_is_rendered(
    one: Cluster,
    here: Place,
    api: Api,
    karpenter_cluster_pool: MakePool,
    start_machine: StartMachine,
    tmp_path: Path,
) -> None:
    start_machine("m6a.xlarge")  # the keepers' own: they buy none for themselves
    pool = karpenter_cluster_pool()
    url = postgresql.start(here).replace("postgresql:", "postgresql+psycopg:")
    home = tmp_path / "home"
    home.mkdir()
    ledger = f'ledger_url = "{url}"'
    ground = Ground(here, api, home, one.shell, pool, more=ledger)
    try:
        # In the cluster it finds the cluster by itself.
        lines = [ledger, *pool.tables.splitlines()]
        written = "\n".join(line for line in lines if not line.startswith("kubeconfig"))
        api.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": access.SETTINGS, "namespace": pool.namespace},
                "stringData": {"piecework.toml": written},
            },
            *render([ground.pool], keeper_image=images.shipped(here, "piecework")).objects,
        )
        attempt = ground.submit("job", "sleep 1")
        ended = ground.ended(attempt, 240)
        assert ended.outcome is Outcome.SUCCESS
        assert len(ended.machines) == 1
        lease = api.get("Lease", "piecework-keeper", pool.namespace, "coordination.k8s.io/v1")
        keepers = api.list("Pod", pool.namespace, selector=_KEEPERS)
        assert len(keepers) == 2
        assert lease is not None
        holder = lease["spec"]["holderIdentity"]
        assert any(pod["metadata"]["name"] in holder for pod in keepers)
    finally:
        api.delete("Deployment", access.KEEPER, pool.namespace, "apps/v1")
        api.wait(
            "the keepers to be gone",
            lambda: not api.list("Pod", pool.namespace, selector=_KEEPERS),
        )
        components.stop(here, postgresql.NAME)


def test_submitters_may_create_pods_where_their_pool_is_and_touch_no_machine(
    here: Place, karpenter_cluster_pool: MakePool
) -> None:
    pool = karpenter_cluster_pool()
    with Api(pool.submitter_kubeconfig) as submitter:
        assert submitter.list("Pod", pool.namespace) == []
        for kind, namespace in (("Pod", "kube-system"), ("Secret", pool.namespace), ("Node", None)):
            with pytest.raises(ApiException, match="Forbidden"):
                submitter.list(kind, namespace)


def _instance(here: Place, name: str) -> dict[str, Any]:
    (reservation,) = aws.client(here, "ec2").describe_instances(InstanceIds=[name])["Reservations"]
    instance: dict[str, Any] = reservation["Instances"][0]
    return instance


def test_a_rendered_groups_machine_is_what_the_autoscaler_was_told_and_aws_tells_of_its_life(
    here: Place, api: Api, asg_cluster_pool: MakePool
) -> None:
    pool = asg_cluster_pool(("m6a.large",), spot=["m6a.large"])
    spot, on_demand = (settings.name for settings in pool.rendering.groups)
    autoscaling = aws.client(here, "autoscaling")
    (group,) = autoscaling.describe_auto_scaling_groups(AutoScalingGroupNames=[spot])[
        "AutoScalingGroups"
    ]
    assert [item["ProcessName"] for item in group["SuspendedProcesses"]] == ["AZRebalance"]
    autoscaling.set_desired_capacity(AutoScalingGroupName=spot, DesiredCapacity=1)
    (name,) = aws.instances(here, spot)
    node = api.wait("the machine to join", lambda: api.get("Node", name))
    assert node["metadata"]["labels"][labels.POOL] == pool.name
    taint = {"key": labels.POOL, "value": pool.name, "effect": "NoSchedule"}
    assert taint in node["spec"]["taints"]
    # The autoscaler may take it, which nobody needs; whoever does, it is told.
    if name in aws.instances(here, spot):
        aws.terminate(here, name)
    api.wait("the machine to be gone", lambda: record.read(here)[name].stopped)

    instance, life = _instance(here, name), record.read(here)[name]
    assert life.bought
    assert life.returned
    assert instance["InstanceLifecycle"] == "spot"
    assert timedelta() <= life.bought - instance["LaunchTime"] < timedelta(seconds=1)
    assert instance["StateTransitionReason"] == (
        f"User initiated ({life.returned:%Y-%m-%d %H:%M:%S} GMT)"
    )
    ended, launched = autoscaling.describe_scaling_activities(AutoScalingGroupName=spot)[
        "Activities"
    ]
    assert ended["Description"] == f"Terminating EC2 instance: {name}"
    assert launched["Description"] == f"Launching a new EC2 instance: {name}"
    assert abs(ended["EndTime"] - life.returned) < timedelta(seconds=1)
    assert abs(launched["StartTime"] - life.bought) < timedelta(seconds=1)
    assert not autoscaling.describe_scaling_activities(AutoScalingGroupName=on_demand)["Activities"]
    prices = aws.client(here, "ec2").describe_spot_price_history(InstanceTypes=["m6a.large"])
    assert float(prices["SpotPriceHistory"][0]["SpotPrice"]) > 0


def test_a_spot_group_out_of_stock_lets_the_autoscaler_buy_on_demand(
    one: Cluster, here: Place, api: Api, asg_cluster_pool: MakePool, tmp_path: Path
) -> None:
    pool = asg_cluster_pool(("m6a.large",), spot=["m6a.large"])
    spot, on_demand = (settings.name for settings in pool.rendering.groups)
    faults.out_of_stock(here, spot)
    home = tmp_path / "keeper"
    home.mkdir()
    ground = Ground(here, api, home, one.shell, pool)
    ground.start_keeper()
    try:
        machine = {"cpu": 1, "memory": "2Gi", "spot": "prefer"}
        attempt = ground.submit("job", "true", machine=machine)
        ended = ground.ended(attempt, 240)
        assert ended.outcome is Outcome.SUCCESS
        ground.read(attempt)
        (bought,) = ended.machines
        launched = aws.client(here, "autoscaling").describe_scaling_activities(
            AutoScalingGroupName=on_demand
        )["Activities"]
        assert any(bought in item["Description"] for item in launched)
        ground.machines_gone()
        ground.check_ledger()
    finally:
        ground.stop_keepers()
