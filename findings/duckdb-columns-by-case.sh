#!/usr/bin/env bash
# DuckDB: `union_by_name` puts values under the wrong column when column names differ only in case
#
# Versions   duckdb 2.0.1 beside pyarrow 26.0.1 and polars 2.1.0
# Expected   Two Parquet files with the columns `bid` and `Bid`, in different order, are combined by name, or refused.
#            Documentation, "Combining Schemas": with `union_by_name` columns are unified by name rather than by position.
#            Parquet's specification has no rule against names that differ in case only; pyarrow and polars keep them apart.
# Happens    DuckDB makes names unique per file, without regard to case, in the order of that file: the second of the pair
#            becomes `Bid_1` in one file and `bid_1` in the other, and these are then taken for the same column.
#            Values of `bid` and `Bid` change places in the second file, without an error or a warning.
# Matters    Archives of frames that come from other programs: names that differ in case (`p` and `P`, `bid` and `Bid`) are common in
#            market and sensor data, and the order of columns follows whatever produced the frame. Sums and averages come out wrong.
# Known      That DuckDB ignores case in identifiers is documented and intended (issue 8803 of duckdb/duckdb). Names that differ in
#            case were refused in one file (13053) and beside a partition key (15175) until both were changed to be read.
#            No report found of values that change places between files (November 2026).
# Seen       duckdb 2.0.1, pyarrow 26.0.1, polars 2.1.0
#            written: {'bid': [1.0], 'Bid': [100.0]} and {'Bid': [200.0], 'bid': [2.0]}
#            pyarrow: {'bid': [1.0, 2.0], 'Bid': [100.0, 200.0]}
#            polars: {'bid': [1.0, 2.0], 'Bid': [100.0, 200.0]}
#            duckdb: {'bid': [1.0, 200.0], 'Bid_1': [100.0, 2.0]}
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check duckdb==2.0.1 pyarrow==26.0.1 polars==2.1.0

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import duckdb
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

print(f"duckdb {duckdb.__version__}, pyarrow {pyarrow.__version__}, polars {polars.__version__}")


def read_by_duckdb(query):
    relation = duckdb.sql(query)
    return dict(zip(relation.columns, map(list, zip(*relation.fetchall()))))


first, second = {"bid": [1.0], "Bid": [100.0]}, {"Bid": [200.0], "bid": [2.0]}
Path("quotes").mkdir()
pyarrow.parquet.write_table(pyarrow.table(first), "quotes/1.parquet")
pyarrow.parquet.write_table(pyarrow.table(second), "quotes/2.parquet")
print(f"written: {first} and {second}")
right = {"bid": [1.0, 2.0], "Bid": [100.0, 200.0]}
by_pyarrow = pyarrow.dataset.dataset("quotes").to_table().to_pydict()
by_polars = polars.read_parquet("quotes/*.parquet").to_dict(as_series=False)
by_duckdb = read_by_duckdb("SELECT * FROM read_parquet('quotes/*.parquet', union_by_name = true)")
print(f"pyarrow: {by_pyarrow}\npolars: {by_polars}\nduckdb: {by_duckdb}")
assert by_pyarrow == by_polars == right, "behaviour changed"
assert by_duckdb == {"bid": [1.0, 200.0], "Bid_1": [100.0, 2.0]}, "behaviour changed"
PYTHON
