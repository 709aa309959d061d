"""The tests. What is set here is so before anything else is imported."""

import os

# Each process of the tests has a core or less to itself: a second thread of NumPy's does nothing there but spin.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
