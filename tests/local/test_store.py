"""The store and the data on a real S3 server (moto's), from the launcher and from this host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from piecework.config import Settings
from piecework.entrypoint.data import variables_of
from piecework.errors import ConfigError
from piecework.keeper.cluster.logs import FilesystemStore
from piecework.runners.code import Bundle, bundle, launcher
from piecework.runners.pod_fields import read_kept
from piecework.runners.store import Store
from piecework.spec.data import load_data
from tests.local.conftest import Piecework

ATTEMPT = "flights.clean.1a.1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
BUCKET = "bucket"


@dataclass
class Bucket:
    """A bucket on a server of its own."""

    endpoint: str

    @property
    def access(self) -> dict[str, Any]:
        return {"s3": {"endpoint": self.endpoint, "region": "us-east-1", "path_style": True}}

    @property
    def settings(self) -> Settings:
        return Settings(Path(), "", store=f"s3://{BUCKET}/piecework", access=self.access)

    @property
    def store(self) -> Store:
        found = Store.of(self.settings)
        assert found is not None
        return found


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, text in CREDENTIALS.items():
        monkeypatch.setenv(name, text)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=BUCKET)
    yield Bucket(endpoint)
    server.stop()


def launch(bucket: Bucket, folder: Path, code: Bundle, **environ: str) -> dict[str, Any]:
    """Runs the launcher as a pod does; returns its message."""
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (folder / "launcher.pyz").write_bytes(launcher().data)
    start = {
        "engine": "python",
        "starter": "python",
        "program": {"kind": "file", "run": "job.py"},
        "code": "",
        "data": load_data(bucket.settings).order(on_cluster=True),
    }
    url = bucket.store.url_of(f"code/{code.sha256}.zip")
    order = {
        "launch": start,
        "code": {"url": url, "sha256": code.sha256},
        "store": bucket.settings.store,
    }
    done = subprocess.run(
        [sys.executable, str(folder / "launcher.pyz")],
        cwd=work,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(work),
            "AWS_EC2_METADATA_DISABLED": "true",
            "PIECEWORK_ATTEMPT": ATTEMPT,
            "PIECEWORK_INDEX": "0",
            "PIECEWORK_CPUS": "1",
            "PIECEWORK_MEMORY_BYTES": str(2**30),
            "PIECEWORK_ORDER": json.dumps(order),
            "PIECEWORK_MESSAGE": str(folder / "message"),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    message: dict[str, Any] = json.loads((folder / "message").read_text())
    return {**message, "code": done.returncode, "log": done.stdout + done.stderr}


PROGRAM = """
import json, os, pathlib, random
import fsspec

with fsspec.open("s3://bucket/data/rows.csv", "w") as stream:
    stream.write("1,2")
folder = pathlib.Path(os.environ["PIECEWORK_ARTIFACTS"])
(folder / "plots").mkdir()
(folder / "plots" / "report.html").write_text("page")
noise = [random.random() for n in range(1000)]
json.dump(noise, open(os.environ["PIECEWORK_RESULT"], "w"))
"""


def put_code(bucket: Bucket, folder: Path, text: str) -> Bundle:
    code = folder / "code"
    code.mkdir()
    (code / "job.py").write_text(text)
    made = bundle(code)
    for _ in range(2):  # twice is once
        bucket.store.write(f"code/{made.sha256}.zip", made.data)
    return made


def test_code_data_result_and_artifacts_go_by_s3(bucket: Bucket, tmp_path: Path) -> None:
    told = launch(bucket, tmp_path, put_code(bucket, tmp_path, PROGRAM), **CREDENTIALS)
    assert told["code"] == 0, told
    kept = read_kept(told)
    assert kept is not None
    assert len(bucket.store.read_result(ATTEMPT, kept)) == 1000
    assert told["artifacts"] == {"files": 1, "bytes": 4}
    assert bucket.store.read(f"artifacts/{ATTEMPT}/plots/report.html") == b"page"
    assert bucket.store.read("../data/rows.csv") is None
    assert Store(f"s3://{BUCKET}/data", bucket.store.options).read("rows.csv") == b"1,2"


def test_without_credentials_nothing_runs_and_the_store_is_named(
    bucket: Bucket, tmp_path: Path
) -> None:
    told = launch(bucket, tmp_path, put_code(bucket, tmp_path, PROGRAM))
    assert told["code"] == 1
    assert f"the code cannot be read from s3://{BUCKET}/piecework/code/" in told["failed"]
    assert "redentials" in told["failed"]
    assert not any(secret in told["log"] for secret in CREDENTIALS.values())


def test_a_bucket_that_is_not_there_is_named(bucket: Bucket) -> None:
    store = Store("s3://none/piecework", bucket.store.options)
    with pytest.raises(ConfigError, match="cannot be written to s3://none/"):
        store.write("code/x.zip", b"x")
    assert store.read("code/x.zip") is None


def test_the_keeper_keeps_logs_there_and_runners_read_them(bucket: Bucket) -> None:
    with FilesystemStore(bucket.store).open(f"logs/{ATTEMPT}.log") as out:
        out.write(b"0123")
        out.write(b"456789")
    assert bucket.store.read_log(ATTEMPT, 2, 3) == b"234"
    assert bucket.store.read_log("none.1", 0, 3) == b""


def test_a_job_on_this_computer_reaches_s3_by_the_same_section(
    bucket: Bucket, piecework: Piecework, tmp_path: Path
) -> None:
    s3 = "\n".join(f"{name} = {json.dumps(value)}" for name, value in bucket.access["s3"].items())
    (tmp_path / "piecework.toml").write_text(
        f'[data]\nurl = "s3://{BUCKET}/shared"\n[data.s3]\n{s3}\n'
    )
    (tmp_path / "job.py").write_text(
        "import os, fsspec\n"
        "with fsspec.open(os.environ['PIECEWORK_DATA'] + '/rows.csv', 'w') as stream:\n"
        "    stream.write('1,2')\n"
        "print(os.environ['PIECEWORK_DATA'])\n"
    )
    (tmp_path / "job.yaml").write_text("job: write\npython: job.py\n")
    done = piecework("run", "job.yaml", "--job", "write")
    assert done.returncode == 0, done.stderr
    (place,) = [
        line for line in done.stderr.splitlines() if line.startswith(f"s3://{BUCKET}/shared/")
    ]
    assert Store(place, bucket.store.options).read("rows.csv") == b"1,2"
    assert "FSSPEC_S3" in variables_of(load_data(bucket.settings).order(on_cluster=False))
