"""`piecework pools`: which machine pools there are, what to apply for them, and what would hurt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from piecework.cli import options, terminal
from piecework.cli.table import Column, table

if TYPE_CHECKING:
    from piecework.machines.check.finding import Finding
    from piecework.machines.check.survey import Cloud
    from piecework.machines.render import Rendering
    from piecework.spec.pool import Pool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List machine pools, print what to apply for them, and check them."""


@command.command("ls")
@options.json_option
def list_pools(as_json: bool) -> None:
    """List the machine pools of piecework.toml."""
    pools = _load()
    if as_json:
        written = [pool.model_dump(mode="json", exclude_defaults=True) for pool in pools]
        terminal.result_json({"pools": written})
        return
    columns = [
        Column("POOL"),
        Column("PROVIDER"),
        Column("MACHINES", right=True),
        Column("PER HOUR", right=True),
        Column("NAMESPACE"),
        Column("TYPES", shrinks=True),
    ]
    terminal.result(table(columns, [_row(pool) for pool in pools], terminal.width()))


def _row(pool: Pool) -> list[str | None]:
    types = pool.allowed_types()
    return [
        pool.name,
        pool.provider,
        None if pool.max_machines is None else f"at most {pool.max_machines}",
        None if pool.max_usd_per_hour is None else f"at most ${pool.max_usd_per_hour:f}",
        pool.namespace if pool.on_cluster else None,
        "any" if types is None else ", ".join(sorted(types)),
    ]


@command.command()
@click.argument("pool", required=False)
@click.option(
    "--cluster", metavar="NAME", help="The cluster's name in the tags of Auto Scaling groups."
)
@click.option(
    "--keeper-image", metavar="IMAGE", help="Print the keeper's Deployment, with this image."
)
@click.option(
    "--policies/--no-policies",
    default=True,
    help="Print admission policies: for Kubernetes from 1.36 on.",
)
@click.option(
    "--groups", is_flag=True, help="Print what belongs to the cloud instead: Auto Scaling groups."
)
@options.json_option
def render(
    pool: str | None,
    cluster: str | None,
    keeper_image: str | None,
    policies: bool,
    groups: bool,
    as_json: bool,
) -> None:
    """Print what to apply, so that an autoscaler buys machines for POOL, or for all pools.

    Without --groups that is YAML for `kubectl apply -f -`: namespaces, roles, the priority class,
    admission policies, the NodePools of Karpenter. With it, what Auto Scaling groups and the
    cluster-autoscaler need: tags, user data, suspended processes, flags. Nothing is applied.
    """
    from piecework import config
    from piecework.machines.render import render as render_pools
    from piecework.spec.data import load_data

    rendering = render_pools(
        _of_one_cluster(_load(), pool),
        cluster=cluster,
        keeper_image=keeper_image,
        secret=load_data(config.load()).secret,
        policies=policies,
    )
    if as_json:
        terminal.result_json(rendering.to_json())
    elif groups:
        _print_groups(rendering)
    else:
        _print_objects(rendering)


@command.command()
@click.argument("pool", required=False)
@options.json_option
def check(pool: str | None, as_json: bool) -> int:
    """Look at the cluster and the cloud account of POOL, or of all pools: what would hurt?

    Changes nothing. Exits 1 where something would hurt.
    """
    from piecework.machines.check.finding import Severity

    pools = _of_one_cluster(_load(), pool)
    if not pools:
        terminal.say("No pool is on a cluster, so there is nothing to check.")
        return 0
    found = _look(pools)
    hurts = any(each.severity > Severity.NOTE for each in found)
    if as_json:
        terminal.result_json({"findings": [each.to_json() for each in found]})
        return 1 if hurts else 0
    colours = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
    for each in found:
        word = terminal.style(str(each.severity), fg=colours[each.severity])
        where = "" if each.pool is None else f"pool {each.pool}: "
        terminal.result(terminal.printable(f"{word}: {where}{each.what}"))
        terminal.result(terminal.printable(f"    {each.fix}"))
    names = ", ".join(each.name for each in pools)
    if not hurts:
        terminal.say(f"Nothing would hurt: {names}")
    return 1 if hurts else 0


def _look(pools: list[Pool]) -> list[Finding]:
    from piecework import clock
    from piecework.kube.client import Kube
    from piecework.machines.check.findings import findings
    from piecework.machines.check.survey import survey

    kube = Kube.connect(pools[0].kubeconfig, pools[0].context)
    return findings(survey(pools, kube, _cloud_of(pools), clock.now()))


def _cloud_of(pools: list[Pool]) -> Cloud | None:
    """The cloud of the pools; None where no pool is of Auto Scaling groups."""
    scaled = [pool for pool in pools if pool.provider == "asg"]
    if not scaled:
        return None
    from piecework.machines.check.aws import AwsGroups

    return AwsGroups(scaled)


def _load() -> list[Pool]:
    from piecework import config
    from piecework.spec.pool import load_pools

    return list(load_pools(config.load()).values())


def _of_one_cluster(pools: list[Pool], name: str | None) -> list[Pool]:
    """The pool of that name, or all on the cluster; raises InputError where they are on several."""
    from piecework.errors import InputError
    from piecework.spec.wording import suggest

    if name is not None:
        found = [pool for pool in pools if pool.name == name]
        if not found:
            known = [pool.name for pool in pools]
            raise InputError(f"there is no pool {name!r} in piecework.toml; {suggest(name, known)}")
        if not found[0].on_cluster:
            raise InputError(
                f"pool {name!r} is of provider {found[0].provider}, which needs nothing applied "
                "and has no cluster to check"
            )
        return found
    on_cluster = [pool for pool in pools if pool.on_cluster]
    if len({(pool.kubeconfig, pool.context) for pool in on_cluster}) > 1:
        names = ", ".join(pool.name for pool in on_cluster)
        raise InputError(f"the pools are on several clusters; name one of them: {names}")
    return on_cluster


def _print_objects(rendering: Rendering) -> None:
    for found in rendering.objects:
        terminal.result(f"---\n{_yaml(found)}".rstrip("\n"))
    if rendering.groups:
        terminal.say("What belongs to the Auto Scaling groups: add --groups.")


def _print_groups(rendering: Rendering) -> None:
    if not rendering.groups:
        terminal.say("No pool here is of Auto Scaling groups.")
        return
    terminal.result("# The cluster-autoscaler's flags")
    terminal.result("\n".join(rendering.flags))
    for group in rendering.groups:
        terminal.result(f"\n# Auto Scaling group {group.name}: the least is 0, the most is")
        terminal.result(str(group.max_size))
        terminal.result("# its tags")
        terminal.result("\n".join(f"{key}={value}" for key, value in group.tags.items()))
        terminal.result("# processes to suspend")
        terminal.result("AZRebalance")
        terminal.result("# one zone; instances protected from scale-in; capacity rebalance off")
        terminal.result("# user data of its launch template, on Amazon Linux 2023")
        terminal.result(group.node_config.rstrip("\n"))
        terminal.result("# or, on any other system, flags of the kubelet")
        terminal.result("\n".join(group.kubelet_flags))


def _yaml(value: Any) -> str:
    """For people: keys in their order, long texts as blocks, no anchors."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        style = "|" if "\n" in text else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, represent)
    written: str = yaml.dump(value, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True)
    return written
