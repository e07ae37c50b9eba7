"""Videos in over a real connection; answers, jobs or problems out."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.errors import QueueUnavailable
from service.jobs.job import Failure, Job
from service.jobs.queue import Ended, Failed, Outcome
from tests.service.api.conftest import Api


def _raw(**headers: str) -> dict[str, str]:
    return {"Content-Type": "video/mp4", **headers}


def test_a_form_in_either_order_is_answered_with_segments_once_a_worker_is_done(shared_api: Api, clip: bytes) -> None:
    options = ("options", (None, '{"top_k": 3}', "application/json"))
    video = ("video", ("a.mp4", clip, "video/mp4"))
    for parts in ([options, video], [video, options]):
        working = shared_api.work()
        answered = shared_api.http.post("/v1/detections", files=parts)
        working.join()
        assert answered.status_code == 200, answered.text
        document = answered.json()
        assert document["segments"][0]["label"] == "bow"
        assert document["video"]["name"] == "a.mp4"
        job = shared_api.http.get(f"/v1/jobs/{document['id']}").json()
        assert job["options"] == {"top_k": 3}
        assert job["video"]["id"] == document["video"]["id"]


def test_who_does_not_wait_gets_the_job_and_where_to_find_it(api: Api, clip: bytes) -> None:
    answered = api.http.post(
        "/v1/detections?labels=bow&labels=clap&tag=a",
        content=clip,
        headers=_raw(Prefer="respond-async", **{"Content-Disposition": "attachment; filename*=UTF-8''%C3%A4.mp4"}),
    )
    assert answered.status_code == 202
    assert answered.headers["preference-applied"] == "respond-async"
    assert "retry-after" in answered.headers
    job = api.http.get(answered.headers["location"]).json()
    assert (job["state"], job["tags"], job["video"]["name"]) == ("queued", ["a"], "ä.mp4")
    assert job["options"] == {"labels": ["bow", "clap"]}


def test_a_wait_that_is_over_ends_with_the_job(api: Api, clip: bytes) -> None:
    began = time.monotonic()
    answered = api.http.post("/v1/detections", content=clip, headers=_raw(Prefer="wait=1"))
    assert answered.status_code == 202
    assert 0.9 < time.monotonic() - began < 4


def test_a_stored_video_is_asked_for_again_by_its_id(api: Api, clip: bytes) -> None:
    first = api.submit(clip)
    body = {"video": {"id": first["video"]["id"]}, "options": {"min_score": 0.5}}
    answered = api.http.post("/v1/detections", json=body, headers={"Prefer": "respond-async"})
    assert answered.status_code == 202
    assert answered.json()["options"] == {"min_score": 0.5}


def test_a_failure_in_time_is_the_problem_of_its_code(shared_api: Api, clip: bytes) -> None:
    working = shared_api.work(Failed(Failure("zero_frames", "no frame")))
    answered = shared_api.http.post("/v1/detections", content=clip, headers=_raw())
    working.join()
    assert answered.status_code == 422
    assert (answered.json()["code"], answered.json()["detail"]) == ("zero_frames", "no frame")
    assert shared_api.http.get(f"/v1/jobs/{answered.json()['job_id']}").json()["state"] == "failed"


def test_a_hundred_requests_under_one_key_are_one_job(api: Api, clip: bytes) -> None:
    def ask(_: int) -> tuple[str, str | None]:
        headers = _raw(Prefer="respond-async", **{"Idempotency-Key": "once"})
        answered = api.http.post("/v1/detections", content=clip, headers=headers)
        return answered.json()["id"], answered.headers.get("idempotency-replayed")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(100)))
    assert len({job for job, _ in answers}) == 1
    assert [replayed for _, replayed in answers].count(None) == 1
    other = api.http.post("/v1/detections?top_k=1", content=clip, headers=_raw(**{"Idempotency-Key": "once"}))
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


def test_who_waits_while_the_queue_goes_away_is_told_of_the_accepted_job(api: Api, clip: bytes) -> None:
    def gone(_: str) -> Job:
        raise QueueUnavailable("gone")

    api.queue.get = gone  # type: ignore[method-assign]
    working = api.work()
    answered = api.http.post("/v1/detections", content=clip, headers=_raw())
    working.join()
    assert (answered.status_code, answered.json()["state"]) == (202, "queued")


def test_a_model_that_is_named_and_the_same_one_by_default_are_one_request(api: Api, clip: bytes) -> None:
    asked = _raw(Prefer="respond-async", **{"Idempotency-Key": "once"})
    first = api.http.post("/v1/detections", content=clip, headers=asked)
    again = api.http.post("/v1/detections?model=marionette", content=clip, headers=asked)
    assert again.json()["id"] == first.json()["id"]


@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (Failed(Failure("corrupt_video", "said")), 422, "corrupt_video"),
        (Failed(Failure("job_timeout", "said")), 504, "job_timeout"),
        (Failed(Failure("worker_crashed", "said")), 500, "worker_crashed"),
        (Failed(Failure("of_a_later_release", "said")), 500, "of_a_later_release"),
        (Ended("expired"), 504, "deadline_passed"),
        (Ended("canceled"), 409, "job_canceled"),
    ],
)
def test_who_waits_is_told_what_the_job_failed_of(
    shared_api: Api, clip: bytes, outcome: Outcome, status: int, code: str
) -> None:
    working = shared_api.work(outcome)
    answered = shared_api.http.post("/v1/detections", content=clip, headers=_raw())
    working.join()
    assert (answered.status_code, answered.json()["code"]) == (status, code)
    job = shared_api.http.get(answered.headers["location"]).json()
    assert job["id"] == answered.json()["job_id"]
    assert job["done"]


@pytest.mark.parametrize(
    ("query", "sent", "status", "code"),
    [
        ("model=nope", {}, 404, "model_not_found"),
        ("labels=nope", {}, 422, "invalid_options"),
        ("top_k=0", {}, 422, "invalid_options"),
        ("start_s=9", {}, 422, "invalid_options"),
        ("colour=red", {}, 422, "invalid_options"),
        ("tags=a", {}, 422, "invalid_options"),
        ("tag=%C3%A4", {}, 422, "invalid_options"),
        ("", {"headers": _raw(**{"Idempotency-Key": "a b"})}, 400, "malformed_request"),
        ("", {"content": b"text", "headers": {"Content-Type": "text/plain"}}, 415, "unsupported_media"),
        ("", {"content": b"", "headers": _raw()}, 400, "malformed_request"),
        ("", {"content": b"x" * 1048577, "headers": _raw()}, 413, "video_too_large"),
        ("", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "malformed_request"),
        ("", {"json": {"video": {"url": "http://a/b"}}}, 422, "video_url_denied"),
        ("", {"json": {"video": {"id": "0" * 64}}}, 404, "video_not_found"),
        ("", {"json": {"video": {"id": "0" * 64}, "x": 1}}, 422, "invalid_options"),
        ("", {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed_request"),
        ("", {"files": {"film": b"x"}}, 400, "malformed_request"),
        ("", {"files": [("video", b"x"), ("video", b"x")]}, 400, "malformed_request"),
        ("", {"files": {"video": ("a", b"x", "multipart/mixed; boundary=b")}}, 400, "malformed_request"),
    ],
)
def test_what_cannot_be_done_is_told_as_a_problem(
    shared_api: Api, clip: bytes, query: str, sent: dict[str, Any], status: int, code: str
) -> None:
    asked = {"content": clip, "headers": _raw(), **sent}
    if "json" in sent or "files" in sent:
        del asked["content"], asked["headers"]
    answered = shared_api.http.post(f"/v1/detections?{query}", **asked)
    assert (answered.status_code, answered.json()["code"]) == (status, code), answered.text
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.json()["request_id"] == answered.headers["x-request-id"]


def test_the_same_option_in_two_places_has_to_agree(shared_api: Api, clip: bytes) -> None:
    parts = [("video", ("a.mp4", clip)), ("options", (None, json.dumps({"top_k": 3}), "application/json"))]
    answered = shared_api.http.post("/v1/detections?top_k=4", files=parts)
    assert (answered.status_code, answered.json()["code"]) == (422, "invalid_options")


def test_every_option_that_is_wrong_is_named(shared_api: Api, clip: bytes) -> None:
    answered = shared_api.http.post("/v1/detections?min_score=2&top_k=0", content=clip, headers=_raw())
    assert [one["where"] for one in answered.json()["errors"]] == [["min_score"], ["top_k"]]
    twice = shared_api.http.post("/v1/detections?min_score=0.1&min_score=0.9", content=clip, headers=_raw())
    assert (twice.status_code, twice.json()["code"]) == (422, "invalid_options")
    assert "min_score is given 2 times" in twice.json()["detail"]


def test_asynchronously_with_a_wait_is_waiting_for_so_long(api: Api, clip: bytes) -> None:
    answered = api.http.post("/v1/detections", content=clip, headers=_raw(Prefer="respond-async, wait=1"))
    assert (answered.status_code, answered.headers["preference-applied"]) == (202, "wait=1")


def test_a_full_queue_is_told_with_a_pause(api: Api, clip: bytes) -> None:
    answered = [api.http.post("/v1/detections", content=clip, headers=_raw(Prefer="wait=0")) for _ in range(21)]
    assert answered[-1].status_code == 429
    assert int(answered[-1].headers["retry-after"]) > 0
    assert 'tal_admission_rejected_total{reason="queue_full"} 1.0' in api.http.get("/metrics").text


def test_an_upload_that_breaks_off_anywhere_leaves_nothing(api: Api, clip: bytes) -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="video"; filename="a"\r\n\r\n'
    body = head + clip + b"\r\n--b--\r\n"
    request = (
        f"POST /v1/detections HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for cut in {0, 1, len(head), len(head) + 1, *range(0, len(body), max(1, len(body) // 20)), len(body) - 1}:
        with socket.create_connection((api.http.base_url.host, api.http.base_url.port)) as connection:
            connection.sendall(request.encode() + body[:cut])
    ends_at_s = time.monotonic() + 10
    while api.http.get("/metrics").text.count("tal_http_inflight 1.0") != 1 and time.monotonic() < ends_at_s:
        time.sleep(0.05)
    assert api.files == []


def test_a_draining_server_answers_waits_and_takes_nothing_new(api: Api, clip: bytes) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(api.http.post, "/v1/detections", content=clip, headers=_raw())
        api.take()
        api.server._state.drain()
        assert waiting.result().status_code == 202
    refused = api.http.post("/v1/detections", content=clip, headers=_raw())
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert api.http.get("/readyz").status_code == 503
