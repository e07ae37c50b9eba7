"""The client against a scripted service: broken connections, busy answers, cut streams, and what it makes of them."""

from __future__ import annotations

import asyncio
import io
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from service import errors, formats
from service.client import Ask, AsyncClient, Client, StoredVideo, VideoUrl, calls, watching
from service.localization import DetectOptions, Localization, ModelInfo, Progress, Segment, VideoInfo
from tests.support.fake_service import Asked, serving

VIDEO = {"id": "ab" * 32, "name": "clip.mp4", "size_bytes": 5, "duration_s": 2.0}
ANSWER = Localization(
    "clip.mp4",
    VideoInfo(2.0, 50, 25.0, False, 64, 48, 0, "h264", "mp4", 0.0),
    ModelInfo("tiny", "1", "cd" * 32, "CPU"),
    (Segment(0.5, 1.0, "wave", 0.75),),
    {"decode": 0.5},
)


def job(state: str = "queued", **fields: Any) -> dict[str, Any]:
    return {"id": "j1", "state": state, "model": "tiny", "video": VIDEO, "new_in_a_later_release": 1, **fields}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(watching, "SOONEST_S", 0.01)
    monkeypatch.setattr(watching, "POLL_S", 0.02)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


def test_an_upload_that_breaks_off_is_sent_again_under_the_same_key(clip: Path) -> None:
    made: dict[str, bytes] = {}

    def script(asked: Asked) -> None:
        if len(fake.asked) == 1:
            asked.talk.rfile.read(1000)
            asked.talk.connection.shutdown(socket.SHUT_RDWR)
            asked.cut()
            return
        made[asked.headers["idempotency-key"]] = asked.read()
        asked.answer(202, job())

    with serving(script) as fake, Client(fake.url) as client:
        assert client.submit(clip).id == "j1"
    assert list(made) == [fake.asked[0].headers["idempotency-key"]]
    assert list(made.values()) == [clip.read_bytes()]


def test_a_lost_answer_is_asked_for_again_under_the_same_key(clip: Path) -> None:
    def script(asked: Asked) -> None:
        asked.read()
        if len(fake.asked) == 1:
            asked.cut()
        else:
            asked.answer(202, job())

    with serving(script) as fake, Client(fake.url) as client:
        client.submit(clip)
        client.submit(clip)
    first, again, other = (asked.headers["idempotency-key"] for asked in fake.asked)
    assert first == again != other


@pytest.mark.parametrize("status", [429, 503, 507, 409])
def test_a_busy_service_is_asked_again_after_as_long_as_it_says(
    status: int, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "FIRST_PAUSE_S", 60.0)  # the pause that the service names goes before our own

    def script(asked: Asked) -> None:
        asked.read()
        if len(fake.asked) < 3:
            asked.problem(status, "queue_full", "later", Retry_After="0")
        else:
            asked.answer(202, job())

    with serving(script) as fake, Client(fake.url) as client:
        assert client.submit(clip).state == "queued"
    assert len(fake.asked) == 3
    assert all(asked.body == clip.read_bytes() for asked in fake.asked)


def test_a_pause_that_is_too_long_is_told_instead_of_waited_for() -> None:
    with (
        serving(lambda asked: asked.problem(503, "draining", "ends soon", Retry_After="86400")) as fake,
        Client(fake.url) as client,
        pytest.raises(errors.Draining, match="ends soon"),
    ):
        client.job("j1")
    assert len(fake.asked) == 1


def test_retries_are_bounded() -> None:
    with (
        serving(lambda asked: asked.problem(503, "queue_unavailable", "no Redis")) as fake,
        Client(fake.url, retries=2) as client,
        pytest.raises(errors.QueueUnavailable),
    ):
        client.job("j1")
    assert len(fake.asked) == 3


def test_problems_become_the_errors_of_their_code() -> None:
    with serving(lambda asked: asked.problem(404, "job_not_found", "no job j1")) as fake, Client(fake.url) as client:
        with pytest.raises(errors.JobNotFound, match="no job j1"):
            client.job("j1")
        fake.script = lambda asked: asked.problem(418, "teapot", "short and stout")
        with pytest.raises(errors.UnexpectedAnswer, match="short and stout") as caught:
            client.job("j1")
    assert (caught.value.status, caught.value.remote_code) == (418, "teapot")
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    ("status", "text"), [(500, "<html>Oops</html>"), (200, "<html>Welcome</html>"), (200, "[]"), (200, '{"id": 1}')]
)
def test_what_is_no_answer_of_this_service_is_said_to_be_none(status: int, text: str) -> None:
    with (
        serving(lambda asked: asked.answer(status, text)) as fake,
        Client(fake.url) as client,
        pytest.raises(errors.UnexpectedAnswer),
    ):
        client.job("j1")


def test_an_address_where_nobody_listens_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with Client(url, retries=1) as client, pytest.raises(errors.ServerUnreachable, match=url):
            client.job("j1")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://host:port", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidOptions, match="is no URL"):
        Client(url)


def test_names_options_and_media_types_travel_with_an_upload(tmp_path: Path) -> None:
    path = tmp_path / 'Straße "1".mkv'
    path.write_bytes(b"12345")
    ask = Ask("tiny", DetectOptions(0.25, 3, ("a, b", "c"), 1.0, 2.0, ("activations",)), "high", ("x",), 60.0)

    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(202, job())

    with serving(script) as fake, Client(fake.url + "/root") as client:
        client.submit(path, ask)
    (asked,) = fake.asked
    assert asked.path == (
        "/root/v1/detections?model=tiny&min_score=0.25&top_k=3&start_s=1.0&end_s=2.0&priority=high&timeout_s=60.0"
        "&labels=a%2C+b&labels=c&include=activations&tag=x"
    )
    assert asked.headers["content-type"] == "video/x-matroska"
    assert asked.headers["content-disposition"] == (
        "attachment; filename=\"Stra_e _1_.mkv\"; filename*=UTF-8''Stra%C3%9Fe%20%221%22.mkv"
    )
    assert (asked.headers["content-length"], asked.body) == ("5", b"12345")


def test_a_stored_video_is_named_and_not_sent() -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(202, job())

    with serving(script) as fake, Client(fake.url) as client:
        client.submit(StoredVideo("abc"), Ask(options=DetectOptions(min_score=0.0)))
    assert fake.asked[0].body == b'{"video":{"id":"abc"},"options":{"min_score":0.0}}'


def test_a_stream_is_sent_in_chunks_and_rewound_for_another_try() -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(202, job()) if len(fake.asked) == 2 else asked.problem(503, "draining", "later")

    with serving(script) as fake, Client(fake.url) as client:
        client.submit(io.BytesIO(b"abc" * 100_000), name="cam.mp4")
    assert [asked.body for asked in fake.asked] == [b"abc" * 100_000] * 2
    assert fake.asked[0].headers["content-type"] == "video/mp4"


def test_a_pipe_is_sent_once() -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    def script(asked: Asked) -> None:
        asked.read()
        asked.problem(503, "draining", "later")

    with serving(script) as fake, Client(fake.url) as client, pytest.raises(errors.Draining):
        client.submit(Pipe(b"abc"))
    assert len(fake.asked) == 1


def test_no_file_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with serving(lambda asked: None) as fake, Client(fake.url) as client:
        for path in (tmp_path, tmp_path / "nowhere.mp4"):
            with pytest.raises(errors.VideoNotFound):
                client.submit(path)
    assert fake.asked == []


def step(done: int) -> dict[str, Any]:
    return {"stage": "decode", "done": done, "total": 2}


def test_a_cut_stream_of_events_goes_on_behind_the_last_one_seen() -> None:
    def script(asked: Asked) -> None:
        streams = fake.paths().count("GET /v1/jobs/j1/events")
        if not asked.path.endswith("/events"):
            asked.answer(200, job("running" if streams < 2 else "succeeded"))
        elif "last-event-id" in asked.headers:
            asked.stream(("3", "progress", step(2)), ("4", "state", {"state": "succeeded"}))
        else:
            asked.stream(("1", "state", {"state": "running"}), ("2", "progress", step(1)))

    seen: list[Progress] = []
    with serving(script) as fake, Client(fake.url) as client:
        assert client.wait("j1", on_progress=seen.append).state == "succeeded"
    assert seen == [Progress("decode", 1, 2), Progress("decode", 2, 2)]
    streams = [asked.headers.get("last-event-id") for asked in fake.asked if asked.path.endswith("/events")]
    assert streams == [None, "2"]


def test_without_events_the_job_is_polled_and_what_has_not_changed_is_not_sent_again() -> None:
    def script(asked: Asked) -> None:
        polls = sum(not path.endswith("/events") for path in fake.paths())
        if asked.path.endswith("/events"):
            asked.problem(406, "not_acceptable", "no events here")
        elif polls < 6 and "if-none-match" in asked.headers:
            asked.answer(304, "")
        else:
            asked.answer(200, job("running" if polls < 6 else "canceled", progress=step(1)), ETag='"7"')

    seen: list[Progress] = []
    with serving(script) as fake, Client(fake.url) as client:
        assert client.wait("j1", on_progress=seen.append).state == "canceled"
    assert seen == [Progress("decode", 1, 2)]
    assert fake.paths().count("GET /v1/jobs/j1/events") == watching.SILENT_STREAMS
    assert [asked.headers.get("if-none-match") for asked in fake.asked if asked.path == "/v1/jobs/j1"][1:] == [
        '"7"'
    ] * 5


def test_a_wait_ends_when_its_time_is_up() -> None:
    def script(asked: Asked) -> None:
        asked.stream() if asked.path.endswith("/events") else asked.answer(200, job("running"))

    with (
        serving(script) as fake,
        Client(fake.url) as client,
        pytest.raises(errors.JobNotFinished, match=r"within 0\.2 s, job j1 is still running"),
    ):
        client.wait("j1", timeout_s=0.2)


def detecting(asked: Asked, **ended: Any) -> None:
    asked.read()
    if asked.path.endswith("/result?format=json"):
        asked.answer(200, formats.as_document(ANSWER))
    elif asked.path.endswith("/events"):
        asked.stream(("1", "state", {"state": ended["state"]}))
    else:
        asked.answer(202 if asked.method == "POST" else 200, job(**ended) if asked.method == "GET" else job())


def test_detect_gives_the_localization_that_the_service_found(clip: Path) -> None:
    with serving(lambda asked: detecting(asked, state="succeeded")) as fake, Client(fake.url) as client:
        assert client.detect(clip) == ANSWER
    assert fake.asked[0].headers["prefer"] == "respond-async"


def test_a_failed_job_raises_what_it_failed_of(clip: Path) -> None:
    failure = {"code": "corrupt_video", "message": "nothing decodes", "retryable": False}
    with (
        serving(lambda asked: detecting(asked, state="failed", failure=failure)) as fake,
        Client(fake.url) as client,
        pytest.raises(errors.CorruptVideo, match="nothing decodes"),
    ):
        client.detect(clip)


def test_pages_of_jobs_are_one_list() -> None:
    def script(asked: Asked) -> None:
        second = "cursor=more" in asked.path
        asked.answer(200, {"jobs": [job(id="b" if second else "a")], "next_cursor": None if second else "more"})

    with serving(script) as fake, Client(fake.url) as client:
        assert [found.id for found in client.jobs(state="failed", tag="x")] == ["a", "b"]
    assert fake.paths() == ["GET /v1/jobs?state=failed&tag=x", "GET /v1/jobs?state=failed&tag=x&cursor=more"]


def test_readiness_is_asked_once() -> None:
    with serving(lambda asked: asked.problem(503, "draining", "")) as fake, Client(fake.url) as client:
        assert not client.ready()
        fake.script = lambda asked: asked.answer(200, {})
        assert client.ready()
    assert len(fake.asked) == 2


def test_an_id_cannot_lead_to_another_path() -> None:
    with (
        serving(lambda asked: asked.problem(404, "job_not_found", "none")) as fake,
        Client(fake.url) as client,
        pytest.raises(errors.JobNotFound),
    ):
        client.job("../models?x=1")
    assert fake.paths() == ["GET /v1/jobs/..%2Fmodels%3Fx%3D1"]


def test_the_asynchronous_client_does_the_same(clip: Path) -> None:
    async def everything(url: str) -> tuple[Localization, list[str]]:
        async with AsyncClient(url) as client:
            await client.cancel("j1")
            await client.delete("j1")
            both = await asyncio.gather(client.detect(clip), client.detect(io.BytesIO(b"abc"), name="a.mp4"))
            return both[0], [await client.result("j1"), (await client.retry("j1")).id]

    with serving(lambda asked: detecting(asked, state="succeeded")) as fake:
        found, (text, again) = asyncio.run(everything(fake.url))
    assert (found, again) == (ANSWER, "j1")
    assert '"wave"' in text
    assert clip.read_bytes() in [asked.body for asked in fake.asked]


def test_an_asynchronous_wait_that_is_canceled_cancels_its_job(clip: Path) -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.stream() if asked.path.endswith("/events") else asked.answer(200, job("running"))

    async def interrupted(url: str) -> None:
        async with AsyncClient(url) as client:
            task = asyncio.create_task(client.detect(clip))
            while "GET /v1/jobs/j1" not in fake.paths():
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    with serving(script) as fake:
        asyncio.run(interrupted(fake.url))
    assert fake.paths()[-1] == "POST /v1/jobs/j1/cancel"


def test_how_a_job_ended_is_not_asked_for_by_uploading_again(clip: Path) -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(504, {"code": "deadline_passed", "detail": "too late", "job_id": "j1"})

    with serving(script) as fake, Client(fake.url) as client, pytest.raises(errors.DeadlinePassed):
        client.submit(clip)
    assert len(fake.asked) == 1


def test_a_wait_ends_in_time_also_where_the_service_asks_for_longer_pauses() -> None:
    def script(asked: Asked) -> None:
        asked.problem(503, "queue_unavailable", "away", Retry_After="60")

    began_s = time.monotonic()
    with (
        serving(script) as fake,
        Client(fake.url) as client,
        pytest.raises(errors.JobNotFinished, match=r"within 0\.5 s, job j1 could not be asked for: away"),
    ):
        client.wait("j1", timeout_s=0.5)
    assert time.monotonic() - began_s < 5


def test_a_job_whose_deletion_was_not_answered_is_deleted() -> None:
    def script(asked: Asked) -> None:
        if len(fake.asked) == 1:
            asked.cut()
        else:
            asked.problem(404, "job_not_found", "no job j1")

    with serving(script) as fake, Client(fake.url) as client:
        client.delete("j1")
        assert len(fake.asked) == 2
        with pytest.raises(errors.JobNotFound):
            client.delete("j1")


def test_a_service_that_fetches_a_video_may_be_silent_for_longer() -> None:
    def script(asked: Asked) -> None:
        asked.read()
        time.sleep(0.5)
        asked.answer(202, job())

    with serving(script) as fake, Client(fake.url, timeout_s=0.2, retries=0) as client:
        assert client.submit(VideoUrl("https://videos.example/a.mp4")).id == "j1"
        with pytest.raises(errors.ServerUnreachable):
            client.submit(StoredVideo("ab" * 32))
