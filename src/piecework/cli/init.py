"""`piecework init`: a first pipeline, its job, and a settings file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from piecework.cli import options, terminal
from piecework.errors import InputError

#: What is written, in order of interest.
FILES = ("pipeline.yaml", "jobs/greet.py", "jobs/count.py", "piecework.toml")


@click.command()
@click.argument("folder", required=False, default=".", type=click.Path(path_type=Path))
@options.json_option
def command(folder: Path, as_json: bool) -> None:
    """Write a first pipeline to start from.

    Writes pipeline.yaml, its jobs and piecework.toml into FOLDER (default: here), and never over
    a file that exists.
    """
    targets = [folder / name for name in FILES]
    there = [str(target) for target in targets if target.exists() or target.is_symlink()]
    if there:
        raise InputError(
            f"init: {', '.join(there)} {'exists' if len(there) == 1 else 'exist'}; nothing was "
            "written; name another folder: piecework init FOLDER"
        )
    source = resources.files("piecework.cli") / "starter"
    try:
        for name, target in zip(FILES, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("x", encoding="utf-8") as stream:
                stream.write((source / name).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"init: cannot write {error.filename}: {error.strerror}") from error
    if as_json:
        terminal.result_json({"written": [str(target) for target in targets]})
        return
    for target in targets:
        terminal.result(str(target))
    file = targets[0]
    terminal.say()
    terminal.say("Next:")
    terminal.say(f"  piecework plan {file}             what it will cost")
    terminal.say(f"  piecework run {file} --job greet  one job, at once")
    terminal.say(f"  piecework run {file}              the whole pipeline, through Airflow")
