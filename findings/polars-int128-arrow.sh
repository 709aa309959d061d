#!/usr/bin/env bash
# polars: a column of Int128 crosses the Arrow PyCapsule interface under a format that no other library knows
#
# Versions   polars 2.1.0 beside pyarrow 26.0.1
# Expected   Arrow's C data interface lists its formats; a producer exports one of them (a decimal of width 128 holds such integers), or
#            marks its own type as an extension type over one of them, or raises an error of its own.
# Happens    `DataFrame.__arrow_c_stream__` exports the format string '_pli128'. pyarrow refuses the whole frame, not the column.
#            Int64 beside it, and the same values as Decimal(38, 0), cross without loss.
# Matters    A frame with one such column (a sum of 64-bit integers cast to avoid overflow, say) cannot be handed to any Arrow library,
#            and the error names neither the column nor polars' type.
# Seen       polars 2.1.0, pyarrow 26.0.1
#            Int64: int64 [1]
#            Decimal(38, 0): decimal128(38, 0) [Decimal('1')]
#            Int128: ArrowInvalid: Invalid or unsupported format string: '_pli128'
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check polars==2.1.0 pyarrow==26.0.1

"$folder/venv/bin/python" - <<'PYTHON'
import polars
import pyarrow

print(f"polars {polars.__version__}, pyarrow {pyarrow.__version__}")
expected = {
    "Int64": "int64 [1]",
    "Decimal(38, 0)": "decimal128(38, 0) [Decimal('1')]",
    "Int128": "ArrowInvalid: Invalid or unsupported format string: '_pli128'",
}
for name, kind in {"Int64": polars.Int64, "Decimal(38, 0)": polars.Decimal(38, 0), "Int128": polars.Int128}.items():
    frame = polars.DataFrame({"n": [1]}).with_columns(polars.col("n").cast(kind))
    try:
        column = pyarrow.table(frame).column("n")
        seen = f"{column.type} {column.to_pylist()}"
    except pyarrow.ArrowInvalid as error:
        seen = f"ArrowInvalid: {error}"
    print(f"{name}: {seen}")
    assert seen == expected[name], "behaviour changed"
PYTHON
