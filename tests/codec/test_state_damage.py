"""Bytes of any kind, damaged states too, either decode or raise a PoisonEntryError, and take little memory."""

import contextlib
import subprocess
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.codec import decode_state, encode_state
from tasks.errors import EncodeError, PoisonEntryError
from tests.support.damage import outcomes_of
from tests.support.states import states


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x02\xc0", b"\x80", b"\xff\xff\xff\xff"])
def test_bytes_of_another_format_are_refused_with_its_number(data: bytes) -> None:
    got = f"format {data[0]}" if data else "nothing"
    with pytest.raises(
        PoisonEntryError, match=f"^state: expected format 1, got {got}; update Sluice, or reset the state"
    ):
        decode_state(data)


@given(st.binary(max_size=60))
def test_any_bytes_of_format_1_decode_or_are_poison(data: bytes) -> None:
    try:
        decode_state(b"\x01" + data)
    except PoisonEntryError as error:
        assert "expected what was encoded" in str(error)  # noqa: PT017


@given(states, st.data())
def test_cut_off_bytes_are_poison(value: Any, data: st.DataObject) -> None:
    whole = encode_state(value)
    with pytest.raises(PoisonEntryError):
        decode_state(whole[: data.draw(st.integers(0, len(whole) - 1))])


@given(states, st.data())
def test_a_flipped_bit_gives_a_value_or_is_poison(value: Any, data: st.DataObject) -> None:
    damaged = bytearray(encode_state(value))
    at = data.draw(st.integers(0, 8 * len(damaged) - 1))
    damaged[at // 8] ^= 1 << at % 8
    try:
        found = decode_state(bytes(damaged))
    except PoisonEntryError:
        return
    with contextlib.suppress(EncodeError):
        encode_state(found)


pack = msgspec.msgpack.encode


def tagged(tag: int, *parts: Any) -> bytes:
    return b"\x01" + pack(msgspec.msgpack.Ext(tag, pack(parts)))


@pytest.mark.parametrize(
    "data",
    [
        b"\x01" + pack(msgspec.msgpack.Ext(1, pack(5))),  # parts that are no list
        tagged(63),
        tagged(64, 1),
        tagged(4, 1),  # half a pair
        tagged(2, []),  # not hashable
        tagged(7, "print", 1, 2),
        tagged(7, "os.system", "ls", 1),
        tagged(8, "x", 1),
        tagged(9, 10**9),
        tagged(9, [1]),  # int.from_bytes takes a list too
        tagged(11, 10**12),  # bytearray(10**12) is a terabyte
        tagged(13, [0, [1], 5]),
        tagged(14, "1e999999999", None),  # Fraction would compute it
        tagged(14, 1, 0),
        tagged(15, 2024, 13, 1),
        tagged(20, "../../etc/passwd"),
        tagged(20, "no/such/zone"),
        tagged(21, b"short"),
        tagged(22, 0, 1, 0),
        tagged(32, "O", b"12345678"),
        tagged(32, "<f8", b"1234"),
        tagged(35, "<f8", [10**12], "C", b"x"),
        tagged(35, "<f8", [-1, -1], "C", b"12345678"),
        tagged(35, "O", [1], "C", b"12345678"),
        tagged(35, [["a", "O"]], [1], "C", b"12345678"),
        tagged(35, None, [10**12], "C", 1),
        tagged(40, 1, "D", None),
        tagged(46, b"\xff\xff\xff\xff"),
        tagged(46, b"{}"),
        tagged(47, b""),
    ],
    ids=lambda data: repr(data)[:50],
)
def test_parts_that_no_value_has_are_poison(data: bytes) -> None:
    with pytest.raises(PoisonEntryError):
        decode_state(data)


# In a process of its own, whose peak of memory is measured and whose crash is seen.
BOMBS = """
import resource, struct, sys
import msgspec, numpy as np, pandas as pd, pyarrow as pa
from tasks.codec import decode_state, encode_state
from tasks.errors import PoisonEntryError
pack, Ext = msgspec.msgpack.encode, msgspec.msgpack.Ext
n, levels = 1_000_000, 400
claims = b"".join(b"\\xdd" + struct.pack(">I", n - 5 * (i + 1)) for i in range(levels)) + b"\\xc0" * (n - 5 * levels)
sink = pa.BufferOutputStream()
batch = pa.record_batch({"a": np.zeros(8_000_000)})
with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
    writer.write_batch(batch)
del batch
nest = b"\\xc0"
for _ in range(3000):
    nest = pack(Ext(1, b"\\x91" + nest))
bombs = [claims, b"\\x91" * 100_000, nest, pack(Ext(46, pack([sink.getvalue().to_pybytes()]))), b"\\xdd\\xff\\xff\\xff\\xff",
    b"\\xdf\\x7f\\xff\\xff\\xff", b"\\xc9\\xff\\xff\\xff\\xff\\x01", pack(Ext(11, pack([10**10])))]
encode_state(pd.NaT)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        decode_state(b"\\x01" + bomb)
    except PoisonEntryError:
        continue
    raise SystemExit("a value")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bytes_that_claim_gigabytes_or_thousands_of_levels_are_poison() -> None:
    done = subprocess.run([sys.executable, "-c", BOMBS], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) < 200  # MB


MUTATE = """
import warnings
import numpy as np, pandas as pd
from tasks.codec import decode_state, encode_state
from tests.support.damage import damage_and_decode
warnings.simplefilter("ignore")
frame = pd.DataFrame({"f": np.arange(8.0), "s": ["a", "é"] * 4, "o": pd.Series([{"a": 1}, None] * 4, dtype=object)},
    index=pd.MultiIndex.from_product([range(4), ["a", "b"]]))
seeds = [encode_state(value) for value in (
    frame, frame["s"], frame.index, pd.Categorical(["a", None]), pd.Timestamp("2024", tz="Europe/Berlin"), pd.Period("2024", "M"),
    np.eye(3), np.array([(1, b"x")], dtype=[("a", "u1"), ("b", "S1")]), np.array([[1, "x"]], dtype=object),
    {"a": [(1.5, {2, 3}), {(1, 2): b"x"}], 3: [None, True, "text" * 9]},
)]
damage_and_decode(seeds, decode_state, start=1)
"""


def test_damaged_states_crash_no_process_and_raise_only_poison_errors() -> None:
    assert min(outcomes_of(MUTATE)) > 300  # else this tests nothing
