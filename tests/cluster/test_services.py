"""What jobs talk to besides Kubernetes: HDFS, a database, images of one's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from testbed import components, faults, hdfs, images, kubectl, machine, pods, postgresql
from testbed.place import Place
from tests.cluster.conftest import Cluster, StartMachine


@pytest.fixture
def start_hdfs(here: Place) -> Iterator[Callable[[int], None]]:
    """Starts HDFS with this many DataNodes; it is gone after the test, with its files."""
    yield partial(hdfs.start, here)
    for component in components.names(here):
        if component.startswith("hdfs-"):
            components.stop(here, component)
    shutil.rmtree(here.folder / "hdfs", ignore_errors=True)


def _web() -> httpx.Client:
    return httpx.Client(trust_env=False, follow_redirects=True, timeout=30)


@pytest.mark.layer("hdfs")
def test_hdfs_keeps_a_file_that_this_host_writes_and_a_pod_reads(
    one: Cluster,
    here: Place,
    start_hdfs: Callable[[int], None],
    start_machine: StartMachine,
    namespace: str,
) -> None:
    start_hdfs(1)
    assert hdfs.live_data_nodes(here) == 1
    url = f"{hdfs.web_url(here)}/dir/file?user.name=ann&op="
    with _web() as web:
        web.put(f"{url}CREATE&overwrite=true", content=b"hello").raise_for_status()
        assert web.get(f"{url}OPEN").content == b"hello"
    assert hdfs.command(here, "-cat", "/dir/file") == "hello"
    name = start_machine()
    script = f"wget -qO- '{url}OPEN'"
    one.api.create(pods.make("reads", namespace, one.shell, script, node=name))
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "reads", namespace)))
    assert one.api.logs("reads", namespace) == "hello"


@pytest.mark.layer("hdfs")
def test_hdfs_reads_and_writes_on_without_one_of_three_data_nodes_and_with_a_new_name_node(
    one: Cluster, here: Place, start_hdfs: Callable[[int], None]
) -> None:
    start_hdfs(3)
    content = b"0123456789" * 100_000
    url = f"{hdfs.web_url(here)}/file?user.name=ann&op="
    with _web() as web:
        web.put(f"{url}CREATE&overwrite=true", content=content).raise_for_status()
        status = web.get(f"{url}GETFILESTATUS").json()["FileStatus"]
        assert status["replication"] == 3

        faults.kill(here, hdfs.data_node(1))
        # Hadoop's own client goes to the next replica by itself, at once.
        assert hdfs.command(here, "-cat", "/file").encode() == content
        hdfs.wait(here, 2)
        assert web.get(f"{url}OPEN").content == content
        again = url.replace("/file?", "/again?")
        web.put(f"{again}CREATE", content=b"more").raise_for_status()

        faults.restart(here, hdfs.data_node(1))
        hdfs.wait(here, 3)
        faults.kill(here, hdfs.NAME_NODE)
        with pytest.raises(httpx.ConnectError):
            web.get(f"{url}OPEN")
        faults.restart(here, hdfs.NAME_NODE)
        hdfs.wait(here, 3)
        assert web.get(f"{url}OPEN").content == content
        assert web.get(f"{again}OPEN").content == b"more"


@pytest.mark.layer("postgresql")
def test_postgresql_answers_this_host_and_pods(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str
) -> None:
    import psycopg

    url = postgresql.start(here)
    try:
        with psycopg.connect(url) as connection:
            answer = connection.execute("select current_database()").fetchone()
        assert answer == ("piecework",)
        name = start_machine()
        script = f"nc -w 5 {here.hub} {postgresql.PORT} </dev/null && echo reached"
        one.api.create(pods.make("asks", namespace, one.shell, script, node=name))
        one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "asks", namespace)))
        assert one.api.logs("asks", namespace) == "reached\n"
    finally:
        components.stop(here, postgresql.NAME)


def test_an_image_built_on_the_base_is_pulled_and_runs(
    one: Cluster, here: Place, start_machine: StartMachine, namespace: str, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text(
        "ARG BASE\nFROM ${BASE}\nCOPY job.py /job.py\nRUN python3 -m py_compile /job.py\n"
    )
    (tmp_path / "job.py").write_text("import sys\nprint('python', sys.version_info[:2])\n")
    image = images.build(here, tmp_path, f"job-{namespace}:1")
    name = start_machine()
    one.api.create(pods.make("job", namespace, image, "python3 /job.py", node=name))
    one.api.wait("the pod", lambda: pods.is_over(one.api.get("Pod", "job", namespace)), 180)
    assert one.api.logs("job", namespace) == "python (3, 11)\n"
    # A fresh machine has no image: it came from the registry.
    run = [*machine.enter(here, name), "ctr", "-n", "k8s.io", "images", "list", "-q"]
    from testbed import network

    assert image in network.run(run).split()


def test_kubectl_tells_the_version_that_was_built(one: Cluster) -> None:
    told = kubectl.run(one.kubeconfig, "version", "--output=yaml")
    assert told.count("gitVersion: v1.36.3") == (2 if one.place else told.count("v1.36.3"))
