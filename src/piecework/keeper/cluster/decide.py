"""From a snapshot to actions: what is admitted, told, ended, given back and let go, in this order.

Pure, and the only place that knows the order: admission goes before giving back, so that a machine
that somebody needs is never returned, and what has outlived its purpose goes before both.
"""

from __future__ import annotations

from collections.abc import Collection

from piecework.keeper.cluster.actions import (
    Action,
    Admit,
    AdmitFollowers,
    EndAttempt,
    GiveBack,
    Release,
)
from piecework.keeper.cluster.admit import admit
from piecework.keeper.cluster.finish import finish, note_deletions, stamp
from piecework.keeper.cluster.give_back import give_back
from piecework.keeper.cluster.orphans import find_orphans
from piecework.keeper.cluster.progress import explain
from piecework.keeper.cluster.snapshot import Snapshot


def decide(snapshot: Snapshot, recorded: Collection[str] = frozenset()) -> list[Action]:
    """What is to be done now. `recorded`: attempts and machines whose end is in the ledger."""
    ended = [action for finding in find_orphans(snapshot) for action in finding.actions]
    leaving = {a.machine.id for a in ended if isinstance(a, Release | GiveBack)}
    ending = {a.attempt.id for a in ended if isinstance(a, EndAttempt) and not a.only}
    admitted = admit(snapshot, ending, leaving)
    handed = {m.id for a in admitted if isinstance(a, Admit | AdmitFollowers) for m in a.handed}
    returned = {a.machine.id for a in admitted if isinstance(a, Release)}
    return [
        *note_deletions(snapshot),
        *stamp(snapshot),
        *ended,
        *admitted,
        *_return_at_once(admitted),
        *(action for action in explain(snapshot) if action.pod.attempt not in ending),
        *give_back(snapshot, handed | leaving | returned),
        *finish(snapshot, recorded),
    ]


def _return_at_once(actions: list[Action]) -> list[Action]:
    """No pod can come any more to what Karpenter bought; a group's machine is looked at again."""
    released = [action.machine for action in actions if isinstance(action, Release)]
    return [GiveBack(machine) for machine in released if machine.provider == "karpenter"]
