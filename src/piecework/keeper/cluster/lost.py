"""Whether a pod's machine cannot be running it any more.

Pure. Nothing is judged by silence alone: a node that does not answer is lost only after the pool's
`lost_after`, or when its seller says that it is gone.
"""

from __future__ import annotations

from piecework.keeper.cluster.snapshot import PodSeen, Snapshot
from piecework.spec.pool import Pool
from piecework.units import format_duration


def why_lost(snapshot: Snapshot, pod: PodSeen, pool: Pool) -> str | None:
    """Why the pod's machine cannot be running it any more; None where it may be."""
    if not pod.is_live or pod.node is None:
        return None
    node, machine = snapshot.nodes.get(pod.node), snapshot.machine_on.get(pod.node)
    if node is None:
        if machine is not None and machine.gone_at is not None:
            return f"its machine {machine.id} is gone"
        return None
    # One that still boots has not spoken yet; one that says that it is not ready lives.
    unseen = machine is not None and machine.ready_at is None and pod.started_at is None
    boots = unseen or node.speaks
    patience = pool.join_timeout if boots else pool.lost_after
    if snapshot.silence_of(node) > patience:
        limit = format_duration(patience)
        if boots:
            return f"its machine {node.name} was not ready within {limit}"
        return f"its machine {node.name} has not answered for {limit}"
    return None


def is_out_of_reach(snapshot: Snapshot, pod: PodSeen) -> bool:
    """Whether it is to end on a machine whose kubelet has never spoken: nobody will end it there.

    Nothing of it can be running, either.
    """
    if not pod.is_live or pod.deleting_at is None or pod.node is None:
        return False
    node, machine = snapshot.nodes.get(pod.node), snapshot.machine_on.get(pod.node)
    if node is None or machine is None or pod.sandbox_at or pod.started_at:
        return False
    return machine.ready_at is None and node.ready_at is None and not node.speaks
