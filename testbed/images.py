"""Container images: made here from Debian's packages, pushed to the testbed's registry.

What enters are folders with a Dockerfile that begins with `ARG BASE`; what leaves are images that
every machine pulls as REGISTRY/NAME:TAG. Two small ones are always there: `pause` (of every pod)
and `shell` (busybox, for tests). `base`, a Debian with Python, is made by debootstrap when it is
first asked for; those of the folder `images/` stand on it. The image builder keeps its storage in
the cache and leaves no mount behind.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from testbed import certificates, jars, packages, programs, registry
from testbed.errors import TestbedError
from testbed.place import REGISTRY_PORT, Place, lock
from testbed.programs import Progress, cache_folder

PAUSE = "pause:1"
SHELL = "shell:1"
BASE = "base:1"
#: The images that piecework ships, and what each stands on, which comes before it.
SHIPPED = {
    "python": BASE,
    "dask": "python",
    "spark": "python",
    "spark-h2o": "python",
    "xgboost": "python",
    "piecework": BASE,
    "airflow": BASE,
}
SHIPPED_FOLDER = Path(__file__).resolve().parents[1] / "images"
#: What `base` has besides Debian's smallest system.
_BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
_RELEASE = "bookworm"


def push_needed(place: Place, progress: Progress) -> None:
    """Makes and pushes the images without which no machine runs a pod."""
    for image, make in ((PAUSE, _make_pause), (SHELL, _make_shell)):
        _ensure(place, image, make, progress)


def push_base(place: Place, progress: Progress) -> str:
    """Makes and pushes the Debian base, where it is missing; returns its name for pods."""
    return _ensure(place, BASE, _make_base, progress)


def push_program(
    place: Place, image: str, program: Path, path: str, progress: Progress = programs.say
) -> str:
    """Makes and pushes an image of one static program, where it is missing; returns its name."""

    def make(image: str, progress: Progress) -> None:
        progress(f"making image {image} of {program.name}")
        with tempfile.TemporaryDirectory(dir=_storage()) as name:
            folder = Path(name)
            folder.chmod(0o755)
            shutil.copy(program, folder / path)
            (folder / path).chmod(0o755)
            (folder / "tmp").mkdir()
            (folder / "tmp").chmod(0o1777)
            _from_folder(folder, image, f'--entrypoint=["/{path}"]', "--user=65532:65532")

    return _ensure(place, image, make, progress)


def name_in(place: Place, image: str) -> str:
    """An image as pods of this testbed name it."""
    return f"{place.registry}/{image}"


def build(
    place: Place,
    folder: Path,
    image: str,
    progress: Progress = programs.say,
    arguments: Mapping[str, str] | None = None,
    base: str = BASE,
) -> str:
    """Builds a folder's Dockerfile on `base`, pushes it as `image`, returns its name for pods.

    Where the folder has a requirements.txt, the Dockerfile finds what it asks for in `packages`;
    where it has a pom.xml, too, in `jars`.
    """
    if base == BASE:
        push_base(place, progress)
    values = {"BASE": f"localhost/{base}", **(arguments or {})}
    with context_of(folder, progress) as context, lock(_storage() / "lock"):
        if not _stored(base):
            _buildah("pull", *_certificates(place), _remote(place, base))
            _buildah("tag", _remote(place, base).removeprefix("docker://"), f"localhost/{base}")
        progress(f"building image {image} from {folder}")
        _buildah(
            "bud", "--isolation=chroot", "--layers=false", "--format=docker", "--pull-never",
            *(f"--build-arg={name}={value}" for name, value in values.items()),
            f"--tag=localhost/{image}", str(context),
        )  # fmt: skip
        _push(place, image)
        # The registry has it now; here only what others stand on is kept, for each is a whole copy.
        if image.partition(":")[0] not in SHIPPED.values():
            _buildah("rmi", f"localhost/{image}")
        _buildah("rmi", "--prune")
    return name_in(place, image)


def shipped(place: Place, name: str, progress: Progress = programs.say) -> str:
    """An image of the folder `images/`, built where the registry lacks it as it is now."""
    folder, below = SHIPPED_FOLDER / name, SHIPPED[name]
    base = below if below == BASE else shipped(place, below, progress).partition("/")[2]
    digest = hashlib.sha256(base.encode() + (folder / "Dockerfile").read_bytes())
    digest.update(packages.fingerprint(folder).encode())
    if (folder / jars.POM).exists():
        digest.update((folder / jars.POM).read_bytes())
    image = f"{name}:{digest.hexdigest()[:12]}"
    if registry.has(place, image):
        return name_in(place, image)
    return build(place, folder, image, progress, base=base)


@contextmanager
def context_of(folder: Path, progress: Progress) -> Iterator[Path]:
    """The folder as the builder sees it: with its Python packages and its jars, where it asks for
    some.
    """
    if not (folder / packages.REQUIREMENTS).exists():
        yield folder
        return
    installed = packages.install(folder, progress)
    with tempfile.TemporaryDirectory(dir=installed.parent) as name:
        context = Path(name) / folder.name
        shutil.copytree(folder, context)
        # Links, not copies: hundreds of megabytes, and both are in the cache.
        shutil.copytree(installed, context / "packages", copy_function=os.link)
        pom = folder / jars.POM
        if pom.exists():
            shutil.copytree(jars.fetch(pom, progress), context / "jars", copy_function=os.link)
        yield context


def _ensure(
    place: Place, image: str, make: Callable[[str, Progress], None], progress: Progress
) -> str:
    if not registry.has(place, image):
        with lock(_storage() / "lock"):
            if not registry.has(place, image):
                make(image, progress)
                _push(place, image)
    return name_in(place, image)


def _storage() -> Path:
    return cache_folder() / "buildah"


def _buildah(*arguments: str) -> str:
    # The storage driver "vfs" copies instead of mounting: slower, and nothing stays mounted.
    command = [
        "nice", "-n", "19", "buildah", f"--root={_storage()}/root",
        f"--runroot={_storage()}/run", "--storage-driver=vfs", *arguments,
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(_storage())}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise TestbedError(f"buildah {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout.strip()


def _stored(image: str) -> bool:
    return f"localhost/{image}" in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split()


def _certificates(place: Place) -> list[str]:
    folder = place.pki / "registry-client"
    folder.mkdir(exist_ok=True)
    shutil.copy(certificates.ca_file(place), folder / "ca.crt")
    return [f"--cert-dir={folder}"]


def _remote(place: Place, image: str) -> str:
    return f"docker://{place.hub}:{REGISTRY_PORT}/{image}"


def _push(place: Place, image: str) -> None:
    _buildah("push", "--quiet", *_certificates(place), f"localhost/{image}", _remote(place, image))


def _from_folder(folder: Path, image: str, *settings: str) -> None:
    """An image of one layer: what lies in the folder."""
    container = _buildah("from", "scratch")
    try:
        _buildah("add", "--quiet", container, str(folder), "/")
        _buildah("config", *settings, container)
        _buildah("commit", "--quiet", "--format=docker", container, f"localhost/{image}")
    finally:
        _buildah("rm", container)


def _make_pause(image: str, progress: Progress) -> None:
    progress(f"making image {image}")
    with tempfile.TemporaryDirectory(dir=_storage()) as folder:
        shutil.copy(programs.find("pause"), Path(folder) / "pause")
        _from_folder(Path(folder), image, '--entrypoint=["/pause"]', "--user=65535:65535")


def _make_shell(image: str, progress: Progress) -> None:
    progress(f"making image {image} from Debian's busybox")
    with tempfile.TemporaryDirectory(dir=_storage()) as name:
        folder = Path(name)
        # apt drops its privileges for downloads, and complains where it can't write. The static
        # busybox would be simpler, but it needs glibc's shared parts to look up a host's name.
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download"]
        _run([*download, "busybox", "libc6"], folder)
        for package in folder.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(package), "unpacked"], folder)
        root = folder / "root"
        for pattern in ("ld-linux*.so*", "libc.so.6", "libm.so.6", "libresolv.so.2"):
            for library in (folder / "unpacked").rglob(pattern):
                target = root / library.relative_to(folder / "unpacked")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(library, target, follow_symlinks=not library.is_symlink())
        (root / "bin").mkdir()
        busybox = shutil.copy(folder / "unpacked" / "bin" / "busybox", root / "bin" / "busybox")
        for applet in _run([str(busybox), "--list"], folder).split():
            if applet != "busybox":
                (root / "bin" / applet).symlink_to("busybox")
        (root / "tmp").mkdir(mode=0o1777)
        (root / "etc").mkdir()
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
        root.chmod(0o755)
        _from_folder(root, image, '--cmd=["/bin/sh"]', "--env=PATH=/bin")


def _make_base(image: str, progress: Progress) -> None:
    progress(f"making image {image}: Debian {_RELEASE} with {', '.join(_BASE_PACKAGES)}")
    with tempfile.TemporaryDirectory(dir=_storage()) as name:
        root = Path(name) / "root"
        _run(
            ["nice", "-n", "5", "debootstrap", "--variant=minbase",
             f"--include={','.join(_BASE_PACKAGES)}", _RELEASE, str(root), *_mirror()],
            Path(name),
        )  # fmt: skip
        for cached in (root / "var/cache/apt/archives").glob("*.deb"):
            cached.unlink()
        shutil.rmtree(root / "var/lib/apt/lists", ignore_errors=True)
        root.chmod(0o755)
        _from_folder(root, image, '--cmd=["/bin/bash"]', "--env=LANG=C.UTF-8")


def _mirror() -> list[str]:
    """The mirror that apt itself uses, so that one that works here is asked."""
    listed = _run(["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)"], Path("/"))
    for line in listed.splitlines():
        site, _, release = line.partition(" ")
        if release.strip() == _RELEASE:
            return [site]
    return []


def _run(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TestbedError(f"{' '.join(command)} failed:\n{done.stderr or done.stdout}")
    return done.stdout
