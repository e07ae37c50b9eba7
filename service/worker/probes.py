"""A worker's health and metrics in; /livez, /readyz, /startupz and /metrics over HTTP out, from a thread."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

from service.errors import InvalidOptions

Answer = tuple[int, bytes]
METRICS = "/metrics"

log = logging.getLogger("tal.worker")


class _Server(ThreadingHTTPServer):
    """On every address of the machine, of both families where it has them."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], responder: type[BaseHTTPRequestHandler]) -> None:
        self._is_dual = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if self._is_dual else socket.AF_INET
        super().__init__(address, responder)

    def server_bind(self) -> None:
        if self._is_dual:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)  # HTTPServer's own looks up a name for its address, which may take long


@contextlib.contextmanager
def serving(port: int | None, answers: dict[str, Callable[[], Answer]]) -> Iterator[int | None]:
    """`answers` maps paths to what gives their answer; port None serves nothing, 0 takes any that is free."""
    if port is None:
        yield None
        return
    try:
        server = _Server(("", port), _responder(answers))
    except OSError as error:
        raise InvalidOptions(f"port {port} for metrics cannot be had: {error.strerror or error}") from None
    threading.Thread(target=server.serve_forever, daemon=True, name="probes").start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def probed(trouble: str | None) -> Answer:
    return (503, f"{trouble}\n".encode()) if trouble else (200, b"ok\n")


def _not_found() -> Answer:
    return 404, b"not found\n"


def _answer(ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except Exception:
        log.exception("a probe failed")
        return 500, b"a defect; see the log\n"


def _responder(answers: dict[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Responder(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, body = _answer(answers.get(path, _not_found))
            kind = CONTENT_TYPE_LATEST if path == METRICS else "text/plain; charset=utf-8"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds; they are no events."""

    return Responder
