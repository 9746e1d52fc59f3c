"""Attempts as pods of a real cluster: started, followed, ended, and why.

The keeper is not part of this: the tests open the gates themselves. Machines are started with the
label and the taint of a pool, as an autoscaler would start them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from piecework.kube.client import POD
from piecework.ledger.events import Outcome
from piecework.plan import labels
from piecework.runners.kubernetes import KubernetesRunner
from piecework.runners.pods import attempt_of
from piecework.runners.runner import AttemptStatus
from testbed import faults, images
from testbed.place import Place
from tests.cluster.conftest import Cluster
from tests.cluster.pool_place import TYPE, PoolPlace


def test_a_container_runs_as_it_is_and_its_message_is_its_result(
    cluster_pool: PoolPlace, here: Place, namespace: str, tmp_path: Path
) -> None:
    folder = tmp_path / "image"
    folder.mkdir()
    (folder / "Dockerfile").write_text("ARG BASE\nFROM ${BASE}\nUSER 1234\n")
    image = images.build(here, folder, f"user-{namespace}:1", base=images.SHELL)
    script = 'echo "I am $PIECEWORK_JOB, $1"; echo "{\\"rows\\": 3}" >"$PIECEWORK_RESULT"'
    request = cluster_pool.request(
        container={"image": image, "command": ["sh", "-c", script, "sh"]}, args=["$HOME $(HOME)"]
    )
    status = cluster_pool.runner.start(request)
    assert (status.state, status.reason) == ("waiting", "waits for the keeper to admit it")
    (pod,) = cluster_pool.pods()
    assert "volumeMounts" not in pod["spec"]["containers"][0]
    cluster_pool.admit(status.attempt)
    status = cluster_pool.ended(status.attempt)
    assert (status.outcome, status.result) == (Outcome.SUCCESS, {"rows": 3})
    assert cluster_pool.log(status.attempt) == b"I am job, $HOME $(HOME)\n"


def test_a_container_that_would_run_as_root_says_so_while_it_waits(
    cluster_pool: PoolPlace, one: Cluster
) -> None:
    attempt = cluster_pool.start(container={"image": one.shell, "command": ["true"]})
    status = cluster_pool.wait(attempt, lambda s: "runAsNonRoot" in (s.reason or ""))
    assert status.reason is not None
    assert status.reason.startswith("its container cannot be made on machine-")


def test_python_gets_its_folder_by_a_config_map_and_leaves_result_log_and_use(
    cluster_pool: PoolPlace,
) -> None:
    (cluster_pool.code / "rows.py").write_text("COUNT = 3\n")
    program = (
        "import json, os, rows, sys\n"
        "print('hello', os.getuid(), sys.argv[1])\n"
        "json.dump({'rows': rows.COUNT}, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
    )
    attempt = cluster_pool.start_python(program, args=["a b"])
    status = cluster_pool.ended(attempt)
    assert status.outcome is Outcome.SUCCESS, (status.cause, cluster_pool.log(attempt))
    assert status.result == {"rows": 3}
    assert cluster_pool.log(attempt) == b"hello 65532 a b\n"
    assert status.started_at is not None
    assert status.ended_at is not None
    assert len(status.machines) == 1
    assert cluster_pool.runner.start(cluster_pool.request(python="job.py")) == status


def test_a_long_log_arrives_once_and_in_order_however_often_the_api_server_is_restarted(
    cluster_pool: PoolPlace, here: Place
) -> None:
    count = 100_000
    program = (
        "import time\n"
        f"for n in range({count}):\n"
        "    print(n)\n"
        f"    if n % 1000 == 0: time.sleep(0.1)\n"
    )
    attempt = cluster_pool.start_python(program)
    cluster_pool.running(attempt)
    runner, data = cluster_pool.runner, b""
    restarted = False
    while True:
        chunk = runner.read_log(attempt, len(data))
        data += chunk
        if not restarted and len(data) > 10_000:
            restarted = True
            faults.restart(here, "kube-apiserver")
        status = runner.status(attempt)
        if not chunk and status is not None and status.state == "ended":
            break
        time.sleep(0.02)
    assert status.outcome is Outcome.SUCCESS
    assert data == b"".join(b"%d\n" % n for n in range(count))
    assert cluster_pool.log(attempt) == data  # read by another process, later


def test_out_of_memory_is_told_apart_from_errors(cluster_pool: PoolPlace) -> None:
    attempt = cluster_pool.start_python(
        "held = []\nwhile True: held.append(bytearray(64 * 2**20))\n"
    )
    status = cluster_pool.ended(attempt)
    assert status.outcome is Outcome.OUT_OF_MEMORY, status
    assert status.cause is not None
    assert status.cause.startswith("used all of its memory of 6")


def test_the_exit_code_of_an_error_is_told(cluster_pool: PoolPlace) -> None:
    status = cluster_pool.ended(cluster_pool.start_python("raise SystemExit(7)"))
    assert (status.outcome, status.cause, status.exit_code) == (Outcome.ERROR, "exit code 7", 7)


def test_a_timeout_ends_the_program(cluster_pool: PoolPlace) -> None:
    attempt = cluster_pool.start_python("import time; time.sleep(1000)", timeout="5s")
    status = cluster_pool.ended(attempt)
    assert status.outcome is Outcome.TIMEOUT, status
    assert status.cause == "ran longer than its timeout of 5 s"


def test_cancelled_while_gated_it_never_runs(cluster_pool: PoolPlace) -> None:
    attempt = cluster_pool.runner.start(cluster_pool.request(container={"image": "none"})).attempt
    cluster_pool.runner.cancel(attempt, "by hand")
    cluster_pool.runner.cancel(attempt, "again")
    status = cluster_pool.ended(attempt)
    assert (status.outcome, status.cause, status.started_at) == (
        Outcome.CANCELLED,
        "by hand",
        None,
    )


def test_cancelled_while_it_runs_it_has_its_grace_and_is_no_success(
    cluster_pool: PoolPlace,
) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked', flush=True), sys.exit(0)))\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    attempt = cluster_pool.start_python(program)
    runner = cluster_pool.runner
    while b"ready" not in runner.read_log(attempt, 0):
        runner.wait_for_change("test.job.0a1b2c", 0.2)
    runner.cancel(attempt, "by hand")
    status = cluster_pool.ended(attempt)
    assert (status.outcome, status.cause) == (Outcome.CANCELLED, "by hand")
    assert cluster_pool.log(attempt) == b"ready\nasked\n"


def test_deleted_by_somebody_it_was_interrupted(cluster_pool: PoolPlace) -> None:
    attempt = cluster_pool.start_python("import time; time.sleep(1000)")
    cluster_pool.running(attempt)
    cluster_pool.kube.delete(
        POD, labels.pod_name(attempt), cluster_pool.pool.namespace, grace_seconds=1
    )
    status = cluster_pool.ended(attempt)
    assert status.outcome is Outcome.INTERRUPTED
    assert status.cause == "its pod was deleted by somebody"


def test_ten_who_start_the_same_attempt_make_one_pod(cluster_pool: PoolPlace) -> None:
    (cluster_pool.code / "job.py").write_text("print('once')")
    request = cluster_pool.request(python="job.py")
    found: list[AttemptStatus] = []
    together = threading.Barrier(10)

    def start() -> None:
        runner = KubernetesRunner(cluster_pool.pool, cluster_pool.settings, view=cluster_pool.view)
        together.wait()
        found.append(runner.start(request))

    threads = [threading.Thread(target=start) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 10
    assert len(cluster_pool.pods()) == 1
    cluster_pool.admit(request.attempt)
    cluster_pool.ended(request.attempt)
    assert cluster_pool.log(request.attempt) == b"once\n"


def test_an_image_that_is_missing_is_named_while_it_waits(cluster_pool: PoolPlace) -> None:
    image = f"{cluster_pool.pool.image}-that-is-not-there"
    attempt = cluster_pool.start_python("", image=image)
    status = cluster_pool.wait(attempt, lambda s: "cannot be pulled" in (s.reason or ""))
    assert status.reason is not None
    assert image in status.reason
    assert "not found" in status.reason
    cluster_pool.runner.cancel(attempt, "enough")
    assert cluster_pool.ended(attempt).outcome is Outcome.CANCELLED


def test_the_command_line_runs_reads_and_cancels_a_job_on_a_cluster(
    cluster_pool: PoolPlace, tmp_path: Path
) -> None:
    pool = cluster_pool.pool
    (tmp_path / "piecework.toml").write_text(
        f'[pools.work]\nprovider = "asg"\nkubeconfig = "{pool.kubeconfig}"\n'
        f'namespace = "{pool.namespace}"\nimage = "{pool.image}"\n'
        f'groups = [{{name = "work", type = "{TYPE}"}}]\n'
    )
    program = "import sys, time\nprint('hello', flush=True)\ntime.sleep(float(sys.argv[1]))\n"
    (cluster_pool.code / "job.py").write_text(program)
    file = cluster_pool.code / "pipeline.yaml"
    file.write_text(
        "pipeline: trial\njobs:\n"
        '  short: {python: job.py, args: ["0"]}\n'
        '  long: {python: job.py, args: ["1000"]}\n'
    )
    environ = {**os.environ, "PIECEWORK_CONFIG": str(tmp_path / "piecework.toml")}

    def piecework(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "piecework", *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(job: str) -> tuple[subprocess.Popen[str], str]:
        known = {attempt_of(pod) for pod in cluster_pool.pods()}
        process = piecework("run", str(file), "--job", job, "--pool", "work")
        while not (new := {attempt_of(pod) for pod in cluster_pool.pods()} - known):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        cluster_pool.admit(*new)
        return process, new.pop()

    short, attempt = start("short")
    _, said = short.communicate(timeout=120)
    assert short.returncode == 0, said
    assert "hello\n" in said
    assert "does `piecework keeper` run" in said  # nobody has told the ledger
    long, attempt = start("long")
    run = attempt.rpartition(".")[0]
    cluster_pool.running(attempt)
    log, said = piecework("logs", run).communicate(timeout=60)
    assert log == "hello\n", said
    shown = piecework("show", run)
    _, said = shown.communicate(timeout=60)
    assert shown.returncode == 2
    assert f"{run} is running, and the ledger does not know it yet" in said
    cancelled, said = piecework("cancel", run).communicate(timeout=90)
    assert cancelled == f"{run}: cancelled\n", said
    _, said = long.communicate(timeout=90)
    assert long.returncode == 1, said
    status = cluster_pool.ended(attempt)
    assert (status.outcome, status.cause) == (Outcome.CANCELLED, "cancelled by its user")
