"""The image registry that all machines of a testbed pull from.

What enters is a Place; what leaves is Debian's docker-registry behind TLS, in the hub's network.
Its storage belongs to the cache and is shared by all testbeds: images are pushed once, and what
is stored by its checksum can't be harmed by two who push the same.
"""

from __future__ import annotations

import ssl
import urllib.request

import yaml

from testbed import components
from testbed.certificates import ca_file
from testbed.place import REGISTRY_PORT, Place
from testbed.programs import cache_folder

NAME = "registry"


def start(place: Place) -> None:
    """Starts the registry; does nothing where it runs."""
    storage = cache_folder() / "registry"
    storage.mkdir(parents=True, exist_ok=True)
    configuration = {
        "version": "0.1",
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        "http": {
            "addr": f"0.0.0.0:{REGISTRY_PORT}",
            "tls": {
                "certificate": str(place.pki / "registry.crt"),
                "key": str(place.pki / "registry.key"),
            },
        },
    }
    path = place.folder / "registry.yaml"
    path.write_text(yaml.safe_dump(configuration))
    components.start(place, NAME, ["docker-registry", "serve", str(path)])


def wait(place: Place, timeout_seconds: float = 30) -> None:
    """Waits until the registry answers."""
    components.wait_until(
        "the registry to answer",
        lambda: answers(place),
        timeout_seconds,
        alive=lambda: components.running(place, NAME),
        log=place.logs / f"{NAME}.log",
    )


def answers(place: Place) -> bool:
    """Whether the registry answers, asked once."""
    return _get(place, "/v2/")


def has(place: Place, image: str) -> bool:
    """Whether an image like "base:1" is there."""
    repository, _, tag = image.partition(":")
    return _get(place, f"/v2/{repository}/manifests/{tag or 'latest'}")


def _get(place: Place, path: str) -> bool:
    context = ssl.create_default_context(cafile=str(ca_file(place)))
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    kinds = (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
    )
    request = urllib.request.Request(  # always https
        f"https://{place.hub}:{REGISTRY_PORT}{path}", headers={"Accept": ", ".join(kinds)}
    )
    try:
        with opener.open(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
