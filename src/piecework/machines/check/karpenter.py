"""What would hurt in a NodePool: as it is in the cluster, against what the pool needs of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from piecework.kube.client import Object
from piecework.machines.check.duration import read_duration
from piecework.machines.check.finding import RENDER, Finding, error, note, warning
from piecework.machines.check.survey import Part, Survey
from piecework.plan import labels
from piecework.plan.estimate import MINIMUM
from piecework.spec.pool import Pool
from piecework.units import round_duration

_CAPACITY = "karpenter.sh/capacity-type"
_TYPE = "node.kubernetes.io/instance-type"


def find_in_node_pool(survey: Survey, pool: Pool) -> Iterator[Finding]:
    """All findings of one pool of provider karpenter."""
    if not survey.saw(Part.NODE_POOLS):
        return
    if survey.node_pools is None:
        yield error(
            "Karpenter is not installed: the cluster knows no NodePools, so nothing is bought",
            "install Karpenter, and " + RENDER,
            pool.name,
        )
        return
    node_pool = survey.node_pools.get(pool.name)
    if node_pool is None:
        yield error(f"there is no NodePool {pool.name}, so nothing is bought", RENDER, pool.name)
        return
    spec = node_pool["spec"]
    yield from _find_in_status(node_pool, pool)
    yield from _find_in_template(spec["template"], pool)
    yield from _find_in_requirements(spec["template"]["spec"].get("requirements", ()), pool)
    yield from _find_in_disruption(spec.get("disruption", {}), pool)
    yield from _find_in_limits(spec.get("limits") or {}, pool)


def _find_in_status(node_pool: Object, pool: Pool) -> Iterator[Finding]:
    for condition in node_pool.get("status", {}).get("conditions", ()):
        if condition["type"] == "Ready" and condition["status"] == "False":
            yield error(
                f"NodePool {pool.name} is not ready: {condition.get('message') or 'no reason'}",
                "see what Karpenter says of its NodeClass",
                pool.name,
            )


def _find_in_template(template: Object, pool: Pool) -> Iterator[Finding]:
    label = template.get("metadata", {}).get("labels", {}).get(labels.POOL)
    taints = template["spec"].get("taints") or ()
    taint = next((each.get("value") for each in taints if each["key"] == labels.POOL), None)
    if label != pool.name:
        yield error(
            f"NodePool {pool.name} gives its machines no label {labels.POOL}={pool.name}: no pod "
            "will find one",
            RENDER,
            pool.name,
        )
    if taint != pool.name:
        yield error(
            f"NodePool {pool.name} gives its machines no taint {labels.POOL}={pool.name}: "
            "anybody's pods may be put on them, and buy them",
            RENDER,
            pool.name,
        )
    for each in taints:
        if (
            each["key"] not in (labels.POOL, "nvidia.com/gpu")
            and each["effect"] != "PreferNoSchedule"
        ):
            yield error(
                f"NodePool {pool.name} taints its machines with {each['key']}, which jobs do not "
                "tolerate",
                "take the taint out, or make it a startup taint",
                pool.name,
            )
    expires = template["spec"].get("expireAfter", "720h")
    if expires != "Never":
        yield warning(
            f"machines of NodePool {pool.name} expire after {expires}: Karpenter then ends the job "
            "that runs there",
            "set expireAfter: Never; the keeper gives machines back",
            pool.name,
        )
    grace = template["spec"].get("terminationGracePeriod")
    if grace is not None:
        yield warning(
            f"NodePool {pool.name} ends pods {grace} after their machine is to go, whatever still "
            "runs there",
            "take terminationGracePeriod out",
            pool.name,
        )


def _find_in_requirements(requirements: list[Object], pool: Pool) -> Iterator[Finding]:
    by_key = {each["key"]: each for each in requirements}
    stamp = by_key.get(labels.RUN)
    if stamp is None or stamp["operator"] != "Exists":
        yield error(
            f"NodePool {pool.name} lacks the requirement {labels.RUN}: Exists, by which each "
            "machine is bought for one run: no job will get a machine",
            RENDER,
            pool.name,
        )
    capacity = by_key.get(_CAPACITY)
    allowed = {"spot", "on-demand"} if capacity is None else set(capacity.get("values", ()))
    if "on-demand" not in allowed:
        yield warning(
            f"NodePool {pool.name} buys spot capacity only: jobs that prefer spot have nothing to "
            "fall back on, and jobs that refuse it never run",
            f"allow on-demand in {_CAPACITY}, too",
            pool.name,
        )
    elif "spot" not in allowed:
        yield note(
            f"NodePool {pool.name} buys no spot capacity: jobs that ask for it alone never run",
            f"allow spot in {_CAPACITY}, too",
            pool.name,
        )
    types = by_key.get(_TYPE)
    if pool.types is not None and types is not None and types["operator"] == "In":
        missing = sorted(set(pool.types) - set(types["values"]))
        if missing:
            yield error(
                f"NodePool {pool.name} may not buy {', '.join(missing)}, which the pool lists: "
                "jobs planned for them wait in vain",
                RENDER,
                pool.name,
            )


def _find_in_disruption(disruption: Object, pool: Pool) -> Iterator[Finding]:
    policy = disruption.get("consolidationPolicy", "WhenEmptyOrUnderutilized")
    if policy != "WhenEmpty":
        yield warning(
            f"NodePool {pool.name} has consolidationPolicy {policy}: Karpenter looks for cheaper "
            "machines for running jobs",
            "set consolidationPolicy: WhenEmpty",
            pool.name,
        )
    after = disruption.get("consolidateAfter", "0s")
    kept = MINIMUM + (pool.keep or timedelta(0))
    if after == "Never":
        yield note(
            f"NodePool {pool.name} never removes idle machines: while no keeper runs they are paid "
            "for without end",
            "set consolidateAfter: 10m",
            pool.name,
        )
    elif (read_duration(after) or timedelta(0)) < kept:
        yield warning(
            f"NodePool {pool.name} removes idle machines after {after}, before they could be "
            f"handed over to the next run (within {round_duration(kept)}), and may take one away "
            "under a run that arrives at that moment",
            "set consolidateAfter: 10m; the keeper gives machines back",
            pool.name,
        )
    yield from _find_in_budgets(disruption.get("budgets"), pool)


def _find_in_budgets(budgets: list[Object] | None, pool: Pool) -> Iterator[Finding]:
    """The least of all budgets that concern a reason counts; without any it is a tenth."""
    budgets = [{"nodes": "10%"}] if budgets is None else budgets
    empty = [each["nodes"] for each in budgets if _concerns(each, "Empty")]
    if any(nodes != "100%" for nodes in empty):
        yield warning(
            f"NodePool {pool.name} has a disruption budget of {min(empty, key=_share)} for empty "
            "machines: Karpenter removes no more than that of idle machines at a time",
            'set budgets: {nodes: "100%", reasons: [Empty]} and {nodes: "0", reasons: [Drifted]}',
            pool.name,
        )
    drifted = [each["nodes"] for each in budgets if _concerns(each, "Drifted")]
    if not any(nodes in ("0", "0%", 0) for nodes in drifted):
        yield warning(
            f"NodePool {pool.name} lets Karpenter replace machines whose configuration has drifted",
            'set a budget: {nodes: "0", reasons: [Drifted]}',
            pool.name,
        )


def _concerns(budget: Object, reason: str) -> bool:
    return not budget.get("reasons") or reason in budget["reasons"]


def _share(nodes: str) -> tuple[bool, int]:
    """Orders numbers of machines before shares of them; each by its size."""
    text = str(nodes)
    return text.endswith("%"), int(text.rstrip("%") or 0)


def _find_in_limits(limits: Object, pool: Pool) -> Iterator[Finding]:
    nodes = limits.get("nodes")
    if nodes is None or pool.max_machines is None:
        return
    if int(nodes) < pool.max_machines:
        yield warning(
            f"NodePool {pool.name} is limited to {nodes} machines, and the pool to "
            f"{pool.max_machines}: the keeper admits runs that then get no machine",
            RENDER,
            pool.name,
        )
