"""What machines of a cluster were seen to have for jobs, for the next plans.

In: a pool. Out: by instance type, what the keeper learned from machines that were there. One
question a minute for all tasks of a process; where the cluster does not answer, what was known
before holds, and the shipped defaults in the end (plan/reserve.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from piecework.errors import PieceworkError
from piecework.kube.client import CONFIG_MAP, Kube
from piecework.plan.reserve import LEARNED, Usable, read_learned
from piecework.spec.pool import Pool

_log = logging.getLogger("piecework.task")
#: A process asks a cluster at most so often.
_FRESH_SECONDS = 60.0

_Place = tuple[Path | None, str | None, str]
_known: dict[_Place, tuple[float, Mapping[str, Usable]]] = {}


def learned_in(pool: Pool) -> Mapping[str, Usable]:
    """What is known of the pool's cluster; nothing where it does not answer."""
    if not pool.on_cluster:
        return {}
    place = (pool.kubeconfig, pool.context, pool.namespace)
    at, found = _known.get(place, (-_FRESH_SECONDS, {}))
    if time.monotonic() - at < _FRESH_SECONDS:
        return found
    try:
        kept = Kube.connect(pool.kubeconfig, pool.context).get(CONFIG_MAP, LEARNED, pool.namespace)
    except PieceworkError as error:
        _log.debug("what machines have for jobs is not known: %s", error)
        return found
    found = read_learned((kept or {}).get("data") or {})
    _known[place] = (time.monotonic(), found)
    return found
