"""HDFS: a NameNode and DataNodes of Hadoop, reachable from pods and from this host.

What enters is a Place and a number of DataNodes; what leaves is hdfs://HUB:9000 and WebHDFS at
http://HUB:9870. The libraries come from Maven, pinned in hdfs-pom.xml, once, into the cache.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from testbed import components
from testbed.errors import TestbedError
from testbed.place import Place, lock
from testbed.programs import Progress, cache_folder, say

_POM = Path(__file__).with_name("hdfs-pom.xml")
_RPC_PORT, _WEB_PORT = 9000, 9870
#: A DataNode's three ports are these plus ten times its number.
_DATA_PORT, _DATA_IPC_PORT, _DATA_WEB_PORT = 9866, 9867, 9864
_HEAP = "-Xmx192m"
NAME_NODE = "hdfs-namenode"


def url(place: Place) -> str:
    """The file system, as Hadoop names it."""
    return f"hdfs://{place.hub}:{_RPC_PORT}"


def web_url(place: Place) -> str:
    """WebHDFS."""
    return f"http://{place.hub}:{_WEB_PORT}/webhdfs/v1"


def start(place: Place, data_nodes: int = 1, progress: Progress = say) -> None:
    """Starts HDFS, formatted the first time, and waits until it takes writes."""
    classes = _libraries(progress)
    name_folder = place.folder / "hdfs" / "name"
    settings = _write_settings(place, "namenode", {"dfs.replication": str(min(data_nodes, 3))})
    if not name_folder.exists():
        _format(classes, settings)
    _start_program(place, NAME_NODE, classes, settings, "server.namenode.NameNode")
    for number in range(data_nodes):
        ports = {
            "dfs.datanode.address": f"{place.hub}:{_DATA_PORT + 10 * number}",
            "dfs.datanode.ipc.address": f"{place.hub}:{_DATA_IPC_PORT + 10 * number}",
            "dfs.datanode.http.address": f"{place.hub}:{_DATA_WEB_PORT + 10 * number}",
            "dfs.datanode.data.dir": f"{place.folder}/hdfs/data-{number}",
        }
        mine = _write_settings(place, f"datanode-{number}", ports)
        _start_program(place, f"hdfs-datanode-{number}", classes, mine, "server.datanode.DataNode")
    components.wait_until(
        f"{data_nodes} DataNodes to join",
        lambda: live_data_nodes(place) >= data_nodes,
        120,
        alive=lambda: components.running(place, NAME_NODE),
        log=place.logs / f"{NAME_NODE}.log",
    )


def live_data_nodes(place: Place) -> int:
    """How many DataNodes the NameNode knows and can write to; 0 while it does not answer."""
    name = "Hadoop:service=NameNode,name=FSNamesystem"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        address = f"http://{place.hub}:{_WEB_PORT}/jmx?qry={name}"
        with opener.open(address, timeout=5) as answer:
            told: dict[str, Any] = json.load(answer)
    except (OSError, ValueError):
        return 0
    return int(told["beans"][0]["NumLiveDataNodes"]) if told["beans"] else 0


def _libraries(progress: Progress) -> str:
    """The class path; asks Maven where the cache has none."""
    folder = cache_folder() / "hdfs-3.5.0"
    with lock(folder.with_name(folder.name + ".lock")):
        if not folder.is_dir():
            if shutil.which("mvn") is None:
                raise TestbedError("Maven fetches HDFS; install it (Debian: apt install maven)")
            progress("fetching Hadoop from Maven")
            unfinished = folder.with_name(folder.name + ".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            _run(
                ["mvn", "--quiet", "--batch-mode", f"--file={_POM}",
                 "dependency:copy-dependencies", "-DexcludeTransitive=true",
                 f"-DoutputDirectory={unfinished}"]
            )  # fmt: skip
            unfinished.rename(folder)
    return f"{folder}/*"


def _java() -> str:
    found = shutil.which("java")
    if found is None:
        raise TestbedError("HDFS needs Java (Debian: apt install default-jre-headless)")
    return found


def _write_settings(place: Place, name: str, more: dict[str, str]) -> Path:
    settings = {
        "fs.defaultFS": url(place),
        "hadoop.tmp.dir": f"{place.folder}/hdfs/tmp",
        "dfs.namenode.name.dir": f"{place.folder}/hdfs/name",
        "dfs.namenode.rpc-bind-host": place.hub,
        "dfs.namenode.http-address": f"{place.hub}:{_WEB_PORT}",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.datanode.hostname": place.hub,
        "dfs.permissions.enabled": "false",
        "dfs.namenode.safemode.extension": "0",
        **more,
    }
    folder = place.folder / "hdfs" / f"conf-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    properties = "\n".join(
        f"<property><name>{escape(key)}</name><value>{escape(value)}</value></property>"
        for key, value in settings.items()
    )
    for file in ("core-site.xml", "hdfs-site.xml"):
        (folder / file).write_text(f"<configuration>\n{properties}\n</configuration>\n")
    return folder


def _format(classes: str, settings: Path) -> None:
    _run(
        [_java(), "-cp", f"{settings}:{classes}",
         "org.apache.hadoop.hdfs.server.namenode.NameNode", "-format", "-force",
         "-nonInteractive"]
    )  # fmt: skip


def _start_program(place: Place, name: str, classes: str, settings: Path, program: str) -> None:
    components.start(
        place,
        name,
        [_java(), _HEAP, "-XX:+UseSerialGC", "-cp", f"{settings}:{classes}",
         f"org.apache.hadoop.hdfs.{program}"],
    )  # fmt: skip


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stdout + done.stderr)[-2000:]
        raise TestbedError(f"{Path(command[0]).name} failed:\n{said}")
