"""Videos named by URLs of a host on this machine in; jobs, or problems and a store without anything of them, out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service import configured
from service.api import remote_videos
from service.settings import Settings
from tests.service.api.conftest import Api, modest, serving
from tests.service.api.processes import eventually
from tests.service.egress.hosts import Host, Play, answers, hangs, says, trickles

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def open_config(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Everything on this machine may be asked, for a second."""
    opened = {"video_url_hosts": ("127.0.0.1:*",), "egress_private": True, "video_url_timeout_s": 1.0}
    return modest(tmp_path_factory.mktemp("urls")).model_copy(update=opened)


@pytest.fixture(scope="module")
def open_api(open_config: Settings) -> Iterator[Api]:
    with serving(open_config) as api:
        yield api


def ask(api: Api, url: str, **headers: str) -> httpx.Response:
    given = {"Prefer": "respond-async", **headers}
    return api.http.post("/v1/detections", json={"video": {"url": url}}, headers=given)


def kept(api: Api) -> list[str]:
    return [path.name for path in api.files if path.name != "lock"]


def test_a_video_at_a_url_becomes_a_job_as_if_it_had_been_uploaded(open_api: Api, clip: bytes) -> None:
    with Host(answers("200 OK", clip)) as host:
        answered = ask(open_api, f"http://127.0.0.1:{host.port}/films/jump%20%C3%A4.mp4?token=secret")
    assert answered.status_code == 202, answered.text
    job = answered.json()
    uploaded = open_api.submit(clip)
    assert job["video"] == {**uploaded["video"], "name": "jump ä.mp4"}
    assert "secret" not in answered.text
    assert open_api.store.path("video", job["video"]["id"]).read_bytes() == clip


def test_the_same_url_under_one_key_is_one_job_and_one_download(open_api: Api, clip: bytes) -> None:
    with Host(answers("200 OK", clip)) as host:
        first, again = (ask(open_api, host.url, **{"Idempotency-Key": "one"}) for _ in range(2))
        assert len(host.requests) == 1
        other = ask(open_api, f"{host.url}?v=2", **{"Idempotency-Key": "two"})
        assert len(host.requests) == 2
        open_api.store.delete("video", first.json()["video"]["id"])
        third = ask(open_api, host.url, **{"Idempotency-Key": "one"})
        assert len(host.requests) == 3
    assert first.json()["id"] == again.json()["id"] == third.json()["id"] != other.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(
    ("play", "said"),
    [
        (answers("302 Found", b"", "Location: http://169.254.169.254/latest/meta-data/"), "redirects are not followed"),
        (answers("404 Not Found", b"nothing"), "answered 404"),
        (hangs(), "longer than 1 s"),
        (trickles(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"), "longer than 1 s"),
        (answers("200 OK", b"a", f"X-Pad: {'a' * 200_000}"), "127.0.0.1"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n"), "offers 1048577 bytes; at most 1048576"),
        (says(b"HTTP/1.1 200 OK\r\n\r\n", bytes(MIB + 1)), "more than 1048576 bytes came"),
        (says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", bytes(999)), "incomplete|complete"),
        (answers("200 OK"), "with nothing"),
    ],
)
def test_a_url_that_gives_no_video_is_told_and_leaves_nothing(open_api: Api, play: Play, said: str) -> None:
    before = kept(open_api)
    with Host(play) as host:
        answered = ask(open_api, host.url)
    assert (answered.status_code, answered.json()["code"]) == (422, "video_url_failed")
    assert any(one in answered.json()["detail"] for one in said.split("|")), answered.json()["detail"]
    assert kept(open_api) == before


def test_what_comes_and_is_no_video_is_refused_as_an_upload_is(open_api: Api) -> None:
    with Host(answers("200 OK", b"<html>", "Content-Type: video/mp4")) as host:
        answered = ask(open_api, host.url)
    assert (answered.status_code, answered.json()["code"]) == (415, "unsupported_media")
    assert answered.json()["detail"].startswith("clip.mp4")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://169.254.169.254/latest/meta-data/", "host '169.254.169.254' is not accepted; accepted: 127.0.0.1:*"),
        ("http://user:secret@127.0.0.1/", "user name or password"),
        ("http://2130706433/", "is no address in its usual form"),
        ("file:///etc/passwd", "scheme 'file' is not accepted; https is"),
        ("clip.mp4", "is no URL"),
    ],
)
def test_a_url_that_may_not_be_asked_is_refused_with_what_is_accepted(open_api: Api, url: str, said: str) -> None:
    answered = ask(open_api, url)
    assert (answered.status_code, answered.json()["code"]) == (422, "video_url_denied")
    assert said in answered.json()["detail"]


def test_without_hosts_every_url_is_refused(shared_api: Api) -> None:
    with Host(answers("200 OK", b"a")) as host:
        answered = ask(shared_api, host.url)
        assert host.requests == []
    assert (answered.status_code, answered.json()["code"]) == (422, "video_url_denied")
    assert "fetches no videos from URLs" in answered.json()["detail"]


def test_private_addresses_are_refused_unless_the_operator_allows_them(config: Settings) -> None:
    with serving(config.model_copy(update={"video_url_hosts": ("*",)})) as api:
        for url in ("https://localhost/", "https://127.0.0.1/", "https://[::1]/"):
            answered = ask(api, url)
            assert (answered.status_code, answered.json()["code"]) == (422, "video_url_denied")
            assert "private or special range" in answered.json()["detail"]
        assert kept(api) == []


def test_more_downloads_at_once_than_may_be_are_put_off(
    open_api: Api, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_videos, "DOWNLOAD_WAIT_S", 0.2)
    state: Any = open_api.server._state
    free = state.downloads.value
    with Host(hangs()) as slow, Host(answers("200 OK", clip)) as host, ThreadPoolExecutor(free) as pool:
        waiting = [pool.submit(ask, open_api, slow.url) for _ in range(free)]
        eventually(lambda: state.downloads.value == 0)
        answered = ask(open_api, host.url)
        assert (answered.status_code, answered.json()["code"]) == (503, "unavailable")
        assert int(answered.headers["retry-after"]) >= 1
        assert host.requests == []
        assert {one.result().json()["code"] for one in waiting} == {"video_url_failed"}
        assert ask(open_api, host.url).status_code == 202
    assert state.downloads.value == free


def test_a_server_that_ends_waits_for_no_download(config: Settings) -> None:
    opened = {"video_url_hosts": ("127.0.0.1:*",), "egress_private": True, "video_url_timeout_s": 60.0, "drain_s": 1.0}
    with Host(hangs()) as host, ThreadPoolExecutor(1) as pool:
        with serving(config.model_copy(update=opened)) as api:
            asked = pool.submit(ask, api, host.url)
            eventually(lambda: host.requests)
            assert len(kept(api)) == 1
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 8
        with pytest.raises(httpx.HTTPError):
            asked.result(5)
        eventually(lambda: not kept(api), 5)  # the thread that fetched has ended


def test_the_guard_is_made_of_the_settings(config: Settings) -> None:
    hosts = {"video_url_hosts": ("a.org",)}
    closed = configured.video_url_guard(config.model_copy(update=hosts))
    assert (closed.hosts, closed.schemes, closed.private) == (("a.org",), ("https",), False)
    opened = configured.video_url_guard(config.model_copy(update={**hosts, "egress_private": True}))
    assert (opened.schemes, opened.private) == (("https", "http"), True)


def test_hosts_are_read_from_the_environment_and_what_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAL_VIDEO_URL_HOSTS", "a.org, *.b.org:8443 ,*, 10.0.0.1:*, [::1]:80")
    assert Settings().video_url_hosts == ("a.org", "*.b.org:8443", "*", "10.0.0.1:*", "[::1]:80")
    for wrong in ("https://a.org", "a.org/films", "*a.org", "a.*", "a.org:", "a b", "ä.org"):
        monkeypatch.setenv("TAL_VIDEO_URL_HOSTS", wrong)
        with pytest.raises(ValueError, match="is no host"):
            Settings()
