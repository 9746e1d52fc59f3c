"""What machines of a cluster were seen to have for jobs, for the next plans.

In: a pool. Out: by instance type, what the keeper learned from machines that were there, where that
is less than the shipped defaults say: a pod that asks for more than a machine has is never placed.
More is not taken, because an autoscaler that scales from zero believes in estimates of its own, and
buys nothing for a pod that they have no room for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from piecework.errors import PieceworkError
from piecework.kube.client import CONFIG_MAP, Kube
from piecework.plan.price import load_price_book
from piecework.plan.reserve import LEARNED, Usable, read_learned, usable
from piecework.spec.pool import Pool
from piecework.units import Memory

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
    found = keep_less(read_learned((kept or {}).get("data") or {}), pool)
    _known[place] = (time.monotonic(), found)
    return found


def keep_less(learned: Mapping[str, Usable], pool: Pool) -> dict[str, Usable]:
    """Of what was learned, what is less than the defaults."""
    types = load_price_book(pool).types
    found = {}
    for name, seen in learned.items():
        if name not in types:
            continue
        default = usable(types[name], pool)
        if seen.cpus < default.cpus or seen.memory < default.memory:
            memory = Memory(min(seen.memory.bytes, default.memory.bytes))
            found[name] = Usable(min(seen.cpus, default.cpus), memory)
    return found
