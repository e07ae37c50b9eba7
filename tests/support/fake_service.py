"""A scripted HTTP service on a real socket: what it was asked is kept, and each answer is as bad as a test wants."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Asked:
    """A request as it came; `body` is read by the script, or not."""

    method: str
    path: str
    headers: dict[str, str]
    talk: BaseHTTPRequestHandler
    body: bytes = b""

    def read(self) -> bytes:
        if "content-length" in self.headers:
            self.body = self.talk.rfile.read(int(self.headers["content-length"]))
        elif self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.talk.rfile.readline(), 16):
                self.body += self.talk.rfile.read(size)
                self.talk.rfile.readline()
            self.talk.rfile.readline()
        return self.body

    def answer(self, status: int, document: Any, **headers: str) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        self.talk.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.talk.send_header(name.replace("_", "-"), value)
        self.talk.send_header("Content-Length", str(len(text.encode())))
        self.talk.end_headers()
        self.talk.wfile.write(text.encode() if status != 304 else b"")

    def problem(self, status: int, code: str, detail: str, **headers: str) -> None:
        self.answer(status, {"code": code, "detail": detail, "status": status}, **headers)

    def stream(self, *events: tuple[str, str, dict[str, Any]]) -> None:
        """Events (id, kind, data), and then the end of the connection."""
        self.talk.send_response(200)
        self.talk.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.talk.end_headers()
        for number, kind, data in events:
            self.talk.wfile.write(f": alive\n\nid: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        self.cut()

    def cut(self) -> None:
        self.talk.close_connection = True


@dataclass
class FakeService:
    url: str
    script: Callable[[Asked], None]
    asked: list[Asked] = field(default_factory=list)

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]


@contextmanager
def serving(script: Callable[[Asked], None]) -> Iterator[FakeService]:
    class Talk(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            return

        def any_method(self) -> None:
            asked = Asked(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self)
            fake.asked.append(asked)
            fake.script(asked)

        do_GET = do_POST = do_DELETE = any_method  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Talk)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    fake = FakeService(f"http://127.0.0.1:{server.server_port}", script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
