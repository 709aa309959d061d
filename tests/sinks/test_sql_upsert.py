"""Rows of a table, each written once: on SQLite and on a real PostgreSQL."""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from tasks import Delivery, RejectedError, SettingsError
from tasks.sinks.sql_upsert import SqlUpsert
from tasks.testing import Bench
from tests.support.postgres import postgres_server

QUOTES = sa.Table(
    "quotes",
    sa.MetaData(),
    sa.Column("delivery_id", sa.String, primary_key=True),
    sa.Column("code", sa.String, unique=True),
    sa.Column("price", sa.Integer, nullable=False),
)
PRICES = sa.Table(
    "prices",
    QUOTES.metadata,
    sa.Column("code", sa.String, primary_key=True),
    sa.Column("price", sa.Integer),
    sa.Column("note", sa.String),
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the address of an empty database, of which the test makes tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/quotes.db"
        return
    with postgres_server() as found:
        yield found


def on(address: str, act: Callable[[sa.Connection], Any]) -> Any:
    """Return the result of a function that gets a connection."""
    if not address.startswith("postgresql"):
        engine = sa.create_engine(address)
        with engine.begin() as connection:
            found = act(connection)
        engine.dispose()
        return found

    async def main() -> Any:
        engine = create_async_engine(address)
        async with engine.begin() as connection:
            found = await connection.run_sync(act)
        await engine.dispose()
        return found

    return asyncio.run(main())


def make(address: str) -> None:
    def again(connection: sa.Connection) -> None:
        QUOTES.metadata.drop_all(connection)
        QUOTES.metadata.create_all(connection)

    on(address, again)


def rows(address: str, table: sa.Table = QUOTES) -> list[tuple[Any, ...]]:
    return on(address, lambda connection: [tuple(row) for row in connection.execute(sa.select(table))])


@given(st.lists(st.integers(1, 12), max_size=3), st.integers(0, 12), st.integers(1, 5))
@settings(max_examples=6)
def test_rows_are_in_the_table_once_however_often_the_run_is_killed(
    address: str, crashes: list[int], bad: int, batch: int
) -> None:
    make(address)

    def row(n: int) -> dict[str, Any]:
        return {"code": f"c{n}", "price": None if n == bad else n}

    with Bench(lambda s: s.pluck("n").to_sink(SqlUpsert(address, "quotes", row=row), batch=batch)) as bench:
        bench.push(*({"n": n} for n in range(12)))
        for after in crashes:
            bench.crash(after=after, unacknowledged=1)
        bench.drain()
        bench.stop()
        assert [letter.entry for letter in bench.dead] == [{"n": n} for n in range(12) if n == bad]
        assert bench.pending == []
    assert sorted(price for _, _, price in rows(address)) == [n for n in range(12) if n != bad]
    assert all(id_.startswith("topic/") and "@" not in id_ for id_, _, _ in rows(address))


def write(sink: SqlUpsert, *values: Any) -> None:
    with contextlib.closing(sink):
        asyncio.run(sink.write([Delivery(f"topic/{n}-0", value) for n, value in enumerate(values)]))


def test_row_with_a_known_key_replaces_the_columns_that_it_has(address: str) -> None:
    make(address)
    sink = SqlUpsert(address, PRICES, key="code")
    write(sink, {"code": "a", "price": 1, "note": "first"}, {"code": "b", "price": 1})
    write(sink, {"code": "a", "price": 2}, {"code": "a", "price": 3}, {"code": "b"})
    assert sorted(rows(address, PRICES)) == [("a", 3, "first"), ("b", 1, None)]


@pytest.mark.parametrize(
    "value",
    [{"code": "b", "price": None}, {"code": "b", "price": 1, "other": 2}, [1], {"code": "a", "price": 5}],
    ids=["null", "unknown column", "no mapping", "other unique key"],
)
def test_batch_with_a_row_that_the_database_refuses_leaves_nothing(address: str, value: Any) -> None:
    make(address)
    with pytest.raises(RejectedError, match="^table 'quotes': expected ") as caught:
        write(SqlUpsert(address, "quotes"), {"code": "a", "price": 1}, value)
    assert rows(address) == []
    assert "'b'" not in str(caught.value)


def test_table_that_is_missing_is_worth_another_attempt(address: str) -> None:
    on(address, QUOTES.metadata.drop_all)
    with pytest.raises(sa.exc.NoSuchTableError):
        write(SqlUpsert(address, "quotes"), {"code": "a", "price": 1})
    make(address)
    write(SqlUpsert(address, "quotes"), {"code": "a", "price": 1})


def test_engine_of_the_user_is_not_disposed_of(address: str) -> None:
    make(address)
    engine: Any = create_async_engine(address) if address.startswith("postgresql") else sa.create_engine(address)

    async def main() -> None:
        sink = SqlUpsert(engine, "quotes")
        await sink.write([Delivery("topic/0-0", {"code": "a", "price": 1})])
        sink.close()
        await sink.write([Delivery("topic/0-0", {"code": "a", "price": 2})])
        await engine.dispose() if isinstance(engine, AsyncEngine) else engine.dispose()

    asyncio.run(main())
    assert rows(address) == [("topic/0-0", "a", 2)]


@pytest.mark.parametrize(
    "address", ["nonsense", "postgresql+nothing://user:secret@host/db", "oracle://user:secret@host/db"]
)
def test_other_databases_are_refused_without_their_password(address: str) -> None:
    with pytest.raises(SettingsError, match="^SqlUpsert: expected") as caught:
        SqlUpsert(address, "quotes")
    assert "secret" not in str(caught.value)


def test_sink_without_any_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="expected a key"):
        SqlUpsert(f"sqlite:///{tmp_path}/db", "quotes", id_column=None)
