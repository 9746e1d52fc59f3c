"""Where a testbed lives: its name, folder, number, addresses, and the names of what it makes.

What enters is a name; what leaves is a Place from which every other module takes names, so that
two testbeds never share one. The number comes from a claim: a file in /run that only one testbed
can create and that says whose it is. Everything the kernel holds for a testbed (cgroup, network
namespace, interface) is named by the number, so `down` finds it without any record.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import TestbedError
from testbed.programs import cache_folder

#: Claims, and the network namespaces' mount points. In /run, because both end with a reboot.
CLAIMS = Path("/run/piecework-testbed")
#: The second byte of a testbed's addresses is this plus its number: 10.130.0.0/16 and on.
_FIRST_NETWORK = 130
_MOST = 100
REGISTRY_HOST = "registry.piecework.test"
REGISTRY_PORT = 5000
API_PORT = 6443
AWS_PORT = 5555
DOMAIN = "cluster.local"


@dataclass(frozen=True, slots=True)
class Place:
    """One testbed's names and addresses."""

    name: str
    folder: Path
    number: int

    @property
    def id(self) -> str:
        """The name of everything that the kernel holds: cgroup, interface."""
        return f"pwtb{self.number}"

    @property
    def network(self) -> str:
        """The first two bytes of all addresses."""
        return f"10.{_FIRST_NETWORK + self.number}"

    @property
    def hub(self) -> str:
        """The address of the control plane, the registry and AWS, from everywhere."""
        return f"{self.network}.0.1"

    @property
    def host(self) -> str:
        """The address of this host, seen from machines and pods."""
        return f"{self.network}.8.1"

    @property
    def services(self) -> str:
        return f"{self.network}.16.0/20"

    @property
    def kubernetes_service(self) -> str:
        return f"{self.network}.16.1"

    @property
    def dns(self) -> str:
        return f"{self.network}.16.10"

    @property
    def pods(self) -> str:
        return f"{self.network}.128.0/17"

    def machine_address(self, index: int) -> str:
        """Machines are numbered from 0 to 255; each has an address and a range for its pods."""
        return f"{self.network}.1.{index}"

    def pod_range(self, index: int) -> str:
        """The /25 of the pods of a machine."""
        return f"{self.network}.{128 + index // 2}.{index % 2 * 128}/25"

    @property
    def server(self) -> str:
        """The API server's URL."""
        return f"https://{self.hub}:{API_PORT}"

    @property
    def aws(self) -> str:
        """The URL of the AWS API."""
        return f"http://{self.hub}:{AWS_PORT}"

    @property
    def registry(self) -> str:
        """The registry as images name it."""
        return f"{REGISTRY_HOST}:{REGISTRY_PORT}"

    @property
    def namespace_file(self) -> Path:
        """Where the hub's network namespace is mounted."""
        return CLAIMS / f"{self.number}.net"

    @property
    def open_folder(self) -> Path:
        """For programs that run as another user, who may not enter `folder`."""
        return Path("/var/tmp") / f"piecework-{self.id}"  # noqa: S108  # its name is claimed

    @property
    def pki(self) -> Path:
        return self.folder / "pki"

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def machines(self) -> Path:
        return self.folder / "machines"

    @property
    def admin(self) -> Path:
        """The administrator's kubeconfig."""
        return self.folder / "admin.kubeconfig"


def default_name() -> str:
    """`$PIECEWORK_TESTBED`, else "dev"."""
    return os.environ.get("PIECEWORK_TESTBED") or "dev"


def _folder(name: str) -> Path:
    if not name.replace("-", "").isalnum() or name != name.lower() or len(name) > 30:
        raise TestbedError(f"found {name!r}; a testbed's name is made of a-z, 0-9 and -")
    return cache_folder() / "clusters" / name


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock file for as long as the block runs; the kernel lets go of it after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def claim(name: str) -> Place:
    """The place of this name: the one it has, or a new one with a free number."""
    folder = _folder(name)
    with lock(CLAIMS / "lock"):
        existing = look(name)
        if existing:
            return existing
        taken = _networks_in_use()
        first = zlib.crc32(str(folder).encode()) % _MOST
        for number in [*range(first, _MOST), *range(first)]:
            path = CLAIMS / str(number)
            network = ipaddress.ip_network(f"10.{_FIRST_NETWORK + number}.0.0/16")
            if path.exists() or any(network.overlaps(other) for other in taken):
                continue
            path.write_text(str(folder))
            folder.mkdir(parents=True, exist_ok=True)
            return Place(name, folder, number)
    raise TestbedError(f"all {_MOST} numbers of testbeds are taken; see {CLAIMS}")


def look(name: str) -> Place | None:
    """The place of this name where it has one."""
    folder = _folder(name)  # first of all, so that a wrong name is refused whatever is up
    return next((place for place in places() if place.folder == folder), None)


def places() -> list[Place]:
    """Every testbed of this computer, whoever started it."""
    found = []
    for path in CLAIMS.glob("*"):
        if path.name.isdigit():
            folder = Path(path.read_text())
            found.append(Place(folder.name, folder, int(path.name)))
    return sorted(found, key=lambda place: place.number)


def give_up(place: Place) -> None:
    """Removes the folders and the claim: the last step of going down."""
    shutil.rmtree(place.open_folder, ignore_errors=True)
    shutil.rmtree(place.folder, ignore_errors=True)
    with lock(CLAIMS / "lock"):
        path = CLAIMS / str(place.number)
        if path.exists() and path.read_text() == str(place.folder):
            path.unlink()


def _networks_in_use() -> list[ipaddress.IPv4Network]:
    listed = subprocess.run(
        ["ip", "-j", "-4", "route", "show", "table", "all"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return [
        ipaddress.IPv4Network(route["dst"], strict=False)
        for route in json.loads(listed or "[]")
        if route.get("dst", "default") != "default"
    ]
