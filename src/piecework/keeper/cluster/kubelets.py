"""What containers of other people's images used, as the kubelets of their machines count it.

Enters: running attempts in which no launcher of piecework measures. Leaves: for each of their pods
CPU seconds and the highest memory so far, and how much of its time that covers: a kubelet looks at
its containers every ten seconds or so, and forgets them when they end. The times are a counter's,
so nothing is lost between two looks; of the memory it is the highest of all looks.

A kubelet is asked by the address of its machine, with the token of an account that may read
measurements and nothing else: of a machine that its job has taken over it can be stolen without
harm. Its certificate must be of the cluster's own authority.
"""

from __future__ import annotations

import http.client
import logging
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from piecework.errors import PieceworkError
from piecework.keeper.cluster.asking import Asking
from piecework.keeper.cluster.snapshot import PodSeen, Snapshot
from piecework.kube.client import Kube
from piecework.machines.access import METER
from piecework.runners import pod_fields

logger = logging.getLogger(__name__)

#: Between two rounds, in seconds, and how many machines are asked in one.
INTERVAL_SECONDS = 10.0
MOST_AT_ONCE = 50
#: For how long a machine that does not answer is left alone.
SILENCE_SECONDS = 120.0
PORT = 10250
_ANYBODY = "any machine"
_TOKEN_SECONDS = 3600
_ANSWER_SECONDS = 3.0
_LONGEST_ANSWER = 8 << 20
_CPU, _MEMORY = "container_cpu_usage_seconds", "container_memory_working_set_bytes"

#: A container: its pod's namespace and name, and its own name.
ContainerKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Counted:
    """What a kubelet says of one container: CPU seconds until `at` (Unix time), and memory then."""

    cpu_seconds: float
    memory_bytes: int
    at: float


class Ask(Protocol):
    """Asks one kubelet."""

    def __call__(self, address: str) -> str:
        """Its measurements as text. Raises OSError, HTTPException or ValueError where that machine
        does not tell, and PieceworkError where none would.
        """


class Kubelets(Asking):
    """Asks about containers that run, machine by machine, in turns."""

    def __init__(self, ask: Ask, interval_seconds: float = INTERVAL_SECONDS) -> None:
        super().__init__("kubelets", interval_seconds)
        #: What was counted last, as a use, by the pod's uid. Replaced, never changed.
        self.found: Mapping[str, Mapping[str, Any]] = {}
        self._ask = ask
        self._running: Mapping[str, Mapping[str, PodSeen]] = {}
        self._there: frozenset[str] = frozenset()
        self._silent_until: dict[str, float] = {}

    def look(self, snapshot: Snapshot) -> None:
        """Takes the pods whose containers run, by the address of their machine."""
        running: dict[str, dict[str, PodSeen]] = {}
        there: set[str] = set()
        for attempt in snapshot.attempts.values():
            request = attempt.request
            if request is None or request.raw.get("engine") != "container":
                continue
            for pod in attempt.own:
                there.add(pod.uid)
                address = pod.raw.get("status", {}).get("hostIP")
                if pod.started_at is not None and pod.over is None and address:
                    running.setdefault(str(address), {})[pod.uid] = pod
        self._running, self._there = running, frozenset(there)

    def round(self) -> None:
        """Asks the next few machines."""
        running, now = self._running, time.monotonic()
        self._silent_until = {a: t for a, t in self._silent_until.items() if t > now}
        found = {uid: use for uid, use in self.found.items() if uid in self._there}
        problems: dict[str, str] = {}
        for address in self.next_few(running, MOST_AT_ONCE):
            if self._stopping.is_set():
                return
            if address in self._silent_until or _ANYBODY in self._silent_until:
                continue
            try:
                counted = read_counts(self._ask(address))
            except PieceworkError as error:  # there is no token for it, nor for others
                problems[_ANYBODY] = str(error)
            except (OSError, http.client.HTTPException, ValueError) as error:
                problems[address] = str(error)
            else:
                for uid, pod in running[address].items():
                    self._take(found, uid, pod, counted)
                continue
            self._silent_until |= dict.fromkeys(problems, now + SILENCE_SECONDS)
        self.found = found
        for address, problem in list(problems.items())[:1]:
            others = f" (and on {len(problems) - 1} others)" if len(problems) > 1 else ""
            logger.info("what containers on %s use is not known: %s%s", address, problem, others)

    def _take(
        self,
        found: dict[str, Mapping[str, Any]],
        uid: str,
        pod: PodSeen,
        counted: Mapping[ContainerKey, Counted],
    ) -> None:
        now = counted.get((*pod.key, pod_fields.main_name(pod.raw)))
        if now is None or pod.started_at is None:
            return
        before = found.get(uid, {}).get("peak_memory_bytes", 0)
        found[uid] = {
            "cpu_seconds": round(now.cpu_seconds, 3),
            "peak_memory_bytes": max(before, now.memory_bytes),
            "read_bytes": None,
            "written_bytes": None,
            "counted_seconds": round(max(0.0, now.at - pod.started_at.timestamp()), 3),
        }


def read_counts(text: str) -> dict[ContainerKey, Counted]:
    """A kubelet's /metrics/resource, by container. Raises ValueError where it is something else."""
    from prometheus_client.parser import text_string_to_metric_families

    cpu: dict[ContainerKey, tuple[float, float]] = {}
    memory: dict[ContainerKey, int] = {}
    for family in text_string_to_metric_families(text):
        if family.name not in (_CPU, _MEMORY):
            continue
        for sample in family.samples:
            named = sample.labels
            key = (named["namespace"], named["pod"], named["container"])
            if family.name == _MEMORY:
                memory[key] = int(sample.value)
            elif sample.timestamp is not None:
                cpu[key] = sample.value, float(sample.timestamp)
    return {
        key: Counted(seconds, memory[key], at)
        for key, (seconds, at) in cpu.items()
        if key in memory
    }


class Kubelet:
    """Asks kubelets of one cluster; holds a token for them, and renews it."""

    def __init__(self, kube: Kube, namespace: str, port: int = PORT) -> None:
        self._kube = kube
        self._namespace = namespace
        self._port = port
        self._token = ""
        self._renew_at = 0.0
        self._context: ssl.SSLContext | None = None

    def __call__(self, address: str) -> str:
        """See `Ask`."""
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._kube.transport.ca_file)
        if time.monotonic() >= self._renew_at:
            self._token = self._kube.request_token(METER, self._namespace, _TOKEN_SECONDS)
            self._renew_at = time.monotonic() + _TOKEN_SECONDS / 2
        connection = http.client.HTTPSConnection(
            address, self._port, timeout=_ANSWER_SECONDS, context=self._context
        )
        try:
            headers = {"Authorization": f"Bearer {self._token}"}
            connection.request("GET", "/metrics/resource", headers=headers)
            answer = connection.getresponse()
            data = answer.read(_LONGEST_ANSWER)
        finally:
            connection.close()
        if answer.status != http.client.OK:
            raise ValueError(f"its kubelet answers {answer.status}: {data[:200]!r}")
        return data.decode()
