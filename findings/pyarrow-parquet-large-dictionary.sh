#!/usr/bin/env bash
# pyarrow: Parquet changes the type of categories: a dictionary of large strings comes back as a dictionary of strings
#
# Versions   pyarrow 26.0.1, pandas 3.1.1
# Expected   `read_table(write_table(table))` has the schema of the table.
#            Reference of `pyarrow.parquet.write_table`, `store_schema` (on by itself): the Arrow schema is kept in the file
#            "to more faithfully recreate the original Arrow data". Plain `large_string` columns and dictionaries of `string` do come back.
# Happens    A dictionary whose values are `large_string` comes back with values of type `string`. Categories of pandas 3 (and
#            of polars) are such dictionaries, because their strings are `large_string`.
# Matters    Code that appends to what it has read, or compares schemas before it does, fails on the first category, although
#            nothing but a file lies between: `concat_tables` of the table and its own copy raises, and so does a ParquetWriter.
# Known      Yes: issue 37875 of apache/arrow, open since September 2023. A cast to the old schema restores the type.
# Seen       pyarrow 26.0.1, pandas 3.1.1
#            dictionary<values=string, indices=int32, ordered=0> comes back unchanged: True
#            large_string comes back unchanged: True
#            a pandas categorical is dictionary<values=large_string, indices=int8, ordered=0>
#            it comes back as dictionary<values=string, indices=int8, ordered=0>
#            concat_tables: ArrowInvalid: Schema at index 1 was different:
#            ParquetWriter: ValueError: Table schema does not match schema used to create file:
#            after a cast to the old schema they are equal: True
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pyarrow==26.0.1 pandas==3.1.1

"$folder/venv/bin/python" - <<'PYTHON'
import io

import pandas
import pyarrow
import pyarrow.parquet

print(f"pyarrow {pyarrow.__version__}, pandas {pandas.__version__}")


def through_parquet(table):
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    file.seek(0)
    return pyarrow.parquet.read_table(file)


for column in (pyarrow.array(["a", "b"]).dictionary_encode(), pyarrow.array(["a", "b"], pyarrow.large_string())):
    table = pyarrow.table({"c": column})
    same = through_parquet(table).schema.equals(table.schema)
    print(f"{column.type} comes back unchanged: {same}")
    assert same, "behaviour changed"

frame = pandas.DataFrame({"c": pandas.Categorical(["a", "b", "a"])})
table = pyarrow.Table.from_pandas(frame)
read = through_parquet(table)
print(f"a pandas categorical is {table.schema.field('c').type}")
print(f"it comes back as {read.schema.field('c').type}")
assert table.schema.field("c").type == pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()), "behaviour changed"
assert read.schema.field("c").type == pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), "behaviour changed"


def refusal(function):
    try:
        function()
    except (pyarrow.ArrowInvalid, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0].strip()}"
    raise AssertionError("behaviour changed: not refused")


def append_to_file():
    with pyarrow.parquet.ParquetWriter(io.BytesIO(), table.schema) as writer:
        writer.write_table(read)


print("concat_tables:", refusal(lambda: pyarrow.concat_tables([table, read])))
print("ParquetWriter:", refusal(append_to_file))
print("after a cast to the old schema they are equal:", read.cast(table.schema).equals(table))
assert read.cast(table.schema).equals(table), "behaviour changed"
PYTHON
