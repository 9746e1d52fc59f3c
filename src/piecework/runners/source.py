"""What can be known of a job's program before a machine is bought for it: that it is one.

Enters: the plan, and the folder of the code. Leaves nothing, or an error with file and line. Only
syntax is looked at: what a program imports is in its image, not here.
"""

from __future__ import annotations

import ast
import sys
import warnings
from pathlib import Path

from piecework.errors import InputError
from piecework.plan.plan import Plan


def check_source(plan: Plan, code: Path) -> None:
    """Raises InputError where the job's file is missing, or is no Python.

    A job that names its image may be for another Python than this one, so its syntax is not judged.
    """
    named = plan.job.file
    if named is None:
        return
    path, job = code / named, f"job {plan.job_name}"
    try:
        source = path.read_bytes()
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"{job}: its program {named} cannot be read in {code}: {why}") from error
    if plan.job.image is not None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the program's own business
            ast.parse(source, named)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        where = f"{named}, line {line}" if line else named
        what = error.msg if isinstance(error, SyntaxError) else str(error)
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise InputError(
            f"{job}: {where}: {what}; no machine was bought for it. It was read as Python "
            f"{version}; where it is for a newer one, name its image in the job"
        ) from error
