"""`sweep doctor`: what a launch needs, one line each, with the way out."""

import contextlib
import gzip
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from sweep.doctor import (
    Check,
    check_disk,
    check_environment,
    check_memory,
    check_packages,
    check_python,
    exit_code,
    line,
)
from sweep.doctor_services import check_data, check_jax, check_mlflow, check_ray, check_storage
from tests.commands import CONFIG, printed, refused, run
from tests.tracking_server import free_port, serving
from trainers.prepare import IDX_FILES

NAMES = [
    *("python", "packages", "bytecode", "environment", "directory", "disk", "memory", "cpus"),
    *("jax", "ray", "mlflow", "data"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rates.yaml").write_text(CONFIG)
    (tmp_path / "fashion.yaml").write_text(CONFIG.replace("digits", "fashion_mnist"))
    return tmp_path


def bad_lines(folder: Path, *arguments: object, code: int, **variables: object) -> list[str]:
    """What `sweep doctor` finds bad, and nothing of it in any other way than as a line."""
    done = run(folder, "doctor", *arguments, **variables)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    return [text for text in done.stdout.splitlines() if text.startswith("bad ")]


@contextlib.contextmanager
def answering(status: int, body: bytes = b"", headers: Mapping[str, str] = {}) -> Iterator[list]:
    """A server on loopback that gives one answer to all; first its port, then what was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.command, self.path, self.headers.get("Authorization")))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        asked: list = [server.server_port]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield asked
        finally:
            server.shutdown()
            thread.join()


def test_a_machine_that_lacks_nothing(folder: Path):
    before = sorted(folder.rglob("*"))
    lines = printed(folder, "doctor", "rates.yaml", "--storage", "sqlite:///new.db").splitlines()
    assert len(lines) == len(NAMES) + 2
    assert {text.split()[0] for text in lines} <= {"ok", "warning"}
    assert lines[0].startswith("ok       Python 3.")
    assert lines[-3:-1] == [
        "ok       the storage sqlite:///new.db can be opened",
        "ok       digits comes with scikit-learn",
    ]
    assert lines[-1].startswith("ok       rates: ")
    assert sorted(folder.rglob("*")) == before


def test_what_cannot_be_reached_is_said_without_passwords(folder: Path):
    port = free_port()
    done = run(
        folder,
        *("doctor", "--json", "--address", f"127.0.0.1:{port}"),
        *("--storage", f"postgresql+nothing://ada:hush/hush@127.0.0.1:{port}/x?password=hush"),
        MLFLOW_TRACKING_URI=f"http://ada:hush@127.0.0.1:{port}",
    )
    assert (done.returncode, done.stderr) == (5, "")
    assert "hush" not in done.stdout
    found = {check["name"]: check for check in json.loads(done.stdout)}
    after_ray = NAMES.index("ray") + 1
    assert [*found] == [*NAMES[:after_ray], "nodes", *NAMES[after_ray:-1], "storage", "data"]
    assert found["nodes"]["text"] == "the nodes were not asked, for no cluster answers"
    bad = {name: check for name, check in found.items() if check["state"] == "bad"}
    assert bad.keys() == {"ray", "mlflow", "storage"}
    assert all(check["remote"] for check in bad.values())
    ray = f"no Ray cluster answers at 127.0.0.1:{port}: Connection refused"
    assert bad["ray"]["text"] == ray
    assert "ray start --head" in bad["ray"]["way_out"]
    server = f"MLflow at http://127.0.0.1:{port} does not answer: Connection refused"
    assert bad["mlflow"]["text"] == server
    assert "leave --storage out" in bad["storage"]["way_out"]
    assert f"postgresql+nothing://127.0.0.1:{port}/x cannot be" in bad["storage"]["text"]


def test_an_mlflow_server_that_is_down_is_the_only_fault(folder: Path):
    uri = f"http://127.0.0.1:{free_port()}"
    assert bad_lines(folder, code=5, MLFLOW_TRACKING_URI=uri) == [
        f"bad      MLflow at {uri} does not answer: Connection refused; start it with "
        "`mlflow server`, or unset MLFLOW_TRACKING_URI to write to a file here"
    ]


@pytest.mark.parametrize("place", ["rates.yaml/sweeps", "/proc/sweeps"])
def test_a_folder_for_sweeps_that_cannot_be_written(folder: Path, place: str):
    mlflow = f"sqlite:///{folder}/mlflow.db"
    text, *_ = bad_lines(folder, "--sweeps-dir", place, code=1, MLFLOW_TRACKING_URI=mlflow)
    assert "must be written, but cannot: " in text
    assert text.endswith("with --sweeps-dir or SWEEP_DIR")


def test_a_file_that_is_not_valid_is_refused_as_a_launch_does(folder: Path):
    (folder / "bad.yaml").write_text(CONFIG.replace("digits", "digit"))
    words = "bad.yaml:3:17: data.dataset: unknown name 'digit'; did you mean 'digits'?"
    assert refused(folder, "doctor", "bad.yaml", code=2).startswith(words)
    words = "there is no file and no preset quikstart; did you mean quickstart?"
    assert refused(folder, "doctor", "quikstart", code=2) == words


def test_trials_that_fit_nowhere_and_data_that_are_not_there(folder: Path):
    with (folder / "fashion.yaml").open("a") as file:
        file.write("resources: {cpus_per_trial: 100000}\n")
    arguments = ["fashion.yaml", "--manual-dir", "here"]
    found = bad_lines(folder, *arguments, code=1, SWEEP_CACHE_DIR=folder / "cache")
    assert len(found) == 2, found  # a busy machine may answer other questions too late
    data, trials = found
    assert "here must hold the original files of fashion_mnist, but lacks train-images" in data
    assert data.endswith("or pass no manual_dir to have them downloaded")
    assert "resources.cpus_per_trial must fit on one node, but got 100000" in trials
    assert trials.endswith("lower it, or launch on a cluster with --address")
    assert not (folder / "cache").exists()


def test_data_that_cannot_be_downloaded(folder: Path):
    proxy = {"http_proxy": f"http://127.0.0.1:{free_port()}", "no_proxy": ""}
    (text,) = bad_lines(folder, "fashion.yaml", code=5, SWEEP_CACHE_DIR=folder / "cache", **proxy)
    assert "fashion_mnist must be downloaded, but http://" in text
    assert "does not answer: Connection refused; put its four files" in text


def test_data_that_can_be_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(folder / "cache"))
    monkeypatch.delenv("SWEEP_MANUAL_DIR", raising=False)
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("urllib.request._opener", None)  # it may know another proxy, or none
    with answering(200) as asked:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{asked[0]}")
        found = check_data("fashion_mnist", None)
    assert (found.state, [command for command, *_ in asked[1:]]) == ("ok", ["HEAD"])
    with answering(404) as asked:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{asked[0]}")
        found = check_data("fashion_mnist", None)
    assert (found.state, found.remote) == ("bad", True)
    assert not (folder / "cache").exists()


def test_data_in_a_folder_are_checked(
    manual_dir: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(folder / "cache"))
    assert check_data("fashion_mnist", manual_dir).text == f"fashion_mnist is whole in {manual_dir}"
    for name in IDX_FILES.values():
        shutil.copy(manual_dir / name, folder)
    (folder / IDX_FILES["test_labels"]).write_bytes(gzip.compress(b"other"))
    found = check_data("fashion_mnist", folder)
    assert found.state == "bad"
    assert f"sha256 of {folder / IDX_FILES['test_labels']} must be " in found.text
    assert found.way_out.endswith("t10k-labels-idx1-ubyte.gz again")


def test_a_prepared_data_set_that_is_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(folder / "cache"))
    (folder / "cache" / "mnist" / "1.0.0").mkdir(parents=True)
    found = check_data("mnist", None)
    assert found.text.startswith("the cached data set ")
    assert found.way_out == "delete that folder, and the data set is prepared again"


def test_no_room_for_a_prepared_data_set(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SWEEP_CACHE_DIR", str(folder / "rates.yaml" / "cache"))
    monkeypatch.delenv("SWEEP_MANUAL_DIR", raising=False)
    found = check_data("mnist", None)
    assert (found.state, found.way_out) == ("bad", "name another folder in SWEEP_CACHE_DIR")


@pytest.mark.slow
def test_a_real_mlflow_server_answers(tmp_path: Path):
    with serving(tmp_path, free_port()) as uri:
        assert check_mlflow(f"{uri}/") == Check("mlflow", "ok", f"MLflow at {uri}/ answers")


@pytest.mark.parametrize(
    ("status", "body", "headers", "state", "text"),
    [
        (200, b"OK", {}, "ok", "answers"),
        (200, b"<html>log in</html>", {}, "bad", "answers, but not as an MLflow server does"),
        (403, b"", {}, "bad", "answers with HTTP 403"),
        (302, b"", {"Location": "http://127.0.0.1:1/login"}, "bad", "does not answer: Connection"),
    ],
)
def test_a_server_that_is_another(
    status: int, body: bytes, headers: Mapping[str, str], state: str, text: str
):
    with answering(status, body, headers) as asked:
        found = check_mlflow(f"http://ada:hu%2Fsh@127.0.0.1:{asked[0]}/at/")
    assert asked[1:] == [("GET", "/at/health", "Basic YWRhOmh1L3No")]
    assert found.state == state
    assert found.text.startswith(f"MLflow at http://127.0.0.1:{asked[0]}/at/ {text}")


@pytest.mark.parametrize(
    ("uri", "state", "text"),
    [
        ("sqlite:////proc/no/mlflow.db", "bad", "MLflow's file /proc/no/mlflow.db cannot be writt"),
        ("./mlruns", "bad", "MLflow at ./mlruns must be a server or a database, but is a folder"),
        ("file:///mlruns", "bad", "MLflow at file:///mlruns must be a server or a database"),
        ("databricks", "warning", "MLflow at databricks is of a kind that is not checked"),
        ("http://ada:hush@host:port", "bad", "MLflow at http://host:port does not answer: "),
        ("mysql://ada:hu/sh@host/x", "warning", "MLflow at mysql://host/x is of a kind that is no"),
    ],
)
def test_a_tracking_uri_of_another_kind(uri: str, state: str, text: str):
    found = check_mlflow(uri)
    assert found.state == state
    assert found.text.startswith(text)
    assert bool(found.way_out) == (state == "bad")


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("sqlite:///{folder}/none/studies.db", "there is no {folder}/none"),
        ("sqlite:////proc/studies.db", "No such file or directory"),
        ("sqlite:///{folder}/rates.yaml", "file is not a database"),
        ("sqlite:///{folder}", "unable to open database file"),
        ("redis://ada:hu/sh@127.0.0.1", "RedisStorage is removed"),
        ("no url", "Could not parse SQLAlchemy URL"),
    ],
)
def test_a_storage_that_cannot_be_opened(folder: Path, uri: str, fault: str):
    found = check_storage(uri.format(folder=folder))
    assert (found.state, found.remote) == ("bad", True)
    assert fault.format(folder=folder) in found.text
    assert "sh@" not in found.text


@pytest.mark.parametrize("address", ["nonsense", "host:6379/x", "ray://host:10001"])
def test_an_address_that_is_none(address: str):
    found = check_ray(address)
    assert (found.state, found.remote) == ("bad", False)
    assert found.text == f"an address must be HOST:PORT, auto or local, but got {address}"


def test_an_address_where_nobody_can_be():
    found = check_ray("127.0.0.1:99999")
    assert (found.state, found.remote) == ("bad", True)
    assert found.text.startswith("no Ray cluster answers at 127.0.0.1:99999: ")


def test_somebody_who_answers():
    with answering(200) as asked:
        assert check_ray(f"127.0.0.1:{asked[0]}").state == "ok"


def test_gpus_that_jax_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: any (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found = check_jax()
    assert (found.state, found.way_out) == ("warning", "unset JAX_PLATFORMS")
    assert found.text == "there is an NVIDIA GPU, but JAX sees none"
    monkeypatch.setenv("JAX_PLATFORMS", "none-such")
    found = check_jax()
    assert (found.state, found.way_out) == ("bad", "unset JAX_PLATFORMS")
    assert "Traceback" not in found.text


@pytest.mark.skipif(os.path.isdir("/proc/driver/nvidia/gpus"), reason="this machine has a GPU")
def test_cuda_packages_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "jax_cuda13_plugin").mkdir()
    (tmp_path / "jax_cuda13_plugin" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    found = check_jax()
    assert found.state == "warning"
    assert found.text.startswith("no GPU is seen, though JAX has its CUDA packages")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert check_jax().text == "CUDA_VISIBLE_DEVICES leaves no GPU; JAX computes on the CPU"


@pytest.mark.parametrize(
    ("variables", "starts_ray", "state", "words"),
    [
        ({"JAX_ENABLE_X64": "0", "TMPDIR": "/tmp"}, True, "ok", "no environment variable"),
        ({"JAX_ENABLE_X64": "True"}, True, "bad", "unset JAX_ENABLE_X64"),
        ({"JAX_DEBUG_NANS": "1"}, True, "warning", "unset JAX_DEBUG_NANS"),
        ({"JAX_DISABLE_JIT": "1"}, True, "warning", "makes the training slow"),
        ({"XLA_CLIENT_MEM_FRACTION": ".5"}, True, "ok", ""),
        (
            {"XLA_CLIENT_MEM_FRACTION": ".5", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"},
            *(True, "warning", "unset XLA_PYTHON_CLIENT_MEM_FRACTION"),
        ),
        ({"TMPDIR": "/" + "t" * 60}, True, "bad", "set RAY_TMPDIR to a shorter path"),
        ({"TMPDIR": "/" + "t" * 60}, False, "ok", ""),
        ({"TMPDIR": "/" + "t" * 60, "RAY_TMPDIR": "/tmp"}, True, "ok", ""),
    ],
)
def test_variables_that_break_a_sweep(
    variables: Mapping[str, str], starts_ray: bool, state: str, words: str
):
    found = check_environment(variables, starts_ray=starts_ray)
    assert found.state == state
    assert words in line(found)


def test_versions_are_compared():
    assert check_python("3.10.9").state == "bad"
    assert check_python("3.99.0rc1").state == "ok"
    found = check_packages(["numpy", "optuna<1", "no-such-package>=2", "other; extra == 'x'"])
    version, missing = found.text.split("; ")
    assert version.startswith("optuna must be <1, but is ")
    assert missing == "no-such-package is missing"


@pytest.mark.parametrize(
    ("disk", "memory", "states"),
    [
        (2**30, 2**31, ("ok", "ok")),
        (2**30 - 1, 2**31 - 1, ("warning", "warning")),
        (100 * 2**20 - 1, 0, ("bad", "warning")),
    ],
)
def test_room_is_measured(tmp_path: Path, disk: int, memory: int, states: tuple[str, str]):
    found = check_disk(tmp_path, disk), check_memory(memory)
    assert tuple(check.state for check in found) == states
    assert [bool(check.way_out) for check in found] == [state != "ok" for state in states]


def test_what_is_bad_here_weighs_more_than_what_is_not_reached():
    here, there = Check("disk", "bad", ""), Check("ray", "bad", "", remote=True)
    fine = Check("data", "warning", "")
    assert exit_code([fine]) == 0
    assert exit_code([fine, there]) == 5
    assert exit_code([there, here]) == 1
