"""Random damage to encoded values: a decoder returns a value or raises a PoisonEntryError, and never crashes its process."""

import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from tasks.errors import PoisonEntryError

__all__ = ["damage_and_decode", "outcomes_of"]

ROUNDS = 3000


def outcomes_of(script: str) -> tuple[int, int]:
    """Run a script that calls `damage_and_decode`, in a process whose crash is noticed; return the numbers that it prints."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values, poison = map(int, done.stdout.split())
    return values, poison


def damage_and_decode(seeds: Sequence[bytes], decode: Callable[[bytes], Any], *, start: int) -> None:
    """Decode randomly damaged copies of `seeds`, and print how many became values and how many were poison.

    start    the number of bytes at the beginning that stay as they are
    """
    dice = random.Random(1)
    values = poison = 0
    for _ in range(ROUNDS):
        data = bytearray(dice.choice(seeds))
        for _ in range(dice.choice([1, 1, 2, 8])):
            at = dice.randrange(start, len(data))
            flipped = data[at] ^ (1 << dice.randrange(8))
            data[at] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256), flipped])
        if dice.random() < 0.1:
            del data[dice.randrange(start, len(data)) :]
        try:
            value = decode(bytes(data))
        except PoisonEntryError:
            poison += 1
            continue
        values += 1
        try:  # touch every value; errors of pandas about the year 292017 are not the decoder's
            repr(value)
            if isinstance(value, (pd.DataFrame, pd.Series)):
                value.memory_usage(deep=True)
                value.copy().to_numpy().tolist()
        except Exception:  # noqa: BLE001
            continue
    print(values, poison)  # noqa: T201 - for `outcomes_of`
