"""What would hurt in Auto Scaling groups and in the cluster-autoscaler that scales them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from piecework.machines import groups
from piecework.machines.check.duration import read_duration
from piecework.machines.check.finding import RENDER, RENDER_GROUPS, Finding, error, note, warning
from piecework.machines.check.survey import GroupSeen, Part, Survey
from piecework.machines.render import cluster_of
from piecework.plan import labels
from piecework.plan.price import bought_at
from piecework.plan.rejection import format_hourly
from piecework.spec.pool import Group, Pool
from piecework.units import round_duration

_UNNEEDED = "scaledownunneededtime"
#: Tags that tell the autoscaler what a machine would look like.
_TELLING = tuple(f"{groups.TEMPLATE}{part}/" for part in ("label", "taint", "resources"))
#: What the autoscaler does where neither a group's tag nor a flag says otherwise.
_UNNEEDED_DEFAULT = timedelta(minutes=10)
#: An idle machine may stand this long before it counts as waste.
_PATIENCE = timedelta(minutes=1)
#: Flags whose values are durations, with the most that is fine.
_SLOW = {
    "scan-interval": timedelta(seconds=10),
    "scale-down-delay-after-add": timedelta(seconds=30),
    "unremovable-node-recheck-timeout": timedelta(seconds=30),
    "scale-down-delay-after-failure": timedelta(minutes=1),
}
_DEFAULTS = {
    "scan-interval": "10s",
    "scale-down-delay-after-add": "10m",
    "unremovable-node-recheck-timeout": "5m",
    "scale-down-delay-after-failure": "3m",
    "skip-nodes-with-local-storage": "true",
    "expander": "least-waste",
}


def find_in_groups(survey: Survey, pool: Pool) -> Iterator[Finding]:
    """All findings of one pool of provider asg."""
    if not survey.saw(Part.GROUPS):
        return
    for group in pool.groups:
        seen = survey.groups.get(group.name)
        if seen is None:
            yield error(
                f"there is no Auto Scaling group {group.name}"
                + (f" in {pool.region}" if pool.region else ""),
                RENDER_GROUPS,
                pool.name,
            )
            continue
        yield from _find_in_tags(survey, pool, group, seen)
        yield from _find_in_user_data(pool, group, seen)
        yield from _find_in_types(pool, group, seen)
        yield from _find_in_behaviour(pool, group, seen)
        yield from _find_in_sizes(pool, group, seen)


def _find_in_tags(survey: Survey, pool: Pool, group: Group, seen: GroupSeen) -> Iterator[Finding]:
    """Which tags are missing, by what follows from it."""
    wanted = groups.tags_of(pool, group, cluster_of(pool))
    wrong = {key: value for key, value in wanted.items() if seen.tags.get(key) != value}
    name = f"Auto Scaling group {group.name}"
    finding = [key for key in wrong if not key.startswith(groups.TEMPLATE)]
    if finding:
        yield error(
            f"{name} lacks the tags {', '.join(finding)}: the autoscaler does not find it",
            RENDER_GROUPS,
            pool.name,
        )
    telling = [f"{key}={wrong[key]}" for key in wrong if key.startswith(_TELLING)]
    if telling:
        yield error(
            f"{name} lacks the tags {', '.join(telling)}: with no machine to look at, the "
            "autoscaler thinks that jobs don't fit there, and buys nothing",
            RENDER_GROUPS,
            pool.name,
        )
    yield from _find_in_unneeded(survey, pool, group, seen)


def _find_in_unneeded(
    survey: Survey, pool: Pool, group: Group, seen: GroupSeen
) -> Iterator[Finding]:
    tag = f"{groups.TEMPLATE}autoscaling-options/{_UNNEEDED}"
    flag = (survey.flags or {}).get("scale-down-unneeded-time")
    said = read_duration(seen.tags.get(tag) or flag)
    found = _UNNEEDED_DEFAULT if said is None else said
    allowed = max(_PATIENCE, (pool.keep or timedelta(0)) + _PATIENCE)
    if found > allowed:
        source = "as the autoscaler does by default"
        if flag is not None:
            source = "by the autoscaler's flag"
        if tag in seen.tags:
            source = "by its tag"
        yield warning(
            f"Auto Scaling group {group.name} keeps idle machines for {round_duration(found)} "
            f"({source}); each costs {_hourly(pool, group)}",
            f"tag it {tag}={groups.options_of(pool)[_UNNEEDED]}",
            pool.name,
        )


def _find_in_user_data(pool: Pool, group: Group, seen: GroupSeen) -> Iterator[Finding]:
    """Tags only tell of labels and taints; the machine itself must set them."""
    name = f"Auto Scaling group {group.name}"
    if seen.user_data is None:
        yield note(
            f"the user data of {name} could not be read: whether its machines set the label and "
            "the taint of the pool is not known",
            "look at a machine: `kubectl get nodes -L piecework.dev/pool`",
            pool.name,
        )
        return
    # As flags of the kubelet, and in the settings of other systems: "key" = ["value:effect"].
    said = rf"{re.escape(labels.POOL)}\"?\s*[=:]\s*[\[\"'\s]*{re.escape(pool.name)}"
    has_label = re.search(rf"{said}(?![\w.:-])", seen.user_data)
    has_taint = re.search(rf"{said}:NoSchedule", seen.user_data)
    if not has_label and not has_taint:
        yield error(
            f"machines of {name} set neither the label nor the taint of the pool: jobs never get "
            "there, and the autoscaler buys again and again",
            RENDER_GROUPS,
            pool.name,
        )
    elif not has_label:
        yield error(
            f"machines of {name} set the taint of the pool without its label: nothing will ever "
            "run on them, and the autoscaler buys again and again",
            RENDER_GROUPS,
            pool.name,
        )
    elif not has_taint:
        yield error(
            f"machines of {name} set the label of the pool without its taint: anybody's pods may "
            "run on them",
            RENDER_GROUPS,
            pool.name,
        )


def _find_in_types(pool: Pool, group: Group, seen: GroupSeen) -> Iterator[Finding]:
    name = f"Auto Scaling group {group.name}"
    if len(set(seen.instance_types)) > 1:
        yield error(
            f"{name} mixes the types {', '.join(seen.instance_types)}: the autoscaler takes all "
            "for the first, and jobs may get a machine that is too small",
            "make it one type a group",
            pool.name,
        )
    elif seen.instance_types and seen.instance_types[0] != group.type:
        yield error(
            f"{name} buys {seen.instance_types[0]}, and the pool says {group.type}: jobs are "
            "planned for a machine that never comes",
            f"say so in [pools.{pool.name}], or change the launch template",
            pool.name,
        )
    if seen.spot != group.spot:
        yield error(
            f"{name} buys {_capacity(seen.spot)} capacity, and the pool says "
            f"{_capacity(group.spot)}: its price is wrong, and jobs get what they did not ask for",
            f"set spot = {str(seen.spot).lower()} in [pools.{pool.name}], or change the group",
            pool.name,
        )


def _capacity(spot: bool) -> str:
    return "spot" if spot else "on-demand"


def _find_in_behaviour(pool: Pool, group: Group, seen: GroupSeen) -> Iterator[Finding]:
    """What the group does by itself, without asking whether a job runs there."""
    name = f"Auto Scaling group {group.name}"
    if len(seen.zones) > 1:
        if groups.REBALANCE not in seen.suspended:
            yield error(
                f"{name} balances its machines over {len(seen.zones)} zones: it ends running jobs "
                "to do so",
                f"suspend its process {groups.REBALANCE}, and give it one zone",
                pool.name,
            )
        yield warning(
            f"{name} has {len(seen.zones)} zones ({', '.join(seen.zones)}): the autoscaler can't "
            "tell in which one a machine will be",
            "make it one zone a group",
            pool.name,
        )
    elif groups.REBALANCE not in seen.suspended:
        yield note(
            f"{name} may balance its machines over zones, once it has more than one",
            f"suspend its process {groups.REBALANCE}",
            pool.name,
        )
    if seen.rebalances_capacity:
        yield warning(
            f"{name} replaces spot machines that AWS may take away, under their jobs",
            "turn its capacity rebalancing off",
            pool.name,
        )
    if not seen.protected:
        yield warning(
            f"{name} does not protect new machines from scale-in: whoever lowers its size ends a "
            "job that runs",
            "set NewInstancesProtectedFromScaleIn; the autoscaler may still remove them",
            pool.name,
        )


def _find_in_sizes(pool: Pool, group: Group, seen: GroupSeen) -> Iterator[Finding]:
    name = f"Auto Scaling group {group.name}"
    if seen.min_size > 0:
        yield warning(
            f"{name} has at least {seen.min_size} machine{'' if seen.min_size == 1 else 's'}, paid "
            f"for whether there is work or not ({_hourly(pool, group)} each)",
            "set its least size to 0",
            pool.name,
        )
    if seen.max_size < group.max:
        yield warning(
            f"{name} has at most {seen.max_size} machines, and the pool says {group.max}: runs are "
            "admitted that get no machine",
            f"set max = {seen.max_size} in [pools.{pool.name}], or raise the group's size",
            pool.name,
        )


def _hourly(pool: Pool, group: Group) -> str:
    machine = bought_at(pool, group.type, spot=group.spot)
    return format_hourly(None if machine is None else machine.usd_per_hour)


def find_in_flags(survey: Survey, pools: Sequence[Pool]) -> Iterator[Finding]:
    """What the flags of the cluster's autoscaler do to all groups."""
    if not survey.saw(Part.AUTOSCALER):
        return
    if survey.flags is None:
        yield note(
            "no Deployment of kube-system runs the cluster-autoscaler: its flags are not known",
            "compare them with those of `piecework pools render --groups`",
        )
        return
    flags = {**_DEFAULTS, **survey.flags}
    yield from _find_slow_flags(flags)
    if flags["skip-nodes-with-local-storage"] != "false":
        yield warning(
            "the autoscaler gives no machine back on which a pod with a scratch folder runs, like "
            "many daemons have",
            "set --skip-nodes-with-local-storage=false",
        )
    discovery = flags.get("node-group-auto-discovery", "")
    for cluster in sorted({cluster_of(pool) for pool in pools}):
        if discovery and f"{groups.TAG}{cluster}" not in discovery:
            yield error(
                f"the autoscaler looks for other groups than those of cluster {cluster} "
                f"(--node-group-auto-discovery={discovery})",
                f"name the cluster in [pools.NAME] or in the flag, by {groups.TAG}{cluster}",
            )
    mixed = any(pool.groups_for("only") and pool.groups_for("never") for pool in pools)
    ranked = "priority" in flags["expander"]
    if mixed and not ranked:
        yield warning(
            f"the autoscaler's expander is {flags['expander']}: it does not know that spot "
            "capacity comes first",
            f"set --expander={groups.FLAGS['expander'][0]}",
        )
    if ranked and survey.saw(Part.PRIORITIES) and not survey.has_priorities:
        yield warning(
            f"the autoscaler ranks groups by the ConfigMap {groups.PRIORITIES}, and there is none",
            RENDER,
        )


def _find_slow_flags(flags: Mapping[str, str]) -> Iterator[Finding]:
    for name, most in _SLOW.items():
        found = read_duration(flags[name])
        if found is not None and found > most:
            value, why = groups.FLAGS[name]
            yield warning(
                f"the autoscaler has --{name}={flags[name]} ({why.partition(': ')[2] or why})",
                f"set --{name}={value}",
            )
