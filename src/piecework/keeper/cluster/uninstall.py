"""Leaves no finalizer behind: what is still there can then be deleted by anybody."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from piecework.errors import ClusterError
from piecework.keeper.cluster.applications import remove_unstarted
from piecework.keeper.cluster.apply import release_pod
from piecework.kube.client import NODE_CLAIM, POD, Kube, MissingKindError, Object
from piecework.machines.karpenter import release_claim, run_of_claim
from piecework.plan import labels
from piecework.runners.pods import phase_of

#: From a pod's admission to its NodeClaim Karpenter takes a second, and up to ten where many come.
PATIENCE_SECONDS = 20.0
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Left:
    """How many objects lost their finalizer, and what is left for people to look at."""

    pods: int
    machines: int
    gated: tuple[str, ...]
    running: tuple[str, ...]


def uninstall(
    kube: Kube, pools: Collection[str], patience_seconds: float = PATIENCE_SECONDS
) -> Left:
    """Takes piecework's finalizers off the pods and machines of these pools.

    Their ends are not recorded any more: stop the keeper first, or let it finish. Gates stay
    closed, so nothing is bought; what Karpenter is buying for pods that were admitted before is
    waited for, at most so long. Raises ClusterError.
    """
    held, machines, until = set[str](), set[str](), time.monotonic() + patience_seconds
    while True:
        pods = [pod for pod in kube.list(POD, labels=labels.POOL).items if _is_of(pod, pools)]
        claims = [claim for claim in _claims(kube) if _is_of(claim, pools)]
        for claim in filter(_is_held, claims):
            release_claim(kube, claim["metadata"]["name"])
            machines.add(claim["metadata"]["name"])
        remove_unstarted(kube, pods, pools)
        for pod in filter(_is_held, pods):
            release_pod(kube, pod["metadata"]["name"], pod["metadata"]["namespace"])
            held.add(_name(pod))
        if not _waits_for_karpenter(pods, claims) or time.monotonic() > until:
            break
        time.sleep(_PAUSE_SECONDS)
    return Left(
        pods=len(held),
        machines=len(machines),
        gated=tuple(_name(pod) for pod in pods if phase_of(pod) == "gated"),
        running=tuple(_name(pod) for pod in pods if phase_of(pod) in ("pulling", "running")),
    )


def _waits_for_karpenter(pods: Iterable[Object], claims: Iterable[Object]) -> bool:
    """Whether Karpenter may be about to buy for an admitted pod: claims are born with one."""
    runs = {run_of_claim(claim) for claim in claims}
    wanted = {
        pod["spec"].get("nodeSelector", {}).get(labels.RUN)
        for pod in pods
        if phase_of(pod) == "waiting"
    }
    return bool(wanted - runs - {None})


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
