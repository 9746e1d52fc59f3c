"""What is to go wrong when machines are bought: wishes that tests leave for the providers.

What enters are wishes by pool (an Auto Scaling group or a NodePool); what leaves is what whoever
starts a machine, or plays AWS, is to do to it. They lie in a file of the testbed, because the one
who wishes and the one who acts are different processes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from testbed.place import Place, lock

#: The wishes of this pool hold for all that have none of their own.
ANY = "*"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is to happen to machines of one pool."""

    #: How long a machine takes from its purchase to the start of its kubelet.
    boot_seconds: float = 0
    #: How many of the next machines boot and never join; -1 for all.
    never_join: int = 0
    #: True: nothing can be bought.
    out_of_stock: bool = False
    #: False: a machine's GPUs are never advertised.
    gpus_appear: bool = True
    #: How long after the start of its kubelet a machine's GPUs are advertised.
    gpu_seconds: float = 0


def _file(place: Place) -> Path:
    return place.folder / "wishes.json"


def _load(path: Path) -> dict[str, Wishes]:
    if not path.exists():
        return {}
    return {pool: Wishes(**wishes) for pool, wishes in json.loads(path.read_text()).items()}


def read(place: Place, pool: str) -> Wishes:
    """The wishes of a pool; where it has none, those of all pools."""
    wishes = _load(_file(place))
    return wishes.get(pool) or wishes.get(ANY) or Wishes()


def write(place: Place, pool: str, wishes: Wishes) -> None:
    """Sets all wishes of a pool."""
    with lock(_file(place).with_suffix(".lock")):
        _store(_file(place), _load(_file(place)) | {pool: wishes})


def clear(place: Place) -> None:
    """From now on nothing goes wrong."""
    with lock(_file(place).with_suffix(".lock")):
        _store(_file(place), {})


def take_never_join(place: Place, pool: str) -> bool:
    """Whether the machine that is being started is one that never joins; counts it."""
    with lock(_file(place).with_suffix(".lock")):
        wishes = _load(_file(place))
        key = pool if pool in wishes else ANY
        mine = wishes.get(key, Wishes())
        if mine.never_join > 0:
            _store(_file(place), wishes | {key: replace(mine, never_join=mine.never_join - 1)})
        return mine.never_join != 0


def _store(path: Path, wishes: dict[str, Wishes]) -> None:
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps({pool: asdict(item) for pool, item in wishes.items()}))
    unfinished.rename(path)
