"""A URL that a caller named in, what its host answers or a refusal out: the one way in which the service calls out.

No redirect is followed, no proxy of the environment used, no cookie kept, nothing compressed asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata

import httpcore

from service.egress.connections import Deadline, GuardedBackend, UrlFailedError, deadline, trusted
from service.egress.guard import Guard
from service.egress.targets import Target, UrlDeniedError
from service.errors import first_line

__all__ = ["Answer", "Guard", "UrlDeniedError", "UrlFailedError", "fetch", "post"]

READ_OF_ANSWERS_BYTES = 4096


@dataclass(frozen=True)
class Answer:
    status: int
    retry_after: str | None = None


def post(url: str, guard: Guard, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
    """Sends, follows no redirect, reads at most a little of the answer. `timeout_s` is for all of it."""
    target = guard.check(url)
    with _asked("POST", target, guard, deadline(timeout_s, _never), headers, body) as response:
        with suppress(UrlFailedError, httpcore.NetworkError, httpcore.ProtocolError):  # the status is the answer
            _read_a_little(response)
        return Answer(response.status, _header(response, "retry-after"))


def fetch(
    url: str,
    guard: Guard,
    write: Callable[[bytes], None],
    max_bytes: int,
    timeout_s: float,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    """Hands the body on in parts, and gives its length. Soon after `stopped` says so it ends with UrlFailedError."""
    target, size_bytes = guard.check(url), 0
    with _asked("GET", target, guard, deadline(timeout_s, stopped), {}) as response:
        _check_head(target, response, max_bytes)
        for part in response.iter_stream():
            size_bytes += len(part)
            if size_bytes > max_bytes:
                raise UrlFailedError(f"more than {max_bytes} bytes came; at most {max_bytes} are accepted")
            write(part)
    if size_bytes == 0:
        raise UrlFailedError(f"{target.place} answered with nothing")
    return size_bytes


@contextmanager
def _asked(
    method: str, target: Target, guard: Guard, until: Deadline, headers: Mapping[str, str], body: bytes | None = None
) -> Iterator[httpcore.Response]:
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    context = trusted() if target.scheme == "https" else None
    sent = {**_own_headers(target), **{name.lower(): value for name, value in headers.items()}}
    try:
        with (
            httpcore.HTTPConnection(url.origin, context, network_backend=GuardedBackend(guard, until)) as connection,
            connection.stream(method, url, headers=list(sent.items()), content=body) as response,
        ):
            yield response
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        raise UrlFailedError(f"{target.place}: {first_line(error)}") from None


def _own_headers(target: Target) -> dict[str, str]:
    return {
        "host": target.place,
        "user-agent": f"tal/{metadata.version('tal-service')}",
        "accept": "*/*",
        "accept-encoding": "identity",
        "connection": "close",
    }


def _check_head(target: Target, response: httpcore.Response, max_bytes: int) -> None:
    if 300 <= response.status < 400:
        raise UrlFailedError(f"{target.place} answered {response.status}; redirects are not followed")
    if response.status != 200:
        raise UrlFailedError(f"{target.place} answered {response.status}; only 200 is accepted")
    if (encoding := _header(response, "content-encoding") or "identity").lower() != "identity":
        raise UrlFailedError(f"{target.place} answered in the encoding {encoding[:30]!r}; only identity is accepted")
    # httpcore has refused what is no number of bytes.
    if (length := int(_header(response, "content-length") or 0)) > max_bytes:
        raise UrlFailedError(f"{target.place} offers {length} bytes; at most {max_bytes} are accepted")


def _read_a_little(response: httpcore.Response) -> None:
    read_bytes = 0
    for part in response.iter_stream():
        read_bytes += len(part)
        if read_bytes >= READ_OF_ANSWERS_BYTES:
            return


def _header(response: httpcore.Response, name: str) -> str | None:
    found = (value for given, value in response.headers if given.decode("ascii").lower() == name)
    value = next(found, None)
    return None if value is None else value.decode("latin-1").strip()


def _never() -> bool:
    return False
