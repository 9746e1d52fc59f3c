"""The launcher as a pod runs it: `python3 launcher.pyz`, an order in the environment, an end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from piecework.runners.code import bundle, launcher
from piecework.runners.pod_fields import read_kept
from piecework.runners.pod_status import result_of
from piecework.runners.pods import ending_of
from piecework.runners.store import Store
from tests.unit.runners.pod_objects import Pod


@dataclass
class Ended:
    """What is left of a pod."""

    code: int
    log: str
    message: dict[str, Any]


class Place:
    """A pod's folders: its launcher, its code, its work, and its control group."""

    def __init__(self, path: Path) -> None:
        self.work = path / "work"
        self.code = path / "code"
        self.cgroup = path / "cgroup"
        self.message = path / "termination-log"
        self.archive = path / "launcher.pyz"
        for folder in (self.work, self.code, self.cgroup):
            folder.mkdir()
        self.archive.write_bytes(launcher().data)

    def environ(self, order: dict[str, Any]) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.work),
            "PIECEWORK_ATTEMPT": "flights.clean.7f3a9c1b04d2.1",
            "PIECEWORK_INDEX": "0",
            "PIECEWORK_CPUS": "2",
            "PIECEWORK_MEMORY_BYTES": str(2**30),
            "PIECEWORK_ORDER": json.dumps(order),
            "PIECEWORK_MESSAGE": str(self.message),
            "PIECEWORK_CGROUP": str(self.cgroup),
        }

    def order(self, program: str, *args: str, **changed: Any) -> dict[str, Any]:
        """The order to run a file with this text."""
        (self.code / "jobs").mkdir(exist_ok=True)
        (self.code / "jobs" / "clean.py").write_text(program)
        made = bundle(self.code)
        zipped = self.code.parent / "code.zip"
        zipped.write_bytes(made.data)
        launch = {
            "engine": "python",
            "starter": "python",
            "program": {"kind": "file", "run": "jobs/clean.py"},
            "args": list(args),
            "env": {"GREETING": "good morning"},
            "code": "",
        }
        return {
            "launch": launch,
            "code": {"path": str(zipped), "sha256": made.sha256},
            "grace_seconds": 5,
            **changed,
        }

    def start(self, order: dict[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(self.archive)],
            cwd=self.work,
            env=self.environ(order),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self, process: subprocess.Popen[str]) -> Ended:
        log, _ = process.communicate(timeout=60)
        return Ended(process.returncode, log, json.loads(self.message.read_text()))

    def run(self, order: dict[str, Any]) -> Ended:
        return self.end(self.start(order))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_program_gets_its_code_its_arguments_and_its_variables_and_leaves_a_result(
    place: Place,
) -> None:
    (place.code / "rows.py").write_text("COUNT = 3\n")
    program = (
        "import json, os, sys\n"
        "import rows\n"
        "print(os.environ['GREETING'], sys.argv[1:], os.environ['PIECEWORK_CPUS'])\n"
        "print([name for name in os.environ if name in ('PIECEWORK_ORDER', 'PIECEWORK_MESSAGE')])\n"
        "print(os.path.dirname(os.environ['PIECEWORK_ARTIFACTS']))\n"
        "json.dump({'rows': rows.COUNT}, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
    )
    ended = place.run(place.order(program, "2026-11-24"))
    assert ended.code == 0, ended.log
    assert ended.log.splitlines() == [
        "good morning ['2026-11-24'] 2",
        "[]",
        str(place.work / ".piecework"),
    ]
    assert ended.message["result"] == {"rows": 3}
    assert ended.message["failed"] is None
    assert ended.message["use"]["cpu_seconds"] > 0
    assert ended.message["use"]["peak_memory_bytes"] > 2**20


def test_a_functions_value_is_the_result(place: Place) -> None:
    (place.code / "steps.py").write_text("def count(text):\n    return {'length': len(text)}\n")
    order = place.order("")
    order["launch"]["program"] = {"kind": "function", "run": "steps:count"}
    order["launch"]["args"] = ["four"]
    assert place.run(order).message["result"] == {"length": 4}


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 137),
        ("1 / 0", 1),
    ],
)
def test_the_exit_code_is_the_programs(place: Place, program: str, code: int) -> None:
    ended = place.run(place.order(program))
    assert ended.code == code
    assert ended.message["result"] is None


def test_code_with_a_wrong_hash_is_refused_before_it_is_unpacked(place: Place) -> None:
    order = place.order("print('it ran')")
    order["code"]["sha256"] = "0" * 64
    ended = place.run(order)
    assert ended.code == 1
    assert "is not the code that was sent" in ended.message["failed"]
    assert "it ran" not in ended.log
    assert not list((place.work / ".piecework" / "code").iterdir())


def test_code_that_is_missing_is_told(place: Place) -> None:
    order = place.order("")
    order["code"] = {"url": f"file://{place.code}/none.zip", "sha256": "0" * 64}
    ended = place.run(order)
    assert ended.code == 1
    assert "cannot be read" in ended.message["failed"]
    assert ended.message["failed"] in ended.log


def test_code_comes_by_a_file_url(place: Place) -> None:
    order = place.order("print('it ran')")
    order["code"] = {"url": f"file://{order['code'].pop('path')}", **order["code"]}
    assert place.run(order).log == "it ran\n"


def test_a_store_that_the_image_cannot_read_is_named(place: Place) -> None:
    order = place.order("")
    order["code"] = {"url": "nosuch://bucket/code.zip", "sha256": "0" * 64}
    failed = place.run(order).message["failed"]
    assert "nosuch" in failed


def test_a_program_that_is_missing_is_told(place: Place) -> None:
    order = place.order("")
    order["launch"]["program"]["run"] = "jobs/none.py"
    ended = place.run(order)
    assert ended.code == 1
    assert "jobs/none.py" in ended.message["failed"]


def test_sigterm_ends_the_whole_tree_and_is_no_success(place: Place) -> None:
    program = (
        "import signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked'), sys.exit(0)))\n"
        "child = subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    process = place.start(place.order(program))
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    ended = place.end(process)
    assert ended.log == "asked\n"
    assert ended.code == 143
    assert not Path(f"/proc/{child}").exists()


def test_a_program_that_ignores_sigterm_is_killed_after_its_grace(place: Place) -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "time.sleep(1000)\n"
    )
    process = place.start(place.order(program, grace_seconds=0.3))
    assert process.stdout is not None
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert place.end(process).code == 137
    assert time.monotonic() - began < 10


def test_a_long_result_is_packed_and_one_that_is_too_long_is_told(place: Place) -> None:
    program = (
        "import json, os, random, sys\n"
        "rows = eval(sys.argv[1])\n"
        "json.dump(rows, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
    )
    ended = place.run(place.order(program, "['row %d' % n for n in range(1000)]"))
    text = place.message.read_text()
    assert len(text) <= 4096
    assert result_of(Pod().exited(0, message=text)) == [f"row {n}" for n in range(1000)]
    ended = place.run(place.order(program, "[random.random() for n in range(1000)]"))
    assert ended.code == 1
    assert "do not fit into the 4,096" in ended.message["failed"]
    pod = Pod().exited(1, message=json.dumps(ended.message))
    ending = ending_of(pod)
    assert ending is not None
    assert "PIECEWORK_DATA" in ending.cause


def test_a_result_that_is_no_json_is_not_kept(place: Place) -> None:
    program = "import os; open(os.environ['PIECEWORK_RESULT'], 'w').write('no')"
    ended = place.run(place.order(program))
    assert ended.code == 0
    assert "not JSON" in ended.log
    assert ended.message["result"] is None


def test_the_control_group_tells_what_was_used_and_that_memory_ran_out(place: Place) -> None:
    (place.cgroup / "cgroup.controllers").write_text("memory\n")
    (place.cgroup / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    (place.cgroup / "memory.max").write_text("536870912\n")
    (place.cgroup / "memory.stat").write_text("anon 1000\nshmem 20\nkernel 3\n")
    (place.cgroup / "cpu.stat").write_text("usage_usec 7000000000\n")
    (place.cgroup / "io.stat").write_text("8:0 rbytes=10 wbytes=20\n8:1 rbytes=1 wbytes=2\n")
    ended = place.run(place.order("raise SystemExit(1)"))
    assert ended.message["out_of_memory"] is True
    assert ended.message["use"]["cpu_seconds"] == 7000
    assert ended.message["use"]["peak_memory_bytes"] == 536870912
    assert ended.message["use"]["read_bytes"] >= 11


def test_what_an_engine_left_about_its_threads_is_told(place: Place) -> None:
    told = {"dask": {"threads": 2, "busy_seconds": 1.5, "wall_seconds": 4.0}}
    program = (
        "import json, os\n"
        "own = os.environ['PIECEWORK_FOLDER']\n"
        f"json.dump({told!r}, open(own + '/engine-use.json', 'w'))\n"
    )
    assert place.run(place.order(program)).message["use"]["dask"] == told["dask"]
    rotten = {"dask": {"threads": True, "busy_seconds": -1, "wall_seconds": "long"}, "x": 1}
    program = program.replace(repr(told), repr(rotten))
    ended = place.run(place.order(program))
    assert ended.code == 0
    assert "dask" not in ended.message["use"]


def test_a_launcher_stands_before_a_piecework_that_the_image_has(
    place: Place, tmp_path: Path
) -> None:
    installed = tmp_path / "site" / "piecework"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("raise SystemExit('the wrong piecework')\n")
    order = place.order("import piecework")
    environ = {**place.environ(order), "PYTHONPATH": str(installed.parent)}
    done = subprocess.run(
        [sys.executable, str(place.archive)], cwd=place.work, env=environ, capture_output=True
    )
    assert done.stderr.strip() == b"the wrong piecework"  # the program's own, as it should be


def test_a_result_that_is_too_long_for_the_message_is_put_into_the_store(
    place: Place, tmp_path: Path
) -> None:
    program = (
        "import json, os, random\n"
        "rows = [random.random() for n in range(1000)]\n"
        "json.dump(rows, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
    )
    ended = place.run(place.order(program, store=str(tmp_path / "store")))
    assert ended.code == 0, ended.log
    kept = read_kept(ended.message)
    assert kept is not None
    rows = Store(str(tmp_path / "store")).read_result("flights.clean.7f3a9c1b04d2.1", kept)
    assert len(rows) == 1000
    assert result_of(Pod().exited(0, message=json.dumps(ended.message))) is None


def test_a_result_that_cannot_be_put_into_the_store_fails_the_attempt(
    place: Place,
) -> None:
    program = (
        "import json, os, random\n"
        "rows = [random.random() for n in range(1000)]\n"
        "json.dump(rows, open(os.environ['PIECEWORK_RESULT'], 'w'))\n"
    )
    ended = place.run(place.order(program, store="nosuch://bucket"))
    assert ended.code == 1
    assert "it cannot be written to nosuch://bucket/results/" in ended.message["failed"]


LEAVES_ARTIFACTS = (
    "import os, pathlib, sys\n"
    "folder = pathlib.Path(os.environ['PIECEWORK_ARTIFACTS'])\n"
    "(folder / 'spark-events').mkdir()\n"
    "(folder / 'spark-events' / 'app').write_text('events')\n"
    "(folder / 'report.html').write_text('page')\n"
    "sys.exit(int(sys.argv[1]))\n"
)


@pytest.mark.parametrize("code", [0, 3])
def test_artifacts_are_kept_in_the_store_however_the_program_ended(
    place: Place, tmp_path: Path, code: int
) -> None:
    order = place.order(LEAVES_ARTIFACTS, str(code), store=f"file://{tmp_path}/store")
    ended = place.run(order)
    assert ended.code == code
    folder = tmp_path / "store" / "artifacts" / "flights.clean.7f3a9c1b04d2.1"
    assert (folder / "report.html").read_text() == "page"
    assert (folder / "spark-events" / "app").read_text() == "events"
    assert ended.message["artifacts"] == {"files": 2, "bytes": 10}


def test_artifacts_that_cannot_be_kept_are_told_with_the_success(
    place: Place, tmp_path: Path
) -> None:
    (tmp_path / "store").write_text("no folder")
    ended = place.run(place.order(LEAVES_ARTIFACTS, "0", store=str(tmp_path / "store")))
    assert ended.code == 0
    assert "2 of its 2 artifacts could not be kept" in ended.log
    ending = ending_of(Pod().exited(0, message=json.dumps(ended.message)))
    assert ending is not None
    assert ending.cause.startswith("exit code 0; 2 of its 2 artifacts could not be kept at ")
    assert "Not a directory" in ending.cause


def test_a_store_that_the_image_cannot_write_loses_artifacts_and_says_so(place: Place) -> None:
    ended = place.run(place.order(LEAVES_ARTIFACTS, "0", store="nosuch://bucket"))
    assert ended.code == 0
    assert "Protocol not known: nosuch" in ended.message["lost"]


def test_what_programs_are_told_of_their_data_is_in_their_environment(place: Place) -> None:
    program = (
        "import os, pathlib\n"
        "print(os.environ['AWS_REGION'], os.environ['HADOOP_USER_NAME'])\n"
        "folder = pathlib.Path(os.environ['HADOOP_CONF_DIR'])\n"
        "print('nn1:8020' in (folder / 'hdfs-site.xml').read_text())\n"
    )
    order = place.order(program)
    order["launch"]["data"] = {
        "hdfs": {"lake": ["nn1:8020"]},
        "user": "etl",
        "s3": {"region": "eu-west-1"},
    }
    order["launch"]["env"] = {"AWS_REGION": "the job's own"}
    ended = place.run(order)
    assert ended.log.splitlines() == ["the job's own etl", "True"]
