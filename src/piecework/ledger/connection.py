"""A URL in, a database that is ready out: SQLite or PostgreSQL, migrated, its errors in words.

Writers take turns: SQLite by `BEGIN IMMEDIATE`, PostgreSQL by an advisory lock held for the
transaction. So what is computed from a machine's events within a transaction has seen all of them,
and two processes that open a new ledger at the same time migrate it once. Readers see one
consistent state and block nobody.

SQLite runs with a write-ahead log and `synchronous=FULL`: an event whose spool was recorded must
survive a power failure, and writing in batches makes the cost of that small.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, exc, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.pool import StaticPool

from piecework.errors import LedgerError
from piecework.ledger.schema import HEAD, REVISIONS

#: Any number that nobody else uses as an advisory lock in the same database.
_WRITER_LOCK = 0x7069656365  # "piece"
_WRITE = "piecework_write"


def connect(url: str, timeout_seconds: float) -> Engine:
    """An engine for the ledger at `url`, created and migrated where it is not.

    Waits at most `timeout_seconds` for other writers. Raises LedgerError.
    """
    parsed = _parse(url)
    with explained(parsed):
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(parsed, timeout_seconds)
        else:
            engine = _postgresql(parsed, timeout_seconds)
        try:
            _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that sees one state of the ledger. Raises LedgerError."""
    with explained(engine.url), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that no other writer runs beside; all of it counts, or nothing. LedgerError."""
    with explained(engine.url), engine.connect() as connection:
        connection.execution_options(**{_WRITE: True})
        with connection.begin():
            if engine.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER_LOCK}
                )
            yield connection


def describe(url: URL) -> str:
    """The ledger's name in messages: never its password."""
    if url.get_backend_name() == "sqlite":
        return f"ledger {url.database or ':memory:'}"
    named = url.set(drivername=url.get_backend_name(), query={})
    return f"ledger {named.render_as_string(hide_password=True)}"


@contextmanager
def explained(url: URL) -> Iterator[None]:
    """Turns a database's error into a LedgerError that says what to do."""
    try:
        yield
    except exc.SQLAlchemyError as error:
        raise _explain(url, error) from _cause(error)
    except OSError as error:
        raise LedgerError(f"{describe(url)}: {error.strerror or error}") from error


def _cause(error: exc.SQLAlchemyError) -> BaseException:
    # SQLAlchemy's own text repeats the statement with all of its values; the driver's does not.
    original = error.orig if isinstance(error, exc.DBAPIError) else None
    return original if original is not None else error


def _explain(url: URL, error: exc.SQLAlchemyError) -> LedgerError:
    original = _cause(error)
    said = " ".join(str(original).split())
    if url.password is not None:
        said = said.replace(str(url.password), "***")
    words, retryable = said, isinstance(error, exc.TimeoutError)
    for recognise in (_explain_sqlite, _explain_postgresql):
        found = recognise(original)
        if found is not None:
            words, retryable = found[0].format(said=said), found[1]
    explained_error = LedgerError(f"{describe(url)}: {words}")
    explained_error.retryable = retryable
    return explained_error


def _explain_sqlite(error: BaseException) -> tuple[str, bool] | None:
    name = getattr(error, "sqlite_errorname", None)
    if not isinstance(error, sqlite3.Error) or not isinstance(name, str):
        return None
    primary = "_".join(name.split("_")[:2])
    return {
        "SQLITE_FULL": (
            "the disk is full: nothing of this write was kept, all before it is intact; free space",
            True,
        ),
        "SQLITE_BUSY": ("other processes have kept it locked for too long; try again", True),
        "SQLITE_LOCKED": ("other processes have kept it locked for too long; try again", True),
        "SQLITE_READONLY": ("it may not be written: {said}; check the file's permissions", False),
        "SQLITE_CANTOPEN": (
            "cannot be opened: {said}; check that its folder exists and may be written",
            False,
        ),
        "SQLITE_NOTADB": ("the file is not a SQLite database; name another in ledger_url", False),
        "SQLITE_CORRUPT": (
            "the file is damaged: {said}; restore it, or record the spools into a new ledger",
            False,
        ),
        "SQLITE_IOERR": (
            "the disk could not be read or written: {said}; check its space and its health",
            True,
        ),
    }.get(primary)


def _explain_postgresql(error: BaseException) -> tuple[str, bool] | None:
    if not type(error).__module__.startswith("psycopg"):
        return None
    state, said = str(getattr(error, "sqlstate", None) or ""), str(error)
    if state == "53100":
        return "the server's disk is full: nothing of this write was kept; free space", True
    if state in {"55P03", "40001", "40P01"}:
        return "other processes have kept it locked for too long; try again", True
    # What goes wrong while connecting carries no state, only the server's words.
    if state.startswith("28") or "authentication failed" in said:
        return "the server refuses the user or the password: {said}", False
    if state == "3D000" or ('FATAL:  database "' in said and "does not exist" in said):
        return "no such database: {said}; create it, or name another in ledger_url", False
    if state.startswith(("08", "57P")) or (
        not state and type(error).__name__ == "OperationalError"
    ):
        return "the server does not answer: {said}", True
    return None


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise LedgerError(
            "ledger_url is not a URL; write sqlite:///PATH or postgresql://USER@HOST/DATABASE"
        ) from None
    if parsed.get_backend_name() not in {"sqlite", "postgresql"}:
        raise LedgerError(
            f"ledger_url names {parsed.get_backend_name()!r}; a ledger is kept in sqlite:///PATH "
            "or postgresql://USER@HOST/DATABASE"
        )
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    return parsed.set(drivername="sqlite")


def _sqlite(url: URL, timeout_seconds: float) -> Engine:
    options: dict[str, Any] = {"connect_args": {"timeout": timeout_seconds}}
    if url.database in (None, "", ":memory:"):
        options["poolclass"] = StaticPool
        options["connect_args"]["check_same_thread"] = False
    else:
        Path(str(url.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, **options)

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, _record: object) -> None:
        # The driver is told not to begin transactions: it begins them too late for two writers.
        connection.isolation_level = None
        if connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
            connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cache_size=-65536")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get(_WRITE)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _postgresql(url: URL, timeout_seconds: float) -> Engine:
    try:
        import psycopg  # noqa: F401  (SQLAlchemy would only say that a module is missing)
    except ImportError as error:
        raise LedgerError(
            f"{describe(url)}: PostgreSQL needs a driver; install piecework[postgres]"
        ) from error
    milliseconds = max(1, round(timeout_seconds * 1000))
    query = dict(url.query)
    query.setdefault("connect_timeout", str(max(2, round(min(timeout_seconds, 30)))))
    query.setdefault("application_name", "piecework")
    said = query.get("options", "")
    query["options"] = f"{said} -c lock_timeout={milliseconds} -c client_encoding=utf8".strip()
    return create_engine(url.set(query=query), pool_pre_ping=True, pool_size=2)


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return found


def _migrate(engine: Engine) -> None:
    with reading(engine) as connection:
        if _is_current(engine, _revision(connection)):
            return
    with writing(engine) as connection:
        if _is_current(engine, _revision(connection)):
            return
        _upgrade(connection)


def _is_current(engine: Engine, found: str | None) -> bool:
    if found is not None and found not in REVISIONS:
        raise LedgerError(
            f"{describe(engine.url)}: was written by a newer piecework (its tables are at "
            f"{found!r}, this version knows up to {HEAD!r}); use that version"
        )
    return found == HEAD


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
