"""Garbage collection beside the event loop."""

import subprocess
import sys

CODE = """
import gc, threading, weakref
from deployments.serve import collect_aside

collected_in = []
class Cycle:
    def __init__(self):
        self.me = self
        weakref.finalize(self, lambda: collected_in.append(threading.current_thread().name))

collect_aside(young=0.01)
event = threading.Event()
while len(collected_in) < 1000:  # far more than the 700 at which the collector would run here
    Cycle()
    event.wait(0.00001)
assert set(collected_in) == {"garbage collection"}, set(collected_in)
"""


def test_no_thread_but_one_of_its_own_collects_garbage() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=30)
