"""Who may use a Ray cluster: beyond this machine's loopback, only who has its token.

Ray 2.60 runs whatever anyone who reaches it sends, unless token authentication is on. It is asked
whether it is, for what this process is set to says nothing of the cluster.
"""

import ipaddress
import os
import socket
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

from sweep.errors import CommandError
from sweep.secrecy import read_secret

_ASK_S = 10.0
_CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"  # the first thing that each client asks
_TOKEN_WAYS = (
    "set RAY_AUTH_MODE=token on every node and here, with the cluster's token in "
    "~/.ray/auth_token, in a file named by RAY_AUTH_TOKEN_PATH (both with mode 0600), or in "
    "RAY_AUTH_TOKEN"
)
RISK = (
    "--insecure: whoever reaches {address} can run code on the cluster as its user, and read what "
    "this sweep sends there"
)

Warn = Callable[[str], None]


def refuse_password(address: str) -> None:
    """Raise CommandError, which does not show it, for a Ray address with a user or password."""
    if "@" in address:
        raise CommandError(
            "an address must hold no user and no password, but one with an @ was given; Ray takes "
            f"a token instead: {_TOKEN_WAYS}",
            exit_code=2,
        )


def check_access(address: str, *, insecure: bool, warn: Warn) -> None:
    """Raise CommandError unless the cluster at HOST:PORT, or http://HOST:PORT, is closed to others.

    At a loopback address it need not be. With `insecure`, `warn` is told the risk instead.
    """
    token = cluster_token()
    if is_loopback(_host(address)):
        return
    if token is None:
        fault = "nothing here says which token the cluster asks for"
    elif asks_for_token(address):
        check_token(address, token)
        return
    else:
        fault = "this cluster asks for none"
    if not insecure:
        raise CommandError(
            f"a cluster that other machines reach must ask for a token, but {fault}, at {address}; "
            f"{_TOKEN_WAYS}, or take the risk with --insecure",
            exit_code=2,
        )
    warn(RISK.format(address=address))


def check_token(address: str, token: str) -> None:
    """Raise CommandError if the cluster does not take the token."""
    if not _answers(address, token):
        raise CommandError(
            f"the token must be the one of the cluster at {address}, but it is refused there; "
            "look at RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH and ~/.ray/auth_token, in this order",
            exit_code=2,
        )


def cluster_token() -> str | None:
    """The token that Ray will send; None where token authentication is off, or without a token.

    Raises CommandError for a token's file that others may read.
    """
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return None
    if token := os.environ.get("RAY_AUTH_TOKEN"):
        return token
    if path := os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return read_secret(Path(path)) or None
    path = Path.home() / ".ray" / "auth_token"
    return (read_secret(path) or None) if path.exists() else None


def asks_for_token(address: str) -> bool:
    """Whether a cluster refuses who comes without a token."""
    return not _answers(address, None)


def is_loopback(host: str) -> bool:
    """Whether a host's name or number means this machine alone."""
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return all(ipaddress.ip_address(number.partition("%")[0]).is_loopback for number in found)


def _host(address: str) -> str:
    parts = urlsplit(address if "://" in address else f"//{address}")
    return parts.hostname or ""


def _answers(address: str, token: str | None) -> bool:
    """Whether a cluster lets this token, or who has none, ask it something."""
    if "://" in address:
        return _page_answers(address, token)
    return _server_answers(address, token)


def _page_answers(address: str, token: str | None) -> bool:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    opener = build_opener(ProxyHandler({}))
    try:
        opener.open(Request(f"{address.rstrip('/')}/api/version", headers=headers), timeout=_ASK_S)
    except HTTPError as error:
        if error.code in (401, 403):
            return False
        raise unreachable(address, f"HTTP {error.code}") from None
    except (OSError, HTTPException) as error:
        raise unreachable(address, str(getattr(error, "reason", error))) from None
    return True


def _server_answers(address: str, token: str | None) -> bool:
    try:
        import grpc
    except ImportError:
        raise CommandError(
            "to ask a cluster for its token, grpcio must be installed; pip install 'sweep[cluster]'"
        ) from None
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    with _channel(address) as channel:
        ask = channel.unary_unary(_CLUSTER_ID, request_serializer=bytes)
        try:
            ask(b"", timeout=_ASK_S, metadata=metadata)
        except grpc.RpcError as error:
            refusal: grpc.Call = error  # pyright: ignore[reportAssignmentType]
            if refusal.code() == grpc.StatusCode.UNAUTHENTICATED:
                return False
            raise unreachable(address, refusal.code().name.lower().replace("_", " ")) from None
    return True


def _channel(address: str) -> Any:
    """A way to a cluster's head: encrypted where Ray is told to be, with its own certificates."""
    import grpc

    options = [("grpc.enable_http_proxy", 0)]
    if os.environ.get("RAY_USE_TLS", "").lower() not in ("1", "true"):
        return grpc.insecure_channel(address, options)
    from ray._common.tls_utils import load_certs_from_env

    try:
        chain, key, authorities = load_certs_from_env()
    except (OSError, RuntimeError) as error:
        raise CommandError(f"Ray's certificates must be readable, but: {error}", 2) from None
    credentials = grpc.ssl_channel_credentials(authorities, key, chain)
    return grpc.secure_channel(address, credentials, options)


def unreachable(address: str, reason: str) -> CommandError:
    """What is said of a cluster that does not answer."""
    return CommandError(f"no Ray cluster answers at {address}: {reason}", exit_code=5)
