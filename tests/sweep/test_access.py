"""Which Ray clusters a sweep runs on, and which files may hold a secret."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from ray._common.tls_utils import generate_self_signed_tls_certs

from sweep.access import asks_for_token, check_access, check_token, cluster_token, is_loopback
from sweep.doctor_services import check_ray
from sweep.errors import CommandError
from sweep.secrecy import has_password
from tests.commands import refused

TOKEN = "t0p" * 12
HERE = "192.0.2.1:6379"  # of a network that documents may use, and nobody else


@contextlib.contextmanager
def head(token: str | None, certificate: tuple[str, str] | None = None) -> Iterator[str]:
    """What answers as the head of a cluster does; with a token, only to who sends it.

    With a certificate and its key, it talks to who has them alone.
    """

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        sent = dict(context.invocation_metadata()).get("authorization")
        if token is not None and sent != f"Bearer {token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    service = grpc.method_handlers_generic_handler(
        "ray.rpc.NodeInfoGcsService",
        {"GetClusterId": grpc.unary_unary_rpc_method_handler(answer)},
    )
    server = grpc.server(ThreadPoolExecutor(1), handlers=[service])
    if certificate is None:
        port = server.add_insecure_port("0.0.0.0:0")
    else:
        chain, key = (text.encode() for text in certificate)
        credentials = grpc.ssl_server_credentials([(key, chain)], chain, require_client_auth=True)
        port = server.add_secure_port("0.0.0.0:0", credentials)
    server.start()
    try:
        yield f"0.0.0.0:{port}"  # it leads here, but is no loopback address
    finally:
        server.stop(None).wait()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a token."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def answer(address: str, *, insecure: bool = False) -> tuple[str, list[str]]:
    """Why a cluster is refused, or "", and what was warned of."""
    warned: list[str] = []
    said = ""
    try:
        check_access(address, insecure=insecure, warn=warned.append)
    except CommandError as error:
        said = f"{error.exit_code} {error}"
    assert TOKEN not in said
    return said, warned


def with_token(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)


def test_a_closed_cluster_takes_its_token_alone(monkeypatch: pytest.MonkeyPatch):
    with head(TOKEN) as address:
        assert "nothing here says which token the cluster asks for" in answer(address)[0]
        with_token(monkeypatch, "another")
        assert answer(address)[0].startswith("2 the token must be the one of the cluster at")
        with_token(monkeypatch, TOKEN)
        assert answer(address) == ("", [])


def test_an_open_cluster_is_refused_even_with_a_token(monkeypatch: pytest.MonkeyPatch):
    with_token(monkeypatch, TOKEN)
    with head(None) as address:
        said, _ = answer(address)
        assert said.startswith("2 a cluster that other machines reach must ask for a token, but ")
        assert "this cluster asks for none" in said
        assert said.endswith("or take the risk with --insecure")
        said, warned = answer(address, insecure=True)
    assert said == ""
    assert warned == [
        f"--insecure: whoever reaches {address} can run code on the cluster as its user, and read "
        "what this sweep sends there"
    ]


def test_doctor_says_that_a_cluster_is_open(monkeypatch: pytest.MonkeyPatch):
    with_token(monkeypatch, TOKEN)
    with head(None) as address:
        found = check_ray(address)
        assert (found.state, found.remote) == ("bad", False)
        assert "this cluster asks for none" in found.text
        assert check_ray(address, insecure=True).state == "warning"


def test_a_cluster_of_this_machine_alone_may_be_open():
    assert answer("127.0.0.1:6379") == ("", [])
    assert answer("localhost:6379") == ("", [])


def test_a_token_that_is_set_counts_only_with_the_mode(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert cluster_token() is None
    assert "nothing here says which token" in answer(HERE)[0]


def test_a_cluster_with_certificates_is_asked_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate = generate_self_signed_tls_certs()
    monkeypatch.setenv("RAY_USE_TLS", "1")
    said = "^Ray's certificates must be readable"
    with pytest.raises(CommandError, match=said) as caught:
        asks_for_token("127.0.0.1:6379")
    assert caught.value.exit_code == 2
    for name, text in zip(("CERT", "KEY"), certificate, strict=True):
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(f"RAY_TLS_SERVER_{name}", str(tmp_path / name))
    monkeypatch.setenv("RAY_TLS_CA_CERT", str(tmp_path / "CERT"))
    with head(TOKEN, certificate) as address:
        port = address.rpartition(":")[2]
        assert asks_for_token(f"127.0.0.1:{port}")
        check_token(f"127.0.0.1:{port}", TOKEN)
        monkeypatch.delenv("RAY_USE_TLS")
        with pytest.raises(CommandError, match="no Ray cluster answers"):
            asks_for_token(f"127.0.0.1:{port}")


def test_nobody_who_answers(monkeypatch: pytest.MonkeyPatch):
    with_token(monkeypatch, TOKEN)
    with head(None) as address:
        pass
    assert answer(address)[0].startswith(f"5 no Ray cluster answers at {address}: ")


@pytest.mark.parametrize("named", [True, False])
def test_a_token_file_that_others_may_read_is_refused(
    named: bool, home: Path, monkeypatch: pytest.MonkeyPatch
):
    path = home / "token" if named else home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    if named:
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    for mode in (0o644, 0o640, 0o620):
        path.chmod(mode)
        said = f"2 {path} holds a secret, so its mode must be 0600, but got {mode:04o}; "
        assert answer(HERE)[0] == f"{said}chmod 600 {path}"
    path.chmod(0o600)
    assert cluster_token() == TOKEN


def test_a_token_file_that_is_not_there(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert cluster_token() is None
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "none"))
    assert answer(HERE)[0] == f"2 {home}/none must be readable, but: No such file or directory"


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_which_hosts_are_this_machine_alone(host: str, alone: bool):
    assert is_loopback(host) == alone


@pytest.mark.parametrize(
    ("uri", "has"),
    [
        ("http://ada:canary@host:5000", True),
        ("http://canary@host", True),
        ("postgresql://ada@host/db", False),
        ("postgresql://ada:canary@host/db", True),
        ("postgresql://host/db?user=ada&password=canary", True),
        ("mysql+pymysql://host/db?passwd=canary", True),
        ("postgresql://host/db?sslmode=require", False),
        ("http://ada:can[ary@host", True),
        ("http://host/@", False),
        ("sqlite:////folder/a@b.db", False),
    ],
)
def test_which_addresses_carry_a_password(uri: str, has: bool):
    assert has_password(uri) == has


@pytest.mark.parametrize(
    ("words", "variable"),
    [
        ([], "ray://ada:canary@host:10001"),
        (["--address", "auto"], "ray://ada:canary@host:10001"),
        (["--address", "ada:canary@host:6379"], ""),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_printed(
    words: list[str], variable: str, tmp_path: Path
):
    said = refused(tmp_path, "launch", "quickstart", *words, code=2, RAY_ADDRESS=variable)
    assert "an address must hold no user and no password" in said
    assert "canary" not in said
    assert not (tmp_path / "sweeps" / "quickstart").exists()
