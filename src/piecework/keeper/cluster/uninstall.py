"""Leaves no finalizer behind: what is still there can then be deleted by anybody."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from piecework.errors import ClusterError
from piecework.keeper.cluster.applications import remove_unstarted
from piecework.keeper.cluster.apply import release_pod
from piecework.kube.client import NODE_CLAIM, POD, Kube, MissingKindError, Object
from piecework.machines.karpenter import release_claim
from piecework.plan import labels
from piecework.runners.pods import phase_of


@dataclass(frozen=True, slots=True)
class Left:
    """How many objects lost their finalizer, and what is left for people to look at."""

    pods: int
    machines: int
    gated: tuple[str, ...]
    running: tuple[str, ...]


def uninstall(kube: Kube, pools: Collection[str]) -> Left:
    """Takes piecework's finalizers off the pods and machines of these pools.

    Their ends are not recorded any more: stop the keeper first, or let it finish. Gates stay
    closed, so nothing is bought. Raises ClusterError.
    """
    pods = [pod for pod in kube.list(POD, labels=labels.POOL).items if _is_of(pod, pools)]
    machines = 0
    for claim in _claims(kube):
        if _is_of(claim, pools) and _is_held(claim):
            release_claim(kube, claim["metadata"]["name"])
            machines += 1
    remove_unstarted(kube, pods, pools)
    held = [pod for pod in pods if _is_held(pod)]
    for pod in held:
        release_pod(kube, pod["metadata"]["name"], pod["metadata"]["namespace"])
    return Left(
        pods=len(held),
        machines=machines,
        gated=tuple(_name(pod) for pod in pods if phase_of(pod) == "gated"),
        running=tuple(_name(pod) for pod in pods if phase_of(pod) in ("pulling", "running")),
    )


def _claims(kube: Kube) -> list[Object]:
    try:
        return kube.list(NODE_CLAIM, labels=labels.POOL).items
    except MissingKindError:
        return []
    except ClusterError as error:
        if getattr(error, "status", 0) == 404:
            return []
        raise


def _is_of(obj: Object, pools: Collection[str]) -> bool:
    return obj["metadata"].get("labels", {}).get(labels.POOL) in pools


def _is_held(obj: Object) -> bool:
    return labels.FINALIZER in obj["metadata"].get("finalizers", ())


def _name(pod: Object) -> str:
    return f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
