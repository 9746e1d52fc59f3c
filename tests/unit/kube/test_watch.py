"""A mirror shows what the server has, whatever happens to its watch."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from piecework.kube.client import POD, Kube, Object
from piecework.kube.transport import UnreachableError
from piecework.kube.watch import Mirror, Pace
from tests.unit.kube.server import Reply, Server, events, page, pod, refused

QUICK = Pace(first_seconds=0.001, longest_seconds=0.01, watch_seconds=5)
GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}


class Watched:
    """A mirror on a server with written answers, and what it told."""

    def __init__(self, *replies: Reply) -> None:
        self.server = Server(list(replies), otherwise=lambda _: events(hangs=True))
        self.told: list[tuple[str, str]] = []
        self.changed = threading.Condition()
        self.mirror = Mirror(Kube(self.server), POD, on_change=self._note, pace=QUICK)

    def _note(self, change: str, obj: Object) -> None:
        with self.changed:
            self.told.append((change, obj["metadata"]["name"] if obj else ""))
            self.changed.notify_all()

    def wait_for(self, *told: tuple[str, str]) -> None:
        with self.changed:
            done = self.changed.wait_for(lambda: self.told[-len(told) :] == list(told), 10)
        assert done, self.told

    def names(self) -> list[str]:
        return sorted(name for _, name in self.mirror.objects)


@pytest.fixture
def started() -> Iterator[list[Watched]]:
    """Mirrors put here are stopped at the end."""
    watched: list[Watched] = []
    yield watched
    for each in watched:
        each.mirror.stop()
        each.mirror.join(10)
        assert not each.mirror.is_alive()


def start(started: list[Watched], *replies: Reply) -> Watched:
    watched = Watched(*replies)
    started.append(watched)
    watched.mirror.start()
    return watched


def test_it_lists_and_then_follows(started: list[Watched]) -> None:
    change = ("MODIFIED", pod("a", "3"))
    watched = start(
        started,
        page(pod("a"), pod("b"), version="2"),
        events(change, ("ADDED", pod("c", "4")), ("DELETED", pod("b", "5")), hangs=True),
    )
    watched.wait_for(
        ("ADDED", "a"), ("ADDED", "b"), ("SYNCED", ""),
        ("MODIFIED", "a"), ("ADDED", "c"), ("DELETED", "b"),
    )  # fmt: skip
    assert watched.mirror.wait_synced(1)
    assert watched.names() == ["a", "c"]
    assert watched.mirror.objects["jobs", "a"]["metadata"]["resourceVersion"] == "3"
    assert watched.server.asked[1].query["resourceVersion"] == "2"


def test_a_watch_that_ends_or_breaks_goes_on_from_its_last_version(started: list[Watched]) -> None:
    watched = start(
        started,
        page(version="2"),
        events(("BOOKMARK", pod("", "8"))),
        events(("ADDED", pod("a", "9")), breaks=True),
        UnreachableError("the API server is being restarted"),
        events(("ADDED", pod("b", "10")), hangs=True),
    )
    watched.wait_for(("SYNCED", ""), ("ADDED", "a"), ("ADDED", "b"))
    versions = [asked.query.get("resourceVersion") for asked in watched.server.asked]
    assert versions == [None, "2", "8", "9", "9"]
    assert watched.mirror.error is None


def test_a_forgotten_version_means_a_list_whose_differences_are_told(
    started: list[Watched],
) -> None:
    watched = start(
        started,
        page(pod("a"), pod("b"), pod("c"), pod("d"), version="2"),
        events(("ERROR", GONE)),
        page(pod("a", "7"), pod("b"), pod("d", "8", uid="another"), pod("e"), version="9"),
    )
    watched.wait_for(
        ("SYNCED", ""),
        ("MODIFIED", "a"), ("DELETED", "d"), ("ADDED", "d"), ("ADDED", "e"), ("DELETED", "c"),
        ("SYNCED", ""),
    )  # fmt: skip
    assert watched.names() == ["a", "b", "d", "e"]


def test_it_keeps_asking_a_server_that_refuses_and_says_what_is_wrong(
    started: list[Watched],
) -> None:
    watched = Watched(refused(403, "Forbidden", "pods is forbidden"))
    watched.server.otherwise = refused(403, "Forbidden", "pods is forbidden")
    started.append(watched)
    watched.mirror.start()
    assert not watched.mirror.wait_synced(0.05)
    assert "pods is forbidden" in (watched.mirror.error or "")
    watched.server.otherwise = lambda asked: (
        events(hangs=True) if "watch" in asked.query else page(pod("a"))
    )
    assert watched.mirror.wait_synced(10)
    watched.wait_for(("ADDED", "a"), ("SYNCED", ""))


def test_a_listener_that_fails_blinds_nobody(
    started: list[Watched], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(
        [page(pod("a")), events(("ADDED", pod("b")), hangs=True)],
        otherwise=lambda _: events(hangs=True),
    )
    seen = threading.Event()

    def fail(change: str, obj: Object) -> None:
        if obj and obj["metadata"]["name"] == "b":
            seen.set()
        raise RuntimeError("a mistake")

    mirror = Mirror(Kube(server), POD, on_change=fail, pace=QUICK)
    mirror.start()
    try:
        assert seen.wait(10)
        assert "was not taken" in caplog.text
    finally:
        mirror.stop()
        mirror.join(10)


def test_managed_fields_are_not_kept(started: list[Watched]) -> None:
    long = pod("a")
    long["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    watched = start(started, page(long))
    watched.wait_for(("SYNCED", ""))
    assert "managedFields" not in watched.mirror.objects["jobs", "a"]["metadata"]
