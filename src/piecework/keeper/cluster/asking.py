"""What the keeper's threads that ask others have in common: rounds of questions, and turns."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Collection


class Asking(threading.Thread):
    """Asks in rounds, with a pause between two, until `stop`."""

    def __init__(self, name: str, interval_seconds: float) -> None:
        super().__init__(daemon=True, name=name)
        self._interval = interval_seconds
        self._turn: list[str] = []
        self._stopping = threading.Event()

    @abstractmethod
    def round(self) -> None:
        """One round of questions."""

    def run(self) -> None:
        """Until `stop`."""
        while not self._stopping.wait(self._interval):
            self.round()

    def stop(self) -> None:
        """Ends it, soon."""
        self._stopping.set()

    def next_few(self, wanted: Collection[str], most: int) -> list[str]:
        """Whose turn it is among those that are wanted: all of them come before one comes again."""
        self._turn = [name for name in self._turn if name in wanted] or list(wanted)
        batch, self._turn = self._turn[:most], self._turn[most:]
        return batch
