"""Where secrets may be: the environment, and files that their owner alone can read."""

import os
import stat
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from sweep.errors import CommandError

SECRET_OPTIONS = ("password", "passwd", "sslpassword")  # of a database's address, behind its ?


def read_secret(path: Path) -> str:
    """What a secret's file holds, without the space around it.

    Raises CommandError for a file that others than its owner may read or write, or that cannot be
    read.
    """
    check_private(path)
    try:
        return path.read_text().strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds no text"
        raise CommandError(f"{path} must be readable, but: {reason}", exit_code=2) from None


def check_private(path: Path) -> None:
    """Raise CommandError for a file that others than its owner may read or write."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise CommandError(f"{path} must be readable, but: {error.strerror}", exit_code=2) from None
    if mode & 0o077:
        raise CommandError(
            f"{path} holds a secret, so its mode must be 0600, but got {mode:04o}; "
            f"chmod 600 {path}",
            exit_code=2,
        )


def has_password(uri: str) -> bool:
    """Whether an address carries a password, or a user that may be a token."""
    try:
        parts = urlsplit(uri)
        return (
            parts.password is not None
            or (parts.scheme in ("http", "https") and parts.username is not None)
            or any(name in SECRET_OPTIONS for name, _ in parse_qsl(parts.query))
        )
    except ValueError:  # a password may hold what no address can
        return "@" in uri


def check_tracking(uri: str) -> None:
    """Raise CommandError for a tracking URI with a password, or a password's file others may read.

    The URI is written into the sweep's own files, and into records that many may read.
    """
    if has_password(uri):
        raise CommandError(
            "MLFLOW_TRACKING_URI must hold no user and password, for it is kept with the sweep, "
            "but it holds one; set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or for a "
            "database PGPASSWORD",
            exit_code=2,
        )
    credentials = Path.home() / ".mlflow" / "credentials"
    set_here = os.environ.get("MLFLOW_TRACKING_PASSWORD") or os.environ.get("MLFLOW_TRACKING_TOKEN")
    if uri.startswith(("http:", "https:")) and not set_here and credentials.exists():
        check_private(credentials)
