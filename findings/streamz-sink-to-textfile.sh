#!/usr/bin/env bash
# streamz: destroying `sink_to_textfile` does not close its file, so the last elements are not in it
#
# Versions   streamz 0.6.6, tornado 6.6.1
# Expected   After `sink.destroy()` the file is closed and holds every element.
#            The docstring (API page): "Note that the file descriptor will be closed when this sink is destroyed";
#            its example even reads the elements back before the sink is destroyed.
# Happens    `destroy` only unhooks the node. The file is closed by a finalizer of the Python object, that is, when the last reference
#            to the sink has gone, and nothing flushes before: what fits the buffer of the file is on no disk until then.
# Matters    A program that stops its pipeline, then reads or uploads the file, works on a truncated file without an error.
# Known      The pull request that added the sink (386) discussed line buffering and `__del__`; what was merged has neither.
#            No later report found in the project's issues (November 2026).
# Seen       streamz 0.6.6, tornado 6.6.1
#            example of the docstring, two elements emitted, the file holds: ''
#            after destroy(): the file holds ''; closed: False
#            after the last reference has gone: the file holds '0\n1\n'
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check streamz==0.6.6 tornado==6.6.1

cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import gc
from importlib.metadata import version
from pathlib import Path

from streamz import Stream

print(f"streamz {version('streamz')}, tornado {version('tornado')}")
written = Path("test.txt")
source = Stream()
sink = source.map(str).sink_to_textfile("test.txt")
source.emit(0)
source.emit(1)
print(f"example of the docstring, two elements emitted, the file holds: {written.read_text()!r}")
assert written.read_text() == "", "behaviour changed: elements are flushed"

sink.destroy()
file = sink._fp  # kept only to ask whether it is closed
print(f"after destroy(): the file holds {written.read_text()!r}; closed: {file.closed}")
assert (written.read_text(), file.closed) == ("", False), "behaviour changed: destroy closes the file"

del sink
gc.collect()
print(f"after the last reference has gone: the file holds {written.read_text()!r}")
assert (written.read_text(), file.closed) == ("0\n1\n", True), "behaviour changed"
PYTHON
