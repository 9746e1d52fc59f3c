"""Paths to programs: relative to the pipeline's file, and never out of its folder.

`check_path` looks at the text alone and belongs to the models; `find_fault` looks at the disk and
belongs to the loader, which knows the folder.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path, PurePosixPath

from piecework.errors import show
from piecework.spec.wording import suggest

_MOST_NEIGHBOURS = 1000


def check_path(path: str) -> str:
    """The path as it was; raises ValueError where it is not a plain path inside the folder."""
    inside = "paths are relative to the pipeline's file and stay in its folder"
    if "\0" in path:
        raise ValueError(f"found {show(path)}, which holds the character NUL; take it out")
    if "://" in path:
        raise ValueError(f"found the address {show(path)}; {inside}")
    if path.startswith(("/", "~")) or "\\" in path or path[1:3] == ":/":
        relative = PurePosixPath(path.replace("\\", "/")).name
        raise ValueError(f"found {show(path)}; {inside}, like {show('jobs/' + relative)}")
    if ".." in PurePosixPath(path).parts:
        raise ValueError(f"found {show(path)}, which leads out of the folder; {inside}")
    return path


def find_fault(path: str, folder: Path, *, hint: bool = True) -> str | None:
    """Why the file at `path` cannot be used from `folder`; None where it can.

    `hint` looks in the folder for what may have been meant.
    """
    target = folder / path
    try:
        root = folder.resolve()
        resolved = target.resolve()
        if not resolved.is_relative_to(root):
            return (
                f"found {show(path)}, which a link leads out of the folder; copy the file into it"
            )
        if resolved.is_file():
            return None
        if resolved.is_dir():
            return f"found {show(path)}, which is a folder; name a file in it"
        if resolved.exists():
            return f"found {show(path)}, which is not a file"
        neighbours = _neighbours(target.parent, folder) if hint else []
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links in a circle
        return f"found {show(path)}, which cannot be opened"
    meant = suggest(path, neighbours, "paths are relative to the pipeline's file", alike=0.75)
    return f"found {show(path)}, which does not exist in {show(str(folder))}; {meant}"


def _neighbours(parent: Path, folder: Path) -> list[str]:
    """Files that may have been meant, as the user would write them."""
    if not parent.is_dir():
        parent = folder
    if not parent.is_dir():
        return []
    near = [*islice(parent.iterdir(), _MOST_NEIGHBOURS // 2)]
    if parent != folder:
        near += islice(folder.iterdir(), _MOST_NEIGHBOURS // 2)
    return [found.relative_to(folder).as_posix() for found in near if found.is_file()]
