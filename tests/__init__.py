"""The tests. Settings here take effect before any other import."""

import os
import signal

# A test process has at most one core to itself, on which a second NumPy thread would only spin.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell without job control starts background jobs with SIGINT ignored, which the processes of tests would inherit: none of
# them would end at a Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
