"""Imports of a run, which Prefect starts in a process of its own."""

import subprocess
import sys
from pathlib import Path


def test_a_run_of_plain_values_loads_neither_pandas_nor_arrow() -> None:
    # Without the extra `dask`: streamz 0.6.6 imports dask and distributed where they are installed, and numpy with them.
    code = "import sys; sys.modules.update(dask=None, distributed=None); import flows.clock; print({'numpy', 'pandas', 'pyarrow'} & set(sys.modules))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "set()\n"
