#!/usr/bin/env bash
# streamz: `rolling(n, min_periods=...)` of a streaming dataframe ignores `min_periods`, and its default of 1 as well
#
# Versions   streamz 0.6.6, pandas 3.1.1
# Expected   The signature is `rolling(window, min_periods=1, ...)`: as in pandas, a row has a result as soon as its window holds
#            `min_periods` values. streamz API page, `DataFrame.rolling`; pandas documentation, `DataFrame.rolling(min_periods=)`.
# Happens    The value is stored and never passed to pandas, which takes the window's length instead. The first n - 1 rows of the
#            stream have no result, and neither have the n - 1 rows behind each missing value.
# Matters    A rolling mean over a feed with gaps has no value for n rows after every gap, though the signature promises one.
# Known      No report found in the project's issues (November 2026).
# Seen       streamz 0.6.6, pandas 3.1.1
#            rolling(3), sum of [1, 2] [nan, 4, 8]: [nan, nan, nan, nan, nan]; with min_periods=1 the same
#            pandas, min_periods=1: [1.0, 3.0, 3.0, 6.0, 12.0]
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

PARTS = [[1.0, 2.0], [nan, 4.0, 8.0]]


def rolling_sums(**options):
    """Return all results of a rolling sum over three rows of two frames."""
    source = Stream()
    column = source.to_dataframe(example=pd.DataFrame({"x": [1.0]})).x
    found = column.rolling(3, **options).sum().stream.sink_to_list()
    for values in PARTS:
        source.emit(pd.DataFrame({"x": values}))
    return str(pd.concat(found).tolist())


print(f"streamz {version('streamz')}, pandas {version('pandas')}")
plain, with_option = rolling_sums(), rolling_sums(min_periods=1)
by_pandas = str(pd.Series(sum(PARTS, [])).rolling(3, min_periods=1).sum().tolist())
print(f"rolling(3), sum of [1, 2] [nan, 4, 8]: {plain}; with min_periods=1: {with_option}")
print(f"pandas, min_periods=1: {by_pandas}")
assert plain == with_option == "[nan, nan, nan, nan, nan]", "behaviour changed"
assert by_pandas == "[1.0, 3.0, 3.0, 6.0, 12.0]", "behaviour changed"
PYTHON
