"""A worker's health and metrics in; /livez, /readyz, /startupz and /metrics over HTTP out, from a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST

Answer = tuple[int, bytes]
METRICS = "/metrics"


class ProbeServer:
    """`answers` maps paths to what gives their answer; port 0 takes any that is free."""

    def __init__(self, port: int, answers: dict[str, Callable[[], Answer]]) -> None:
        self._server = ThreadingHTTPServer(("", port), _responder(answers))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True, name="probes").start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _responder(answers: dict[str, Callable[[], Answer]]) -> type[BaseHTTPRequestHandler]:
    class Responder(BaseHTTPRequestHandler):
        timeout = 10.0

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            status, body = answers.get(path, lambda: (404, b"not found\n"))()
            kind = CONTENT_TYPE_LATEST if path == METRICS else "text/plain; charset=utf-8"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Probes come every few seconds; they are no events."""

    return Responder
