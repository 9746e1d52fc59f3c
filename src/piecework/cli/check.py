"""`piecework check FILE...`: all that is wrong in pipeline files, a line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from piecework.cli import options, terminal


@click.command()
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@options.json_option
def command(files: tuple[Path, ...], as_json: bool) -> int:
    """Check pipeline files and tell all that is wrong.

    Prints FILE:LINE:COLUMN: FIELD: MESSAGE for each problem. Exits 0 where all files are right,
    else 2.
    """
    reports = [_check(file) for file in files]
    wrong = any(report["problems"] for report in reports)
    if as_json:
        terminal.result_json({"files": reports})
    else:
        for report in reports:
            _print(report)
    return 2 if wrong else 0


def _check(file: Path) -> dict[str, Any]:
    from piecework.errors import SpecError
    from piecework.spec.load import load_pipeline

    try:
        pipeline = load_pipeline(file)
    except SpecError as error:
        problems = [
            {
                "file": problem.file,
                "line": problem.line,
                "column": problem.column,
                "field": problem.field,
                "message": problem.message,
                "text": str(problem),
            }
            for problem in error.problems
        ]
        return {"file": str(file), "pipeline": None, "jobs": [], "problems": problems}
    jobs = list(pipeline.jobs)
    return {"file": str(file), "pipeline": pipeline.name, "jobs": jobs, "problems": []}


def _print(report: dict[str, Any]) -> None:
    for problem in report["problems"]:
        terminal.result(terminal.printable(problem["text"]))
    if not report["problems"]:
        count = len(report["jobs"])
        jobs = f"{count} job" if count == 1 else f"{count} jobs"
        terminal.say(f"{report['file']}: fine: pipeline {report['pipeline']}, {jobs}")
