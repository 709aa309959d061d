#!/usr/bin/env bash
# polars: one file at the root of a hive-partitioned dataset removes every partition column, or makes the dataset unreadable
#
# Versions   polars 2.1.0 beside pyarrow 26.0.1 and duckdb 2.0.1
# Expected   Rows of partitions keep their partition's value; the rows of the file outside have null, as pyarrow.dataset gives them,
#            or an error says which file has no partition, as DuckDB does.
#            Reference of `polars.read_parquet`, `hive_partitioning`: "Infer statistics and schema from Hive partitioned URL and use
#            them to prune reads"; it is on by itself for a directory.
# Happens    It depends on the name of the file outside. If it sorts before the partitions, the partition columns vanish without a
#            word, even with `hive_partitioning=True`. If it sorts after them, reading raises a ShapeError about the height of a
#            column that names neither file nor partition.
# Matters    A file left over from before partitioning, or a summary written at the root, makes every row lose its day:
#            all rows are there, so a count does not show it; a filter or a group by day fails.
# Known      No report of this case found in the issues of pola-rs/polars (November 2026).
#            14319, closed, is about partition columns that were missing where all files lie in deeper folders.
# Seen       polars 2.1.0, pyarrow 26.0.1, duckdb 2.0.1
#            partitions only
#              polars: {'x': [1, 2, 3], 'day': ['2026-11-01', '2026-11-01', '2026-11-02']}
#            and a file a.parquet at the root
#              polars: {'x': [4, 1, 2, 3]}
#              pyarrow: {'x': [4, 1, 2, 3], 'day': [None, '2026-11-01', '2026-11-01', '2026-11-02']}
#              duckdb: BinderException: Binder Error: Hive partition mismatch between file "a/a.parquet" and [...]
#            and a file late.parquet at the root
#              polars: ShapeError: could not create a new DataFrame: height of column 'day' (2) does not match DataFrame height (3)
#              pyarrow: {'x': [1, 2, 3, 4], 'day': ['2026-11-01', '2026-11-01', '2026-11-02', None]}
#              duckdb: BinderException: Binder Error: Hive partition mismatch between file "late/day=2026-11-01/1.parquet" and [...]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check polars==2.1.0 pyarrow==26.0.1 duckdb==2.0.1

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
from pathlib import Path

import duckdb
import polars
import pyarrow
import pyarrow.dataset
import pyarrow.parquet

print(f"polars {polars.__version__}, pyarrow {pyarrow.__version__}, duckdb {duckdb.__version__}")


def write(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table({"x": values}), path)


def dataset(name):
    root = Path(name)
    write(root / "day=2026-11-01" / "1.parquet", [1, 2])
    write(root / "day=2026-11-02" / "1.parquet", [3])
    return root


def outcome(read):
    try:
        return read()
    except (polars.exceptions.PolarsError, duckdb.Error) as error:
        return f"{type(error).__name__}: {error}"


def by_polars(root):
    frame = polars.read_parquet(root, hive_partitioning=True)
    return frame.with_columns(polars.col(polars.Date).cast(polars.String)).to_dict(as_series=False)


def by_pyarrow(root):
    return pyarrow.dataset.dataset(root, partitioning="hive").to_table().to_pydict()


def by_duckdb(root):
    return duckdb.sql(f"SELECT * FROM read_parquet('{root}/**/*.parquet', hive_partitioning = true)").fetchall()


days = ["2026-11-01", "2026-11-01", "2026-11-02"]
print("partitions only")
seen = by_polars(dataset("partitions"))
print("  polars:", seen)
assert seen == {"x": [1, 2, 3], "day": days}, "behaviour changed"

for name, polars_saw, pyarrow_saw in (
    ("a", {"x": [4, 1, 2, 3]}, {"x": [4, 1, 2, 3], "day": [None, *days]}),
    ("late", "ShapeError: could not create a new DataFrame: height of column 'day' (2)", {"x": [1, 2, 3, 4], "day": [*days, None]}),
):
    root = dataset(name)
    write(root / f"{name}.parquet", [4])
    print(f"and a file {name}.parquet at the root")
    seen = outcome(lambda: by_polars(root))
    print("  polars:", seen)
    assert seen == polars_saw or str(seen).startswith(str(polars_saw)), "behaviour changed"
    seen = by_pyarrow(root)
    print("  pyarrow:", seen)
    assert seen == pyarrow_saw, "behaviour changed"
    seen = outcome(lambda: by_duckdb(root))
    print("  duckdb:", seen)
    assert "Hive partition mismatch" in seen, "behaviour changed"
PYTHON
