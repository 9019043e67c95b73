"""A proxy before a tracking server, that loses answers: what was asked for has been done."""

import contextlib
import http.client
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_HOP_BY_HOP = ("connection", "keep-alive", "transfer-encoding", "content-length")


class Losing(ThreadingHTTPServer):
    """Forwards each request, and loses the answers of some that write.

    Of each kind of request the first answer is lost, and about one in `every` after it.
    """

    daemon_threads = True

    def __init__(self, server_port: int, every: int, seed: int):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_to, self._every = server_port, every
        self._random, self._lock = random.Random(seed), threading.Lock()
        self.lost: Counter[str] = Counter()  # how many answers, by the kind of the request

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def loses(self, method: str, path: str) -> bool:
        if method == "GET":
            return False
        with self._lock:
            asked = kind(path)
            lost = self.lost[asked] == 0 or self._random.randrange(self._every) == 0
            self.lost[asked] += lost
        return lost

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no matter."""


def kind(path: str) -> str:
    """What a request asks for: runs/create, runs/log-batch, ...; artifacts, whatever their name."""
    path = path.partition("?")[0]
    return "artifacts" if "/mlflow-artifacts/" in path else path.partition("/mlflow/")[2]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _forward(self) -> None:
        proxy = self.server
        assert isinstance(proxy, Losing)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server = http.client.HTTPConnection("127.0.0.1", proxy.server_to, timeout=60)
        with contextlib.closing(server):
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
            server.request(self.command, self.path, body, headers)
            answer = server.getresponse()
            content = answer.read()
        self.close_connection = proxy.loses(self.command, self.path)
        if self.close_connection:
            return
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in _HOP_BY_HOP:
                self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@contextlib.contextmanager
def losing(server_port: int, *, every: int, seed: int) -> Iterator[Losing]:
    """A proxy that runs until the block ends."""
    with Losing(server_port, every, seed) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
