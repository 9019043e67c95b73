"""A secret that is put through what can fail is found nowhere afterwards."""

import http.server
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.faults.harness import CONFIG, SWEEP, Command
from tests.tracking_server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CANARY = "c4n4ry-Zq7"  # of each secret, so that one search finds them all
SECRETS = {
    "RAY_AUTH_TOKEN": f"{CANARY}-token",
    "MLFLOW_TRACKING_USERNAME": "ada",
    "MLFLOW_TRACKING_PASSWORD": f"{CANARY}-mlflow",
    "PGPASSWORD": f"{CANARY}-postgres",
    "AWS_ACCESS_KEY_ID": "ada",
    "AWS_SECRET_ACCESS_KEY": f"{CANARY}-aws",
    "AWS_SESSION_TOKEN": f"{CANARY}-session",
}
BROKEN = """\
import sys

def broken(tick, *, peak_lr):
    if sys.argv[0].endswith("default_worker.py"):
        raise RuntimeError("a trial that fails, and tells why")
    return peak_lr
"""
FIELDS = {
    "images": 64,
    "epochs": 2,
    "algorithm": "random",
    "trials": 2,
    "pruning": "none",
    "at_once": 1,
    "families": "\n    constant: {peak_lr: {log_uniform: [1e-2, 0.3]}}",
}
Fail = Callable[[Path, int], tuple[list[str], dict[str, str]]]


@pytest.fixture(scope="module")
def refusing() -> Iterator[tuple[int, list[str]]]:
    """The port of a server that takes no password, and what it was sent as one."""
    sent: list[str] = []

    class Refusing(http.server.BaseHTTPRequestHandler):
        """Answers 401 to all."""

        def answer(self) -> None:
            sent.append(self.headers.get("Authorization", ""))
            self.send_response(401)
            self.end_headers()

        do_GET = do_POST = answer

        def log_message(self, format: str, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, sent
        finally:
            server.shutdown()
            thread.join()


def launch(*more: str) -> list[str]:
    return ["launch", "faults.yaml", *more]


def in_address(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch("--address", f"ada:{CANARY}@127.0.0.1:{port}"), {}


def in_ray_address(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch(), {"RAY_ADDRESS": f"ray://ada:{CANARY}@127.0.0.1:{port}"}


def dead_cluster(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch("--address", f"127.0.0.1:{free_port()}"), {"RAY_AUTH_MODE": "token"}


def token_file_for_all(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    path = folder.parent / "token"  # its own place is not searched
    path.write_text(CANARY)
    path.chmod(0o644)
    wanted = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": str(path)}
    return launch("--address", f"127.0.0.1:{port}"), wanted


def dead_database(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch(), {"SWEEP_STORAGE": f"postgresql+psycopg://ada:{CANARY}@127.0.0.1:1/x"}


def bad_storage(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch(), {"SWEEP_STORAGE": f"nonsense://ada:{CANARY}@127.0.0.1/x"}


def password_in_storage(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch("--storage", f"postgresql://ada:{CANARY}@127.0.0.1:1/x"), {}


def password_in_tracking_uri(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch(), {"MLFLOW_TRACKING_URI": f"http://ada:{CANARY}@127.0.0.1:{port}"}


def wrong_password(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch("--name", "refused"), {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}


def wrong_password_again(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return ["sync", "refused"], {}


def crash_of_trials(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    (folder / "broken.py").write_text(BROKEN)
    text = (folder / "faults.yaml").read_text()
    broken = "custom: {function: broken.py:broken, peak_lr: 0.1}"
    old = "constant: {peak_lr: {log_uniform: [1e-2, 0.3]}}"
    assert old in text
    (folder / "crash.yaml").write_text(text.replace(old, broken))
    return ["launch", "crash.yaml", "--name", "crash"], {}


def doctor(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    uri = f"http://ada:{CANARY}@127.0.0.1:{port}"
    storage = f"postgresql+psycopg://ada:{CANARY}@127.0.0.1:1/x"
    address = f"ada:{CANARY}@127.0.0.1:{port}"
    command = ["doctor", "--json", "--address", address, "--storage", storage]
    return command, {"MLFLOW_TRACKING_URI": uri}


def no_cluster_for_a_job(folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
    return launch("--detach", "--address", f"http://127.0.0.1:{port}"), {"RAY_AUTH_MODE": "token"}


FAILURES: Mapping[Fail, int] = {
    in_address: 2,
    in_ray_address: 2,
    dead_cluster: 5,
    token_file_for_all: 2,
    dead_database: 5,
    bad_storage: 5,
    password_in_storage: 2,
    password_in_tracking_uri: 2,
    wrong_password: 3,
    wrong_password_again: 3,
    crash_of_trials: 1,
    doctor: 1,
    no_cluster_for_a_job: 5,
}


def found(folder: Path) -> list[Path]:
    """The files that hold the secret."""
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and CANARY.encode() in path.read_bytes()
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a sweep file, to which everything is written: the home, Ray's files, too."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "faults.yaml").write_text(CONFIG.format(**FIELDS))
    short = Path("/tmp") / f"ray{os.getpid()}"  # a socket's path is short
    (folder / "ray").mkdir()
    short.symlink_to(folder)
    (folder / "home").mkdir()
    try:
        yield folder
    finally:
        short.unlink()


@pytest.mark.parametrize("fail", FAILURES, ids=lambda fail: fail.__name__)
def test_a_secret_is_found_nowhere_after(fail: Fail, folder: Path, refusing: tuple[int, list[str]]):
    port, sent = refusing
    sent.clear()
    arguments, variables = fail(folder, port)
    place = {"HOME": str(folder / "home"), "RAY_TMPDIR": f"/tmp/ray{os.getpid()}"}
    command = Command(folder, [SWEEP, *arguments], SECRETS | place | variables)
    assert command.wait() == FAILURES[fail], command.output()
    assert command.output()
    assert found(folder) == [], command.output()
    if fail in (wrong_password, wrong_password_again):
        assert any(sent), "the password was not sent, so nothing was tried"


def test_the_search_finds_what_is_there(folder: Path):
    path = folder / "home" / "leak"
    path.write_bytes(b"\0" + CANARY.encode())
    assert found(folder) == [path]
    path.unlink()
    assert list((folder / "ray").glob("session_*/logs/*")), "Ray's logs were not searched"
