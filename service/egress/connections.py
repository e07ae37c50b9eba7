"""A host that passed the guard in; a connection to one of the very addresses that were checked out.

A name is looked up once and what it gave is connected to: whoever answers differently the next time is not asked again.
"""

from __future__ import annotations

import os
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import httpcore
import httpx

from service.egress.addresses import Address
from service.egress.guard import Guard
from service.egress.targets import UrlDeniedError
from service.errors import first_line

CONNECT_S = 10.0  # for one address, and for the handshake
MOST_ADDRESSES = 4
LOOK_EVERY_S = 0.5  # whether the caller still wants it


class UrlFailedError(Exception):
    """Nothing usable came: unreachable, too slow, too long, a redirect, a status that is none of success."""


@dataclass(frozen=True)
class Deadline:
    """The end of a whole request: no part of it may wait for longer than what is left."""

    timeout_s: float
    ends_at_s: float
    stopped: Callable[[], bool]

    def left_s(self) -> float:
        if self.stopped():
            raise UrlFailedError("the request was given up")
        if (left_s := self.ends_at_s - time.monotonic()) <= 0:
            raise UrlFailedError(f"it took longer than {self.timeout_s:g} s")
        return left_s

    def step_s(self, most_s: float = LOOK_EVERY_S) -> float:
        return min(most_s, self.left_s())


def deadline(timeout_s: float, stopped: Callable[[], bool]) -> Deadline:
    return Deadline(timeout_s, time.monotonic() + timeout_s, stopped)


class GuardedBackend(httpcore.NetworkBackend):
    """What httpcore connects through."""

    def __init__(self, guard: Guard, until: Deadline) -> None:
        self._guard, self._until = guard, until

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        addresses = resolve(self._guard, host, port, self._until)
        return TimedStream(connect(addresses, host, port, self._until), self._until)


class TimedStream(httpcore.NetworkStream):
    """A socket whose every wait ends with the request's time, however little comes at once."""

    def __init__(self, connected: socket.socket, until: Deadline) -> None:
        self._socket, self._until = connected, until

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        while True:
            self._socket.settimeout(self._until.step_s())
            try:
                return self._socket.recv(max_bytes)
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.ReadError(first_line(error)) from None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        unsent = memoryview(buffer)
        while unsent:
            self._socket.settimeout(self._until.step_s())
            try:
                unsent = unsent[self._socket.send(unsent) :]
            except TimeoutError:
                continue
            except OSError as error:
                raise httpcore.WriteError(first_line(error)) from None

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002
    ) -> httpcore.NetworkStream:
        self._socket.settimeout(self._until.step_s(CONNECT_S))
        try:
            # A body whose length nobody told ends with TLS's own farewell, or somebody cut it off.
            secured = ssl_context.wrap_socket(self._socket, server_hostname=server_hostname, suppress_ragged_eofs=False)
        except OSError as error:
            raise UrlFailedError(f"{server_hostname}: no secure connection: {first_line(error)}") from None
        return TimedStream(secured, self._until)

    def close(self) -> None:
        self._socket.close()


def resolve(guard: Guard, host: str, port: int, until: Deadline) -> Sequence[Address]:
    """In a thread of its own, since a resolver cannot be told to hurry."""
    found: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(guard.resolve(host, port))
        except (OSError, ValueError, UrlDeniedError) as error:
            found.put(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    while True:
        try:
            answer = found.get(timeout=until.step_s())
        except queue.Empty:
            continue
        if isinstance(answer, UrlDeniedError):
            raise answer
        if isinstance(answer, Exception) or not answer:
            raise UrlFailedError(f"host {host!r} cannot be found")
        return answer


def connect(addresses: Sequence[Address], host: str, port: int, until: Deadline) -> socket.socket:
    said = "nothing was tried"
    for address in addresses[:MOST_ADDRESSES]:
        try:
            return _connect(address, port, until.step_s(CONNECT_S))
        except OSError as error:
            said = first_line(error)
    raise UrlFailedError(f"host {host!r} cannot be reached: {said}")


def _connect(address: Address, port: int, timeout_s: float) -> socket.socket:
    connected = socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_STREAM)
    try:
        connected.settimeout(timeout_s)
        connected.connect((str(address), port))
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        connected.close()
        raise
    return connected


def trusted() -> ssl.SSLContext:
    return _trusted(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _trusted(_file: str | None, _folder: str | None) -> ssl.SSLContext:
    """Certificates as httpx trusts them: those in the two variables, else the ones that come with it."""
    return httpx.create_ssl_context()
