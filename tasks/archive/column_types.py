"""One type for each column name of an archive, so that every reader can read all of its files together.

Dataset readers take a column's type from one file and cast the other files to it. So each column name of an archive has
one type: that of the first values, widened (`int64`, `double`, text). Values of other types are cast if that loses
nothing; all others go to a column beside it, such as `pe_text` beside the number `pe`.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

__all__ = ["RESERVED", "Columns", "canonical", "canonical_type"]

RESERVED = frozenset({"topic", "kind", "day"})
"""Names of an archive's folders; hive readers replace columns of the same names in files."""

_DECIMAL = pa.decimal128(38, 18)
_UNFOLD_BYTES = 16 * 2**20  # per column and entry; larger categories are not converted to text
_TEXT = (types.is_string, types.is_large_string, types.is_string_view)
_BYTES = (types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view)
_LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)

# Families of types; a family's name is the suffix of a column for values that do not fit.
_FAMILIES: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
    ("bool", types.is_boolean),
    ("int", types.is_integer),
    ("float", types.is_floating),
    ("decimal", types.is_decimal),
    ("text", lambda kind: any(test(kind) for test in _TEXT)),
    ("bytes", lambda kind: any(test(kind) for test in _BYTES)),
    ("utc", lambda kind: types.is_timestamp(kind) and kind.tz is not None),
    ("timestamp", types.is_timestamp),
    ("date", types.is_date),
    ("time", types.is_time),
    ("duration", types.is_duration),
    ("category", types.is_dictionary),
    ("list", lambda kind: any(test(kind) for test in _LISTS)),
    ("map", types.is_map),
    ("struct", types.is_struct),
)
_NUMBERS = ("int", "float")


def _family(kind: pa.DataType) -> str:
    return next((name for name, test in _FAMILIES if test(kind)), "other")


def canonical_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which an archive stores a type: the widest of its family."""
    widen = _WIDEST.get(_family(kind))
    return widen(kind) if widen else kind


def _of_dictionary(kind: pa.DictionaryType) -> pa.DataType:
    values = _family(kind.value_type)
    if values not in ("text", "bytes"):  # Parquet stores dictionaries of these only
        return canonical_type(kind.value_type)
    return pa.dictionary(pa.int32(), pa.string() if values == "text" else pa.binary())


def _in_parquet(kind: pa.TimestampType) -> pa.DataType:
    """Return the type of timestamps in a file: Parquet has no seconds, and some readers do not know every zone."""
    return pa.timestamp("ms" if kind.unit == "s" else kind.unit, None if kind.tz is None else "UTC")


_WIDEST: dict[str, Callable[[Any], pa.DataType]] = {
    "int": lambda kind: pa.uint64() if kind == pa.uint64() else pa.int64(),
    "float": lambda _: pa.float64(),
    "decimal": lambda _: _DECIMAL,
    "text": lambda _: pa.large_string(),
    "bytes": lambda _: pa.large_binary(),
    "utc": _in_parquet,
    "timestamp": _in_parquet,
    "date": lambda _: pa.date32(),
    "time": lambda kind: pa.time64("ns" if kind.unit == "ns" else "us"),
    "category": _of_dictionary,
    "list": lambda kind: pa.large_list(canonical_type(kind.value_type)),
    "map": lambda kind: pa.map_(canonical_type(kind.key_type), canonical_type(kind.item_type)),
    "struct": lambda kind: pa.struct([(field.name, canonical_type(field.type)) for field in kind]),
}


def canonical(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column in the type in which an archive stores it.

    raises    pyarrow.ArrowInvalid: a value that Parquet cannot hold, such as seconds beyond its milliseconds
    """
    wanted = canonical_type(column.type)
    if column.type == wanted:
        return column
    if types.is_dictionary(column.type):
        if not types.is_dictionary(wanted):
            return column.cast(column.type.value_type).cast(wanted)
        return pa.chunked_array([_as_dictionary(chunk, wanted) for chunk in column.chunks], wanted)
    if types.is_decimal(column.type):
        try:
            return column.cast(wanted)
        except pa.ArrowInvalid:  # more than 38 digits
            return pa.chunked_array([[None if v is None else str(v) for v in column.to_pylist()]], pa.large_string())
    return column.cast(wanted)


def _as_dictionary(chunk: pa.DictionaryArray, wanted: pa.DictionaryType) -> pa.DictionaryArray:
    """Return a dictionary array without nulls and duplicates in its dictionary, both of which Parquet refuses."""
    encoded = chunk.dictionary.dictionary_encode()
    indices = encoded.indices.take(chunk.indices)
    return pa.DictionaryArray.from_arrays(indices.cast(pa.int32()), encoded.dictionary.cast(wanted.value_type))


class Columns:
    """The columns of an archive: one type for each name, in all files.

    is_changed    whether columns were added since construction
    """

    def __init__(self, known: Mapping[str, pa.DataType] | None = None) -> None:
        """Start with the known columns."""
        self.types: dict[str, pa.DataType] = dict(known or {})
        self._names = {name.lower(): name for name in self.types}
        self.is_changed = False

    @property
    def schema(self) -> pa.Schema:
        """All columns, as the schema of a file."""
        return pa.schema(list(self.types.items()))

    def learn(self, schemas: Iterable[pa.Schema], *, as_they_are: bool = False) -> None:
        """Add the columns of these schemas, each with a type that holds the values of all of them, if one exists.

        as_they_are   the schemas belong to files of an archive: a column with one type in all of them keeps it
        """
        seen: dict[str, dict[pa.DataType, None]] = {}
        for schema in dict.fromkeys(schemas):
            for field in schema:
                kinds = seen.setdefault(field.name, {})
                if not types.is_null(field.type):
                    kinds[field.type] = None
        for name, kinds in seen.items():
            stored = self._stored(name)
            if not kinds and stored not in self.types:
                self._set(stored, pa.null())
            elif kinds and types.is_null(self.types.get(stored, pa.null())):
                is_settled = as_they_are and len(kinds) == 1
                self._set(stored, next(iter(kinds)) if is_settled else _widest(list(map(canonical_type, kinds))))

    def has(self, field: pa.Field) -> bool:
        """Return whether a file with this field can be read together with the other files."""
        known = self.types.get(field.name)
        if known is None or self._stored(field.name) != field.name:
            return False
        is_alike = _family(known) == _family(field.type) in ("text", "bytes")
        return is_alike or field.type == known or types.is_null(field.type)

    def keep(self, columns: "Columns", names: Iterable[str]) -> None:
        """Take over columns of another instance, with their types."""
        for name in names:
            if self.types.get(name) != columns.types[name]:
                self._set(name, columns.types[name])

    def fit(self, table: pa.Table, names: set[str] | None = None) -> pa.Table:
        """Return a table with the names and types of the archive.

        Columns of only nulls are left out; readers of the dataset fill them with nulls.

        names     collects the names of all columns, including those left out
        raises    pyarrow.ArrowException: a value that Parquet cannot hold
        """
        fitted: dict[str, pa.ChunkedArray] = {}
        for name, column in zip(table.column_names, table.columns, strict=True):
            stored = self._stored(name, fitted)
            if column.null_count < len(column):
                stored, fitted[stored] = self._place(name, canonical(column), fitted)
            elif stored not in self.types:
                self._set(stored, canonical_type(column.type))
            if names is not None:
                names.add(stored)
        return pa.table(fitted)

    def fit_all(self, tables: Iterable[pa.Table], names: set[str] | None = None) -> pa.Table:
        """Return tables as one, in order; each is fitted as if it were alone."""
        fitted: list[pa.Table] = []
        for _, run in itertools.groupby(tables, key=lambda table: table.schema):
            alike = list(run)
            together = self.fit(pa.concat_tables(alike), names)
            # A value that does not fit moves its own table's column only.
            as_usual = {self._stored(name) for name in alike[0].column_names}.issuperset(together.column_names)
            fitted += [together] if as_usual or len(alike) == 1 else [self.fit(table, names) for table in alike]
        return pa.concat_tables(fitted, promote_options="default")

    def _place(self, name: str, column: pa.ChunkedArray, taken: Mapping[str, Any]) -> tuple[str, pa.ChunkedArray]:
        for stored in self._candidates(name, column.type, taken):
            known = self.types.get(stored)
            if known is None or types.is_null(known):
                self._set(stored, column.type)
                return stored, column
            if (cast := _without_loss(column, known)) is not None:
                return stored, cast
        text = pa.chunked_array([_json(column)], pa.large_string())
        return self._place(f"{name}_json", text, taken)

    def _candidates(self, name: str, kind: pa.DataType, taken: Mapping[str, Any]) -> Iterator[str]:
        """Yield possible names for a column besides those that are taken; for text, endlessly."""
        yield self._stored(name, taken)
        beside = f"{name}_{_family(kind)}"
        yield self._stored(beside, taken)
        while _family(kind) == "text":  # text is the last resort of all other types
            beside += "_"
            yield self._stored(beside, taken)

    def _stored(self, name: str, taken: Mapping[str, Any] = MappingProxyType({})) -> str:
        """Return the stored name of a column, which differs from all others even for readers that ignore case."""
        name = name or "_"
        while name.lower() in RESERVED or name in taken or self._names.get(name.lower(), name) != name:
            name += "_"
        return name

    def _set(self, name: str, kind: pa.DataType) -> None:
        self.types[name] = kind
        self._names[name.lower()] = name
        self.is_changed = True


def _widest(kinds: list[pa.DataType]) -> pa.DataType:
    families = {_family(kind) for kind in kinds}
    if families <= set(_NUMBERS):
        return pa.float64() if "float" in families else next((k for k in kinds if k == pa.int64()), kinds[0])
    return next((kind for kind in kinds if types.is_dictionary(kind)), kinds[0]) if "text" in families else kinds[0]


def _without_loss(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray | None:
    """Return a column cast to another type if that changes no value, else None."""
    if column.type == wanted:
        return column
    if not _means_the_same(column.type, wanted):
        return None
    try:
        if types.is_dictionary(wanted):
            return pc.dictionary_encode(column.cast(wanted.value_type)).cast(wanted)
        if types.is_dictionary(column.type) and _unfolded(column) > _UNFOLD_BYTES:
            return None
        return column.cast(wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _means_the_same(one: pa.DataType, other: pa.DataType) -> bool:
    """Return whether a cast that does not raise keeps the meaning of values."""
    if types.is_null(one) or one == other:
        return True
    if types.is_dictionary(one) or types.is_dictionary(other):
        return _means_the_same(*[kind.value_type if types.is_dictionary(kind) else kind for kind in (one, other)])
    family = _family(one)
    if family in _NUMBERS and _family(other) in _NUMBERS:
        return other not in (pa.float16(), pa.float32())  # casts to these round silently
    if family != _family(other) or not types.is_nested(one):
        return family == _family(other) != "other"
    parts = [[kind.field(i) for i in range(kind.num_fields)] for kind in (one, other)]
    has_names = family != "struct" or [part.name for part in parts[0]] == [part.name for part in parts[1]]
    return has_names and all(_means_the_same(a.type, b.type) for a, b in zip(*parts, strict=True))


def _unfolded(column: pa.ChunkedArray) -> int:
    """Return an upper bound of the bytes that the values of dictionary arrays take in full."""
    total = 0
    for chunk in column.chunks:
        longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
        total += len(chunk) * (longest + 8)
    return total


def _json(column: pa.ChunkedArray) -> list[str | None]:
    return [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
