"""A real PostgreSQL for tests, in a folder of its own, on a socket in that folder."""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

__all__ = ["postgres_server"]


@contextmanager
def postgres_server() -> Iterator[str]:
    """Run a server; yield its address for SQLAlchemy with asyncpg. Skip the test if the machine has no PostgreSQL."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))])
    programs = {name: shutil.which(name, path=places) for name in ("initdb", "postgres")}
    if not all(programs.values()):
        pytest.skip("there is no initdb or postgres on the PATH or where Debian has it (apt-get install postgresql)")
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        names = {each.pw_name for each in pwd.getpwall()}
        user = next((name for name in ("postgres", "nobody") if name in names), None)
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path may have 107 bytes
        if user:
            shutil.chown(folder, user)
        data = Path(folder) / "data"
        ours = {"user": user, "cwd": "/", "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        create = [programs["initdb"], "-D", data, "-U", "sluice", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(create, check=True, capture_output=True, timeout=100, **ours)  # type: ignore[call-overload]
        serve = [programs["postgres"], "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **ours) as server:  # type: ignore[call-overload]
            try:
                for line in server.stderr:
                    if b"ready to accept connections" in line:
                        break
                else:
                    pytest.fail("PostgreSQL has ended before it was ready")
                yield f"postgresql+asyncpg://sluice@/postgres?host={folder}"
            finally:
                server.terminate()
                server.communicate(timeout=60)
