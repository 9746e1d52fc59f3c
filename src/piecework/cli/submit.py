"""`piecework submit FILE`: queue a pipeline run on the platform that is up, and return."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from piecework.cli import options, terminal
from piecework.errors import InputError

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.~:+-]{0,199}")


@click.command()
@options.file_argument
@options.param_option
@click.option(
    "--run-id", metavar="ID", help="Name the pipeline run; a repeated one is queued once."
)
@click.option("--pool", metavar="NAME", help="The machine pool to run on, whatever the file says.")
@click.option("--wait", is_flag=True, help="Follow it to its end and print the bill.")
@options.json_option
def command(
    file: Path,
    params: tuple[str, ...],
    run_id: str | None,
    pool: str | None,
    wait: bool,
    as_json: bool,
) -> int:
    """Queue a pipeline run and return.

    FILE is any pipeline file, or one with a single job. Prints the id of the pipeline run. The
    platform must be up: `piecework up`. Ctrl-C with --wait stops the waiting, not the run.
    """
    from piecework import clock, config
    from piecework.cli.pipeline_run import (
        check_machines,
        follow,
        name_pipeline_run,
        prepare,
        teller,
    )
    from piecework.spec.load import load_pipeline

    if run_id is not None and not _RUN_ID.fullmatch(run_id):
        raise InputError(
            f"--run-id {terminal.printable(run_id)!r}: an id has up to 200 letters, digits and "
            "_ . ~ : + -, and begins with a letter or digit"
        )
    settings = config.load()
    pipeline = load_pipeline(file)
    values: dict[str, Any] = options.read_params(params, pipeline)
    check_machines(pipeline, settings, pool)
    pipeline_run = run_id or name_pipeline_run(pipeline.name, clock.now())
    follower = prepare(file, pipeline, settings, pipeline_run, pool)
    follower.trigger(values)
    if not wait:
        if as_json:
            terminal.result_json({"pipeline": pipeline.name, "pipeline_run": pipeline_run})
        else:
            terminal.result(pipeline_run)
        return 0
    terminal.step(f"following the pipeline run {pipeline_run}")
    try:
        ended = follow(follower, settings)
    except KeyboardInterrupt:
        terminal.say(f"\nIt goes on; `piecework cancel {pipeline_run}` ends it.")
        raise
    teller(settings, as_json)(ended)
    return ended.exit_code
