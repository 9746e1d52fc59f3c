"""The testbed's own record of when each machine lived: the truth that bills are tested against.

What enters are moments in a machine's life, as they happen; what leaves is one Life a machine. A
line is appended in one write, so that records of several processes don't mix.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from piecework.clock import from_text, now, to_text
from testbed.place import Place

#: bought: the provider said yes; it costs from now on. started: its processes run. joined: its node
#: is ready. interrupted: its notice was given. returned: the provider took it back, or lost it; it
#: costs nothing from now on. stopped: nothing of it runs any more.
Moment = Literal["bought", "started", "joined", "interrupted", "returned", "stopped"]


@dataclass(frozen=True, slots=True)
class Life:
    """One machine: `started` and `stopped` enclose exactly the time in which it ran.

    What its provider charges for is the time from `bought` to `returned`. A machine is started
    within half a second of its purchase, and stopped as long after its return (more where this host
    is busy): its provider is asked four times a second.
    """

    machine: str
    type: str = ""
    provider_id: str = ""
    bought: datetime | None = None
    started: datetime | None = None
    joined: datetime | None = None
    interrupted: datetime | None = None
    returned: datetime | None = None
    stopped: datetime | None = None
    why: str = ""


def _file(place: Place) -> Path:
    return place.folder / "machines.jsonl"


def write(
    place: Place,
    machine: str,
    moment: Moment,
    *,
    at: datetime | None = None,
    type: str = "",  # noqa: A002  # the word that AWS and the ledger use
    provider_id: str = "",
    why: str = "",
) -> None:
    """Appends a moment, with the time it is now, or was."""
    line = {"at": to_text(at or now()), "machine": machine, "moment": moment}
    line |= {"type": type, "provider_id": provider_id, "why": why}
    text = json.dumps({name: value for name, value in line.items() if value}) + "\n"
    file = os.open(_file(place), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def _lines(place: Place) -> Iterator[dict[str, str]]:
    if _file(place).exists():
        for line in _file(place).read_text().splitlines():
            yield json.loads(line)


def read(place: Place) -> dict[str, Life]:
    """Every machine that the testbed ever had, by name. The first time of a moment counts."""
    lives: dict[str, Life] = {}
    for line in _lines(place):
        life = lives.get(line["machine"], Life(line["machine"]))
        moment = line["moment"]
        if getattr(life, moment) is None:
            life = replace(life, **{moment: from_text(line["at"])})  # type: ignore[arg-type]  # each moment is a time
        life = replace(
            life,
            type=life.type or line.get("type", ""),
            provider_id=life.provider_id or line.get("provider_id", ""),
            why=line.get("why") or life.why,
        )
        lives[life.machine] = life
    return lives
