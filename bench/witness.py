"""When anybody could know what a keeper writes down: a watch beside it, in a process of its own.

In: a piecework.toml with a pool of Karpenter. Out: for each event the time at which a watch told of
it. What lies between an event's own time and that one is Kubernetes' and Karpenter's: where they
have much to do they write down late what they did.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from piecework import config
from piecework.clock import from_text, now, to_text
from piecework.kube.client import NODE_CLAIM, POD, Kube, Object
from piecework.kube.watch import Mirror
from piecework.ledger.events import Kind
from piecework.machines.karpenter import read_claim
from piecework.plan import labels
from piecework.runners import pods as pod_facts
from piecework.spec.pool import Pool, load_pools

#: Kind and subject of an event: what can happen but once.
Key = tuple[str, str]


@contextmanager
def watching(home: Path, pool: str) -> Iterator[dict[Key, datetime]]:
    """Watches; what it saw is in the dictionary once the block has ended."""
    seen: dict[Key, datetime] = {}
    file = home / "witness.jsonl"
    with file.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.witness", str(home), pool], stdout=out
        )
    try:
        yield seen
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        for line in file.read_text().splitlines():
            kind, subject, at = json.loads(line)
            seen[kind, subject] = from_text(at)


class _Witness:
    """Prints what has happened, once each."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._told: set[Key] = set()
        self._writing = threading.Lock()

    def take_pod(self, change: str, pod: Object) -> None:
        del change
        if pod:
            attempt = pod_facts.attempt_of(pod)
            self._tell(Kind.ATTEMPT_STARTED, attempt, pod_facts.started_at(pod))
            self._tell(Kind.ATTEMPT_ENDED, attempt, pod_facts.ended_at(pod))

    def take_claim(self, change: str, claim: Object) -> None:
        del change
        if claim:
            machine = read_claim(claim, self._pool)
            self._tell(Kind.MACHINE_READY, machine.id, machine.ready_at)
            self._tell(Kind.MACHINE_GONE, machine.id, machine.gone_at)

    def _tell(self, kind: Kind, subject: str, at: datetime | None) -> None:
        if at is not None and (kind, subject) not in self._told:
            self._told.add((kind, subject))
            line = json.dumps([kind, subject, to_text(now())]) + "\n"
            with self._writing:  # the threads of both kinds tell
                sys.stdout.write(line)
                sys.stdout.flush()


def main(home: str, name: str) -> None:
    """Watches until it is ended."""
    settings = config.load({"PIECEWORK_HOME": home}, Path(home))
    pool = load_pools(settings)[name]
    kube, witness = Kube.connect(pool.kubeconfig, pool.context), _Witness(pool)
    for kind, take in ((POD, witness.take_pod), (NODE_CLAIM, witness.take_claim)):
        Mirror(kube, kind, labels=labels.POOL, on_change=take).start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
