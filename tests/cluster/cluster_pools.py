"""Pools of both kinds on the testbed, with everything applied that piecework renders for them.

What enters are instance types and whatever else piecework.toml may say; what leaves is the text of
a piecework.toml, with kubeconfigs of the rights that piecework renders: the keeper's, and those of
who submits runs. Nobody of piecework acts as the cluster's administrator.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from piecework import config
from piecework.config import Settings
from piecework.machines import access
from piecework.machines.render import Rendering, render
from piecework.plan.price import load_price_book
from piecework.spec.pool import Pool, load_pools
from testbed import aws, certificates, components, karpenter
from testbed.api import Api
from testbed.aws_server import SPOT_SHARE
from testbed.place import Place

#: The environment in which boto3 finds credentials; there are no secrets: AWS here takes any.
AWS_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testbed",
    "AWS_SECRET_ACCESS_KEY": "testbed",
    "AWS_EC2_METADATA_DISABLED": "true",
}
#: KWOK's provider puts a NodePool's name and up to 56 letters more into a node's name. One of more
#: than 63 is no label, so no kubelet can say that the node is its own: pods run there, but nothing
#: that waits for what a kubelet tells of its machine ever happens.
LONGEST_NAME = 7
#: Flags that the testbed sets in its own way.
_OWN_FLAGS = ("--cloud-provider", "--node-group-auto-discovery")


@dataclass(frozen=True)
class ClusterPool:
    """A pool in a namespace of its own. `tables` is a piecework.toml as submitters have it."""

    name: str
    namespace: str
    tables: str
    #: The same as `tables`, with the keeper's rights.
    keeper_tables: str
    keeper_kubeconfig: Path
    submitter_kubeconfig: Path
    rendering: Rendering


def settings_from(tables: str, home: Path) -> Settings:
    """The settings that a piecework.toml says, which is written into `home`."""
    home.mkdir(parents=True, exist_ok=True)
    # Renamed when it is complete: a keeper may be reading it at this moment.
    with tempfile.NamedTemporaryFile("w", dir=home, delete=False) as file:
        file.write(tables)
    Path(file.name).rename(home / "piecework.toml")
    return config.load({"PIECEWORK_HOME": str(home)}, home)


def pool_from(tables: str, name: str, home: Path) -> Pool:
    return load_pools(settings_from(tables, home))[name]


def make_karpenter_pool(
    here: Place, api: Api, name: str, folder: Path, types: Sequence[str], more: str = ""
) -> ClusterPool:
    """A NodePool of these instance types; `more` are further lines of the pool's table.

    Raises ValueError where its name is too long: see LONGEST_NAME.
    """
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{name!r}: a NodePool's name has at most {LONGEST_NAME} letters here")
    karpenter.start(here)
    node_class = f'{{group = "{karpenter.GROUP}", kind = "KWOKNodeClass", name = "default"}}'
    lines = f"""provider = "karpenter"
types = {list(types)}
node_class = {node_class}
{more}"""
    made = _make(here, api, name, folder, lines, types)
    api.apply(*made.rendering.objects)
    return made


def make_asg_pool(
    here: Place,
    api: Api,
    name: str,
    folder: Path,
    types: Sequence[str],
    more: str = "",
    *,
    spot: Collection[str] = (),
    most: int = 8,
) -> ClusterPool:
    """A group of on-demand machines for each type; for those in `spot` another of spot capacity.

    Raises MissingProgramError where the cluster-autoscaler is not here.
    """
    aws.start(here)
    kinds = [(kind, one) for kind in types for one in ([True, False] if kind in spot else [False])]
    groups = {f"{name}-{kind.replace('.', '-')}{'-spot' * one}": (kind, one) for kind, one in kinds}
    written = ", ".join(
        f'{{name = "{group}", type = "{kind}", spot = {str(one).lower()}, max = {most}}}'
        for group, (kind, one) in groups.items()
    )
    lines = f"""provider = "asg"
region = "{aws.REGION}"
endpoint = "{here.aws}"
cluster = "{here.name}"
groups = [{written}]
{more}"""
    made = _make(here, api, name, folder, lines, types)
    api.apply(*made.rendering.objects)
    for settings in made.rendering.groups:
        kind, one = groups[settings.name]
        aws.make_rendered_group(here, settings.to_json(), kind, spot=one)
    # The autoscaler looks for new groups once a minute, and when it starts.
    components.stop(here, aws.AUTOSCALER)
    flags = [flag for flag in made.rendering.flags if not flag.startswith(_OWN_FLAGS)]
    aws.start_autoscaler(here, flags)
    return made


def _make(
    here: Place, api: Api, name: str, folder: Path, lines: str, types: Sequence[str]
) -> ClusterPool:
    folder.mkdir(parents=True, exist_ok=True)
    book = load_price_book()
    spot_prices = ", ".join(
        f'"{kind}" = {round(float(found.usd_per_hour) * float(SPOT_SHARE), 6)}'
        for kind in types
        if (found := book.find(kind)) and found.usd_per_hour is not None
    )

    def tables(kubeconfig: Path) -> str:
        return f"""
[pools.{name}]
{lines}
namespace = "{name}"
kubeconfig = "{kubeconfig}"
spot_prices = {{{spot_prices}}}
"""

    users = {
        account: certificates.write_kubeconfig(
            here,
            folder / f"{account}.kubeconfig",
            f"system:serviceaccount:{name}:{account}",
            ["system:serviceaccounts", f"system:serviceaccounts:{name}", "system:authenticated"],
            name,
        )
        for account in (access.KEEPER, access.SUBMITTER)
    }
    keeper, submitter = users[access.KEEPER], users[access.SUBMITTER]
    written = tables(submitter)
    rendering = render([pool_from(written, name, folder / "home")])
    return ClusterPool(name, name, written, tables(keeper), keeper, submitter, rendering)


def remove(here: Place, api: Api, made: ClusterPool) -> None:
    """Removes a pool's groups or NodePool, its pods, machines, and its namespace."""
    from piecework.keeper.cluster.uninstall import uninstall
    from piecework.kube.client import Kube
    from piecework.plan import labels

    selector = f"{labels.POOL}={made.name}"
    # A pod that is being deleted waits for no machine.
    for pod in api.list("Pod", selector=selector):
        metadata = pod["metadata"]
        api.delete("Pod", metadata["name"], metadata["namespace"], grace_seconds=0)
    uninstall(Kube.connect(here.admin), {made.name})
    if made.rendering.groups:
        for settings in made.rendering.groups:
            aws.delete_group(here, settings.name)
    else:
        api.delete("NodePool", made.name, api_version="karpenter.sh/v1")
        for claim in api.list("NodeClaim", api_version="karpenter.sh/v1", selector=selector):
            api.delete("NodeClaim", claim["metadata"]["name"], api_version="karpenter.sh/v1")
    api.wait("its machines to be gone", lambda: not api.list("Node", selector=selector), 120)
    for role in made.rendering.objects:
        if role["kind"].startswith("ClusterRole"):
            api.delete(role["kind"], role["metadata"]["name"], api_version=role["apiVersion"])
    api.delete("Namespace", made.namespace)
