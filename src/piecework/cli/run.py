"""`piecework run FILE`: a pipeline through Airflow, or one of its jobs alone, and the bill."""

from __future__ import annotations

from pathlib import Path

import click

from piecework.cli import options
from piecework.errors import InputError


@click.command()
@options.file_argument
@click.option("--job", metavar="NAME", help="Run this job alone, at once, without Airflow.")
@options.param_option
@click.option("--pool", metavar="NAME", help="The machine pool to run on, whatever the file says.")
@click.option(
    "--data",
    metavar="FOLDER",
    help="With --job: the folder or URL where it finds what others left; default: an empty one.",
)
@click.option("--keep", is_flag=True, help="Leave the platform up afterwards.")
@options.json_option
def command(
    file: Path,
    job: str | None,
    params: tuple[str, ...],
    pool: str | None,
    data: str | None,
    keep: bool,
    as_json: bool,
) -> int:
    """Run a pipeline, follow it to its end, print the bill.

    The platform of this computer is brought up if it isn't, and taken down afterwards if it was
    brought up for this. With --job that job runs alone, at once, without Airflow.

    Ctrl-C cancels what runs, prints the bill so far and exits with 130.
    """
    from piecework import config
    from piecework.spec.load import load_pipeline

    settings = config.load()
    pipeline = load_pipeline(file)
    values = options.read_params(params, pipeline)
    if job is not None:
        from piecework.cli.alone import run_alone

        return run_alone(
            file, pipeline, job, values, settings, pool=pool, data=data, as_json=as_json
        )
    if data is not None:
        raise InputError("--data goes with --job; for all pipelines, set data in piecework.toml")
    from piecework.cli.pipeline_run import run_pipeline, teller

    ended = run_pipeline(
        file, pipeline, values, settings, keep=keep, tell=teller(settings, as_json), pool=pool
    )
    return ended.exit_code
