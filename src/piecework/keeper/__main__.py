"""`python -m piecework.keeper`: one round, as a supervisor starts it when its attempt has ended."""

from __future__ import annotations

import os
import sys

from piecework.machines import lock


def main() -> int:
    """Does one round, unless another process already waits to do the next one."""
    from piecework import config
    from piecework.errors import PieceworkError
    from piecework.keeper.rounds import tend

    try:
        settings = config.load()
        # Of many attempts that end together, one round at work and one that waits are enough.
        place = lock.hold(settings.home / "keeper.next.lock")
        if place is None:
            return 0
        held = lock.wait_and_hold(settings.home / "keeper.lock")
        os.close(held)
        os.close(place)
        tend(settings)
    except (PieceworkError, OSError) as error:
        sys.stderr.write(f"piecework: {error}; what is not recorded yet stays in the spools\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
