"""Hosts on this machine that answer well, badly, slowly or never in; what a request made of it out."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.egress.requests import Answer, Guard, UrlDeniedError, UrlFailedError, fetch, post
from tests.service.egress.hosts import AUTHORITY, Host, Play, answers, hangs, says, trickles

MOST_BYTES = 100_000
HEAD = b"HTTP/1.1 200 OK\r\n"


def here(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


CLOSED = Guard(("*:*",), ("https", "http"), private=True, lookup=here)


def get(url: str, guard: Guard = CLOSED, timeout_s: float = 10.0, stopped: Callable[[], bool] = lambda: False) -> bytes:
    parts: list[bytes] = []
    size_bytes = fetch(url, guard, parts.append, MOST_BYTES, timeout_s, stopped)
    assert size_bytes == len(b"".join(parts))
    return b"".join(parts)


@pytest.mark.parametrize(
    "play",
    [
        answers("200 OK", b"a video"),
        answers("200 OK", b"a video", "Content-Encoding: identity", "Set-Cookie: a=b"),
        says(HEAD, b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\na \r\n", b"5\r\nvideo\r\n0\r\n\r\n"),
        says(HEAD, b"\r\n", b"a vi", b"deo"),
        says(b"HTTP/1.0 200 OK\r\n\r\na video"),
        says(b"HTTP/1.1 103 Early Hints\r\n\r\n", HEAD, b"Content-Length: 7\r\n\r\na video"),
    ],
)
def test_a_body_comes_whole_however_it_is_framed(play: Play) -> None:
    with Host(play) as host:
        assert get(host.url) == b"a video"


def test_a_request_has_the_name_and_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with Host(answers("200 OK", b"a")) as host:
        get(f"http://videos.test:{host.port}/a%20b/ä?token=c#d")
        head = host.requests[0].decode().lower().split("\r\n")
    assert head[0] == "get /a%20b/%c3%a4?token=c http/1.1"
    assert {f"host: videos.test:{host.port}", "accept-encoding: identity", "connection: close"} <= set(head)
    assert not any(line.startswith(("cookie", "authorization", "proxy", "referer")) for line in head)


def test_the_address_that_was_checked_is_the_one_that_is_called_and_the_next_one_if_it_does_not_answer() -> None:
    asked: list[str] = []

    def lookup(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.2", "127.0.0.1"] if len(asked) == 1 else ["127.0.0.3"]

    with Host(answers("200 OK", b"a")) as host:
        get(f"http://videos.test:{host.port}/", Guard(("*:*",), ("http",), private=True, lookup=lookup))
        assert len(host.requests) == 1
    assert asked == ["videos.test"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 300])
def test_a_redirect_is_not_followed(status: int) -> None:
    with Host(answers("200 OK", b"secret")) as inside:
        location = f"Location: http://127.0.0.1:{inside.port}/"
        for to in (location, "Location: http://169.254.169.254/latest/meta-data/", "Refresh: 0; url=/"):
            with Host(answers(f"{status} Elsewhere", b"", to)) as host:
                with pytest.raises(UrlFailedError, match=f"answered {status}; redirects are not followed"):
                    get(host.url)
                assert len(host.requests) == 1
        assert inside.requests == []


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (answers("404 Not Found", b"no video"), "answered 404; only 200"),
        (answers("500 Internal Server Error"), "answered 500"),
        (answers("206 Partial Content", b"a vi"), "answered 206"),
        (says(b"HTTP/1.1 204 No Content\r\n\r\n"), "answered 204"),
        (says(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"), "UPGRADE"),
        (answers("200 OK", b"a", "Content-Encoding: gzip"), "encoding 'gzip'"),
        (answers("200 OK", b""), "answered with nothing"),
        (says(HEAD, b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), "answered with nothing"),
        (says(HEAD, b"Content-Length: 100\r\n\r\na vi"), "without sending complete message body"),
        (says(HEAD, b"Transfer-Encoding: chunked\r\n\r\n5\r\na vi"), "without sending complete message body"),
        (says(HEAD, b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"), "chunk"),
        (says(HEAD, b"Content-Length: 1\r\nContent-Length: 2\r\n\r\na"), "Content-Length"),
        (says(HEAD, b"Content-Length: " + b"9" * 6000 + b"\r\n\r\na"), "Content-Length|offers"),
        (says(HEAD, b"Content-Length: -1\r\n\r\na"), "Content-Length"),
        (says(b"SSH-2.0-OpenSSH\r\n"), "127.0.0.1"),
        (says(b""), "disconnected"),
        (says(HEAD, b"X-Long: " + b"a" * 300_000 + b"\r\n\r\n"), "127.0.0.1"),
        (says(HEAD, b"X: a\r\n" * 50_000, b"\r\n"), "127.0.0.1"),
        (answers("200 OK", bytes(MOST_BYTES + 1)), f"offers {MOST_BYTES + 1} bytes; at most {MOST_BYTES}"),
        (says(HEAD, b"\r\n", bytes(MOST_BYTES + 1)), f"more than {MOST_BYTES} bytes came"),
        (says(HEAD, b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n%b\r\n" % bytes(65535) * 3), "more than"),
    ],
)
def test_what_is_no_whole_video_is_a_failure(play: Play, said: str) -> None:
    with Host(play) as host, pytest.raises(UrlFailedError, match=said):
        get(host.url)


def test_exactly_as_many_bytes_as_may_come_are_taken() -> None:
    with Host(answers("200 OK", bytes(MOST_BYTES))) as host:
        assert len(get(host.url)) == MOST_BYTES


@pytest.mark.parametrize(
    "play",
    [
        hangs(),
        hangs(HEAD + b"Content-Length: 5\r\n\r\na"),
        trickles(HEAD + b"Content-Length: 50000\r\n\r\n"),
        trickles(HEAD + b"X-Header: "),
        trickles(HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;"),
    ],
)
def test_whoever_hangs_or_trickles_is_left_when_the_time_is_up(play: Play) -> None:
    with Host(play) as host:
        began_s = time.monotonic()
        with pytest.raises(UrlFailedError, match=r"longer than 0\.4 s"):
            get(host.url, timeout_s=0.4)
        assert 0.35 < time.monotonic() - began_s < 3


def test_a_host_that_never_reads_is_left_when_the_time_is_up() -> None:
    with Host(hangs(), reads=False) as host, pytest.raises(UrlFailedError, match="longer than"):
        post(host.url, CLOSED, {}, bytes(50_000_000), 0.4)


def test_a_handshake_that_never_ends_is_left_when_the_time_is_up() -> None:
    with Host(hangs(), reads=False) as host, pytest.raises(UrlFailedError, match="no secure connection"):
        get(f"https://videos.test:{host.port}/", timeout_s=0.4)


def test_a_resolver_that_hangs_is_left_when_the_time_is_up() -> None:
    def hanging(host: str, port: int) -> list[str]:
        time.sleep(3)
        return []

    began_s = time.monotonic()
    with pytest.raises(UrlFailedError, match="longer than"):
        get("http://videos.test/", Guard(("*",), ("http",), lookup=hanging), timeout_s=0.3)
    assert time.monotonic() - began_s < 2


def test_a_request_that_nobody_waits_for_any_more_is_given_up() -> None:
    with Host(hangs(HEAD + b"Content-Length: 5\r\n\r\na")) as host:
        began_s = time.monotonic()
        with pytest.raises(UrlFailedError, match="given up"):
            get(host.url, stopped=lambda: time.monotonic() > began_s + 0.2)
        assert time.monotonic() - began_s < 3


def test_nobody_listening_is_a_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UrlFailedError, match=r"cannot be reached: .*refused"):
        get(f"http://127.0.0.1:{port}/")


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    path = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(path)
    return path


def test_a_secure_host_has_to_prove_the_name_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, authority: Path
) -> None:
    with Host(answers("200 OK", b"a video"), secure=True) as host:
        with pytest.raises(UrlFailedError, match="certificate verify failed"):
            get(f"https://videos.test:{host.port}/")  # signed by nobody that is known
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        assert get(f"https://videos.test:{host.port}/") == b"a video"
        for name in ("other.test", "127.0.0.1"):
            with pytest.raises(UrlFailedError, match="certificate verify failed"):
                get(f"https://{name}:{host.port}/")
        assert host.names[:3] == ["videos.test", "videos.test", "other.test"]


def test_a_secure_body_of_unknown_length_that_is_cut_off_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, authority: Path
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))

    def cuts(_: Host, caller: socket.socket) -> None:
        caller.sendall(HEAD + b"\r\na vi")
        caller.shutdown(socket.SHUT_RDWR)

    with Host(cuts, secure=True) as host, pytest.raises(UrlFailedError, match="EOF"):
        get(f"https://videos.test:{host.port}/")


def test_plain_http_is_refused_unless_the_guard_has_it() -> None:
    with Host(answers("200 OK", b"a")) as host:
        with pytest.raises(UrlDeniedError, match="scheme 'http' is not accepted"):
            get(host.url, Guard(("*:*",), private=True))
        assert host.requests == []


def test_what_the_writer_raises_ends_the_request() -> None:
    def full(_: bytes) -> None:
        raise OSError("no room")

    with Host(answers("200 OK", b"a")) as host, pytest.raises(OSError, match="no room"):
        fetch(host.url, CLOSED, full, MOST_BYTES, 5)


def test_a_message_is_sent_whole_and_its_status_told() -> None:
    with Host(answers("202 Accepted", b"thanks", "Retry-After: 7")) as host:
        answer = post(host.url, CLOSED, {"Webhook-Id": "1", "User-Agent": "tal"}, b"x" * 100_000, 5)
        head, _, body = host.requests[0].partition(b"\r\n\r\n")
    assert answer == Answer(202, "7")
    assert body == b"x" * 100_000
    assert b"\r\nwebhook-id: 1" in head
    assert head.lower().count(b"user-agent: tal") == 1


@pytest.mark.parametrize(
    ("play", "status"),
    [
        (answers("302 Found", b"", "Location: http://169.254.169.254/"), 302),
        (answers("500 Internal Server Error", b"oh"), 500),
        (says(b"HTTP/1.1 204 No Content\r\n\r\n"), 204),
        (answers("200 OK", bytes(10_000_000)), 200),
        (says(HEAD, b"Content-Length: 100\r\n\r\na"), 200),
    ],
)
def test_the_status_is_told_whatever_comes_behind_it(play: Play, status: int) -> None:
    with Host(play) as host:
        assert post(host.url, CLOSED, {}, b"{}", 5) == Answer(status)


@pytest.mark.parametrize("head", [HEAD + b"Content-Length: 100\r\n\r\n", b""])
def test_an_answer_that_does_not_end_costs_no_more_than_the_time_given(head: bytes) -> None:
    with Host(hangs(head)) as host:
        began_s = time.monotonic()
        if head:
            assert post(host.url, CLOSED, {}, b"{}", 0.4) == Answer(200)
        else:
            with pytest.raises(UrlFailedError, match="longer than"):
                post(host.url, CLOSED, {}, b"{}", 0.4)
        assert time.monotonic() - began_s < 3
