"""Run `sluice` as `python -m deployments`; in a Python without Sluice, print how to install it."""

import sys
from pathlib import Path

_HERE = f"this Python ({sys.version.split()[0]}, {sys.executable})"
_IS_CLONE = Path(__file__).resolve().parents[1].joinpath("Makefile").is_file()
_DO = "run `make up`, then .venv/bin/sluice" if _IS_CLONE else "install Sluice's wheel anew, with what it requires"

if not (3, 11) <= sys.version_info[:2] <= (3, 14):
    sys.exit(f"sluice: expected Python 3.11 to 3.14, got {_HERE}; {_DO}")
try:
    from deployments.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"sluice: {_HERE} has no module {error.name!r}: Sluice is not installed for it; {_DO}")

main()
