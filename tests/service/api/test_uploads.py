"""Bodies that stop, trickle, lie about their length or are no form, over sockets; problems, and an empty store, out."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.api import admission, observed
from service.errors import QueueUnavailable
from service.jobs.queue import JobFilter
from service.settings import Settings
from tests.service.api.conftest import Api, serving
from tests.service.api.processes import eventually
from tests.service.jobs.redis_server import RedisServer

HEAD = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
TYPE = "Content-Type: multipart/form-data; boundary=b"


class Connection:
    def __init__(self, api: Api) -> None:
        self._socket = socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=20)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()

    def send(self, *headers: str, body: bytes = b"") -> None:
        lines = ["POST /v1/detections HTTP/1.1", "Host: a", "Prefer: respond-async", *headers]
        self.more("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def more(self, data: bytes) -> None:
        self._socket.sendall(data)

    def trickle(self) -> None:
        for _ in range(200):
            self.more(b"x")
            time.sleep(0.05)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def status(self) -> int:
        with self._socket.makefile("rb") as answer:
            return int(answer.readline().split()[1])

    def ended(self) -> bool:
        while self._socket.recv(65536):
            pass
        return True


@contextmanager
def nothing_left(api: Api) -> Iterator[None]:
    """Nothing comes of an upload; videos of jobs, and what was there before, are something else."""
    before = set(api.files)
    yield
    kept = {job.request.video.key for job in api.queue.find(JobFilter(), 1000)}
    eventually(lambda: not [path for path in set(api.files) - before if path.name not in {*kept, "lock"}], 10)


@pytest.fixture
def impatient(config: Settings) -> Settings:
    return config.model_copy(update={"upload_silence_s": 0.5})


def test_a_body_that_stops_coming_is_given_up_and_its_connection_with_it(impatient: Settings, clip: bytes) -> None:
    with serving(impatient) as api, nothing_left(api), Connection(api) as connection:
        connection.send("Content-Type: video/mp4", f"Content-Length: {len(clip)}", body=clip[:100])
        assert connection.status() == 408
        assert connection.ended()


def test_a_body_that_trickles_is_given_up_too(impatient: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observed, "LINGER_S", 0.5)
    with serving(impatient) as api, nothing_left(api), Connection(api) as connection:
        connection.send("Content-Type: video/mp4", "Content-Length: 100000")
        with pytest.raises(OSError, match=r"reset|pipe"):
            connection.trickle()
        scraped = api.http.get("/metrics").text
        assert 'tal_http_requests_total{code="408",method="POST",route="/v1/detections"} 1.0' in scraped


def test_a_slow_body_that_goes_on_is_taken(impatient: Settings, clip: bytes) -> None:
    with serving(impatient) as api, Connection(api) as connection:
        connection.send("Content-Type: video/mp4", f"Content-Length: {len(clip)}")
        parts = [clip[start : start + len(clip) // 5 + 1] for start in range(0, len(clip), len(clip) // 5 + 1)]
        for part in parts:
            connection.more(part)
            time.sleep(0.25)
        assert connection.status() == 202


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["Content-Type: video/mp4", "Content-Length: abc"], b"", 400),
        (["Content-Type: video/mp4", "Content-Length: -1"], b"", 400),
        (["Content-Type: video/mp4", "Content-Length: 99999999999"], b"", 413),
        (["Content-Type: video/mp4", "Content-Length: 5", "Transfer-Encoding: chunked"], b"0\r\n\r\n", 400),
        (["Content-Type: video/mp4", "Transfer-Encoding: chunked"], b"zz\r\n", 400),
        ([TYPE, f"Content-Length: {len(HEAD)}"], HEAD, 400),
        ([TYPE, "Content-Length: 9"], b"--b--\r\n\r\n", 400),
    ],
)
def test_a_body_that_lies_about_itself_is_refused(
    shared_api: Api, headers: list[str], body: bytes, status: int
) -> None:
    with nothing_left(shared_api), Connection(shared_api) as connection:
        connection.send(*headers, body=body)
        assert connection.status() == status


def test_what_stands_around_the_video_of_a_form_is_bounded_too(shared_api: Api, clip: bytes) -> None:
    def endless() -> Iterator[bytes]:
        yield HEAD + clip + b"unlike others" + b"\r\n--b--\r\n"
        for _ in range(3 * 1024):
            yield b" " * 1024

    kind = {"Content-Type": "multipart/form-data; boundary=b", "Prefer": "respond-async"}
    with nothing_left(shared_api):
        answered = shared_api.http.post("/v1/detections", content=endless(), headers=kind)
        assert (answered.status_code, answered.json()["code"]) == (413, "video_too_large")


def test_what_is_no_video_is_not_kept(api: Api) -> None:
    for sent, kind in ((b"no video", "video/mp4"), (b"\x1a\x45\xdf\xa3" + bytes(100), "video/webm")):
        answered = api.http.post("/v1/detections", content=sent, headers={"Content-Type": kind})
        assert answered.status_code in {415, 422}
    assert [file for file in api.files if file.name != "lock"] == []


@pytest.mark.parametrize("framing", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_a_body_that_ends_too_soon_leaves_nothing(api: Api, clip: bytes, framing: str) -> None:
    body = clip[:1000] if "Length" in framing else b"3e8\r\n" + clip[:1000] + b"\r\n"
    with nothing_left(api), Connection(api) as connection:
        connection.send("Content-Type: video/mp4", framing, body=body)
        connection.half_close()
        connection.ended()
    assert api.http.get("/v1/jobs").json()["jobs"] == []


def test_a_chunked_body_is_taken(api: Api, clip: bytes) -> None:
    def chunks() -> Any:
        yield clip[:10]
        yield clip[10:]

    answered = api.http.post(
        "/v1/detections", content=chunks(), headers={"Content-Type": "video/mp4", "Prefer": "respond-async"}
    )
    assert answered.status_code == 202


@pytest.mark.parametrize(
    "parts",
    [
        [("options", (None, b"{}", "application/json"))] * 2,
        [(f"part{number}", b"x") for number in range(1000)],
        [("video", ("a", b"--c\r\n\r\nx\r\n--c--", "multipart/mixed; boundary=c"))],
        [("options", (None, b"x" * 1048577, "application/json"))],
        [("options", (None, b"{}", "application/json"))],
    ],
)
def test_a_form_of_other_parts_is_refused(shared_api: Api, parts: list[Any]) -> None:
    with nothing_left(shared_api):
        answered = shared_api.http.post("/v1/detections", files=parts)
        assert (answered.status_code, answered.json()["code"]) == (400, "malformed_request")


def test_who_sends_on_without_listening_still_reads_why_it_is_refused(shared_api: Api) -> None:
    with Connection(shared_api) as connection:
        connection.send("Content-Type: text/plain", "Content-Length: 4000000")
        for _ in range(40):
            connection.more(bytes(100_000))  # neither of these may find the connection closed
            time.sleep(0.01)
        assert connection.status() == 415


def test_a_form_whose_video_grows_too_large_is_refused(shared_api: Api) -> None:
    with nothing_left(shared_api):
        answered = shared_api.http.post("/v1/detections", files={"video": bytes(1048577)})
        assert (answered.status_code, answered.json()["code"]) == (413, "video_too_large")


def test_a_frame_of_too_many_pixels_is_refused_under_a_reason_of_its_own(config: Settings, clip: bytes) -> None:
    with serving(config.model_copy(update={"max_frame_px": 96 * 64 - 1})) as api:
        answered = api.http.post("/v1/detections", content=clip, headers={"Content-Type": "video/mp4"})
        assert (answered.status_code, answered.json()["code"]) == (413, "frame_too_large")
        assert 'tal_admission_rejected_total{reason="pixels"} 1.0' in api.http.get("/metrics").text


def _refused_without_upload(api: Api, status: int, code: str) -> httpx.Headers:
    """The head alone is answered: nothing of the body was waited for."""
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=20) as connection:
        connection.sendall(
            b"POST /v1/detections HTTP/1.1\r\nHost: a\r\nContent-Type: video/mp4\r\nContent-Length: 100000\r\n\r\n"
        )
        with connection.makefile("rb") as answer:
            head, _, body = answer.read().partition(b"\r\n\r\n")
    assert f" {status} ".encode() in head.split(b"\r\n")[0]
    assert f'"{code}"'.encode() in body
    return httpx.Headers([tuple(line.split(b": ", 1)) for line in head.split(b"\r\n")[1:]])


def test_a_full_disk_is_told_before_anything_is_sent(config: Settings) -> None:
    with serving(config.model_copy(update={"min_free_disk_mib": 2**30})) as api:
        _refused_without_upload(api, 507, "storage_full")
        assert 'tal_admission_rejected_total{reason="disk"} 1.0' in api.http.get("/metrics").text


def test_a_queue_that_ends_while_it_is_asked_is_told(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "FRESH_S", 0.0)

    def broken(*_: Any) -> Any:
        raise QueueUnavailable("no queue")

    for name in ("stats", "get", "find", "workers", "ping"):
        setattr(api.queue, name, broken)
    _refused_without_upload(api, 503, "queue_unavailable")
    for path in ("/v1/jobs", f"/v1/jobs/{'0' * 32}", "/v1/models"):
        answered = api.http.get(path)
        assert (answered.status_code, answered.json()["code"]) == (503, "queue_unavailable")
        assert int(answered.headers["retry-after"]) > 0
    assert api.http.get("/readyz").json()["checks"]["queue"] == "no queue"
    assert "tal_queue_up 0.0" in api.http.get("/metrics").text


@pytest.mark.needs_redis
def test_a_redis_that_hangs_is_told_and_what_comes_after_is_done(
    config: Settings, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "FRESH_S", 0.0)
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    with redis, serving(config.model_copy(update={"redis_url": redis.url})) as api:
        api.submit(clip)
        redis.pause()
        answered = api.http.post("/v1/detections", content=clip, headers={"Content-Type": "video/mp4"})
        redis.resume()
        assert (answered.status_code, answered.json()["code"]) == (503, "queue_unavailable")
        assert int(answered.headers["retry-after"]) > 0
        api.submit(clip)


def test_a_full_queue_is_told_before_anything_is_sent_and_for_how_long(config: Settings, clip: bytes) -> None:
    with serving(config.model_copy(update={"max_queued_video_s": 3.5})) as api:
        asked = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
        kept = api.http.post("/v1/detections", content=clip, headers={**asked, "Idempotency-Key": "a"})
        api.submit(clip)
        api.submit(clip)
        late = api.http.post("/v1/detections", content=clip, headers=asked)
        assert late.status_code == 429
        assert late.headers["retry-after"] == "3"  # 3 s of video, one worker, as long as the video
        again = api.http.post("/v1/detections", content=clip, headers={**asked, "Idempotency-Key": "a"})
        assert again.json()["id"] == kept.json()["id"]


def test_a_video_longer_than_may_ever_wait_is_too_long_rather_than_too_early(config: Settings, clip: bytes) -> None:
    with serving(config.model_copy(update={"max_queued_video_s": 0.5})) as api:
        answered = api.http.post("/v1/detections", content=clip, headers={"Content-Type": "video/mp4"})
        assert (answered.status_code, answered.json()["code"]) == (413, "video_too_long")
        part = api.http.post(
            "/v1/detections?end_s=0.4", content=clip, headers={"Content-Type": "video/mp4", "Prefer": "respond-async"}
        )
        assert part.status_code == 202
