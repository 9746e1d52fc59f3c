"""Records what supervisors saw, closes what died, gives back what is idle; it never buys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piecework.keeper.rounds import Tended as Tended
    from piecework.keeper.rounds import tend as tend


def __getattr__(name: str) -> Any:
    # Supervisors import keeper.orphans, and must stay light.
    if name in ("tend", "Tended"):
        from piecework.keeper import rounds

        return getattr(rounds, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
