"""Objects in, objects out; and every answer of the server is an object or an error that says so."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from piecework.errors import ClusterError, ConfigError
from piecework.kube.client import (
    CONFIG_MAP,
    NODE,
    NODE_CLAIM,
    POD,
    AlreadyThereError,
    ConflictError,
    ExpiredError,
    Kube,
    MissingKindError,
    RefusedError,
)
from piecework.kube.transport import UnreachableError
from tests.unit.kube.server import Server, Written, events, found, page, pod, refused


def ask(*replies: Written | Exception) -> tuple[Kube, Server]:
    server = Server(list(replies))
    return Kube(server), server


def test_paths_are_those_of_the_api() -> None:
    assert POD.path("jobs", "a") == "/api/v1/namespaces/jobs/pods/a"
    assert POD.path() == "/api/v1/pods"
    assert NODE.path("ignored", "n") == "/api/v1/nodes/n"
    assert NODE_CLAIM.path(None, "c") == "/apis/karpenter.sh/v1/nodeclaims/c"
    assert POD.path("jobs", "../x") == "/api/v1/namespaces/jobs/pods/..%2Fx"


def test_an_object_that_is_not_there_is_none() -> None:
    kube, _ = ask(found(pod("a")), refused(404))
    assert kube.get(POD, "a", "jobs") == pod("a")
    assert kube.get(POD, "b", "jobs") is None
    assert kube.requests == 2


def test_a_list_is_read_page_by_page_and_has_the_version_to_watch_from() -> None:
    kube, server = ask(page(pod("a"), more="next", version="7"), page(pod("b"), version="7"))
    listing = kube.list(POD, "jobs", labels="x=y", fields="spec.nodeName=n")
    assert [item["metadata"]["name"] for item in listing.items] == ["a", "b"]
    assert listing.resource_version == "7"
    assert server.asked[0].query["labelSelector"] == "x=y"
    assert server.asked[1].query["fieldSelector"] == "spec.nodeName=n"
    assert server.asked[1].query["continue"] == "next"


def test_a_list_whose_pages_expired_begins_anew() -> None:
    kube, _ = ask(page(pod("a"), more="next"), refused(410, "Expired"), page(pod("b")))
    assert [item["metadata"]["name"] for item in kube.list(POD).items] == ["b"]


def test_a_list_of_a_kind_that_the_cluster_does_not_know_says_so() -> None:
    kube, _ = ask(refused(404, "NotFound"))
    with pytest.raises(MissingKindError, match=r"nodeclaims\.karpenter\.sh") as caught:
        kube.list(NODE_CLAIM)
    assert not caught.value.retryable


def test_a_second_creation_finds_the_first() -> None:
    kube, server = ask(found(pod("a"), 201), refused(409, "AlreadyExists", 'pods "a" exists'))
    assert kube.create(POD, pod("a"))["metadata"]["name"] == "a"
    assert server.asked[0].path == "/api/v1/namespaces/jobs/pods"
    assert server.asked[0].body["apiVersion"] == "v1"
    with pytest.raises(AlreadyThereError, match="exists"):
        kube.create(POD, pod("a"))


def test_a_patch_is_a_merge_or_a_list_of_operations() -> None:
    kube, server = ask(found(pod("a")), found(pod("a")), refused(404))
    kube.patch(POD, "a", {"metadata": {"labels": {"x": None}}}, "jobs")
    kube.patch(POD, "a", [{"op": "remove", "path": "/x"}], "jobs", json_patch=True)
    assert server.asked[0].headers["Content-Type"] == "application/merge-patch+json"
    assert server.asked[1].headers["Content-Type"] == "application/json-patch+json"
    assert kube.patch(POD, "b", {}, "jobs", subresource="status") is None
    assert server.asked[2].path.endswith("/pods/b/status")


def test_a_token_is_asked_for_in_the_name_of_an_account() -> None:
    kube, server = ask(found({"status": {"token": "abc"}}, 201), refused(403, "Forbidden"))
    assert kube.request_token("meter", "jobs", 600) == "abc"
    assert server.asked[0].path == "/api/v1/namespaces/jobs/serviceaccounts/meter/token"
    assert server.asked[0].body["spec"] == {"expirationSeconds": 600}
    with pytest.raises(RefusedError):
        kube.request_token("meter", "jobs", 600)


def test_a_failed_test_of_a_patch_is_a_conflict_and_a_wrong_value_is_not() -> None:
    # As a 1.36 API server answers them.
    said = "the server rejected our request due to an error in our request"
    kube, _ = ask(refused(422, "Invalid", said), refused(422, "Invalid", "bad", causes=[{}]))
    change = [{"op": "test", "path": "/metadata/name", "value": "b"}]
    with pytest.raises(ConflictError):
        kube.patch(POD, "a", change, "jobs", json_patch=True)
    with pytest.raises(RefusedError, match="bad"):
        kube.patch(POD, "a", change, "jobs", json_patch=True)


def test_a_replacement_of_what_changed_meanwhile_is_a_conflict() -> None:
    kube, server = ask(refused(409, "Conflict"))
    with pytest.raises(ConflictError):
        kube.replace(CONFIG_MAP, pod("a"))
    assert server.asked[0].method == "PUT"


def test_a_deletion_tells_whether_there_was_something_to_delete() -> None:
    kube, server = ask(found({}), refused(404), refused(409, "Conflict"))
    assert kube.delete(POD, "a", "jobs", grace_seconds=0, uid="u")
    assert server.asked[0].body["gracePeriodSeconds"] == 0
    assert server.asked[0].body["preconditions"] == {"uid": "u"}
    assert not kube.delete(POD, "a", "jobs")
    assert not kube.delete(POD, "a", "jobs", uid="of another one")


@pytest.mark.parametrize(
    ("answer", "error", "retryable"),
    [
        (refused(403, "Forbidden", "pods is forbidden"), RefusedError, False),
        (refused(401), RefusedError, False),
        (refused(400, "BadRequest"), RefusedError, False),
        (refused(429, "TooManyRequests"), UnreachableError, True),
        (refused(500, "InternalError"), UnreachableError, True),
        (Written(503, [b"<html>"]), UnreachableError, True),
        (Written(200, [b"<html>"]), UnreachableError, True),
        (UnreachableError("refused"), UnreachableError, True),
    ],
)
def test_errors_say_whether_asking_again_can_help(
    answer: Written | Exception, error: type[ClusterError], retryable: bool
) -> None:
    kube, _ = ask(answer)
    with pytest.raises(error) as caught:
        kube.get(POD, "a", "jobs")
    assert caught.value.retryable is retryable


def test_a_watch_tells_changes_however_they_are_cut_into_pieces() -> None:
    told = [("ADDED", pod("a")), ("BOOKMARK", pod("", "9"))]
    whole = events(*told).read()
    pieces = [whole[i : i + 3] for i in range(0, len(whole), 3)]
    kube, server = ask(Written(200, [*pieces, b'{"torn']))
    assert list(kube.watch(POD, "jobs", "5", labels="x", timeout_seconds=7)) == told
    query = server.asked[0].query
    assert query["resourceVersion"] == "5"
    assert query["allowWatchBookmarks"] == "true"
    assert query["timeoutSeconds"] == "7"


def test_a_watch_from_a_forgotten_moment_says_that_it_expired() -> None:
    gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
    kube, _ = ask(refused(410, "Expired"), events(("ADDED", pod("a")), ("ERROR", gone)))
    with pytest.raises(ExpiredError):
        kube.watch(POD, None, "1")
    stream = kube.watch(POD, None, "1")
    assert next(stream)[0] == "ADDED"
    with pytest.raises(ExpiredError):
        next(stream)


def test_a_watch_that_breaks_off_raises_and_one_that_was_closed_ends() -> None:
    kube, _ = ask(events(breaks=True), events(("ADDED", pod("a")), hangs=True))
    with pytest.raises(UnreachableError):
        next(kube.watch(POD, None, "1"))
    stream = kube.watch(POD, None, "1")
    next(stream)
    stream.close()
    assert list(stream) == []


def test_a_log_is_asked_for_from_a_time_on() -> None:
    kube, server = ask(Written(200, [b"one\n", b"two\n"]), refused(400, "BadRequest", "waiting"))
    since = datetime(2026, 11, 24, tzinfo=UTC)
    log = kube.open_log("a", "jobs", follow=True, timestamps=True, since_time=since)
    assert b"".join(log) == b"one\ntwo\n"
    assert server.asked[0].path == "/api/v1/namespaces/jobs/pods/a/log"
    assert server.asked[0].query == {
        "follow": "true",
        "timestamps": "true",
        "sinceTime": "2026-11-24T00:00:00.000000Z",
    }
    with pytest.raises(ClusterError, match="waiting"):
        kube.open_log("a", "jobs", follow=False, timestamps=False)


def test_a_kubeconfig_or_context_that_is_missing_is_an_input_error(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("kubeconfig")
    with pytest.raises(ConfigError, match="there is no file"):
        Kube.connect(folder / "none")
    file = folder / "config"
    cluster = {"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}
    context = {"name": "here", "context": {"cluster": "c", "user": "u"}}
    file.write_text(
        json.dumps(
            {
                "clusters": [cluster],
                "contexts": [context],
                "users": [{"name": "u", "user": {}}],
                "current-context": "here",
            }
        )
    )
    assert Kube.connect(file, "here").requests == 0
    with pytest.raises(ConfigError, match="there"):
        Kube.connect(file, "there")
