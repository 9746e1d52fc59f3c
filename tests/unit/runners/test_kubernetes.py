"""The runner of a cluster: pods are made once, found again, followed, ended and read."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from piecework.config import Settings
from piecework.errors import ClusterError, RunnerError
from piecework.kube.client import Kube, Object
from piecework.kube.transport import UnreachableError
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.plan.choose import plan_job
from piecework.plan.price import load_price_book
from piecework.plan.written_pod import WrittenPod
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pod_fields import deleted_at
from piecework.runners.pod_view import PodView
from piecework.runners.pods import end_of, read_request
from piecework.runners.runner import AttemptRequest, AttemptStatus, Owner, runner_for
from piecework.spec.job import Job
from piecework.spec.pool import Pool
from tests.unit.kube.server import Written, refused
from tests.unit.runners.objects import Objects
from tests.unit.runners.pod_objects import Pod

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
RUN = "flights.clean.7f3a9c1b04d2"
CONTAINER = {"container": {"image": "registry.example.com/clean:1"}}


class Cluster:
    """Objects behind the wire, and runners before it."""

    def __init__(self, path: Path) -> None:
        self.objects = Objects()
        self.pool = Pool(name="spot", provider="karpenter", image="registry.example.com/python:1")
        self.settings = Settings(home=path / "home", ledger_url="sqlite://")
        self.code = path / "code"
        self.code.mkdir()
        (self.code / "clean.py").write_text("print('clean')\n")
        self.views: list[PodView] = []

    def runner(self, view: PodView | None = None) -> KubernetesRunner:
        if view is None:
            view = PodView(Kube(self.objects), self.pool.namespace)
            self.views.append(view)
        return KubernetesRunner(self.pool, self.settings, now=lambda: NOW, view=view)

    def request(
        self, number: int = 1, job: dict[str, Any] | None = None, **more: Any
    ) -> AttemptRequest:
        plan = plan_job(
            "clean",
            Job.model_validate(CONTAINER if job is None else job),
            pool=self.pool,
            prices=load_price_book(self.pool),
            settings=self.settings,
        )
        request = AttemptRequest(RUN, number, plan, Owner("cli"), self.code, "s3://bucket/data")
        return replace(request, **more)

    def run(self, name: str = "clean-7f3a9c1b04d2-1") -> None:
        """What scheduler and kubelet do."""

        def change(pod: Object) -> None:
            pod["spec"].pop("schedulingGates", None)
            pod["spec"]["nodeName"] = "n1"
            pod["status"] = {**Pod().running()["status"]}
            pod["status"]["containerStatuses"][0]["name"] = "job"

        self.objects.change(name, change)

    def end(self, code: int = 0, name: str = "clean-7f3a9c1b04d2-1") -> None:
        self.objects.change(name, lambda pod: pod.update(status=Pod().exited(code)["status"]))


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    for view in made.views:
        view.close()


def eventually(ask: Callable[[], AttemptStatus | None], **wanted: object) -> AttemptStatus:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        status = ask()
        if status and all(getattr(status, name) == value for name, value in wanted.items()):
            return status
        time.sleep(0.005)
    pytest.fail(f"never {wanted}: {ask()}")


def test_starting_twice_makes_one_pod_and_finds_it(cluster: Cluster) -> None:
    runner = cluster.runner()
    first = runner.start(cluster.request())
    assert (first.state, first.queued_at) == ("waiting", NOW)
    assert runner.start(cluster.request()) == first
    assert cluster.runner().status(f"{RUN}.1") == first
    (pod,) = cluster.objects.pods()
    assert pod["metadata"]["name"] == "clean-7f3a9c1b04d2-1"
    assert pod["metadata"]["namespace"] == "piecework"
    variables = {each["name"]: each["value"] for each in pod["spec"]["containers"][0]["env"]}
    assert variables["PIECEWORK_DATA"] == "s3://bucket/data"


LAKE = {
    "secret": "lake-credentials",
    "hdfs": {"lake": {"namenodes": ["nn1:8020"]}},
    "s3": {"region": "eu-west-1"},
    "kerberos": {"principal": "etl@EXAMPLE.COM", "keytab_secret": "etl-keytab"},
}


def test_a_pod_is_told_how_it_reaches_its_data_and_where_its_credentials_are(
    cluster: Cluster,
) -> None:
    store = str(cluster.code.parent / "store")
    cluster.settings = replace(cluster.settings, access=LAKE, store=store)
    cluster.runner().start(cluster.request(job={"python": "clean.py"}))
    (pod,) = cluster.objects.pods()
    (container,) = pod["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "lake-credentials"}}]
    variables = {each["name"]: each["value"] for each in container["env"]}
    order = json.loads(variables["PIECEWORK_ORDER"])
    assert order["store"] == cluster.settings.store
    assert order["launch"]["data"]["hdfs"] == {"lake": ["nn1:8020"]}
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert order["launch"]["data"]["kerberos"]["keytab"] == f"{mounts['keytab']}/keytab"
    assert "etl-keytab" not in pod["metadata"]["annotations"][labels.REQUEST]


def test_a_container_of_somebodys_own_gets_variables_and_no_files(cluster: Cluster) -> None:
    cluster.settings = replace(cluster.settings, access=LAKE)
    cluster.runner().start(cluster.request())
    (pod,) = cluster.objects.pods()
    (container,) = pod["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in container["env"]}
    assert variables["AWS_REGION"] == "eu-west-1"
    assert container["envFrom"] == [{"secretRef": {"name": "lake-credentials"}}]
    assert "volumeMounts" not in container
    assert not any(name.startswith("KRB5") for name in variables)


def test_a_result_in_the_store_is_read_once_and_a_lost_one_is_told(cluster: Cluster) -> None:
    store = cluster.code.parent / "store"
    cluster.settings = replace(cluster.settings, store=str(store))
    runner = cluster.runner()
    runner.start(cluster.request(job={"python": "clean.py"}))
    data = b"[1, 2, 3]"
    kept = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    message = {"result": None, "use": {}, "failed": None, "out_of_memory": False, "kept": kept}
    (store / "results").mkdir(parents=True)
    file = store / "results" / f"{RUN}.1.json"
    file.write_bytes(data)
    ended = Pod().exited(0, message=json.dumps(message))["status"]
    cluster.objects.change("clean-7f3a9c1b04d2-1", lambda pod: pod.update(status=ended))
    status = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert (status.result, status.lost) == ([1, 2, 3], None)
    file.write_bytes(b"[4]")
    assert runner.attempts(RUN)[0].result == [1, 2, 3]
    other = cluster.runner().status(f"{RUN}.1")
    assert other is not None
    assert (other.outcome, other.result) == (Outcome.SUCCESS, None)
    assert "is not what the attempt had written there" in (other.lost or "")


def test_ten_at_once_make_one_pod(cluster: Cluster) -> None:
    runners = [cluster.runner() for _ in range(10)]
    found: list[AttemptStatus] = []
    together = threading.Barrier(10)

    def start(runner: KubernetesRunner) -> None:
        together.wait()
        found.append(runner.start(cluster.request()))

    threads = [threading.Thread(target=start, args=[runner]) for runner in runners]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cluster.objects.pods()) == 1
    assert len(found) == 10
    assert {status.attempt for status in found} == {f"{RUN}.1"}


def test_a_gang_that_was_made_in_part_is_completed(cluster: Cluster) -> None:
    request = cluster.request(job={**CONTAINER, "machine": {"count": 3}})
    runner = cluster.runner()
    runner.start(request)
    cluster.objects.vanish("clean-7f3a9c1b04d2-1-1")
    assert len(cluster.objects.pods()) == 2
    cluster.runner().start(request)
    names = sorted(pod["metadata"]["name"][-3:] for pod in cluster.objects.pods())
    assert names == ["1-0", "1-1", "1-2"]


def test_a_second_attempt_is_refused_until_the_first_has_ended_and_keeps_its_place(
    cluster: Cluster,
) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    with pytest.raises(RunnerError, match="has not ended"):
        runner.start(cluster.request(2))
    cluster.run()
    cluster.end(1)
    later = KubernetesRunner(
        cluster.pool, cluster.settings, now=lambda: datetime.now(UTC), view=cluster.views[0]
    )
    second = later.start(cluster.request(2))
    assert second.queued_at == NOW
    assert [status.attempt for status in runner.attempts(RUN)] == [f"{RUN}.1", f"{RUN}.2"]
    cleared = Owner("airflow", max_tries=3)
    cluster.objects.change("clean-7f3a9c1b04d2-2", lambda pod: pod.update(Pod().exited(1)))
    assert later.start(cluster.request(3, owner=cleared)).queued_at != NOW


def test_a_pod_of_that_name_that_is_somebody_elses_is_not_taken(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    cluster.objects.change(
        "clean-7f3a9c1b04d2-1", lambda pod: pod["metadata"].update(labels={}, annotations={})
    )
    with pytest.raises(RunnerError, match="not of this attempt"):
        cluster.runner().start(cluster.request())


def test_what_the_cluster_refuses_is_told_with_what_to_do(cluster: Cluster) -> None:
    cluster.objects.refusal = refused(404, "NotFound", 'namespaces "piecework" not found')
    with pytest.raises(RunnerError, match=r'namespaces "piecework" not found.*pools render'):
        cluster.runner().start(cluster.request())


def test_a_cluster_that_does_not_answer_is_an_error_that_may_pass(cluster: Cluster) -> None:
    class Silent:
        ca_file: str | None = None

        def send(self, *_: object, **__: object) -> Written:
            raise UnreachableError("no route")

    view = PodView(Kube(Silent()), "piecework")
    cluster.views.append(view)
    with pytest.raises(ClusterError, match="no route") as caught:
        cluster.runner(view).attempts(RUN)
    assert caught.value.retryable


def test_python_gets_its_code_and_launcher(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request(job={"python": "clean.py"}))
    runner.start(cluster.request(job={"python": "clean.py"}, run="flights.clean.000000000000"))
    maps = [path for path in cluster.objects.kept if "/configmaps/" in path]
    assert len(maps) == 2
    posted = [path for method, path in cluster.objects.asked if method == "POST"]
    assert len(posted) == 4  # two pods, and each ConfigMap once
    pod = cluster.objects.pods()[0]
    names = {volume["configMap"]["name"] for volume in pod["spec"]["volumes"][::2]}
    assert {path.rpartition("/")[2] for path in maps} == names
    assert str(cluster.code) not in str(pod)


def test_a_pod_that_somebody_wrote_is_merged_with_ours(cluster: Cluster) -> None:
    written = {"spec": {"containers": [{"name": "base", "image": "theirs:1"}]}}
    cluster.runner().start(cluster.request(pod=WrittenPod(written)))
    (pod,) = cluster.objects.pods()
    assert pod["spec"]["containers"][0]["image"] == "theirs:1"
    assert pod["spec"]["schedulingGates"] == [{"name": labels.GATE}]


def test_a_run_is_followed_from_waiting_to_its_end(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    told = threading.Event()
    stop = runner.listen(RUN, told.set, lambda: None)
    cluster.run()
    assert told.wait(10)
    eventually(lambda: runner.status(f"{RUN}.1"), state="running")
    began = time.monotonic()
    ender = threading.Timer(0.05, cluster.end)
    ender.start()
    runner.wait_for_change(RUN, 30)
    ender.join()
    assert time.monotonic() - began < 10
    status = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert status.outcome is Outcome.SUCCESS
    stop()
    runner.wait_for_change(RUN, 0.01)


def test_a_change_between_the_look_and_the_wait_is_not_missed(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    eventually(lambda: cluster.runner().status(f"{RUN}.1"), state="waiting")
    runner.status(f"{RUN}.1")
    cluster.run()
    eventually(lambda: KubernetesRunner.status(runner, f"{RUN}.1"), state="running")
    runner._seen[labels.run_label(RUN)] -= 1
    began = time.monotonic()
    runner.wait_for_change(RUN, 30)
    assert time.monotonic() - began < 10


def test_waiting_costs_one_list_and_one_watch_for_all_runs(cluster: Cluster) -> None:
    runner = cluster.runner()
    runs = [f"flights.clean.{n:012x}" for n in range(20)]
    for run in runs:
        runner.start(cluster.request(run=run))
    before = cluster.views[0].kube.requests
    for _ in range(5):
        for run in runs:
            assert len(runner.attempts(run)) == 1
            runner.wait_for_change(run, 0)
    assert cluster.views[0].kube.requests == before


def test_cancelling_writes_the_cause_once_and_deletes(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    runner.cancel(f"{RUN}.1", "by hand")
    runner.cancel(f"{RUN}.1", "again")
    status = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert (status.outcome, status.cause) == (Outcome.CANCELLED, "by hand")
    with pytest.raises(RunnerError, match="no pod of attempt"):
        runner.cancel("flights.none.0.1", "x")


def test_cancelling_what_changes_meanwhile_reads_it_again(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    stale = cluster.objects.pods()[0].copy()
    cluster.run()
    cluster.views[0].note({**stale, "metadata": {**stale["metadata"], "resourceVersion": "999"}})
    runner.cancel(f"{RUN}.1", "by hand")
    (pod,) = cluster.objects.pods()
    assert labels.END in pod["metadata"]["annotations"]
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 30


def test_a_cancellation_by_a_clock_that_is_ahead_is_as_of_the_deletion(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    cluster.run()
    runner.cancel(f"{RUN}.1", "by hand")
    (pod,) = cluster.objects.pods()  # of which this clock is days ahead
    written, deleted = end_of(pod), deleted_at(pod)
    assert written is not None
    assert (written.outcome, written.at) == (Outcome.CANCELLED, deleted)


def test_what_has_ended_is_not_cancelled(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    cluster.run()
    cluster.end(0)
    eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    runner.cancel(f"{RUN}.1", "late")
    (pod,) = cluster.objects.pods()
    assert labels.END not in pod["metadata"]["annotations"]
    assert "deletionTimestamp" not in pod["metadata"]


def test_what_was_read_is_acknowledged_and_only_what_has_ended(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    runner.acknowledge(f"{RUN}.1")
    assert labels.SEEN not in cluster.objects.pods()[0]["metadata"]["annotations"]
    cluster.run()
    cluster.end(0)
    eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    runner.acknowledge(f"{RUN}.1")
    assert cluster.objects.pods()[0]["metadata"]["annotations"][labels.SEEN] == "true"


def test_a_pod_that_is_gone_is_remembered_and_never_a_success(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    cluster.run()
    eventually(lambda: runner.status(f"{RUN}.1"), state="running")
    cluster.objects.vanish("clean-7f3a9c1b04d2-1")
    status = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert status.outcome is Outcome.INTERRUPTED
    assert cluster.runner().status(f"{RUN}.1") is None


def test_an_ended_pod_that_is_gone_ended_as_it_did(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    cluster.run()
    cluster.end(0)
    eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    cluster.objects.vanish("clean-7f3a9c1b04d2-1")
    time.sleep(0.1)
    status = eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    assert status.outcome is Outcome.SUCCESS


def test_a_run_is_found_by_its_name_or_the_end_of_it(cluster: Cluster) -> None:
    runner = cluster.runner()
    runner.start(cluster.request())
    runner.start(cluster.request(run="flights.clean.111111111111"))
    for name in (RUN, f"{RUN}.1", "7f3a9c1b04d2", "flights.clean.7f"):
        assert [each.attempt for each in runner.find(name)] == [f"{RUN}.1"]
    assert runner.find("flights") == []
    assert runner.find("none") == []


def test_a_log_is_read_while_it_grows_and_to_its_end(cluster: Cluster) -> None:
    lines = [b"2026-11-24T12:00:0%d.5Z line %d\n" % (n, n) for n in range(3)]
    cluster.objects.log = lambda query: Written(200, lines if "follow" in query else lines[:1])
    runner = cluster.runner()
    runner.start(cluster.request())
    assert runner.read_log(f"{RUN}.1", 0) == b""
    cluster.run()
    eventually(lambda: runner.status(f"{RUN}.1"), state="running")
    assert runner.read_log(f"{RUN}.1", 0).startswith(b"line 0\n")
    cluster.objects.log = lambda _: Written(200, lines)
    cluster.end(0)
    eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    data = b""
    while chunk := runner.read_log(f"{RUN}.1", len(data), 4):
        data += chunk
    assert data == b"line 0\nline 1\nline 2\n"


def test_who_listens_is_told_when_a_log_that_was_read_has_grown(cluster: Cluster) -> None:
    lines = [b"2026-11-24T12:00:0%d.5Z line %d\n" % (n, n) for n in range(2)]
    cluster.objects.log = lambda _: Written(200, lines[:1])
    runner = cluster.runner()
    runner.start(cluster.request())
    grown = threading.Event()
    stop = runner.listen(RUN, lambda: None, grown.set)
    cluster.run()
    eventually(lambda: runner.status(f"{RUN}.1"), state="running")
    first = runner.read_log(f"{RUN}.1", 0)
    assert first == b"line 0\n"
    grown.clear()
    cluster.objects.log = lambda _: Written(200, lines)
    assert grown.wait(10)
    assert runner.read_log(f"{RUN}.1", len(first)) == b"line 1\n"
    stop()


def test_the_log_of_a_pod_that_is_gone_is_the_one_that_was_kept(
    cluster: Cluster, tmp_path: Path
) -> None:
    assert cluster.runner().read_log(f"{RUN}.1", 0) == b""
    (tmp_path / "store" / "logs").mkdir(parents=True)
    (tmp_path / "store" / "logs" / f"{RUN}.1.log").write_bytes(b"kept")
    cluster.settings = replace(cluster.settings, store=f"file://{tmp_path}/store")
    assert cluster.runner().read_log(f"{RUN}.1", 1) == b"ept"
    # Its node is gone before the pod is: there is no log to be had from the cluster.
    runner = cluster.runner()
    runner.start(cluster.request())
    cluster.run()
    cluster.end(1)
    eventually(lambda: runner.status(f"{RUN}.1"), state="ended")
    cluster.objects.log = lambda _: refused(404, "NotFound")
    assert runner.read_log(f"{RUN}.1", 0) == b"kept"


def test_a_pool_on_a_cluster_has_this_runner(cluster: Cluster) -> None:
    found = runner_for(cluster.pool, cluster.settings)
    assert isinstance(found, KubernetesRunner)
    assert read_request(Pod())["engine"] == "python"
