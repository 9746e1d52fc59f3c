"""What the starters answer: command lines, environments, refusals. Nothing is started."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from piecework.entrypoint import command, container, dask, python, spark
from piecework.entrypoint.start import CannotStart, Machine, Start, afterwards, run_afterwards

MEBI = 2**20
WORK = Path("/attempt/work")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    (tmp_path / "job.py").write_text("print('hello')\n")
    return tmp_path


def make_launch(starter: str, code: Path, program: Any, **more: Any) -> dict[str, Any]:
    return {"engine": starter, "starter": starter, "program": program, "code": str(code)} | more


def make_environ(**more: str) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PIECEWORK_CPUS": "2",
        "PIECEWORK_MEMORY_BYTES": str(4096 * MEBI),
        "PIECEWORK_ATTEMPT": "flights.job.1a.1",
        "PIECEWORK_ARTIFACTS": "/attempt/artifacts",
        "PIECEWORK_RESULT": "/attempt/result.json",
        **more,
    }


def test_a_python_file_is_run_from_the_code_folder(code: Path) -> None:
    launch = make_launch("python", code, {"kind": "file", "run": "job.py"}, args=["1", "b c"])
    start = python.prepare(launch, make_environ(), WORK)
    assert start.argv == (sys.executable, str(code / "job.py"), "1", "b c")


def test_a_module_and_a_function_do_not_find_modules_in_the_working_folder(code: Path) -> None:
    module = make_launch("python", code, {"kind": "module", "run": "a.b"})
    assert python.command(module, {}) == (sys.executable, "-P", "-m", "a.b")
    function = make_launch("python", code, {"kind": "function", "run": "a:b"}, args=["1"])
    caller = Path(python.__file__).with_name("function.py")
    assert python.command(function, {}) == (sys.executable, "-P", str(caller), "a:b", "1")


def test_the_interpreter_can_be_another_one(code: Path) -> None:
    launch = make_launch("python", code, {"kind": "file", "run": "job.py"})
    environ = make_environ(PIECEWORK_PYTHON="/opt/python3.13")
    assert python.prepare(launch, environ, WORK).argv[0] == "/opt/python3.13"


def test_a_missing_file_is_told_before_anything_starts(code: Path) -> None:
    launch = make_launch("python", code, {"kind": "file", "run": "jib.py"})
    with pytest.raises(CannotStart, match=r"there is no file .*jib\.py"):
        python.prepare(launch, make_environ(), WORK)


def test_the_environment_is_the_machines_then_the_users(code: Path) -> None:
    launch = make_launch(
        "python", code, {"kind": "file", "run": "job.py"}, env={"OMP_NUM_THREADS": "1", "A": "b"}
    )
    env = python.prepare(launch, make_environ(PYTHONPATH="/site"), WORK).env
    assert env["PYTHONPATH"] == f"{code}{os.pathsep}/site"
    assert env["OPENBLAS_NUM_THREADS"] == "2"
    assert (env["OMP_NUM_THREADS"], env["A"]) == ("1", "b")
    assert env["PYTHONUNBUFFERED"] == "1"


def test_a_users_own_pythonpath_comes_after_the_code(code: Path) -> None:
    launch = make_launch(
        "python", code, {"kind": "file", "run": "job.py"}, env={"PYTHONPATH": "/mine"}
    )
    assert python.prepare(launch, make_environ(), WORK).env["PYTHONPATH"] == f"{code}:/mine"


def test_a_command_is_filled_in_with_what_the_attempt_got(code: Path) -> None:
    program = {"argv": ["sh", "-c", "echo {cores} {{x}}"], "env": {"BYTES": "{memory_bytes}"}}
    start = command.prepare(make_launch("command", code, program), make_environ(), WORK)
    assert start.argv == ("sh", "-c", "echo 2 {x}")
    assert start.env["BYTES"] == str(4096 * MEBI)


def test_a_command_that_is_not_installed_is_told_before_anything_starts(code: Path) -> None:
    launch = make_launch("command", code, {"argv": ["no-such-command"]})
    with pytest.raises(CannotStart, match="no command 'no-such-command'"):
        command.prepare(launch, make_environ(), WORK)


def prepare_spark(code: Path, **conf: str) -> Start:
    program = {"file": "job.py", "mode": "local", "conf": conf}
    return spark.prepare(make_launch("spark", code, program), make_environ(), WORK)


def read_properties(start: Start) -> dict[str, str]:
    text = start.files["/attempt/work/.piecework/spark.properties"]
    return dict(line.split("=", 1) for line in text.splitlines())


@pytest.mark.layer("spark")
def test_spark_is_told_its_size_before_its_jvm_starts(code: Path) -> None:
    start = prepare_spark(code)
    told = read_properties(start)
    assert told["spark.master"] == "local[2,4]"
    assert told["spark.driver.memory"] == "2720m"
    assert told["spark.driver.bindAddress"] == told["spark.driver.host"] == "127.0.0.1"
    assert told["spark.eventLog.dir"] == "file:///attempt/artifacts/spark-events"
    assert told["spark.ui.enabled"] == "false"
    arguments = start.env["PYSPARK_SUBMIT_ARGS"].split()
    assert arguments[:2] == ["--properties-file", "/attempt/work/.piecework/spark.properties"]
    assert arguments[-1] == "pyspark-shell"
    assert start.env["SPARK_LOCAL_DIRS"] == "/attempt/work/.piecework/spark"


@pytest.mark.layer("spark")
def test_the_users_properties_win_but_not_over_the_machine(code: Path) -> None:
    told = read_properties(
        prepare_spark(
            code,
            **{
                "spark.sql.shuffle.partitions": "7",
                "spark.driver.memory": "1g",
                "spark.driver.host": "0.0.0.0",
                "spark.driver.extraJavaOptions": "-Dmine=1",
            },
        )
    )
    assert told["spark.sql.shuffle.partitions"] == "7"
    assert told["spark.driver.memory"] == "1g"
    assert told["spark.driver.host"] == "127.0.0.1"
    assert told["spark.driver.extraJavaOptions"].endswith(" -Dmine=1")
    assert "-XX:+ExitOnOutOfMemoryError" in told["spark.driver.extraJavaOptions"]


@pytest.mark.layer("spark")
def test_standalone_runs_the_file_inside_a_session_with_its_cluster(code: Path) -> None:
    program = {"file": "job.py", "mode": "standalone", "conf": {}}
    start = spark.prepare(make_launch("spark", code, program), make_environ(), WORK)
    assert start.argv[-2:] == ("standalone", "/attempt/work/.piecework/session.json")
    session = json.loads(start.files["/attempt/work/.piecework/session.json"])
    assert session["argv"] == [sys.executable, str(code / "job.py")]
    assert session["properties"]["spark.executor.cores"] == "2"
    assert "spark.master" not in session["properties"]  # known once the master listens


@pytest.mark.layer("dask")
def test_dask_runs_the_file_beside_a_cluster_of_the_machine(code: Path) -> None:
    program = {"file": "job.py", "threads_per_worker": None}
    start = dask.prepare(make_launch("dask", code, program, args=["x"]), make_environ(), WORK)
    session = json.loads(start.files["/attempt/work/.piecework/session.json"])
    assert session["argv"] == [sys.executable, str(code / "job.py"), "x"]
    assert (session["workers"], session["threads"]) == (1, 2)
    assert session["report"] == "/attempt/artifacts/dask-report.html"
    assert session["folder"] == start.env["DASK_TEMPORARY_DIRECTORY"]


@pytest.mark.layer("dask")
def test_in_a_gang_dask_runs_the_file_on_the_first_machine_and_workers_on_the_others(
    code: Path,
) -> None:
    program = {"file": "job.py", "threads_per_worker": None}
    gang = {"head": "first.piecework", "count": 2, "token": "a"}
    head, worker = (
        dask.prepare(
            make_launch("dask", code, program, gang={**gang, "index": index}), make_environ(), WORK
        )
        for index in (0, 1)
    )
    session = json.loads(head.files["/attempt/work/.piecework/session.json"])
    assert session["argv"] == [sys.executable, str(code / "job.py")]
    assert session["gang"]["index"] == 0
    told = json.loads(worker.files["/attempt/work/.piecework/gang.json"])
    assert worker.argv[-2:] == (dask.__file__.replace("dask.py", "gang.py"), worker_file_of(worker))
    assert (told["kind"], told["offers"]) == ("dask_worker", {"workers": 1, "threads": 2})
    assert told["config"]["memory_bytes"] > session["memory_bytes"]  # no program beside them
    assert "argv" not in told["config"]


def worker_file_of(start: Start) -> str:
    (name,) = start.files
    return name


@given(st.integers(1, 192), st.integers(800, 1_000_000), st.none() | st.integers(1, 64))
def test_dask_workers_never_exceed_the_machine(
    cores: int, mebibytes: int, threads: int | None
) -> None:
    workers, each, memory = dask.cluster_sizes(Machine(cores, mebibytes * MEBI), threads)
    assert workers >= 1
    assert each >= 1
    assert workers * memory <= mebibytes * MEBI * 0.9
    assert memory >= dask.LEAST_WORKER_MIB * MEBI
    assert threads is not None or workers * each <= cores


def test_a_machine_too_small_for_dask_is_refused_with_what_it_needs() -> None:
    with pytest.raises(CannotStart, match="needs a machine with 778 MiB"):
        dask.cluster_sizes(Machine(1, 700 * MEBI), None)


def build_container(runtime: str, environ: dict[str, str], **more: Any) -> tuple[Start, list[str]]:
    program = {"image": "score:3", "command": more.pop("command", None)}
    launch = make_launch("container", Path("/code"), program, **more)
    found = container.Runtime(runtime, f"/usr/bin/{runtime}")
    start = container.build(launch, environ, WORK, found, [0, 3])
    session = json.loads(start.files["/attempt/work/.piecework/session.json"])
    return start, session["argv"]


def test_a_container_gets_the_cores_the_memory_and_the_folders_of_its_attempt() -> None:
    environ = make_environ(PIECEWORK_DATA="/data/1", PIECEWORK_CODE="/code")
    start, argv = build_container(
        "podman", environ, command=["python", "-u", "score.py"], args=["2024-01-01"], env={"A": "b"}
    )
    assert argv == [
        *("/usr/bin/podman", "run", "--init", "--name", "piecework-flights.job.1a.1"),
        *("--cpuset-cpus", "0,3", "--memory", "4294967296", "--memory-swap", "4294967296"),
        *("--label", "piecework.dev/attempt=flights.job.1a.1"),
        *("--volume", "/data/1:/piecework/data:rw"),
        *("--volume", "/attempt/artifacts:/piecework/artifacts:rw"),
        *("--volume", "/code:/piecework/code:ro"),
        *("--volume", "/attempt/work/.piecework/result:/piecework/result:rw"),
        *("--env", "PIECEWORK_CPUS=2", "--env", "PIECEWORK_MEMORY_BYTES=4294967296"),
        *("--env", "PIECEWORK_ATTEMPT=flights.job.1a.1"),
        *("--env", "PIECEWORK_ARTIFACTS=/piecework/artifacts"),
        *("--env", "PIECEWORK_DATA=/piecework/data", "--env", "PIECEWORK_CODE=/piecework/code"),
        *("--env", "A", "--env", "PIECEWORK_RESULT=/piecework/result/result.json"),
        *("--entrypoint", "python", "score:3", "-u", "score.py", "2024-01-01"),
    ]
    assert start.env["A"] == "b"
    removal = ["/usr/bin/podman", "rm", "--force", "--volumes", "piecework-flights.job.1a.1"]
    assert json.loads(start.files["/attempt/work/.piecework/afterwards.json"]) == [removal]


def test_an_image_without_a_command_is_started_as_it_is() -> None:
    _, argv = build_container("docker", make_environ(), args=["x"])
    assert argv[-2:] == ["score:3", "x"]
    assert "--entrypoint" not in argv


@pytest.mark.parametrize(
    ("runtime", "option"), [("podman", "--device nvidia.com/gpu=all"), ("docker", "--gpus all")]
)
def test_gpus_are_given_as_each_runtime_wants_it(runtime: str, option: str) -> None:
    _, argv = build_container(runtime, make_environ(PIECEWORK_GPUS="1"))
    assert option in " ".join(argv)


def test_a_secret_stays_out_of_a_containers_command_line() -> None:
    start, argv = build_container("docker", make_environ(), env={"TOKEN": "s3cret"})
    assert "s3cret" not in " ".join([*argv, *start.argv])
    assert start.env["TOKEN"] == "s3cret"


def test_a_variable_of_the_job_does_not_change_what_the_runtime_does() -> None:
    env = {"PATH": "/opt/bin", "DOCKER_HOST": "tcp://elsewhere", "LD_PRELOAD": "x.so"}
    start, argv = build_container("docker", make_environ(), env=env)
    assert start.env["PATH"] == os.environ["PATH"]
    assert "LD_PRELOAD" not in start.env
    assert "DOCKER_HOST=tcp://elsewhere" in argv


def test_data_behind_an_address_is_not_mounted() -> None:
    _, argv = build_container("docker", make_environ(PIECEWORK_DATA="s3://bucket/1"))
    assert "PIECEWORK_DATA=s3://bucket/1" in argv
    assert not any("bucket" in part for part in argv if part.startswith("--volume"))


def test_what_is_to_be_done_afterwards_is_done_once(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    start = Start((), {}, afterwards(tmp_path, ["no-such-command"], ["mkdir", str(mark)]))
    start.write_files()
    run_afterwards(tmp_path)
    assert mark.is_dir()
    mark.rmdir()
    run_afterwards(tmp_path)
    assert not mark.exists()


def write_program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def test_without_podman_and_docker_the_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="no podman or docker on this computer; install one, or"):
        container.find_runtime({"PATH": str(tmp_path)})


def test_podman_comes_first_and_a_silent_docker_is_no_runtime(tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    write_program(tools, "docker", "echo 'Is the docker daemon running?' >&2; exit 1")
    with pytest.raises(CannotStart, match=r"does not answer \(docker: Is the docker daemon"):
        container.find_runtime({"PATH": str(tools)})
    write_program(tools, "podman", "exit 0")
    assert container.find_runtime({"PATH": str(tools)}).name == "podman"
