"""The tests. Settings here take effect before any other import."""

import os

# A test process has at most one core to itself, on which a second NumPy thread would only spin.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
