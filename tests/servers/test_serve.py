"""Workarounds in Prefect's server: garbage collection outside the event loop, websockets outside the limit."""

import contextlib
import subprocess
import sys

from websockets import Subprotocol
from websockets.sync.client import connect

from deployments.servers.prefect_server import answers
from tests.support.plain import Plain

CODE = """
import gc, threading, weakref
from deployments.servers.serve import collect_aside

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


def test_garbage_is_collected_in_a_dedicated_thread_only() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=240)


def test_open_websockets_leave_the_server_open_for_requests(prefect_server: Plain) -> None:
    api = prefect_server.env["PREFECT_API_URL"]
    with contextlib.ExitStack() as stack:
        for _ in range(110):  # Prefect's own limit is 100
            stack.enter_context(
                connect(f"{api.replace('http', 'ws', 1)}/events/in", proxy=None, subprotocols=[Subprotocol("prefect")])
            )
        assert answers(api, timeout=10)
