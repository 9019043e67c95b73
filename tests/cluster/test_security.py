"""Doors that are shut: who listens where, and what the servers answer without token or password."""

import contextlib
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import grpc
import pytest
import ray.core.generated
import ray.dashboard

from tests.cluster.heads import Head, ray_head, status
from tests.cluster.listeners import Listener, listeners, told
from tests.faults.harness import site, until
from tests.tracking_server import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
TOKEN = "d0c5" * 16
SHUT = (401, 403)
# What Ray's dashboard tells everyone: its pages, whether it is well, whether it wants a token.
PUBLIC = {
    *("GET /", "GET /favicon.ico", "GET /api/authentication_mode"),
    *("GET /api/healthz", "GET /api/gcs_healthz", "GET /api/local_raylet_healthz"),
    "GET /-/healthz",
}
# And MLflow: whether it is well, its pages' files, what it can do.
MLFLOW_PUBLIC = (
    *("/health", "/static-files/"),
    *("/api/3.0/mlflow/server-info", "/ajax-api/3.0/mlflow/server-info"),
)
ROUTE = re.compile(r'routes\.(get|post|put|delete|patch|head)\(\s*f?"([^"]+)"')


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with ray_head(TOKEN) as head:
        yield head


def filled(path: str) -> str:
    """A route with something in the place of each parameter."""
    return re.sub(r"\{[^}]*\}|<[^>]*>", "1", path)


def dashboard_routes() -> set[tuple[str, str]]:
    """All routes that Ray's dashboard, its agents and its job server have: method, path."""
    folder = Path(ray.dashboard.__path__[0])
    text = "\n".join(path.read_text() for path in folder.rglob("*.py"))
    return {(method.upper(), filled(path)) for method, path in ROUTE.findall(text)}


@pytest.mark.parametrize("sent", [{}, {"Authorization": f"Bearer {'0' * 64}"}])
def test_rays_dashboard_and_job_server_are_shut(head: Head, sent: Mapping[str, str]):
    routes = dashboard_routes()
    assert len(routes) > 50
    assert ("POST", "/api/jobs/") in routes
    answers = {f"{m} {path}": status(head.dashboard + path, m, sent) for m, path in routes}
    opened = {route for route, answer in answers.items() if answer not in SHUT}
    assert opened <= PUBLIC, {route: answers[route] for route in opened - PUBLIC}
    assert status(f"{head.dashboard}/api/jobs/", "GET", {"Authorization": f"Bearer {TOKEN}"}) == 200


def calls() -> list[str]:
    """All calls that Ray's servers know, but for one that ends the head when it is malformed."""
    package = ray.core.generated
    names = [module.name for module in pkgutil.iter_modules(package.__path__)]
    found = []
    for name in (name for name in names if name.endswith("_pb2")):
        module = importlib.import_module(f"{package.__name__}.{name}")
        for service in module.DESCRIPTOR.services_by_name.values():
            found += [f"/{service.full_name}/{method.name}" for method in service.methods]
    return sorted(call for call in found if "RaySyncer" not in call)


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_rays_head_answers_no_call(head: Head, token: str | None):
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    shut, opened = set(), {}
    with grpc.insecure_channel(head.address, [("grpc.enable_http_proxy", 0)]) as channel:
        for call in calls():
            code = code_of(channel, call, metadata)
            if code == grpc.StatusCode.UNAUTHENTICATED:
                shut.add(call)
            elif code != grpc.StatusCode.UNIMPLEMENTED:  # a call of another server
                opened[call] = code
        right = (("authorization", f"Bearer {TOKEN}"),)
        assert code_of(channel, "/ray.rpc.NodeInfoGcsService/GetClusterId", right) is None
    assert opened == {}
    assert {
        f"/ray.rpc.{call}"
        for call in ("JobInfoGcsService/AddJob", "ActorInfoGcsService/CreateActor")
    } <= shut
    assert len(shut) > 40


def code_of(
    channel: grpc.Channel, call: str, metadata: tuple[tuple[str, str], ...]
) -> grpc.StatusCode | None:
    """How a call ends; None: it was answered."""
    try:
        channel.unary_unary(call, request_serializer=bytes)(b"", timeout=60, metadata=metadata)
    except grpc.RpcError as error:
        refusal: grpc.Call = error  # pyright: ignore[reportAssignmentType]
        return refusal.code()
    return None


LIST_ROUTES = """
import json, sys, warnings
warnings.simplefilter("ignore")
from mlflow.server import app
from mlflow.server.auth import create_app
create_app()
from mlflow.server.fastapi_app import create_fastapi_app
fast = [route for route in create_fastapi_app(app).routes if getattr(route, "methods", None)]
rules = [[m, r.rule] for r in app.url_map.iter_rules() for m in r.methods - {"HEAD", "OPTIONS"}]
rules += [[method, route.path] for route in fast for method in route.methods - {"HEAD", "OPTIONS"}]
print(json.dumps(rules))
"""


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The address of an MLflow server with basic authentication, and its environment."""
    folder = tmp_path_factory.mktemp("mlflow")
    store = f"sqlite:///{folder}/mlflow.db"
    (folder / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{folder}/auth.db\n"
        "admin_username = admin\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    settings = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": "a password of sixteen",
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "5ec7e7" * 6,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_BACKEND_STORE_URI": store,
        "_MLFLOW_SERVER_FILE_STORE": store,
        "PYTHONWARNINGS": "ignore",
    }
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | settings, stdout=log, stderr=log, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        log = (folder / "log").read_text
        until(lambda: status(f"{address}/health") or process.poll() is not None, log, 180)
        yield address, settings
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_mlflow_with_a_password_is_shut(mlflow: tuple[str, Mapping[str, str]]):
    address, settings = mlflow
    done = subprocess.run(
        [sys.executable, "-c", LIST_ROUTES],
        env=os.environ | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    routes = {(method, filled(rule)) for method, rule in json.loads(done.stdout)}
    assert len(routes) > 200
    answers = {(m, path): status(address + path, m) for m, path in routes}
    opened = {route: answer for route, answer in answers.items() if answer not in SHUT}
    assert {route for route in opened if not route[1].startswith(MLFLOW_PUBLIC)} == set(), opened
    assert status(f"{address}/api/2.0/mlflow/experiments/search", "POST") == 401


def test_the_ui_listens_on_loopback_and_refuses_foreign_hosts(tmp_path: Path):
    with site(tmp_path) as here:
        command = here.start("ui", "--port", "0")
        command.says(r"http://127\.0\.0\.1:\d+")
        (port,) = re.findall(r"http://127\.0\.0\.1:(\d+)", command.output())
        until(lambda: status(f"http://127.0.0.1:{port}/health") == 200, command.output, 180)
        assert (
            listeners(here.processes())
            == told("sweep ui")
            == {Listener("mlflow server", "loopback")}
        )
        for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
            url = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get?experiment_id=0"
            assert status(url, "GET", {"Host": host}) == 403, host
        assert status(url) == 200
        made = f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/create"
        assert status(made, "POST", {"Origin": "http://evil.example"}) == 403


def test_a_local_launch_listens_on_loopback_and_writes_no_token(tmp_path: Path):
    home = tmp_path / "home"
    home.mkdir()
    with site(tmp_path / "site", images=64, epochs=2, trials=400) as here:
        command = here.start(HOME=str(home), RAY_AUTH_MODE="disabled")
        until(
            lambda: here.recorded() > 3 or command.process.poll() is not None, command.output, 280
        )
        wanted = told("A local launch")
        with contextlib.suppress(AssertionError):  # Ray's agents may be late to listen
            until(lambda: listeners(here.processes()) == wanted, seconds=60)
        found = listeners(here.processes())
        assert found == wanted, command.output()
        assert {listener.reach for listener in found} == {"loopback"}
        assert not (home / ".ray").exists()
        assert here.run("cancel", "faults", HOME=str(home))
        command.wait()


def test_a_cluster_listens_where_the_table_says(head: Head):
    assert listeners(head.processes()) <= told("A cluster")
