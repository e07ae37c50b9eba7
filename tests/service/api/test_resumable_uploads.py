"""Uploads in parts by tus 1.0.0, with everything that can go wrong on the way, in; the very video out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from tusclient.client import TusClient
from tusclient.storage import filestorage

from service.api import part_intake
from service.client import AsyncClient, Client, StoredVideo, calls, resumable
from service.errors import QueueUnavailable, UnsupportedMedia
from service.jobs.janitor import Janitor, Retention
from service.jobs.partial_uploads import KIND
from service.jobs.records import Record
from service.settings import Settings
from tests.service.api.conftest import Api, serving
from tests.service.api.processes import eventually

TUS = {"Tus-Resumable": "1.0.0"}
PART = {**TUS, "Content-Type": "application/offset+octet-stream"}


@pytest.fixture
def api(shared_api: Api) -> Api:
    """Each test has uploads of its own."""
    return shared_api


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def create(api: Api, length: int, **headers: str) -> str:
    given = {**TUS, "Upload-Length": str(length), **{name.replace("_", "-"): value for name, value in headers.items()}}
    answer = api.http.post("/v1/videos", headers=given)
    assert answer.status_code == 201, answer.text
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.headers["location"]


def patch(api: Api, url: str, offset: int, data: bytes, **headers: str) -> httpx.Response:
    return api.http.patch(url, content=data, headers={**PART, "Upload-Offset": str(offset), **headers})


def offset_of(api: Api, url: str) -> int:
    answer = api.http.head(url, headers=TUS)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def parts_of(api: Api, url: str) -> list[Path]:
    return list((api.store.folder / "part").rglob(f"{url[-32:]}-*"))


def incoming_bytes(api: Api) -> int:
    return sum(path.stat().st_size for path in (api.store.folder / "incoming").iterdir())


def code(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["tus-resumable"] == "1.0.0"
    return answer.status_code, answer.json()["code"]


def test_what_is_offered_is_told(api: Api) -> None:
    for path in ("/v1/videos", "/v1/videos/uploads/" + "0" * 32):
        answer = api.http.options(path)
        assert answer.status_code == 204
        assert answer.headers["tus-version"] == "1.0.0"
        offered = set(answer.headers["tus-extension"].split(","))
        assert offered == {"creation", "creation-with-upload", "termination", "expiration", "checksum"}
        assert answer.headers["tus-max-size"] == str(1024 * 1024)
        assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256,md5"


def test_a_video_comes_in_parts_and_is_one_like_any_other(api: Api, clip: bytes) -> None:
    given = metadata(filename="my clip.mp4", filetype="video/mp4")
    url = create(api, len(clip), Upload_Metadata=given)
    for start in range(0, len(clip), 5000):
        assert offset_of(api, url) == start
        answer = patch(api, url, start, clip[start : start + 5000])
        assert answer.status_code == 204
        assert int(answer.headers["upload-offset"]) == min(len(clip), start + 5000)
        assert answer.headers["upload-expires"].endswith("GMT")
    video_id = answer.headers["upload-video-id"]
    assert video_id == hashlib.sha256(clip).hexdigest()
    head = api.http.head(url, headers=TUS).headers
    assert (head["upload-length"], head["upload-metadata"]) == (str(len(clip)), given)
    assert api.store.path("video", video_id).read_bytes() == clip
    assert api.http.get(f"/v1/videos/{video_id}").json()["name"] == "my clip.mp4"
    assert not parts_of(api, url)


def test_a_page_can_ask_how_far_it_is(api: Api, clip: bytes) -> None:
    url = create(api, len(clip))
    patch(api, url, 0, clip[:100])
    told = api.http.get(url).json()
    assert (told["state"], told["offset_bytes"], told["length_bytes"]) == ("receiving", 100, len(clip))
    assert told["video_id"] is None
    patch(api, url, 100, clip[100:])
    told = api.http.get(url).json()
    assert (told["state"], told["video_id"]) == ("done", hashlib.sha256(clip).hexdigest())


def test_a_creation_may_bring_the_first_part_or_all_of_them(api: Api, clip: bytes) -> None:
    given = {**PART, "Upload-Length": str(len(clip))}
    whole = api.http.post("/v1/videos", content=clip, headers=given)
    assert (whole.status_code, whole.headers["upload-offset"]) == (201, str(len(clip)))
    assert whole.headers["upload-video-id"] == hashlib.sha256(clip).hexdigest()
    first = api.http.post("/v1/videos", content=clip[:10], headers=given)
    assert (first.status_code, first.headers["upload-offset"]) == (201, "10")
    assert patch(api, first.headers["location"], 10, clip[10:]).headers["upload-video-id"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Tus-Resumable": "0.2.2"}, (412, "protocol_mismatch")),
        ({"Upload-Length": "0"}, (400, "malformed_request")),
        ({"Upload-Length": "-5"}, (400, "malformed_request")),
        ({"Upload-Length": "five"}, (400, "malformed_request")),
        ({"Upload-Length": ""}, (400, "malformed_request")),
        ({"Upload-Length": str(1024 * 1024 + 1)}, (413, "video_too_large")),
        ({"Upload-Length": "9" * 40}, (400, "malformed_request")),
        ({"Upload-Defer-Length": "1"}, (400, "malformed_request")),
        ({"Upload-Concat": "partial"}, (400, "malformed_request")),
        ({"Upload-Metadata": "filename %%%"}, (400, "malformed_request")),
        ({"Upload-Metadata": "a YQ==,a YQ=="}, (400, "malformed_request")),
        ({"Upload-Metadata": "a " + "Y" * 5000}, (400, "malformed_request")),
    ],
)
def test_a_creation_that_makes_no_sense_is_refused(
    api: Api, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    answer = api.http.post("/v1/videos", headers={**TUS, "Upload-Length": "1000", **headers})
    assert code(answer) == expected
    if expected[0] == 412:
        assert answer.headers["tus-version"] == "1.0.0"


def test_a_creation_with_a_part_of_another_type_is_refused(api: Api) -> None:
    headers = {**TUS, "Upload-Length": "1000", "Content-Type": "video/mp4"}
    assert code(api.http.post("/v1/videos", content=b"abc", headers=headers)) == (415, "unsupported_media")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Tus-Resumable": "1.0.1"}, (412, "protocol_mismatch")),
        ({"Content-Type": "video/mp4"}, (415, "unsupported_media")),
        ({"Upload-Offset": "3"}, (409, "offset_mismatch")),
        ({"Upload-Offset": "-1"}, (400, "malformed_request")),
        ({"Upload-Offset": ""}, (400, "malformed_request")),
        ({"Upload-Checksum": "crc32 AAAA"}, (400, "malformed_request")),
        ({"Upload-Checksum": "sha1 !"}, (400, "malformed_request")),
        ({"Upload-Checksum": "sha1 AAAA"}, (400, "malformed_request")),
    ],
)
def test_a_part_that_makes_no_sense_is_refused_and_changes_nothing(
    api: Api, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    url = create(api, 1000)
    answer = api.http.patch(url, content=b"abc", headers={**PART, "Upload-Offset": "0", **headers})
    assert code(answer) == expected
    assert offset_of(api, url) == 0


def test_requests_without_the_protocol_are_refused(api: Api) -> None:
    url = create(api, 1000)
    for answer in (api.http.head(url), api.http.delete(url), api.http.patch(url)):
        assert answer.status_code == 412
        assert answer.headers["tus-version"] == "1.0.0"


def test_more_than_was_announced_is_refused_with_and_without_a_length(api: Api) -> None:
    url = create(api, 10)
    assert code(patch(api, url, 0, b"x" * 11)) == (413, "video_too_large")
    headers = {**PART, "Upload-Offset": "0"}
    assert code(api.http.patch(url, content=iter([b"x" * 11]), headers=headers)) == (413, "video_too_large")
    assert offset_of(api, url) == 0


def test_an_upload_that_is_not_there_is_not_found(api: Api) -> None:
    for upload_id in ("0" * 32, "x", "a" * 300):
        url = f"/v1/videos/uploads/{upload_id}"
        assert code(patch(api, url, 0, b"x")) == (404, "upload_not_found")
        assert api.http.head(url, headers=TUS).status_code == 404
        assert api.http.get(url).json()["code"] == "upload_not_found"


def test_an_upload_can_be_ended_and_what_came_of_it_is_gone(api: Api) -> None:
    url = create(api, 1000)
    patch(api, url, 0, b"x" * 100)
    assert len(parts_of(api, url)) == 1
    assert api.http.delete(url, headers=TUS).status_code == 204
    assert api.http.head(url, headers=TUS).status_code == 404
    assert not parts_of(api, url)


def test_methods_can_be_named_by_a_header(api: Api, clip: bytes) -> None:
    url = create(api, 1000)
    headers = {**PART, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert api.http.post(url, content=b"abc", headers=headers).headers["upload-offset"] == "3"
    assert api.http.post(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert api.http.post(url, headers=TUS).status_code == 405


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
def test_a_checksum_is_compared_and_what_does_not_fit_is_dropped(api: Api, clip: bytes, algorithm: str) -> None:
    url = create(api, len(clip))
    digest = base64.b64encode(hashlib.new(algorithm, clip[:500]).digest()).decode()
    headers = {"Upload-Checksum": f"{algorithm} {digest}"}
    assert code(patch(api, url, 0, clip[:499] + b"!", **headers)) == (460, "checksum_mismatch")
    assert offset_of(api, url) == 0
    assert patch(api, url, 0, clip[:500], **headers).headers["upload-offset"] == "500"


def test_what_is_no_video_ends_its_upload(api: Api) -> None:
    url = create(api, 1000, Upload_Metadata=metadata(filename="a.mp4"))
    answer = patch(api, url, 0, b"x" * 1000)
    assert code(answer) == (415, "unsupported_media")
    assert "a.mp4" in answer.json()["detail"]
    assert api.http.head(url, headers=TUS).status_code == 404


@contextmanager
def begun_patch(api: Api, url: str, *headers: str, body: bytes) -> Iterator[socket.socket]:
    """A PATCH over a raw connection, which is broken at the block's end."""
    with socket.create_connection((api.http.base_url.host, api.http.base_url.port), timeout=20) as connection:
        path = url[url.index("/v1/") :]
        lines = [f"PATCH {path} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in PART.items()), *headers]
        connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        yield connection


@pytest.mark.parametrize("sent", [0, 1, 700, 99_999])
def test_a_broken_connection_keeps_what_came(api: Api, sent: int) -> None:
    url = create(api, 200_000)
    patch(api, url, 0, b"a" * 10)
    with begun_patch(api, url, "Upload-Offset: 10", "Content-Length: 100000", body=b"b" * sent):
        eventually(lambda: incoming_bytes(api) == sent, 10)
    eventually(lambda: offset_of(api, url) == 10 + sent, 10)
    assert patch(api, url, 10 + sent, b"c").headers["upload-offset"] == str(11 + sent)


def test_a_broken_chunked_body_keeps_what_came(api: Api) -> None:
    url = create(api, 200_000)
    with begun_patch(api, url, "Upload-Offset: 0", "Transfer-Encoding: chunked", body=b"5\r\nabcde\r\n9\r\nfg"):
        eventually(lambda: incoming_bytes(api) >= 5, 10)
    eventually(lambda: offset_of(api, url) >= 5, 10)


@pytest.mark.parametrize("sent", [0, 1, 5000])
def test_a_connection_that_breaks_at_once_leaves_a_sound_upload(api: Api, clip: bytes, sent: int) -> None:
    url = create(api, len(clip))
    with begun_patch(api, url, "Upload-Offset: 0", f"Content-Length: {len(clip)}", body=clip[:sent]):
        pass
    offset = offset_of(api, url)
    while (answer := patch(api, url, offset, clip[offset:])).status_code == 409:
        offset = offset_of(api, url)
    assert answer.headers["upload-video-id"] == hashlib.sha256(clip).hexdigest()


def test_a_body_that_stays_away_is_given_up_and_what_came_is_kept(config: Settings) -> None:
    with serving(config.model_copy(update={"upload_silence_s": 0.3})) as api:
        url = create(api, 1000)
        with begun_patch(api, url, "Upload-Offset: 0", "Content-Length: 500", body=b"b" * 77) as connection:
            assert b"408" in connection.makefile("rb").readline()
        assert offset_of(api, url) == 77


def test_a_server_that_is_told_to_end_keeps_what_came(config: Settings, clip: bytes) -> None:
    with contextlib.ExitStack() as held, serving(config.model_copy(update={"drain_s": 0.2})) as api:
        url = create(api, len(clip))
        held.enter_context(begun_patch(api, url, "Upload-Offset: 0", f"Content-Length: {len(clip)}", body=clip[:777]))
        eventually(lambda: incoming_bytes(api) == 777, 10)
        api.server.handle_exit(signal.SIGTERM, None)
    with serving(config) as api:
        path = httpx.URL(url).path
        assert offset_of(api, path) == 777
        assert patch(api, path, 777, clip[777:]).headers["upload-video-id"] == hashlib.sha256(clip).hexdigest()


def test_with_a_checksum_a_broken_part_is_dropped(api: Api) -> None:
    url = create(api, 1000)
    digest = base64.b64encode(hashlib.sha1(b"b" * 500, usedforsecurity=False).digest()).decode()
    headers = ("Upload-Offset: 0", "Content-Length: 500", f"Upload-Checksum: sha1 {digest}")
    with begun_patch(api, url, *headers, body=b"b" * 77):
        eventually(lambda: incoming_bytes(api) == 77, 10)
    eventually(lambda: not list((api.store.folder / "incoming").iterdir()), 10)
    assert offset_of(api, url) == 0
    assert not parts_of(api, url)


def test_a_long_part_counts_before_its_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part_intake, "CUT_BYTES", 100)
    url = create(api, 1000)
    with begun_patch(api, url, "Upload-Offset: 0", "Content-Length: 500", body=b"b" * 150):
        eventually(lambda: api.http.get(url).json()["offset_bytes"] == 150, 10)
        assert len(parts_of(api, url)) == 1


def test_who_asks_where_to_go_on_need_not_wait_for_a_dead_connection(api: Api) -> None:
    url = create(api, 1000)
    with begun_patch(api, url, "Upload-Offset: 0", "Content-Length: 500", body=b"b" * 77) as dead:
        eventually(lambda: incoming_bytes(api) == 77, 10)
        assert api.http.get(url).json()["offset_bytes"] == 0
        assert offset_of(api, url) == 77
        assert b"400" in dead.makefile("rb").readline()
        assert patch(api, url, 77, b"c" * 23).headers["upload-offset"] == "100"


def test_of_parts_at_one_offset_one_wins(api: Api, clip: bytes) -> None:
    url = create(api, len(clip))
    answers: list[httpx.Response] = []
    halves = len(clip) // 2

    def send() -> None:
        with httpx.Client(timeout=20) as http:
            headers = {**PART, "Upload-Offset": "0", "Content-Length": str(halves)}
            answers.append(http.patch(url, content=slowly(), headers=headers))

    at_once = threading.Barrier(8)

    def slowly() -> Iterator[bytes]:
        yield clip[: halves // 2]
        at_once.wait(20)
        yield clip[halves // 2 : halves]

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answer.status_code for answer in answers) == [204] + 7 * [409]
    assert offset_of(api, url) == halves
    assert len(parts_of(api, url)) == 1
    assert patch(api, url, halves, clip[halves:]).headers["upload-video-id"] == hashlib.sha256(clip).hexdigest()


def test_a_race_for_the_end_is_one_video(api: Api, clip: bytes) -> None:
    url = create(api, len(clip))
    patch(api, url, 0, clip[:-1])
    answers = [patch(api, url, len(clip) - 1, clip[-1:])]
    again = [threading.Thread(target=lambda: answers.append(patch(api, url, len(clip), b""))) for _ in range(4)]
    for thread in again:
        thread.start()
    for thread in again:
        thread.join(20)
    assert {answer.headers["upload-video-id"] for answer in answers} == {hashlib.sha256(clip).hexdigest()}


class Failing:
    """Records or a store whose named call fails as many times, before or after it has done its work."""

    def __init__(self, real: Any, call: str, *, after: bool, skip: int = 0) -> None:
        self.real, self.call, self.after, self.left, self.skip = real, call, after, 1, skip

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        return (lambda *given, **named: self._do(real, *given, **named)) if name == self.call else real

    def _do(self, real: Any, *given: Any, **named: Any) -> Any:
        if self.skip:
            self.skip -= 1
            return real(*given, **named)
        if not self.left:
            return real(*given, **named)
        self.left -= 1
        if self.after:
            real(*given, **named)
        raise QueueUnavailable("cut off")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("skip", [0, 1, 2])
def test_a_step_cut_off_between_part_and_record_is_made_up_for(
    api: Api, clip: bytes, skip: int, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The replacements of the record are: the last part counts, the video is whole, the video is sound."""
    url = create(api, len(clip))
    patch(api, url, 0, clip[:50])
    with monkeypatch.context() as patched:
        patched.setattr(state_in(api), "records", Failing(api.records, "replace", after=after, skip=skip))
        assert code(patch(api, url, 50, clip[50:])) == (503, "queue_unavailable")
    offset = offset_of(api, url)
    assert offset in {50, len(clip)}
    last = patch(api, url, offset, clip[offset:])
    assert last.headers["upload-video-id"] == hashlib.sha256(clip).hexdigest()
    assert api.store.path("video", last.headers["upload-video-id"]).read_bytes() == clip


@pytest.mark.parametrize("after", [False, True])
def test_an_assembly_cut_off_is_finished_by_whoever_asks(
    api: Api, clip: bytes, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = create(api, len(clip))
    with monkeypatch.context() as patched:
        patched.setattr(state_in(api), "store", Failing(api.store, "path", after=after))
        assert code(patch(api, url, 0, clip)) == (503, "queue_unavailable")
    assert api.http.head(url, headers=TUS).headers["upload-video-id"] == hashlib.sha256(clip).hexdigest()
    assert not parts_of(api, url)


def test_an_upload_whose_parts_are_gone_is_told_and_ended(api: Api) -> None:
    url = create(api, 1000)
    patch(api, url, 0, b"x" * 500)
    for part in parts_of(api, url):
        part.unlink()
    assert code(patch(api, url, 500, b"x" * 500)) == (404, "upload_not_found")
    assert api.http.head(url, headers=TUS).status_code == 404


def state_in(api: Api) -> Any:
    return api.server.config.app.state.api  # type: ignore[union-attr]


def test_what_expires_is_gone_with_its_parts_and_what_lives_keeps_them(api: Api) -> None:
    dead, alive = create(api, 1000), create(api, 1000)
    for url in (dead, alive):
        patch(api, url, 0, b"x" * 10)
    orphan = api.store.writer("part", None, f"{alive[-32:]}-10-00000000")
    with orphan:
        orphan.write(b"y")
        orphan.commit()
    record = api.records.get(KIND, dead[-32:])
    assert record is not None
    assert api.records.replace(replace(record, expires_at_s=1.0))
    Janitor(api.queue, api.store, api.records, Retention(parts_s=-1)).run_once()
    assert api.http.head(dead, headers=TUS).status_code == 404
    assert not parts_of(api, dead)
    assert len(parts_of(api, alive)) == 1
    assert offset_of(api, alive) == 10


def test_progress_puts_off_the_expiry(api: Api) -> None:
    url = create(api, 1000)
    record = api.records.get(KIND, url[-32:])
    assert record is not None
    sooner = Record(KIND, record.id, record.body, record.version, expires_at_s=record.expires_at_s or 0 - 3600)
    assert api.records.replace(sooner)
    patch(api, url, 0, b"x")
    renewed = api.records.get(KIND, url[-32:])
    assert renewed is not None
    assert (renewed.expires_at_s or 0) > (record.expires_at_s or 0)


def test_a_full_disk_refuses_the_whole_length_at_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_in(api).store, "free_bytes", lambda: 500)
    headers = {**TUS, "Upload-Length": "501"}
    assert code(api.http.post("/v1/videos", headers=headers)) == (507, "storage_full")
    assert create(api, 500)


class Line:
    """A way to the server that breaks once, after so many bytes."""

    def __init__(self, api: Api, breaks_after_bytes: int) -> None:
        self._left, self._server = breaks_after_bytes, (api.http.base_url.host, api.http.base_url.port)
        self.broken = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Sockets last: a number that is free again would soon be another connection's."""
        self._socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for one in (self._socket, *self._sockets):
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._socket.accept()
            except OSError:
                return
            far = socket.create_connection(self._server, timeout=20)
            near.settimeout(20)
            self._sockets += [near, far]
            for start, end in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._carry, args=(start, end, start is near)))
                self._threads[-1].start()

    def _carry(self, start: socket.socket, end: socket.socket, upwards: bool) -> None:
        try:
            while data := start.recv(1000):
                if upwards and not self.broken:
                    self._left -= len(data)
                    if self._left < 0:
                        self.broken = True
                        break
                end.sendall(data)
        except OSError:
            pass
        for one in (start, end):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("checksum", [False, True])
def test_someone_elses_client_goes_on_after_an_interruption(api: Api, clip: bytes, checksum: bool) -> None:
    line = Line(api, 2 * len(clip) // 3)
    client = TusClient(f"{line.url}/v1/videos")
    try:
        uploader = client.uploader(
            file_stream=io.BytesIO(clip),
            chunk_size=len(clip) // 2,
            metadata={"filename": "clip.mp4"},
            upload_checksum=checksum,
            retries=5,
            retry_delay=0,
        )
        uploader.upload()
        assert line.broken
    finally:
        line.close()
    video_id = api.http.get(httpx.URL(uploader.url).path).json()["video_id"]
    assert video_id == hashlib.sha256(clip).hexdigest()
    working = api.work()
    answer = api.http.post("/v1/detections", json={"video": {"id": video_id}})
    working.join()
    assert answer.status_code == 200
    assert (answer.json()["video"]["id"], answer.json()["video"]["name"]) == (video_id, "clip.mp4")


def test_someone_elses_client_goes_on_in_another_process_of_its_own(api: Api, clip: bytes, tmp_path: Path) -> None:
    urls = filestorage.FileStorage(str(tmp_path / "urls.json"))
    for stop_at in (len(clip) // 2, len(clip)):
        file = tmp_path / f"{stop_at}"
        file.write_bytes(clip)
        with file.open("rb") as stream:
            client = TusClient(str(api.http.base_url.join("/v1/videos")))
            url = urls.get_item("clip")
            uploader = client.uploader(file_stream=stream, chunk_size=5000, url=url)
            assert uploader.offset == (len(clip) // 2 if url else 0)
            uploader.upload(stop_at=stop_at)
            urls.set_item("clip", uploader.url)
    urls.close()
    assert api.http.get(uploader.url).json()["video_id"] == hashlib.sha256(clip).hexdigest()


def test_our_client_goes_on_after_an_interruption(
    api: Api, clip: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resumable, "PART_BYTES", len(clip) // 2)
    monkeypatch.setattr(calls, "FIRST_PAUSE_S", 0.01)
    file = tmp_path / "my clip.mp4"
    file.write_bytes(clip)
    line = Line(api, 2 * len(clip) // 3)
    try:
        with Client(line.url) as client:
            stored = client.upload(file)
        assert line.broken
    finally:
        line.close()
    assert stored == StoredVideo(hashlib.sha256(clip).hexdigest())
    assert api.http.get(f"/v1/videos/{stored.id}").json()["name"] == "my clip.mp4"


def test_our_client_says_why_a_video_is_refused(api: Api, tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"x" * 1000)

    async def upload() -> None:
        async with AsyncClient(str(api.http.base_url)) as client:
            await client.upload(file)

    with pytest.raises(UnsupportedMedia, match=r"a\.mp4"):
        asyncio.run(upload())


def test_pages_of_other_origins_may_upload(config: Settings) -> None:
    with serving(config.model_copy(update={"cors_origins": ("https://example.org",)})) as api:
        origin = {"Origin": "https://example.org"}
        asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "tus-resumable"}
        preflight = api.http.options("/v1/videos/uploads/x", headers={**origin, **asked})
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        answer = api.http.post("/v1/videos", headers={**TUS, **origin, "Upload-Length": "5"})
        exposed = answer.headers["access-control-expose-headers"].lower()
        assert {"location", "upload-offset", "upload-video-id"} <= set(exposed.split(", "))
