"""A play in; a host on a port of this machine that plays it to everybody who calls, and remembers what it was sent."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trustme

AUTHORITY = trustme.CA()
CERTIFICATE = AUTHORITY.issue_cert("videos.test")
Play = Callable[["Host", socket.socket], None]


def says(*parts: bytes) -> Play:
    def play(_: Host, caller: socket.socket) -> None:
        for part in parts:
            caller.sendall(part)

    return play


def answers(status: str, body: bytes = b"", *headers: str) -> Play:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return says("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def trickles(head: bytes, every_s: float = 0.05) -> Play:
    """Never silent for long, never done."""

    def play(host: Host, caller: socket.socket) -> None:
        caller.sendall(head)
        while not host.ended.wait(every_s):
            caller.sendall(b"a")

    return play


def hangs(head: bytes = b"") -> Play:
    def play(host: Host, caller: socket.socket) -> None:
        caller.sendall(head)
        host.ended.wait()

    return play


class Host:
    def __init__(self, play: Play, *, secure: bool = False, reads: bool = True) -> None:
        self.requests: list[bytes] = []
        self.ended = threading.Event()
        self._play, self._reads = play, reads
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if secure else None
        if self._context:
            CERTIFICATE.configure_cert(self._context)
        self.names: list[str | None] = []  # that callers asked a certificate for
        self._threads: list[threading.Thread] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/clip.mp4"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.ended.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, self._listening.accept()[0])

    def _serve(self, caller: socket.socket) -> None:
        with contextlib.suppress(OSError), caller:
            if self._context:
                self._context.sni_callback = lambda _, name, __: self.names.append(name)
                caller = self._context.wrap_socket(caller, server_side=True)
            with caller:
                if self._reads:
                    self.requests.append(_request(caller))
                self._play(self, caller)
                with contextlib.suppress(ValueError):  # a play may have ended it already
                    if isinstance(caller, ssl.SSLSocket):
                        caller.unwrap()


def _request(caller: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(caller)
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head.lower())
    while length and len(body) < int(length[1]):
        body += _more(caller)
    return head + b"\r\n\r\n" + body


def _more(caller: socket.socket) -> bytes:
    part = caller.recv(65536)
    if not part:
        raise ConnectionError("the caller went away")
    return part
