"""What a launch must reach, and what may hang or die when asked: further checks of `sweep doctor`.

Ray, JAX and databases are asked in a process of their own, within a time limit.
"""

import base64
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from sweep.delivery import is_folder, sqlite_path, without_password
from sweep.doctor import Check, existing
from sweep.errors import CommandError

_NETWORK_S = 5.0
_DATABASE_S = 10.0
_NODES_S = 120.0  # workers start on each of them, twice
_IMPORT_S = 60.0  # the first time, from a slow disk

_GUARDED = """
import sys
try:
    {}
except Exception as error:
    reason = getattr(error, "strerror", None) or f"{{type(error).__name__}}: {{error}}"
    sys.exit(str(reason).partition("\\n")[0])
"""
_IMPORT_RAY = "import ray.tune; print(ray.__version__)"
_LIST_DEVICES = "import jax; [print(d.platform, d.device_kind) for d in jax.devices()]"
_REPORT = "from sweep.nodes import report; report(input())"
_OPEN_STORAGE = "from sweep.databases import open_database as o; o(input(), keep_open=False)"


class _Refusal(Exception):
    """Why something cannot be had, in a line without a password."""

    late = False  # whether there was no answer in time

    def way_out(self, otherwise: str) -> str:
        """What to do: `otherwise`, unless the machine has only been slow."""
        return "ask again once this machine is less busy" if self.late else otherwise


def _ask(code: str, question: str = "", *, limit_s: float) -> str:
    """What a Python program prints that reads `question`, which may hold a password."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _GUARDED.format(code)],
            input=question + "\n",
            env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        refusal = _Refusal(f"no answer within {limit_s:g} s")
        refusal.late = True
        raise refusal from None
    if done.returncode == 0:
        return done.stdout.strip()
    said = done.stderr.strip().rpartition("\n")[2] or f"it ended with code {done.returncode}"
    raise _Refusal(_hidden(said, question))


def _hidden(text: str, uri: str) -> str:
    """`text` without the user and password of `uri`, even one with a slash in its password."""
    user = uri.partition("://")[2].rpartition("@")[0]
    return without_password(text.replace(f"{user}@", "") if user else text)


def _shown(uri: str) -> str:
    return _hidden(uri, uri).partition("?")[0]


def check_ray(address: str, *, insecure: bool = False) -> Check:
    """Whether Ray starts, and with an address whether a cluster answers there, closed to others."""
    try:
        version = _ask(_IMPORT_RAY, limit_s=_IMPORT_S)
    except _Refusal as refusal:
        way_out = refusal.way_out("install Ray again: pip install --force-reinstall 'ray[tune]'")
        return Check("ray", "bad", f"Ray cannot be imported: {refusal}", way_out)
    if address == "local":
        return Check("ray", "ok", f"Ray {version}; a launch starts it here")
    shown = without_password(address)
    risks: list[str] = []
    try:
        _knock_at(address, insecure, risks.append)
    except CommandError as error:
        text, _, way_out = str(error).partition("; ")
        return Check("ray", "bad", without_password(text), way_out, remote=error.exit_code == 5)
    except (OSError, ValueError, OverflowError) as error:
        text = f"no Ray cluster answers at {shown}: {_reason(error)}"
        way_out = "start it with `ray start --head`, or leave --address and RAY_ADDRESS out"
        return Check("ray", "bad", text, way_out, remote=True)
    if risks:
        return Check("ray", "warning", f"Ray {version}", risks[0])
    return Check("ray", "ok", f"Ray {version}; somebody answers at {shown}")


def _knock_at(address: str, insecure: bool, warn: Callable[[str], None]) -> None:
    from sweep.access import check_access
    from sweep.cluster import check_address, found_address, knock

    check_address(address)
    address = found_address(address)
    knock(address)
    check_access(address, insecure=insecure, warn=warn)


def check_nodes(address: str, *, insecure: bool = False) -> Check:
    """The nodes of a cluster: their versions, and their GPUs as Ray and as JAX there see them."""
    from sweep.slots import GPUS_IN_USE

    try:
        _knock_at(address, insecure, lambda risk: None)
    except (CommandError, OSError, ValueError, OverflowError):
        return Check("nodes", "warning", "the nodes were not asked, for no cluster answers")
    way_out = "give every node the packages of the lock file, and the CUDA support where GPUs are"
    try:
        found = json.loads(_ask(_REPORT, address, limit_s=_NODES_S).rpartition("\n")[2])
    except _Refusal as refusal:
        text = f"the nodes do not answer: {refusal}"
        return Check("nodes", "bad", text, "look at `ray status` there", remote=True)
    nodes, unlike, silent = [], [*found["breaks"], *found["changes"]], False
    for place, counted, seen, fault in found["nodes"]:
        jax = f"JAX did not answer: {fault}" if fault else f"JAX sees {', '.join(seen) or 'none'}"
        jax = f"JAX was not asked: {fault}" if fault == GPUS_IN_USE else jax
        nodes.append(f"{place}: {counted:g} GPUs" + (f", {jax}" if counted else ""))
        unlike += [f"{place} has GPUs that JAX does not see"] if counted and seen == [] else []
        silent |= bool(counted) and fault not in ("", GPUS_IN_USE)
    text = f"{len(nodes)} nodes; {'; '.join([*nodes, *unlike])}"
    if found["breaks"]:
        return Check("nodes", "bad", text, way_out, remote=True)
    if unlike:
        return Check("nodes", "warning", text, way_out)
    if silent:
        return Check("nodes", "warning", text, "look at `ray status` there")
    return Check("nodes", "ok", text)


def check_jax() -> Check:
    """The devices that JAX sees, against the GPUs that there are."""
    from sweep.slots import this_machine

    gpus = int(this_machine()["GPU"])
    try:
        devices = _ask(_LIST_DEVICES, limit_s=_IMPORT_S).splitlines()
    except _Refusal as refusal:
        forced = "JAX_PLATFORMS" in os.environ
        way_out = (
            "unset JAX_PLATFORMS" if forced else "install JAX again, for this machine's driver"
        )
        return Check("jax", "bad", f"JAX does not start: {refusal}", refusal.way_out(way_out))
    seen = [device.partition(" ")[2] for device in devices if not device.startswith("cpu ")]
    if seen:
        most = max(gpus, len(seen))
        return Check("jax", "ok", f"JAX sees {len(seen)} of {most} GPUs: {', '.join(seen)}")
    plugged = any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    if not gpus and _gpus_hidden():
        return Check("jax", "ok", "CUDA_VISIBLE_DEVICES leaves no GPU; JAX computes on the CPU")
    if not gpus and not os.path.isdir("/proc/driver/nvidia/gpus"):
        if not plugged or os.environ.get("JAX_PLATFORMS"):
            return Check("jax", "ok", "no GPU; JAX computes on the CPU")
        text = "no GPU is seen, though JAX has its CUDA packages; it computes on the CPU"
        way_out = "install NVIDIA's driver, or start the container with --gpus all"
        return Check("jax", "warning", text, way_out)
    if os.environ.get("JAX_PLATFORMS"):
        way_out = "unset JAX_PLATFORMS"
    elif plugged:
        way_out = "ask it why: JAX_PLATFORMS=cuda python -c 'import jax; jax.devices()'"
    else:
        way_out = "install the CUDA support: pip install 'sweep[cuda]'"
    return Check("jax", "warning", "there is an NVIDIA GPU, but JAX sees none", way_out)


def _gpus_hidden() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1", "NoDevFiles")


def check_mlflow(uri: str) -> Check:
    """Whether records can be delivered: a server that answers, or a file that can be written."""
    scheme = uri.partition(":")[0]
    if scheme in ("http", "https"):
        return _check_server(uri)
    if scheme == "sqlite":
        path = sqlite_path(uri)
        fault = _write_fault(path)
        if not fault:
            return Check("mlflow", "ok", f"MLflow's file {path} can be written")
        text = f"MLflow's file {path} cannot be written: {fault}"
        way_out = "set MLFLOW_TRACKING_URI to a server, or to sqlite:////FOLDER/mlflow.db"
        return Check("mlflow", "bad", text, way_out)
    if is_folder(uri):
        text = f"MLflow at {uri} must be a server or a database, but is a folder"
        way_out = "set MLFLOW_TRACKING_URI to sqlite:////FOLDER/mlflow.db, or unset it"
        return Check("mlflow", "bad", text, way_out)
    return Check("mlflow", "warning", f"MLflow at {_shown(uri)} is of a kind that is not checked")


def _check_server(uri: str) -> Check:
    way_out = "start it with `mlflow server`, or unset MLFLOW_TRACKING_URI to write to a file here"
    try:
        answer = _health(uri)
    except HTTPError as error:
        fault = f"answers with HTTP {error.code}"
        way_out = "look at its --allowed-hosts and at the address and the password given here"
    except (OSError, HTTPException, ValueError) as error:
        fault = f"does not answer: {_reason(error)}"
    else:
        if answer == b"OK":
            return Check("mlflow", "ok", f"MLflow at {_shown(uri)} answers")
        fault = "answers, but not as an MLflow server does"
        way_out = "set MLFLOW_TRACKING_URI to the server's own address"
    text = _hidden(f"MLflow at {_shown(uri)} {fault}", uri)
    return Check("mlflow", "bad", text, way_out, remote=True)


def _health(uri: str) -> bytes:
    """What the server says of itself, asked with the settings that MLflow's client heeds."""
    parts = urlsplit(uri)
    path = f"{parts.path.rstrip('/')}/health"
    request = Request(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}")
    user = unquote(parts.username or "") or os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(parts.password or "") or os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    if token and not user:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    if user:
        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    authorities = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH")
    context = ssl.create_default_context(cafile=authorities or None)
    if os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urlopen(request, timeout=_NETWORK_S, context=context) as answer:
        return answer.read(100).strip()


def _reason(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    return getattr(reason, "strerror", None) or str(reason) or type(error).__name__


def check_storage(uri: str) -> Check:
    """Whether Optuna can open the storage; a file that is not there yet is not made."""
    way_out = "give a URL such as sqlite:////FOLDER/studies.db, or leave --storage out"
    try:
        path = sqlite_path(uri) if uri.startswith("sqlite:///") else None
        if path:
            fault = _write_fault(path) if path.parent.is_dir() else f"there is no {path.parent}"
            if fault:
                raise _Refusal(fault)
        if path is None or path.exists():
            _ask(_OPEN_STORAGE, uri, limit_s=_DATABASE_S)
    except _Refusal as refusal:
        text = f"the storage {_shown(uri)} cannot be opened: {refusal}"
        return Check("storage", "bad", text, way_out, remote=True)
    return Check("storage", "ok", f"the storage {_shown(uri)} can be opened")


def check_data(name: str, manual_dir: Path | None) -> Check:
    """Where a launch would take a data set from."""
    from trainers.data import DATASETS, cache_root, load_dataset
    from trainers.prepare import PREPARED_VERSION, DatasetError, find_manual_dir

    url = DATASETS[name].url
    if url is None:
        return Check("data", "ok", f"{name} comes with scikit-learn")
    prepared = cache_root(None) / name / PREPARED_VERSION
    try:
        if os.path.exists(prepared):
            load_dataset(name, validation_split="test")  # verifies it
            return Check("data", "ok", f"{name} is prepared in {prepared}")
        manual = find_manual_dir(name, url, manual_dir)
    except DatasetError as error:
        text, _, way_out = str(error).partition("; ")
        return Check("data", "bad", text, way_out)
    if fault := _write_fault(prepared):
        text = f"{name} must be prepared in {prepared}, which cannot be written: {fault}"
        return Check("data", "bad", text, "name another folder in SWEEP_CACHE_DIR")
    return _check_files(name, url, manual) if manual else _check_download(name, url)


def _check_files(name: str, url: str, folder: Path) -> Check:
    from trainers.prepare import IDX_FILES, expected_sha256, file_sha256

    for file in IDX_FILES.values():
        expected, actual = expected_sha256(url + file), file_sha256(folder / file)
        if actual != expected:
            text = f"sha256 of {folder / file} must be {expected}, but is {actual}"
            return Check("data", "bad", text, f"download {url}{file} again")
    return Check("data", "ok", f"{name} is whole in {folder}")


def _check_download(name: str, url: str) -> Check:
    from trainers.prepare import IDX_FILES, MANUAL_DIR_VARIABLE

    file = IDX_FILES["train_labels"]
    try:
        urlopen(Request(url + file, method="HEAD"), timeout=_NETWORK_S).close()
    except (OSError, HTTPException) as error:
        text = f"{name} must be downloaded, but {url}{file} does not answer: {_reason(error)}"
        way_out = f"put its four files into a folder, and name that in {MANUAL_DIR_VARIABLE}"
        return Check("data", "bad", text, way_out, remote=True)
    return Check("data", "ok", f"{name} is downloaded by the first launch; {url} answers")


def _write_fault(path: Path) -> str:
    """Why a file cannot be written, or be made where there is none yet; "" if it can."""
    try:
        if path.is_file():
            path.open("ab").close()
        tempfile.TemporaryFile(dir=existing(path if path.is_dir() else path.parent)).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
