"""`make images`: builds the images of `images/` and pushes them, those that others stand on first.

    make images                                            # for the testbed that is up
    make images REGISTRY=registry.example.com/data         # with docker, podman or buildah
    make images REGISTRY=... TAG=2 IMAGES="python spark"

What enters are the folders with their Dockerfiles; what leaves are images in a registry, and their
names on stdout. Their packages are installed here, as requirements.lock pins them, and the jars of
Spark by Maven, as its pom.xml does; so they run on this computer's kind of processor, and on
Python 3.11.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

if not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from testbed import images, place
from testbed.errors import TestbedError
from testbed.programs import say

_BUILDERS = ("docker", "podman", "buildah")
#: Any image with Debian, or something like it, and this Python.
_PUBLIC_BASE = "python:3.11-slim"


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description="Build and push the images of images/.")
    parser.add_argument("--registry", default="", help="else that of the testbed that is up")
    parser.add_argument("--tag", default="1")
    parser.add_argument("--base", default=_PUBLIC_BASE, help="below all of them; with --registry")
    parser.add_argument("names", nargs="*", metavar="NAME", help="those alone, and what is below")
    options = parser.parse_args()
    try:
        names = list(_in_order(options.names or list(images.SHIPPED)))
        if options.registry:
            found = _push_elsewhere(names, options.registry, options.tag, options.base)
        else:
            found = _push_to_testbed(names, options.tag)
        for image in found:
            print(image)
    except TestbedError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0


def _in_order(names: list[str]) -> Iterator[str]:
    """What was asked for and what that stands on, once each, in the order of building."""
    unknown = sorted(set(names) - set(images.SHIPPED))
    if unknown:
        known = ", ".join(images.SHIPPED)
        raise TestbedError(f"there is no image {unknown[0]!r} in images/; there are {known}")
    wanted = set(names)
    for name in reversed(images.SHIPPED):
        if name in wanted:
            wanted.add(images.SHIPPED[name])
    yield from (name for name in images.SHIPPED if name in wanted)


def _push_to_testbed(names: list[str], tag: str) -> Iterator[str]:
    here = place.look(place.default_name())
    if here is None:
        raise TestbedError(
            "no testbed is up to push to; start one with `make cluster`, or name another registry: "
            "make images REGISTRY=registry.example.com/data"
        )
    for name in names:
        below = images.SHIPPED[name]
        base = below if below == images.BASE else f"{below}:{tag}"
        folder = images.SHIPPED_FOLDER / name
        yield images.build(here, folder, f"{name}:{tag}", base=base)


def _push_elsewhere(names: list[str], registry: str, tag: str, base: str) -> Iterator[str]:
    builder = next((name for name in _BUILDERS if shutil.which(name)), None)
    if builder is None:
        raise TestbedError(
            f"building for {registry} needs one of {', '.join(_BUILDERS)}, and none is on PATH"
        )
    for name in names:
        below = images.SHIPPED[name]
        on = base if below == images.BASE else f"{registry}/{below}:{tag}"
        image = f"{registry}/{name}:{tag}"
        with images.context_of(images.SHIPPED_FOLDER / name, say) as context:
            say(f"building {image} on {on}")
            argument = f"--build-arg=BASE={on}"
            _run([builder, "build", argument, f"--tag={image}", str(context)])
        _run([builder, "push", image])
        yield image


def _run(command: list[str]) -> None:
    code = subprocess.run(command, check=False).returncode
    if code:
        raise TestbedError(f"{' '.join(command)} ended with exit code {code}")


if __name__ == "__main__":
    sys.exit(main())
