"""A sink that writes rows to a table of a SQL database, each once: SQLite or PostgreSQL, by SQLAlchemy Core."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from tasks.errors import RejectedError, SettingsError
from tasks.sinks.deliveries import Delivery

__all__ = ["SqlUpsert"]

_INSERTS: Mapping[str, Callable[[sa.Table], Any]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
# The classes of SQLSTATE for a row that will never fit: a cardinality, a value, a constraint.
_REFUSALS = ("21", "22", "23")


class SqlUpsert:
    """Writes each delivery as a row: a new one is inserted, one with a known key updates its row. A batch is one transaction.

    The table exists, with a unique constraint or index on the key columns. A mapping is a row, by the names of columns.

    engine    an address such as 'postgresql+asyncpg://host/name' or 'sqlite:///file.db', or an engine of SQLAlchemy, also an
              asynchronous one. An engine that you pass stays yours to dispose of
    table     its name, or the `Table`
    key       the columns by which a row is known. Default: `id_column`, so that each element has its own row
    id_column  the column for the delivery's id; None: store none, which needs `key`
    row       makes a row of an element that is no mapping
    raises    SettingsError: another database, or no key. On writing, RejectedError: the database refuses the row for good
    """

    def __init__(
        self,
        engine: str | sa.Engine | AsyncEngine,
        table: str | sa.Table,
        *,
        key: str | Sequence[str] = (),
        id_column: str | None = "delivery_id",
        row: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> None:
        self._key = [key] if isinstance(key, str) else list(key)
        if not self._key and id_column is None:
            msg = "SqlUpsert: expected a key, or an id_column that is one, got neither"
            raise SettingsError(msg)
        self._id_column = None if self._key and id_column == "delivery_id" else id_column
        self._key = self._key or [str(id_column)]
        self._engine = _engine(engine) if isinstance(engine, str) else engine
        self._is_own = isinstance(engine, str)
        if (dialect := self._engine.dialect.name) not in _INSERTS:
            msg = f"SqlUpsert: expected SQLite or PostgreSQL, got {dialect!r}, whose upserts are others; write a sink of your own"
            raise SettingsError(msg)
        self._insert = _INSERTS[dialect]
        self._given, self._row = table, row
        self._table: sa.Table | None = table if isinstance(table, sa.Table) else None

    async def write(self, batch: Sequence[Delivery]) -> None:
        """Write a batch in one transaction; nothing of it stays if a row is refused.

        raises    RejectedError: the database refuses a row; sqlalchemy.exc.SQLAlchemyError
        """
        try:
            rows = [self._as_row(one) for one in batch]
            if isinstance(self._engine, AsyncEngine):
                async with self._engine.begin() as connection:
                    await connection.run_sync(self._upsert, rows)
            else:
                await asyncio.to_thread(self._write, self._engine, rows)
        except sa.exc.SQLAlchemyError as error:
            if not _is_refusal(error):
                raise
            msg = f"table {self._name!r}: expected a row that the database takes, got another ({_kind(error)})"
            raise RejectedError(msg) from error

    def close(self) -> None:
        """Close pooled connections of an engine that was made here."""
        if self._is_own and isinstance(self._engine, sa.Engine):
            self._engine.dispose()

    @property
    def _name(self) -> str:
        return self._given if isinstance(self._given, str) else self._given.name

    def _as_row(self, one: Delivery) -> dict[str, Any]:
        value = self._row(one.value) if self._row is not None else one.value
        if not isinstance(value, Mapping):
            msg = f"table {self._name!r}: expected a mapping of column names to values, got a {type(value).__name__}; pass row=..."
            raise RejectedError(msg)
        row = dict(value)
        if self._id_column is not None:
            row[self._id_column] = one.id
        if missing := [column for column in self._key if column not in row]:
            msg = f"table {self._name!r}: expected a row with its key, got one without {', '.join(map(repr, missing))}"
            raise RejectedError(msg)
        return row

    def _write(self, engine: sa.Engine, rows: list[dict[str, Any]]) -> None:
        with engine.begin() as connection:
            self._upsert(connection, rows)

    def _upsert(self, connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
        if self._table is None:
            schema, _, name = self._name.rpartition(".")
            self._table = sa.Table(name, sa.MetaData(), schema=schema or None, autoload_with=connection)
        for columns, alike in groupby(rows, key=tuple):
            if unknown := [column for column in columns if column not in self._table.c]:
                msg = f"table {self._name!r}: expected values of its columns, got {', '.join(map(repr, unknown))}, which it does not have"
                raise RejectedError(msg)
            statement = self._insert(self._table)
            others = {column: statement.excluded[column] for column in columns if column not in self._key}
            statement = (
                statement.on_conflict_do_update(index_elements=self._key, set_=others)
                if others
                else statement.on_conflict_do_nothing(index_elements=self._key)
            )
            connection.execute(statement, list(alike))


def _engine(address: str) -> sa.Engine | AsyncEngine:
    try:
        url = sa.make_url(address)
        if url.get_dialect().is_async:
            # Without a pool: pooled connections would belong to one event loop, and need one that closes them.
            return create_async_engine(url, poolclass=NullPool, hide_parameters=True)
        return sa.create_engine(url, hide_parameters=True)
    except (sa.exc.ArgumentError, ImportError) as error:
        why = (
            f"a driver is missing: {error.name}" if isinstance(error, ImportError) else "it is no address of SQLAlchemy"
        )
        msg = f"SqlUpsert: expected an address such as postgresql+asyncpg://host/name, got another one; {why}"
        raise SettingsError(msg) from None  # the error may hold a password


def _is_refusal(error: sa.exc.SQLAlchemyError) -> bool:
    """Return whether a row was refused for good, as opposed to a database that is away or busy."""
    if isinstance(error, sa.exc.IntegrityError | sa.exc.DataError):
        return True
    if isinstance(error, sa.exc.DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None) or ""
        return state[:2] in _REFUSALS
    return isinstance(error, sa.exc.StatementError | sa.exc.CompileError)  # such as a column that does not exist


def _kind(error: sa.exc.SQLAlchemyError) -> str:
    """Return the kind of a database's error, without its text, which may hold values."""
    return type(getattr(error, "orig", None) or error).__name__
