"""The login of the Prefect server of `sluice up`: a secret that its first start creates, readable by this user only.

The secret is stored in the state folder. The server, the worker and its runs receive it in their environment, never on a
command line. `prefect` and scripts find it in `prefect.toml` in the checkout, which exists while the server runs.
"""

import json
import os
import secrets
import tomllib
from pathlib import Path

from tasks.base.state_folder import make_private
from tasks.errors import SettingsError

__all__ = [
    "keep_from_others",
    "make_secret",
    "offer",
    "secret_file",
    "settings",
    "stored_secret",
    "use_stored",
    "withdraw",
]

_CLIENTS, _SERVERS = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"
_TOML = "prefect.toml"
_MARK = "# Made by `sluice up`, which removes it when it stops: how `prefect` reaches its server from this folder.\n"


def secret_file(folder: Path) -> Path:
    """Return the file in a state folder that holds only the secret."""
    return folder / "prefect-login"


def make_secret(folder: Path) -> str:
    """Return the secret for the server of `sluice up`; create it if there is none yet.

    PREFECT_SERVER_API_AUTH_STRING overrides it, and is then stored in its place.

    folder    the state folder; created if it is missing
    """
    make_private(folder)
    secret = os.environ.get(_SERVERS) or stored_secret(folder) or secrets.token_urlsafe(32)
    _write(secret_file(folder), secret + "\n")
    return secret


def stored_secret(folder: Path) -> str | None:
    """Return the secret in a state folder, or None if there is none.

    raises    SettingsError: it cannot be read
    """
    file = secret_file(folder)
    try:
        return file.read_text().strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        msg = f"expected the login of Prefect's server in {file}, got a file that cannot be read ({type(error).__name__}); remove it, and start `sluice up` again"
        raise SettingsError(msg) from error


def settings(secret: str, *, port: int) -> tuple[dict[str, str], dict[str, str]]:
    """Return the environment for a server that requires the secret: defaults that a user may change, and fixed values."""
    defaults = {
        # The two origins that a browser on this machine uses; Prefect's default admits every origin.
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
    }
    return defaults, {_SERVERS: secret, _CLIENTS: secret}


def offer(root: Path, folder: Path, url: str, secret: str) -> bool:
    """Write `prefect.toml` so that `prefect` finds the server from the folder `root`; return whether it was written.

    It is not written if the user has a `prefect.toml` there, or uses another state folder: stacks may share a checkout.
    """
    file = root / _TOML
    if folder != root / ".sluice" or (file.exists() and not _is_ours(file)):
        return False
    values = {"url": url, "auth_string": secret}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in values.items()]
    # For the links that `prefect` prints: version 1 of the UI draws no diagrams (Prefect 3.9.1).
    ui = f"ui_url = {json.dumps(url.removesuffix('/api') + '/v2')}\n"
    _write(file, "".join([_MARK, "\n", ui, "\n[api]\n", *lines]))
    return True


def withdraw(root: Path, folder: Path) -> None:
    """Delete the file that `offer` has written."""
    file = root / _TOML
    if folder == root / ".sluice" and _is_ours(file):
        file.unlink(missing_ok=True)


def keep_from_others() -> None:
    """Keep the secret from a server that PREFECT_API_URL names, to which Prefect would send it from the checkout.

    Call this before Prefect is imported. Settings of the user take precedence.
    """
    url, file = os.environ.get("PREFECT_API_URL"), Path(_TOML)
    if url and _CLIENTS not in os.environ and _is_ours(file):
        named = tomllib.loads(file.read_text()).get("api", {}).get("url")
        if url.rstrip("/") != named:
            os.environ[_CLIENTS] = ""  # overrides the file with no login


def use_stored(folder: Path) -> None:
    """Let Prefect use the secret of a state folder in this process, once it is imported."""
    if _CLIENTS not in os.environ and (secret := stored_secret(folder)):
        os.environ[_CLIENTS] = secret


def _is_ours(file: Path) -> bool:
    try:
        return file.read_text().startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _write(file: Path, text: str) -> None:
    """Write a file that only this user can read, completely or not at all."""
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as written:  # noqa: PTH123 - of a descriptor
        written.write(text)
    fresh.replace(file)
