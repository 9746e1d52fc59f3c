"""What would hurt, from what a survey found: all of it, the worst first. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from piecework import clock
from piecework.kube.client import Object
from piecework.machines.access import KEEPER, namespaces_of, render_gang_services
from piecework.machines.check.finding import RENDER, Finding, error, note, warning
from piecework.machines.check.groups import find_in_flags, find_in_groups
from piecework.machines.check.karpenter import find_in_node_pool
from piecework.machines.check.survey import Part, Right, Survey, pool_label, pool_taint
from piecework.plan import labels
from piecework.plan.manifest import GANG_SERVICE, PRIORITY_CLASS
from piecework.plan.price import load_price_book
from piecework.spec.pool import Pool

_ENFORCE = "pod-security.kubernetes.io/enforce"
#: A keeper renews its lease every few seconds.
_STALE = timedelta(seconds=30)
_MOST_NAMED = 5


def findings(survey: Survey) -> list[Finding]:
    """All findings, the worst first, and of equals those of the whole cluster."""
    found = [
        *_find_gaps(survey),
        *_find_in_namespaces(survey),
        *_find_in_priority(survey),
        *_find_in_gang_services(survey),
        *_find_in_keeper(survey),
        *_find_in_rights(survey),
        *_find_in_policies(survey),
        *_find_in_machines(survey),
    ]
    for pool in survey.pools:
        found += _find_in_prices(pool)
        if pool.provider == "karpenter":
            found += find_in_node_pool(survey, pool)
        elif pool.provider == "asg":
            found += find_in_groups(survey, pool)
    scaled = [pool for pool in survey.pools if pool.provider == "asg"]
    if scaled:
        found += find_in_flags(survey, scaled)
    return sorted(found, key=lambda each: (-each.severity, each.pool or ""))


def _find_gaps(survey: Survey) -> Iterator[Finding]:
    for part, why in survey.gaps.items():
        yield note(f"{part} could not be looked at: {why}", "check as somebody who may look at it")


def _find_in_namespaces(survey: Survey) -> Iterator[Finding]:
    for name, namespace in survey.namespaces.items():
        if namespace is None:
            yield error(f"there is no namespace {name}, so no pod can be created", RENDER)
            continue
        enforced = namespace["metadata"].get("labels", {}).get(_ENFORCE)
        if enforced != "restricted":
            yield note(
                f"namespace {name} does not enforce the restricted Pod Security standard: "
                "piecework's own pods keep to it, others need not",
                f"label it {_ENFORCE}=restricted",
            )


def _find_in_priority(survey: Survey) -> Iterator[Finding]:
    if not survey.saw(Part.PRIORITY_CLASS):
        return
    found = survey.priority_class
    if found is None:
        yield error(
            f"there is no priority class {PRIORITY_CLASS}, so every pod will be refused", RENDER
        )
    elif found.get("preemptionPolicy") != "Never":
        yield warning(
            f"priority class {PRIORITY_CLASS} lets jobs push others' pods off their machines",
            "delete it, and " + RENDER,
        )


def _find_in_gang_services(survey: Survey) -> Iterator[Finding]:
    rendered = render_gang_services(survey.pools)
    wanted = {each["metadata"]["namespace"]: each["spec"] for each in rendered}
    for namespace, service in survey.gang_services.items():
        if survey.namespaces.get(namespace) is None:
            continue  # that is told already, or could not be looked at
        spec = (service or {}).get("spec", {})
        if any(spec.get(name) != value for name, value in wanted[namespace].items()):
            found = "is not there" if service is None else "is not as rendered"
            yield warning(
                f"the Service {GANG_SERVICE} in namespace {namespace} {found}: the machines of a "
                "job with `count` won't find each other",
                RENDER,
            )


def _find_in_keeper(survey: Survey) -> Iterator[Finding]:
    if not survey.saw(Part.LEASE):
        return
    home = namespaces_of(survey.pools)[0]
    fix = "start one: `piecework keeper`, or its Deployment (`piecework pools render --help`)"
    nothing = "nothing is admitted, recorded or given back"
    if survey.lease is None:
        yield error(f"no keeper has ever run (no Lease {KEEPER} in {home}): {nothing}", fix)
        return
    renewed = survey.lease.get("spec", {}).get("renewTime")
    at = None if renewed is None else clock.from_text(renewed)
    if at is None or survey.at - at > _STALE:
        since = "it was given up" if at is None else f"not renewed since {_minute(at)}"
        yield error(f"no keeper runs (the Lease {KEEPER} in {home}: {since}): {nothing}", fix)


def _minute(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def _find_in_rights(survey: Survey) -> Iterator[Finding]:
    if survey.missing_rights:
        yield error(
            f"you may not: {_name(survey.missing_rights)}; so you can't run jobs here",
            "bind the role piecework-submitter to yourself (`piecework pools render`)",
        )
    if survey.missing_keeper_rights:
        yield error(
            f"the keeper's service account may not: {_name(survey.missing_keeper_rights)}", RENDER
        )
    if survey.missing_meter_rights:
        yield warning(
            "what containers without piecework's launcher use stays unknown: kubelets can't be "
            f"asked without: {_name(survey.missing_meter_rights)}",
            RENDER,
        )
    if survey.missing_driver_rights:
        yield warning(
            "Spark jobs with mode kubernetes can't make their executors: their service account "
            f"may not: {_name(survey.missing_driver_rights)}",
            RENDER,
        )


def _name(rights: tuple[Right, ...]) -> str:
    named = [str(right) for right in rights[:_MOST_NAMED]]
    more = len(rights) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _find_in_policies(survey: Survey) -> Iterator[Finding]:
    if survey.has_policies is False and survey.saw(Part.POLICIES):
        yield warning(
            "piecework's admission policies are not there: a machine that comes and goes while no "
            "keeper runs leaves no trace in the ledger, and others' pods may tolerate the pools' "
            "taint",
            RENDER,
        )


def _find_in_machines(survey: Survey) -> Iterator[Finding]:
    """What the machines that are there now show."""
    pools = {pool.name for pool in survey.pools}
    for node in survey.nodes:
        name, label, taint = node["metadata"]["name"], pool_label(node), pool_taint(node)
        pool = label or taint
        if pool not in pools:
            continue
        if label is None:
            yield error(
                f"machine {name} has the taint {labels.POOL} without the label: nothing will ever "
                "run on it, and the autoscaler buys again",
                "let the kubelet set both (`piecework pools render`)",
                pool,
            )
        elif taint is None:
            yield error(
                f"machine {name} has the label {labels.POOL} without the taint: anybody's pods may "
                "run on it",
                "let the kubelet set both (`piecework pools render`)",
                pool,
            )
        elif label != taint:
            yield error(
                f"machine {name} has the label of pool {label} and the taint of pool {taint}",
                "let the kubelet set both alike (`piecework pools render`)",
                pool,
            )
        for pod in survey.pods.get(name, ()):
            if _is_foreign(pod):
                yield warning(
                    f"pod {pod['metadata']['namespace']}/{pod['metadata']['name']} runs on machine "
                    f"{name}, and is neither a job nor a daemon",
                    "take its toleration away",
                    pool,
                )


def _is_foreign(pod: Object) -> bool:
    metadata = pod["metadata"]
    kinds = {owner["kind"] for owner in metadata.get("ownerReferences") or ()}
    return labels.RUN not in (metadata.get("labels") or {}) and not kinds & {"DaemonSet", "Node"}


def _find_in_prices(pool: Pool) -> Iterator[Finding]:
    """Prices that nobody knows. Where any type may be bought, only the pool's own are told of."""
    book = load_price_book(pool)
    types = pool.allowed_types("never")
    unpriced = [
        name
        for name in sorted(types or ())
        if (machine := book.find(name)) is not None and machine.usd_per_hour is None
    ]
    if unpriced:
        yield warning(
            f"the price of {_list(unpriced)} is not known: what runs there will be unpriced",
            f"set it in [pools.{pool.name}.prices]",
            pool.name,
        )
    unknown = sorted(set(types or ()) - set(pool.spot_prices or {}))
    if unknown and pool.provider == "karpenter":  # of groups the cloud itself tells it
        yield note(
            f"the spot price of {_list(unknown)} is not known: spot capacity will be unpriced",
            f"set it in [pools.{pool.name}.spot_prices]",
            pool.name,
        )


def _list(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
