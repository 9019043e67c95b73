"""The address of a shared ledger's database, which is kept and shown without its password.

A password comes from SWEEP_STORAGE, an address with everything in it, or from where the database's
own client looks: for PostgreSQL PGPASSWORD, or a password file that only its owner reads.
"""

import os
import weakref
from typing import Any

from sweep.errors import CommandError
from sweep.secrecy import SECRET_OPTIONS

VARIABLE = "SWEEP_STORAGE"
_POSTGRES = ("postgresql://", "postgres://")


def kept_address(url: str) -> str:
    """The address to be kept with a sweep; CommandError for a password that is not ours to keep."""
    bare = _without_secret(url)
    if bare != url and url != os.environ.get(VARIABLE):
        raise CommandError(
            f"a password must not stand in --storage, where others may read it, but {bare} was "
            f"given with one; leave it out and set PGPASSWORD or a password file, or give the "
            f"whole address in {VARIABLE}",
            exit_code=2,
        )
    return bare


def full_address(kept: str) -> str:
    """The address to be opened: with the password, if SWEEP_STORAGE names the same place."""
    known = os.environ.get(VARIABLE, "")
    return known if known and _without_secret(known) == kept else kept


def open_database(url: str, *, keep_open: bool) -> Any:
    """Optuna's storage at an address; a connection that the server has ended is made again.

    With `keep_open` connections are kept for the next question, until nobody uses the storage.
    """
    import optuna
    from sqlalchemy.pool import NullPool

    scheme = url.partition(":")[0]
    if scheme.partition("+")[0] not in ("postgresql", "postgres", "mysql"):
        return optuna.storages.get_storage(url)
    for plain in _POSTGRES:
        if url.startswith(plain):
            url = "postgresql+psycopg://" + url.removeprefix(plain)
    options = {"pool_pre_ping": True} if keep_open else {"poolclass": NullPool}
    backend = optuna.storages.RDBStorage(url, engine_kwargs=options)
    storage = optuna.storages.get_storage(backend)
    weakref.finalize(storage, backend.engine.dispose)
    return storage


def _without_secret(url: str) -> str:
    if url.startswith("sqlite") or "://" not in url:
        return url
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # it can be opened no more than be read
        return url
    if parsed.password is None and parsed.query.keys().isdisjoint(SECRET_OPTIONS):
        return url
    place = parsed.drivername, parsed.username, None, parsed.host, parsed.port, parsed.database
    bare = URL.create(*place, parsed.query).difference_update_query(SECRET_OPTIONS)
    return bare.render_as_string(hide_password=False)
