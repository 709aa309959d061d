#!/usr/bin/env bash
# streamz: `cumsum` of a streaming dataframe begins anew after a frame whose last value is missing
#
# Versions   streamz 0.6.6, pandas 3.1.1
# Expected   `sdf.x.cumsum()` continues over the frames as pandas does over all rows: pandas passes over missing values.
#            pandas documentation, `DataFrame.cumsum(skipna=True)`; streamz API page, "Cumulative sum".
# Happens    What is carried from frame to frame is the last row of the result. Where the last value is missing, so is that row, and the
#            sum of the next frame begins at zero. `cumprod`, `cummin` and `cummax` forget what they had in the same way; of several
#            columns, only those forget whose last value is missing.
# Matters    The running total of a sensor or a trade feed with gaps silently restarts at some frames and not at others, depending only on
#            where a gap falls among the frames.
# Known      No report found in the project's issues (November 2026).
# Seen       streamz 0.6.6, pandas 3.1.1
#            cumsum of [1, 2, nan] [4]: [1.0, 3.0, nan, 4.0]; of [1, 2] [nan, 4]: [1.0, 3.0, nan, 7.0]; pandas: [1.0, 3.0, nan, 7.0]
#            cummax of [5, nan] [2]: [5.0, nan, 2.0]; pandas: [5.0, nan, 5.0]
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check streamz==0.6.6 pandas==3.1.1

"$folder/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version
from math import nan

import pandas as pd
from streamz import Stream


def cumulative(operation, *parts):
    """Return all results of a cumulative operation for frames with these values of a column."""
    source = Stream()
    column = source.to_dataframe(example=pd.DataFrame({"x": [1.0]})).x
    found = getattr(column, operation)().stream.sink_to_list()
    for values in parts:
        source.emit(pd.DataFrame({"x": pd.Series(values, dtype="float64")}))
    return str(pd.concat(found).tolist())


print(f"streamz {version('streamz')}, pandas {version('pandas')}")
late, early = cumulative("cumsum", [1, 2, nan], [4]), cumulative("cumsum", [1, 2], [nan, 4])
by_pandas = str(pd.Series([1, 2, nan, 4]).cumsum().tolist())
print(f"cumsum of [1, 2, nan] [4]: {late}; of [1, 2] [nan, 4]: {early}; pandas: {by_pandas}")
highest, highest_by_pandas = cumulative("cummax", [5, nan], [2]), str(pd.Series([5, nan, 2]).cummax().tolist())
print(f"cummax of [5, nan] [2]: {highest}; pandas: {highest_by_pandas}")
assert early == by_pandas == "[1.0, 3.0, nan, 7.0]" and late == "[1.0, 3.0, nan, 4.0]", "behaviour changed"
assert highest == "[5.0, nan, 2.0]" and highest_by_pandas == "[5.0, nan, 5.0]", "behaviour changed"
PYTHON
