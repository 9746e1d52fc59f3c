"""Data, code, results and artifacts on a real HDFS and S3, from pods of a real cluster.

S3 is moto's server. It takes any credentials but asks for some, and clients refuse to ask without:
those of pods come from a Secret, those of this process from its environment. HDFS is named by a
name service, of whose two NameNodes the first is not there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from piecework.ledger.events import Outcome
from piecework.runners.store import Store
from testbed import aws, components, faults, hdfs, images
from testbed.api import Api
from testbed.place import Place
from tests.cluster.cluster_pools import AWS_ENVIRONMENT
from tests.cluster.pool_place import PoolPlace

pytestmark = pytest.mark.layer("hdfs")

BUCKET = "piecework"
SECRET = "lake-credentials"


@pytest.fixture
def lake(here: Place) -> Iterator[dict[str, Any]]:
    """The name service `lake`, as [data.hdfs] has it."""
    hdfs.start(here, 1)
    address = hdfs.url(here).removeprefix("hdfs://")
    host = address.partition(":")[0]
    yield {"lake": {"namenodes": [f"{host}:9001", address]}}
    for component in components.names(here):
        if component.startswith("hdfs-"):
            components.stop(here, component)


@pytest.fixture
def s3(
    here: Place, api: Api, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """A bucket, a Secret for pods, and [data.s3]."""
    aws.start(here)
    aws.client(here, "s3").create_bucket(Bucket=BUCKET)
    credentials = {"AWS_ACCESS_KEY_ID": "testbed", "AWS_SECRET_ACCESS_KEY": "testbed"}
    api.apply(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": namespace},
            "stringData": credentials,
        }
    )
    for variable, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    yield {"endpoint": here.aws, "region": aws.REGION, "path_style": True}
    client = aws.client(here, "s3")
    for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", ()):
        client.delete_object(Bucket=BUCKET, Key=found["Key"])
    client.delete_bucket(Bucket=BUCKET)


MOVES_ROWS = """
import json, os, pathlib, random
import fsspec

with fsspec.open("hdfs://lake/rows.csv", "w") as stream:
    stream.write("x,y\\n1,2\\n3,4\\n")
with fsspec.open("hdfs://lake/rows.csv") as stream:
    rows = stream.read()
with fsspec.open(os.environ["PIECEWORK_DATA"] + "/rows.csv", "wb") as stream:
    stream.write(rows)
folder = pathlib.Path(os.environ["PIECEWORK_ARTIFACTS"])
(folder / "plots").mkdir()
(folder / "plots" / "report.html").write_text("page")
result = {"rows": rows.decode(), "noise": [random.random() for n in range(1000)]}
json.dump(result, open(os.environ["PIECEWORK_RESULT"], "w"))
"""


def test_python_reaches_hdfs_and_s3_and_leaves_code_result_and_artifacts_there(
    cluster_pool: PoolPlace, here: Place, lake: dict[str, Any], s3: dict[str, Any]
) -> None:
    cluster_pool.change(
        store=f"s3://{BUCKET}/store",
        data=f"s3://{BUCKET}/data",
        access={"hdfs": lake, "s3": s3, "secret": SECRET},
    )
    image = images.shipped(here, "python")
    attempt = cluster_pool.start_python(MOVES_ROWS, image=image)
    status = cluster_pool.ended(attempt, 240)
    assert status.outcome is Outcome.SUCCESS, (status, cluster_pool.log(attempt))
    assert status.lost is None
    assert status.result["rows"] == "x,y\n1,2\n3,4\n"
    assert len(status.result["noise"]) == 1000
    names = {
        found["Key"] for found in aws.client(here, "s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    }
    assert f"store/artifacts/{attempt}/plots/report.html" in names
    assert f"store/results/{attempt}.json" in names
    assert "data/rows.csv" in names
    assert any(name.startswith("store/code/") for name in names)
    assert hdfs.command(here, "-cat", "/rows.csv") == "x,y\n1,2\n3,4\n"
    store = Store.of(cluster_pool.settings)
    assert store is not None
    assert store.read(f"artifacts/{attempt}/plots/report.html") == b"page"


def test_a_store_that_the_pod_has_no_credentials_for_is_named(
    cluster_pool: PoolPlace, here: Place, s3: dict[str, Any]
) -> None:
    cluster_pool.change(store=f"s3://{BUCKET}/store", access={"s3": s3})
    image = images.shipped(here, "python")
    attempt = cluster_pool.start_python("print('never')", image=image, timeout="5m")
    status = cluster_pool.ended(attempt, 240)
    assert status.outcome is Outcome.ERROR
    assert status.cause is not None
    assert status.cause.startswith(f"the code cannot be read from s3://{BUCKET}/store/code/")
    assert "redentials" in status.cause


COUNTS_ROWS = """
import json, os
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
rows = spark.read.option("header", True).csv("hdfs://lake/rows.csv")
rows.write.mode("overwrite").parquet("hdfs://lake/copy")
spark.read.parquet("hdfs://lake/copy").write.parquet("s3://piecework/copy")
count = spark.read.parquet("s3a://piecework/copy").count()
json.dump({"rows": count}, open(os.environ["PIECEWORK_RESULT"], "w"))
"""


@pytest.mark.parametrize(("engine", "image"), [("spark", "spark"), ("h2o", "spark-h2o")])
def test_spark_reaches_a_name_service_of_hdfs_and_s3_and_takes_its_code_from_there(
    cluster_pool: PoolPlace,
    here: Place,
    lake: dict[str, Any],
    s3: dict[str, Any],
    engine: str,
    image: str,
) -> None:
    access = {"hdfs": lake, "user": "etl", "s3": s3, "secret": SECRET}
    cluster_pool.change(store="hdfs://lake/piecework", access=access)
    store = Store.of(cluster_pool.settings)
    assert store is not None
    fs, _ = store.file_system()
    fs.pipe_file("/rows.csv", b"x,y\n1,2\n3,4\n")
    (cluster_pool.code / "job.py").write_text(COUNTS_ROWS)
    attempt = cluster_pool.start(**{engine: "job.py"}, image=images.shipped(here, image))
    status = cluster_pool.ended(attempt, 400)
    assert status.outcome is Outcome.SUCCESS, (status, cluster_pool.log(attempt))
    assert status.result == {"rows": 2}
    assert any("spark-events" in name for name in fs.find(f"/piecework/artifacts/{attempt}"))
    assert "etl" in hdfs.command(here, "-ls", "/copy")


TURNS = 8
#: Writes and reads a table again and again, by Java's way to HDFS.
WITH_SPARK = """
import json, os, time
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
total = 0
for number in range(8):
    spark.range(100).coalesce(1).write.parquet(f"hdfs://lake/turns/{number}")
    total += spark.read.parquet(f"hdfs://lake/turns/{number}").count()
    print(f"turn {number}", flush=True)
    time.sleep(1)
json.dump({"rows": total}, open(os.environ["PIECEWORK_RESULT"], "w"))
"""
#: Writes tables without end, by Python's.
WITH_DASK = """
import itertools, time
import dask.dataframe as dd
import pandas as pd
from dask.distributed import Client

client = Client()
for number in itertools.count():
    table = dd.from_pandas(pd.DataFrame({"id": range(100)}), npartitions=1)
    table.to_parquet(f"hdfs://lake/tables/{number}")
    print(f"table {number}", flush=True)
    time.sleep(1)
"""


def test_a_job_of_spark_bears_a_name_node_that_is_started_anew(
    cluster_pool: PoolPlace, here: Place, api: Api, lake: dict[str, Any]
) -> None:
    attempt = start_on_lake(cluster_pool, here, lake, "spark", WITH_SPARK)
    wait_for_line(cluster_pool, api, attempt, "turn 2")
    faults.kill(here, hdfs.NAME_NODE)
    time.sleep(3)
    faults.restart(here, hdfs.NAME_NODE)
    status = cluster_pool.ended(attempt, 240)
    assert status.outcome is Outcome.SUCCESS, (status, cluster_pool.log(attempt))
    assert status.result == {"rows": 100 * TURNS}
    told = hdfs.command(here, "-ls", "/turns/*")
    assert all(f"/turns/{number}/" in told for number in range(TURNS)), told


def test_a_full_data_node_is_an_error_of_the_job_and_its_log_says_so(
    cluster_pool: PoolPlace, here: Place, api: Api, lake: dict[str, Any]
) -> None:
    attempt = start_on_lake(cluster_pool, here, lake, "dask", WITH_DASK)
    wait_for_line(cluster_pool, api, attempt, "table 1")
    faults.fill_disk(here, hdfs.data_node(0))
    status = cluster_pool.ended(attempt, 240)
    assert status.outcome is Outcome.ERROR, (status, cluster_pool.log(attempt))
    log = cluster_pool.log(attempt).decode()
    assert "Failed to complete file" in log or "could only be written to 0" in log, log


def start_on_lake(
    cluster_pool: PoolPlace, here: Place, lake: dict[str, Any], engine: str, program: str
) -> str:
    cluster_pool.change(access={"hdfs": lake})
    (cluster_pool.code / "job.py").write_text(program)
    image = images.shipped(here, "spark" if engine == "spark" else "python")
    return cluster_pool.start(**{engine: "job.py"}, image=image)


def wait_for_line(cluster_pool: PoolPlace, api: Api, attempt: str, line: str) -> None:
    def look() -> bool:
        log = cluster_pool.log(attempt)
        assert cluster_pool.runner.status(attempt).state != "ended", log  # type: ignore[union-attr]  # it was started
        return line.encode() in log

    api.wait(f"{attempt} to say {line!r}", look, 240, 0.5)
