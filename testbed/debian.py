"""Programs that Debian has: which packages they are in, and how they are installed safely.

What enters is nothing; what leaves is a host on which containerd, runc and the others can be
started by the testbed. Installing must never start a service: for as long as it runs, a policy
forbids that, whatever the host's own policy is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.errors import TestbedError
from testbed.programs import Progress

#: A file that each package brings.
PACKAGES = {
    "containerd": "/usr/bin/containerd",
    "runc": "/usr/sbin/runc",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "buildah": "/usr/bin/buildah",
    "debootstrap": "/usr/sbin/debootstrap",
    "docker-registry": "/usr/bin/docker-registry",
    "iptables": "/usr/sbin/iptables",
    "conntrack": "/usr/sbin/conntrack",
    "iproute2": "/usr/sbin/ip",
    "util-linux": "/usr/bin/unshare",
}
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing() -> list[str]:
    """Packages whose programs are not here."""
    return [
        package
        for package, file in PACKAGES.items()
        if not Path(file).exists() and shutil.which(Path(file).name) is None
    ]


def install_missing(progress: Progress) -> None:
    """Installs what is missing, as root, on Debian; raises TestbedError where it can't."""
    if os.geteuid() != 0:
        raise TestbedError(
            "the testbed makes namespaces, cgroups and mounts: run it as root, on a machine that "
            "you can throw away"
        )
    packages = missing()
    if not packages:
        return
    if shutil.which("apt-get") is None:
        raise TestbedError(f"install these programs first: {', '.join(packages)}")
    progress(f"installing from Debian: {', '.join(packages)}")
    with _no_services():
        _apt("update")
        _apt("install", "--yes", "--no-install-recommends", *packages)


@contextmanager
def _no_services() -> Iterator[None]:
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\n# Made by piecework's testbed while it installs.\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _apt(*arguments: str) -> None:
    done = subprocess.run(
        ["apt-get", "-qq", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise TestbedError(f"apt-get {' '.join(arguments)} failed: {done.stderr.strip()}")
