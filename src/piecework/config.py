"""Settings, from piecework.toml and the environment.

The first file found is read: `$PIECEWORK_CONFIG`, `./piecework.toml`,
`$PIECEWORK_HOME/piecework.toml`. An environment variable `PIECEWORK_<NAME>` wins over the file.
Standard library only, so that reading settings costs nothing.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping, Set
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from piecework.errors import ConfigError, show
from piecework.units import parse_duration


@dataclass(frozen=True)
class Settings:
    """What can be set. In piecework.toml by these names; in the environment as PIECEWORK_<NAME>."""

    #: Where the state lives: ledger, runs, the platform. Also `PIECEWORK_HOME`.
    home: Path
    #: SQLAlchemy URL of the ledger. Default: SQLite in `home`.
    ledger_url: str
    #: The machine pool of jobs that name none.
    pool: str = "local"
    #: How long an attempt may run on its machine where the job does not say.
    timeout: timedelta = timedelta(hours=6)
    #: How long after it was queued a run has promised to be done where the job does not say.
    deadline: timedelta = timedelta(hours=24)
    #: Base URL of the Airflow REST API. Default: the platform of this computer.
    airflow_url: str | None = None
    #: Port on which the platform of this computer serves Airflow; 0 takes a free one.
    airflow_port: int = 0
    #: Folders, with `:` between them, below which programs of jobs may lie that are requested over
    #: Airflow's API with `piecework_submit`. Default: the user's home folder.
    submit_roots: str = "~"
    #: Base folder or URL of the data that jobs exchange: a text, or `url` in a table `[data]` that
    #: also says how jobs reach their data. Default: `home`/data.
    data: str = ""
    #: Base folder or URL (s3://bucket/path, hdfs://...) that clusters read the code of jobs from,
    #: and where logs are kept. Without one, code goes through the cluster's API (at most 900 KiB),
    #: and a log is lost with its pod.
    store: str = ""
    #: Tables of teams, by name, as written; `piecework.spec.team` checks them.
    teams: Mapping[str, Any] = field(default_factory=dict)
    #: Tables of pools, by name, as written; `piecework.spec.pool` checks them.
    pools: Mapping[str, Any] = field(default_factory=dict)
    #: The rest of the table [data], as written; `piecework.spec.data` checks it.
    access: Mapping[str, Any] = field(default_factory=dict)
    #: The file that was read, if there was one; for messages.
    file: Path | None = None


_PATHS = {"home"}
_DURATIONS = {"timeout", "deadline"}
_INTEGERS = {"airflow_port"}
_WEB = {"airflow_url"}
_TABLES = {"pools": "local", "teams": "analytics"}
_FOLDERS = {"data", "store"}
_NOT_SETTABLE = {"access", "file"}
_DATABASE = re.compile(r"[a-z][a-z0-9_+]*://")
_LAST_PORT = 65_535


def default_home() -> Path:
    """`$PIECEWORK_HOME`, else ~/.piecework."""
    return _home(os.environ)


def _home(environ: Mapping[str, str]) -> Path:
    try:
        return _path(environ.get("PIECEWORK_HOME") or "~/.piecework")
    except ValueError as error:
        raise ConfigError(f"environment variable PIECEWORK_HOME: {error}") from error


def load(environ: Mapping[str, str] | None = None, directory: Path | None = None) -> Settings:
    """Reads the settings; raises ConfigError with file, name, value and what would be right."""
    environ = os.environ if environ is None else environ
    home = _home(environ)
    file, values = _read_file(environ, directory or Path.cwd(), home)
    known = {f.name for f in fields(Settings)} - _NOT_SETTABLE
    wrong = [_unknown(name, known, file) for name in values if name not in known]
    where = {name: f"{file}: {name}" for name in values}
    access = _take_access(values)
    if access is not None:
        where["data"] = f"{file}: data.url"
    for name in known - _TABLES.keys():
        variable = f"PIECEWORK_{name.upper()}"
        if environ.get(variable):
            values[name] = environ[variable]
            where[name] = f"environment variable {variable}"
    for name in sorted(known & values.keys()):
        try:
            values[name] = _convert(name, values[name])
        except ValueError as error:
            wrong.append(f"{where[name]}: {error}")
    if wrong:
        raise ConfigError("\n".join(wrong))
    home = values.setdefault("home", home)
    values.setdefault("ledger_url", f"sqlite:///{home}/ledger.sqlite")
    values.setdefault("data", str(home / "data"))
    return Settings(file=file, access=access or {}, **values)


def _take_access(values: dict[str, Any]) -> dict[str, Any] | None:
    """What a table [data] says besides its `url`, which becomes the setting; None: no table."""
    table = values.get("data")
    if not isinstance(table, dict):
        return None
    access = dict(values.pop("data"))
    if "url" in access:
        values["data"] = access.pop("url")
    return access


def _read_file(
    environ: Mapping[str, str], directory: Path, home: Path
) -> tuple[Path | None, dict[str, Any]]:
    named = environ.get("PIECEWORK_CONFIG")
    beside = [directory / "piecework.toml", home / "piecework.toml"]
    for path in [Path(named)] if named else beside:
        try:
            with path.open("rb") as stream:
                return path, tomllib.load(stream)
        except FileNotFoundError:
            if named:
                raise ConfigError(f"PIECEWORK_CONFIG names {path}, which does not exist") from None
        except (OSError, ValueError, RecursionError) as error:  # TOML's errors are ValueErrors
            raise ConfigError(f"{path}: cannot be read: {error}") from error
    return None, {}


def _unknown(name: str, known: Set[str], file: Path | None) -> str:
    close = get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
    return f"{file}: {show(name)}: unknown setting; {hint}"


def _convert(name: str, value: Any) -> Any:
    """The setting's value; raises ValueError with what would be right."""
    if name in _DURATIONS:
        return parse_duration(value)
    if name in _INTEGERS:
        return _port(value)
    if name in _TABLES:
        if not isinstance(value, dict):
            example = f"[{name}.{_TABLES[name]}]"
            raise ValueError(f"found {show(value)}; {name} are tables, like {example}")
        return value
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"found {show(value)}; a text is right here")
    if name in _PATHS:
        return _path(value)
    if name in _FOLDERS and value and "://" not in value:
        return str(_path(value))
    if name in _WEB and not value.startswith(("http://", "https://")):
        raise ValueError(f"found {show(value)}; a web address is right here, like http://host:8080")
    if name == "ledger_url" and not _DATABASE.match(value):
        # Not shown: it may hold a password.
        raise ValueError(
            "found no database URL; it is written like sqlite:////var/lib/ledger.sqlite or "
            "postgresql+psycopg://user@host/database"
        )
    if not value:
        raise ValueError("found an empty text; leave the setting out, or give it a value")
    return value


def _path(value: str) -> Path:
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:  # ~somebody who is not known here
        raise ValueError(f"found {show(value)}, whose home folder is not known") from None


def _port(value: Any) -> int:
    text = str(value)
    right = not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) <= 5
    if not right or int(text) > _LAST_PORT:
        raise ValueError(f"found {show(value)}; a port from 0 to {_LAST_PORT} is right here")
    return int(text)
