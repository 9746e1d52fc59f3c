"""`piecework schema`: the JSON Schema of pipeline files."""

from __future__ import annotations

import click

from piecework.cli import options, terminal


@click.command()
@options.json_option
def command(as_json: bool) -> None:
    """Print the JSON Schema of pipeline files, for editors.

    Many editors use it where a file's first line is `# yaml-language-server: $schema=PATH`.
    """
    del as_json  # it is JSON in any case
    from piecework.spec.schema import json_schema

    terminal.result_json(json_schema())
