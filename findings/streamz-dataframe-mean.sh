#!/usr/bin/env bash
# streamz: the mean of a streaming dataframe counts an empty first frame as a row, and stays too small for good
#
# Versions   streamz 0.6.6, pandas 3.1.1
# Expected   `sdf.x.mean()` is the mean of all rows so far: 3.0 after the values 1 and 5, however they are cut into frames.
#            streamz documentation, "DataFrames": the streaming dataframe offers the aggregations of pandas over all data so far.
# Happens    While the aggregation has counted no value, it sets its count to 1, so that it can divide, and keeps that 1: values
#            that come later are added to it. So do frames whose values are all missing, and a time window that was empty.
# Matters    A source that polls before its market opens, or whose sensor reports nothing at first, begins with such a frame. Nothing
#            fails, and no later frame mends the result: after an empty frame and two rows it is 2/3 of the mean.
# Known      No report found in the project's issues (November 2026).
# Seen       streamz 0.6.6, pandas 3.1.1
#            frames [1, 5]: mean 3.0; frames [], [1, 5]: mean 2.0; frames [nan], [1, 5]: mean 2.0; pandas: 3.0
#            sum and count after [], [1, 5]: 6.0 and 2
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


def latest(aggregate, *parts):
    """Return the last result of a streaming dataframe for frames with these values of a column."""
    source = Stream()
    found = aggregate(source.to_dataframe(example=pd.DataFrame({"x": [1.0]})).x).stream.sink_to_list()
    for values in parts:
        source.emit(pd.DataFrame({"x": pd.Series(values, dtype="float64")}))
    return float(found[-1])


def mean(*parts):
    return latest(lambda column: column.mean(), *parts)


print(f"streamz {version('streamz')}, pandas {version('pandas')}")
full, empty, missing = mean([1, 5]), mean([], [1, 5]), mean([nan], [1, 5])
by_pandas = float(pd.Series([nan, 1, 5]).mean())
print(f"frames [1, 5]: mean {full}; frames [], [1, 5]: mean {empty}; frames [nan], [1, 5]: mean {missing}; pandas: {by_pandas}")
total, count = latest(lambda column: column.sum(), [], [1, 5]), latest(lambda column: column.count(), [], [1, 5])
print(f"sum and count after [], [1, 5]: {total} and {count:.0f}")
assert full == by_pandas == 3.0 and (total, count) == (6.0, 2.0), "behaviour changed"
assert empty == missing == 2.0, "behaviour changed"
PYTHON
