"""What a launch needs, looked at beforehand: `sweep doctor`; here the checks of this machine.

A check asks the thing itself and leaves nothing behind. It imports what it needs by itself, so that
a package that is broken makes one bad line.
"""

import fcntl
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from sweep.delivery import default_tracking_uri, without_password
from sweep.errors import CommandError

if TYPE_CHECKING:
    from search_spaces import SweepConfig

_GIB = 2**30
_LEAST_MEMORY = 2 * _GIB
_LEAST_DISK = _GIB
_NO_DISK = 100 * 2**20
_SOCKET_BYTES = 107  # the longest path of a Unix socket
_ON = ("1", "true", "t", "yes", "y", "on")
_VARIABLES: Mapping[str, tuple[str, str]] = {
    "JAX_ENABLE_X64": ("bad", "stops the training at its first step"),
    "JAX_DEBUG_NANS": ("warning", "makes a trial fail where it should diverge"),
    "JAX_DISABLE_JIT": ("warning", "makes the training slow"),
}
_REINSTALL = "install sweep again, into an environment of its own"


class Check(NamedTuple):
    """What one look has found."""

    name: str
    state: Literal["ok", "warning", "bad"]
    text: str
    way_out: str = ""
    remote: bool = False  # whether it has to be reached, and need not be mended here


def examine(
    config: "SweepConfig | None",
    *,
    address: str | None,
    insecure: bool = False,
    storage: str | None,
    manual_dir: Path | None,
    sweeps_dir: Path,
) -> list[Check]:
    """All checks for a launch with these arguments, of `config` if it is given; all at once."""
    from sweep.doctor_services import (
        check_data,
        check_jax,
        check_mlflow,
        check_nodes,
        check_ray,
        check_storage,
    )

    address = address or os.environ.get("RAY_ADDRESS") or "local"
    checks: list[partial[Check]] = [
        partial(check_python, platform.python_version()),
        partial(check_packages),
        partial(check_bytecode),
        partial(check_environment, os.environ, starts_ray=address == "local"),
        partial(check_directory, sweeps_dir),
        partial(check_disk, sweeps_dir),
        partial(check_memory),
        partial(check_cpus),
        partial(check_jax),
        partial(check_ray, address, insecure=insecure),
        *([partial(check_nodes, address, insecure=insecure)] if address != "local" else []),
        partial(check_mlflow, default_tracking_uri(sweeps_dir)),
        *([partial(check_storage, storage)] if storage else []),
        partial(check_data, config.data.dataset if config else "digits", manual_dir),
        *([partial(check_trials, config, address)] if config else []),
    ]
    with ThreadPoolExecutor(len(checks)) as pool:
        return list(pool.map(_examined, checks))


def _examined(check: "partial[Check]") -> Check:
    """What `check` finds; a check that breaks is bad, and ends no other."""
    try:
        return check()
    except Exception as error:
        name = check.func.__name__.removeprefix("check_")
        text = f"{name} could not be checked: {type(error).__name__}: {error}"
        return Check(name, "bad", without_password(text), _REINSTALL)


def exit_code(checks: Sequence[Check]) -> int:
    """0: nothing is bad; 5: only what has to be reached is; 1: something else."""
    bad = [check for check in checks if check.state == "bad"]
    return (5 if all(check.remote for check in bad) else 1) if bad else 0


def line(check: Check) -> str:
    """A check as it is printed."""
    return f"{check.state:8} {'; '.join(filter(None, (check.text, check.way_out)))}"


def check_python(version: str) -> Check:
    """A Python version against the one that the installed sweep asks for."""
    from packaging.specifiers import SpecifierSet

    required = importlib.metadata.metadata("sweep")["Requires-Python"]
    if SpecifierSet(required).contains(version, prereleases=True):
        return Check("python", "ok", f"Python {version}")
    text = f"Python must be {required}, but is {version}"
    return Check("python", "bad", text, "make the environment again with another Python")


def check_packages(requirements: Sequence[str] | None = None) -> Check:
    """The installed packages against `requirements`: by default sweep's own, without its extras."""
    from packaging.requirements import Requirement

    wanted = importlib.metadata.requires("sweep") if requirements is None else requirements
    needed = [
        requirement
        for requirement in map(Requirement, wanted or ())
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    ]
    faults = []
    for requirement in needed:
        try:
            found = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            faults.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            faults.append(f"{requirement.name} must be {requirement.specifier}, but is {found}")
    if faults:
        return Check("packages", "bad", "; ".join(faults), _REINSTALL)
    return Check("packages", "ok", f"{len(needed)} packages are as required")


def check_bytecode() -> Check:
    """Whether packages are compiled; without it a worker takes seconds more to start."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    compiled = os.path.exists(importlib.util.cache_from_source(spec.origin))
    if compiled or not sys.dont_write_bytecode:
        return Check("bytecode", "ok", "packages are compiled" if compiled else "not compiled yet")
    return Check(
        "bytecode",
        "warning",
        "packages are not compiled, so that every worker starts seconds later, and "
        "PYTHONDONTWRITEBYTECODE is set",
        f"unset it, or compile them once: python -m compileall -q {Path(spec.origin).parents[1]}",
    )


def check_environment(variables: Mapping[str, str], *, starts_ray: bool) -> Check:
    """The environment variables that are known to break a sweep."""
    faults = [
        (state, f"{name} {effect}", f"unset {name}")
        for name, (state, effect) in _VARIABLES.items()
        if variables.get(name, "").lower() in _ON
    ]
    fractions = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    if all(name in variables for name in fractions):
        text = f"{' and '.join(fractions)} are both set, which JAX refuses on a GPU"
        faults.append(("warning", text, f"unset {fractions[1]}"))
    name = "RAY_TMPDIR" if "RAY_TMPDIR" in variables else "TMPDIR"
    most = _SOCKET_BYTES - len(_ray_socket(os.getpid()))
    length = len(os.fsencode(variables.get(name, "").rstrip("/")))
    if starts_ray and length > most:
        text = f"{name} must have at most {most} bytes for Ray's sockets, but it has {length}"
        faults.append(("bad", text, "set RAY_TMPDIR to a shorter path"))
    if not faults:
        return Check("environment", "ok", "no environment variable is known to break a sweep")
    states, texts, ways = zip(*faults, strict=True)
    state = "bad" if "bad" in states else "warning"
    return Check("environment", state, ", ".join(texts), ", ".join(ways))


def _ray_socket(pid: int) -> str:
    """The longest path that Ray adds to its temporary folder."""
    return f"/ray/session_2017-08-25_00-00-00_000000_{pid}/sockets/plasma_store"


def check_directory(sweeps_dir: Path) -> Check:
    """Whether the sweeps' files can be written there as the ledger does it."""
    from sweep.files import write_text

    folder, what = existing(sweeps_dir), "written"
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=folder) as name:
            file = Path(name) / "file"
            write_text(file, "")  # fsync and rename
            what = "linked"
            os.link(file, file.with_name("link"))
            what = "locked"
            lock = file.with_name("lock")  # `file` was locked: a fork elsewhere may hold it still
            with lock.open("ab") as first, lock.open("ab") as second:
                fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with suppress(BlockingIOError):
                    fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    raise OSError("a lock does not keep a second one out")
    except OSError as error:
        text = f"files in {folder} must be {what}, but cannot: {error.strerror or error}"
        way_out = "name another folder, on a disk that can, with --sweeps-dir or SWEEP_DIR"
        return Check("directory", "bad", text, way_out)
    return Check("directory", "ok", f"files in {folder} can be written, linked and locked")


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def check_disk(sweeps_dir: Path, free: int | None = None) -> Check:
    """The free bytes where the sweeps lie."""
    free = shutil.disk_usage(existing(sweeps_dir)).free if free is None else free
    state = "ok" if free >= _LEAST_DISK else "warning" if free >= _NO_DISK else "bad"
    text = f"{free / _GIB:,.1f} GiB of disk are free for {sweeps_dir}"
    way_out = "" if state == "ok" else "make room, or name a folder elsewhere with --sweeps-dir"
    return Check("disk", state, text, way_out)


def check_memory(free: int | None = None) -> Check:
    """The bytes of memory that can be had."""
    free = _memory_available() if free is None else free
    text = f"{free / _GIB:,.1f} GiB of memory are available"
    if free >= _LEAST_MEMORY:
        return Check("memory", "ok", text)
    return Check("memory", "warning", text, "end other programs, or run fewer trials at once")


def _memory_available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    (free,) = (int(text.split()[1]) * 1024 for text in lines if text.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # a container's limit; "max" is no number
        folder = Path("/sys/fs/cgroup")
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        stat = dict(text.split() for text in (folder / "memory.stat").read_text().splitlines())
        free = min(free, limit - used + int(stat.get("inactive_file", 0)))  # a cache, given up
    return free


def check_cpus() -> Check:
    """The cores that a launch would use here."""
    from sweep.slots import this_machine

    cores = int(this_machine()["CPU"])
    return Check("cpus", "ok", f"{cores} of {os.cpu_count()} CPU cores may be used here")


def check_trials(config: "SweepConfig", address: str) -> Check:
    """Whether a trial of `config` fits, as far as it can be told from here."""
    from sweep.slots import slots_on, this_machine

    if address != "local":
        text = f"{config.name} is valid; whether its trials fit is up to the nodes of the cluster"
        return Check("trials", "ok", text)
    try:
        slots = slots_on([this_machine()], config)
    except CommandError as error:
        text, _, way_out = str(error).partition("; ")
        return Check("trials", "bad", text, way_out)
    each = f"{slots.cpus_per_trial:g} CPU and {slots.gpus_per_trial:g} GPU each"
    return Check("trials", "ok", f"{config.name}: trials at once {slots.concurrent}, {each}")
