"""`python -m testbed.demo`: the example pipeline on machines that are bought, on this computer.

What enters is nothing; what leaves is the pipeline's bill with the list of its machines. A testbed
with Karpenter and HDFS is brought up, everything is applied that `piecework pools render` prints,
`piecework demo` and a container of somebody's own run through Airflow, and all of it is taken down.
The pipeline's file is the same as in `make demo`; only the pool differs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from testbed import cluster, hdfs, images, karpenter
from testbed.api import Api
from testbed.place import Place
from testbed.programs import say

_NAME = "demo"
_POOL = "bought"
#: Longer than a machine's minimum.
_RETURN_SECONDS = 120.0
_SETTINGS = """\
pool = "{pool}"
data = "{hdfs}/piecework/data"
store = "{hdfs}/piecework/store"

[pools.{pool}]
provider = "karpenter"
kubeconfig = "{kubeconfig}"
image = "{image}"
types = ["m6a.large", "m6a.xlarge", "m6a.2xlarge"]
max_machines = 3
node_class = {{group = "{group}", kind = "KWOKNodeClass", name = "default"}}
"""
#: An image that has nothing of piecework in it, and what it does.
_DOCKERFILE = "ARG BASE\nFROM ${BASE}\nUSER 65532:65532\n"
_CONTAINER = """\
job: container
description: A program of somebody's own, in an image of his own
container:
  image: {image}
  command: [sh, -c, 'echo "on a machine of my own, with $PIECEWORK_CPUS CPUs"; sleep 5']
machine: {{cpu: 2, memory: 4Gi}}
"""


def main() -> int:
    """Runs the demonstration; returns 0 where all jobs succeeded."""
    with tempfile.TemporaryDirectory(prefix="piecework-demo-") as name, _testbed() as here:
        home = Path(name) / "home"
        home.mkdir()
        container = _prepare(here, home)
        environment = {
            **os.environ,
            "PIECEWORK_HOME": str(home),
            "PIECEWORK_CONFIG": str(home / "piecework.toml"),
            # What runs here speaks to the testbed itself, whatever is between it and the world.
            "NO_PROXY": "*",
            "no_proxy": "*",
        }
        try:
            codes = [
                _piecework(environment, "up"),
                _piecework(environment, "demo", "--pool", _POOL, "--keep"),
                _piecework(environment, "run", str(container), "--keep"),
                _until_returned(environment),
                _piecework(environment, "machines"),
            ]
        finally:
            _piecework(environment, "down")
        return max(codes)


@contextmanager
def _testbed() -> Iterator[Place]:
    """A cluster with Karpenter and HDFS, for as long as it is used."""
    try:
        here = cluster.up(_NAME, say, without=["helm"])
        karpenter.start(here)
        hdfs.start(here)
        yield here
    finally:
        cluster.down(_NAME, say)


def _prepare(here: Place, home: Path) -> Path:
    """Writes the settings, applies what they need; returns the file of the container job."""
    spark = images.shipped(here, "spark")
    (home / "piecework.toml").write_text(
        _SETTINGS.format(
            pool=_POOL,
            hdfs=hdfs.url(here),
            kubeconfig=here.admin,
            image=spark,
            group=karpenter.GROUP,
        )
    )
    environment = {**os.environ, "PIECEWORK_HOME": str(home)}
    rendered = subprocess.run(
        [sys.executable, "-m", "piecework", "pools", "render", _POOL],
        env=environment, cwd=home, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    with Api(here.admin) as api:
        api.apply(*filter(None, yaml.safe_load_all(rendered)))
    folder = home / "container"
    folder.mkdir()
    (folder / "Dockerfile").write_text(_DOCKERFILE)
    own = images.build(here, folder, "own:1", base=images.SHELL)
    file = folder / "container.yaml"
    file.write_text(_CONTAINER.format(image=own))
    return file


def _until_returned(environment: dict[str, str]) -> int:
    """Waits until no machine is paid for any more; 1 where one still is after a while."""
    say("waiting for the last machine to be given back")
    command = [sys.executable, "-m", "piecework", "machines", "--live", "--json"]
    end = time.monotonic() + _RETURN_SECONDS
    while time.monotonic() < end:
        told = subprocess.run(command, env=environment, check=True, capture_output=True).stdout
        if not json.loads(told)["machines"]:
            return 0
        time.sleep(1)
    return 1


def _piecework(environment: dict[str, str], *arguments: str) -> int:
    say("$ piecework " + " ".join(arguments))
    command = [sys.executable, "-m", "piecework", *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
