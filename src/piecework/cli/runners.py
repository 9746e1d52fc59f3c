"""Which runner has a run: that of the machine pool that its attempts are on.

The ledger knows the pool. A run that it does not know yet, because the keeper has not told it, is
looked for among the pods of all pools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from piecework.errors import InputError, PieceworkError

if TYPE_CHECKING:
    from piecework.config import Settings
    from piecework.runners.runner import AttemptStatus, Runner
    from piecework.spec.pool import Pool


class Runners:
    """The runners of the configured pools; each is made when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        from piecework.spec.pool import load_pools

        self._settings = settings
        self.pools: Mapping[str, Pool] = load_pools(settings)
        self._made: dict[str, Runner] = {}

    def of(self, pool: str | None, what: str) -> Runner:
        """The runner of that pool, for `what`; this computer's where no pool was ever told.

        Raises InputError where the pool is not configured (any more).
        """
        from piecework.runners.runner import runner_for

        name = pool or "local"
        if name not in self.pools:
            there = ", ".join(sorted(self.pools))
            raise InputError(
                f"{what} is on machines of the pool {name!r}, which piecework.toml does not have; "
                f"there is {there}. Use the settings with which it was started"
            )
        if name not in self._made:
            self._made[name] = runner_for(self.pools[name], self._settings)
        return self._made[name]

    def find_unrecorded(self, name: str) -> tuple[Runner, list[AttemptStatus]] | None:
        """A run of that name, or of that attempt, that the ledger does not know yet.

        Returns its runner and its attempts, oldest first; None where no cluster has it. A cluster
        that does not answer is passed over: the ledger has been asked before.
        """
        from piecework.runners.kubernetes import KubernetesRunner

        for pool in self.pools.values() if name else ():
            runner = self.of(pool.name, name) if pool.on_cluster else None
            if not isinstance(runner, KubernetesRunner):
                continue
            try:
                found = runner.find(name)
            except PieceworkError:
                continue
            if found:
                return runner, found
        return None


def run_of(attempts: Sequence[AttemptStatus]) -> str:
    """The run that these are attempts of."""
    return attempts[-1].attempt.rpartition(".")[0]
