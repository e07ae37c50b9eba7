"""Batches over HTTP, with a worker of the test's own: every item ends once, in order, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from service.api import batch_feeder, batch_forms, batch_records, batch_turn
from service.api.batch_downloads import Downloads
from service.api.batch_forms import BODY_BYTES, LINE_BYTES
from service.api.batch_items import BatchItems, Beside
from service.api.batch_records import BATCH, CHUNK, Batch, BatchShelf
from service.client import batches
from service.client.batches import BatchClient
from service.errors import BatchNotFound
from service.jobs.job import Failure
from service.jobs.keys import KeyShelf
from service.jobs.queue import Failed, JobFilter, StoredResult, Succeeded
from service.jobs.records import Record
from tests.service.api.conftest import Api, answer, modest, serving
from tests.service.api.test_access import key_of, state_of
from tests.service.egress.hosts import Host, answers, hangs

T = TypeVar("T")
JSONL = {"Content-Type": "application/jsonl"}
UNKNOWN = "0" * 64


def until(condition: Callable[[], T], timeout_s: float = 20.0) -> T:
    ends_at_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < ends_at_s, "not in time"
        time.sleep(0.02)
    return found


@contextmanager
def working(api: Api, **failures: Failure) -> Iterator[None]:
    """A worker that ends every job at once: well, or, where one of its tags names it, with that failure."""
    over = threading.Event()

    def do() -> None:
        while not over.is_set():
            api.beat()
            claim = api.queue.take("w", ["marionette"], ["high", "normal", "low"])
            if claim is None:
                over.wait(0.02)
                continue
            failure = next((failures[tag] for tag in claim.job.request.tags if tag in failures), None)
            outcome = Failed(failure) if failure else Succeeded(StoredResult(json.dumps(answer())))
            api.queue.settle(claim, outcome)

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def jsonl(lines: Iterable[dict[str, Any] | str]) -> bytes:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines).encode()


def post(api: Api, body: bytes, query: str = "", **headers: str) -> httpx.Response:
    return api.http.post(f"/v1/batches{query}", content=body, headers={**JSONL, **headers})


def create(api: Api, lines: Iterable[dict[str, Any] | str], query: str = "") -> dict[str, Any]:
    answered = post(api, jsonl(lines), query)
    assert answered.status_code == 202, answered.text
    document: dict[str, Any] = answered.json()
    assert answered.headers["location"] == document["links"]["self"]
    return document


def get(api: Api, batch_id: str) -> dict[str, Any]:
    answered = api.http.get(f"/v1/batches/{batch_id}")
    assert answered.status_code == 200, answered.text
    document: dict[str, Any] = answered.json()
    return document


def done(api: Api, batch_id: str, timeout_s: float = 20.0) -> dict[str, Any]:
    return until(lambda: found if (found := get(api, batch_id))["done"] else None, timeout_s)


def lines(api: Api, batch_id: str, what: str) -> list[dict[str, Any]]:
    answered = api.http.get(f"/v1/batches/{batch_id}/{what}")
    assert answered.status_code == 200, answered.text
    return [json.loads(line) for line in answered.text.splitlines()]


def ids(found: Sequence[dict[str, Any]]) -> list[str]:
    return [one["custom_id"] for one in found]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_feeder, "POLL_S", 0.05)
    monkeypatch.setattr(batch_turn, "BUSY_S", 0.05)
    monkeypatch.setattr(batch_turn, "IDLE_S", 0.1)
    monkeypatch.setattr(batch_turn, "LONGEST_PAUSE_S", 0.1)


@pytest.fixture
def video(api: Api, clip: bytes) -> str:
    return stored(api, clip)


def stored(api: Api, data: bytes) -> str:
    return api.store.put("video", data).key


def test_100_results_and_20_typed_errors_come_in_order_through_a_restart(tmp_path: Path, clip: bytes) -> None:
    config = modest(tmp_path).model_copy(update={"lease_s": 1.0, "max_queued_jobs": 1000})
    bad: dict[int, tuple[dict[str, Any] | str, str]] = {}

    def spoil(numbers: Iterable[int], line: dict[str, Any] | str, code: str) -> None:
        bad.update(dict.fromkeys(numbers, (line, code)))

    with serving(config) as api:
        video, broken = stored(api, clip), [stored(api, b"no video at all" * n) for n in (100, 200)]
        spoil(range(3, 33, 10), "{not json", "malformed_request")
        spoil((34, 35), "[]", "invalid_options")
        spoil((36, 91), {"video": {"id": video}, "nonsense": 1}, "invalid_options")
        spoil((50, 92, 118), {"video": {"id": UNKNOWN}}, "video_not_found")
        spoil((51, 93), {"video": {"id": video}, "model": "nowhere"}, "model_not_found")
        spoil((52, 94), {"video": {"id": video}, "options": {"labels": ["fly"]}}, "invalid_options")
        for number, key in zip((95, 119), broken, strict=True):
            spoil((number,), {"video": {"id": key}}, "unsupported_media")
        spoil((54, 96), {"video": {"url": "https://example.org/a.mp4"}}, "video_url_denied")
        spoil((60, 97), {"video": {"id": video}, "options": {"tags": ["crash"]}}, "worker_crashed")
        assert len(bad) == 20
        wanted = [bad[n][0] if n in bad else {"custom_id": f"item-{n}", "video": {"id": video}} for n in range(120)]
        names = [str(n + 1) if n in bad else f"item-{n}" for n in range(120)]
        crash = Failure("worker_crashed", "it died", retryable=False)
        with working(api, crash=crash):
            batch = create(api, wanted, "?name=all")["id"]
            until(lambda: get(api, batch)["counts"]["succeeded"] > 20)
    with serving(config) as api, working(api, crash=crash):
        ended = done(api, batch, 60)
        output, errors = lines(api, batch, "output"), lines(api, batch, "errors")
        both = lines(api, batch, "output?all=true")
        jobs = api.queue.find(JobFilter(), 1000)
    assert (ended["state"], ended["name"]) == ("completed", "all")
    assert ended["counts"] == {
        "total": 120, "queued": 0, "submitted": 0, "succeeded": 100, "failed": 20, "canceled": 0,
    }  # fmt: skip
    assert ended["expires_at_s"] == pytest.approx(ended["finished_at_s"] + config.keep_jobs_s)
    assert ids(both) == names
    assert ids(output) == [name for n, name in enumerate(names) if n not in bad]
    assert [(one["custom_id"], one["error"]["code"]) for one in errors] == [(names[n], bad[n][1]) for n in sorted(bad)]
    assert all(one["error"]["message"] for one in errors)
    assert len({one["job_id"] for one in output}) == 100
    assert all(one["result"]["id"] == one["job_id"] for one in output)
    assert len(jobs) == 100 + 2, "an item was submitted twice"
    assert {job.request.priority for job in jobs} == {"low"}
    assert all(f"batch:{batch}" in job.request.tags for job in jobs)


def test_a_batch_is_listed_and_counts_as_it_goes(api: Api, video: str) -> None:
    made = [create(api, [{"custom_id": "a", "video": {"id": video}}], f"?name=n{n}") for n in range(3)]
    assert made[0]["counts"] == {
        "total": 1, "queued": 1, "submitted": 0, "succeeded": 0, "failed": 0, "canceled": 0,
    }  # fmt: skip
    first = api.http.get("/v1/batches?limit=2").json()
    second = api.http.get(f"/v1/batches?limit=2&cursor={first['next_cursor']}").json()
    assert [one["name"] for one in first["batches"] + second["batches"]] == ["n2", "n1", "n0"]
    assert second["next_cursor"] is None
    until(lambda: get(api, made[0]["id"])["counts"]["submitted"] == 1)
    assert lines(api, made[0]["id"], "output?all=true") == []


def test_what_succeeded_can_be_read_while_the_batch_runs(api: Api, video: str) -> None:
    batch = create(api, [{"custom_id": name, "video": {"id": video}} for name in ("a", "b")])["id"]
    api.work().join()
    until(lambda: get(api, batch)["counts"]["succeeded"] == 1)
    assert ids(lines(api, batch, "output")) == ["a"]
    assert get(api, batch)["state"] == "in_progress"


def test_defaults_of_the_query_stand_behind_what_a_line_asks(api: Api, video: str) -> None:
    asked = [{"video": {"id": video}}, {"video": {"id": video}, "priority": "high", "options": {"top_k": 5}}]
    create(api, asked, "?top_k=3&priority=normal&tag=mine&labels=bow")
    first, second = (api.take().job.request for _ in range(2))
    by_priority = {one.priority: one for one in (first, second)}
    assert by_priority["normal"].options.top_k == 3
    assert by_priority["high"].options.top_k == 5
    assert by_priority["high"].options.labels == ("bow",)
    assert by_priority["normal"].tags[1:] == ("mine",)


def test_a_canceled_batch_ends_its_jobs_and_submits_no_more(tmp_path: Path, clip: bytes) -> None:
    with serving(modest(tmp_path).model_copy(update={"batch_ahead": 3})) as api:
        video = stored(api, clip)
        batch = create(api, [{"custom_id": f"i{n}", "video": {"id": video}} for n in range(250)])["id"]
        api.work().join()
        until(lambda: get(api, batch)["counts"]["succeeded"] == 1)
        assert api.http.post(f"/v1/batches/{batch}/cancel").json()["state"] in {"canceling", "canceled"}
        ended = done(api, batch)
        assert api.http.post(f"/v1/batches/{batch}/cancel").json()["state"] == "canceled"
        errors = lines(api, batch, "errors")
        states = [job.state for job in api.queue.find(JobFilter(), 100)]
    assert (ended["state"], ended["counts"]["succeeded"], ended["counts"]["canceled"]) == ("canceled", 1, 249)
    assert [one["custom_id"] for one in errors] == [f"i{n}" for n in range(1, 250)]
    assert {one["error"]["code"] for one in errors} == {"job_canceled"}
    assert set(states) == {"succeeded", "canceled"}


def test_no_more_jobs_wait_than_the_operator_allows_ahead(tmp_path: Path, clip: bytes) -> None:
    with serving(modest(tmp_path).model_copy(update={"batch_ahead": 5})) as api:
        batch = create(api, [{"video": {"id": stored(api, clip)}} for _ in range(12)])["id"]
        until(lambda: get(api, batch)["counts"]["submitted"] == 5)
        waiting = [sum(api.queue.stats().queued.values())]
        with working(api):
            until(lambda: waiting.append(sum(api.queue.stats().queued.values())) or get(api, batch)["done"])
    assert max(waiting) <= 5


def test_a_batch_leaves_half_of_the_queue_to_others_and_goes_on_when_there_is_room(api: Api, clip: bytes) -> None:
    batch = create(api, [{"video": {"id": stored(api, clip)}} for _ in range(30)])["id"]
    half = api.config.max_queued_jobs // 2
    until(lambda: get(api, batch)["counts"]["submitted"] == half)
    for _ in range(half):
        api.submit(clip)
    with working(api):
        assert done(api, batch)["counts"]["succeeded"] == 30


def test_a_full_queue_is_waited_for(tmp_path: Path, clip: bytes) -> None:
    """Others may fill the queue between a feeder's look at it and its submission."""
    with serving(modest(tmp_path).model_copy(update={"max_queued_jobs": 2})) as api:
        real, refused = api.queue.stats, threading.Event()
        video = stored(api, clip)
        for _ in range(2):
            api.submit(clip)
        api.server._state.queue.stats = lambda: replace(real(), queued={})
        submit = api.server._state.submit

        async def told(*arguments: Any, **named: Any) -> Any:
            try:
                return await submit(*arguments, **named)
            except Exception:
                refused.set()
                raise

        api.server._state.submit = told
        batch = create(api, [{"video": {"id": video}}])["id"]
        assert refused.wait(10)
        assert get(api, batch)["counts"]["queued"] == 1
        with working(api):
            assert done(api, batch)["counts"]["succeeded"] == 1


def test_two_feeders_at_once_submit_every_item_once(tmp_path: Path, clip: bytes) -> None:
    config = modest(tmp_path).model_copy(update={"lease_s": 1.0, "max_queued_jobs": 1000})
    with serving(config) as api, serving(config), working(api):
        batches = [create(api, [{"video": {"id": stored(api, clip)}} for _ in range(15)])["id"] for _ in range(2)]
        for batch in batches:
            assert done(api, batch, 40)["counts"]["succeeded"] == 15
        assert len(api.queue.find(JobFilter(), 1000)) == 30


def test_a_turn_that_was_cut_off_before_it_was_written_down_makes_no_second_job(api: Api, clip: bytes) -> None:
    """As a kill between submission and record leaves it: the jobs are there, and their items wait."""
    shelf, batch = BatchShelf(api.records), ""
    save = api.server._state.records.replace
    cut = threading.Event()

    def cut_off(record: Any) -> Any:
        if record.kind == CHUNK and not cut.is_set():
            cut.set()
            raise RuntimeError("the process ends here")
        return save(record)

    api.server._state.records.replace = cut_off  # type: ignore[method-assign]
    api.server._state.config = api.config.model_copy(update={"lease_s": 1.0})
    batch = create(api, [{"video": {"id": stored(api, clip)}} for _ in range(5)])["id"]
    assert cut.wait(10)
    chunk = shelf.chunk(batch, 0)
    assert chunk is not None
    assert {item.state for item in chunk.items} == {"waiting"}
    with working(api):
        assert done(api, batch)["counts"]["succeeded"] == 5
    assert len(api.queue.find(JobFilter(), 100)) == 5


def test_the_same_key_gives_the_same_batch_and_another_body_under_it_is_refused(api: Api, video: str) -> None:
    body = jsonl([{"video": {"id": video}}])
    first = post(api, body, **{"Idempotency-Key": "k"})
    again = post(api, body, **{"Idempotency-Key": "k"})
    assert first.json()["id"] == again.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    for other in (
        post(api, body + body, **{"Idempotency-Key": "k"}),
        post(api, body, "?top_k=1", **{"Idempotency-Key": "k"}),
    ):
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")
    assert len(api.records.page(BATCH)) == 1
    assert len(api.records.page(CHUNK)) == 1


def test_after_its_batch_was_deleted_a_key_makes_a_new_one(api: Api) -> None:
    body = jsonl(["not json"])
    first = post(api, body, **{"Idempotency-Key": "k"}).json()["id"]
    done(api, first)
    assert api.http.delete(f"/v1/batches/{first}").status_code == 204
    again = post(api, body, **{"Idempotency-Key": "k"})
    assert again.json()["id"] != first
    assert post(api, body, **{"Idempotency-Key": "k"}).json()["id"] == again.json()["id"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_request"),
        (b"\n \n\r\n", 400, "malformed_request"),
        (b'{"custom_id": "a", "video": {"id": "%s"}}\n' % UNKNOWN.encode() * 2, 422, "invalid_options"),
        (b'{"video": {}}\n{"custom_id": "1", "video": {"id": "%s"}}' % UNKNOWN.encode(), 422, "invalid_options"),
        (b"x" * (LINE_BYTES + 1), 400, "malformed_request"),
        (b"1\n" * 251, 400, "malformed_request"),
    ],
)
def test_a_body_without_lines_beyond_the_limits_or_with_an_id_twice_is_refused_whole(
    shared_api: Api, body: bytes, status: int, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_forms, "MOST_LINES", 250)
    before = len(shared_api.records.page(BATCH)), len(shared_api.records.page(CHUNK))
    refused = post(shared_api, body)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert (len(shared_api.records.page(BATCH)), len(shared_api.records.page(CHUNK))) == before


def test_a_body_that_says_it_is_too_long_is_refused_unread(shared_api: Api) -> None:
    url = shared_api.http.base_url
    head = f"POST /v1/batches HTTP/1.1\r\nHost: {url.host}\r\nContent-Length: {BODY_BYTES + 1}\r\n"
    with socket.create_connection((url.host, url.port or 0), timeout=10) as connection:
        connection.sendall(f"{head}Content-Type: application/jsonl\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 400")
    refused = shared_api.http.post("/v1/batches", content=b"{}", headers={"Content-Type": "text/plain"})
    assert refused.status_code == 415


def test_an_id_that_is_none_is_the_items_error(shared_api: Api) -> None:
    given: list[Any] = [7, "", "x" * 257, "a\nb", "\ud800"]
    batch = create(shared_api, [{"custom_id": one, "video": {"id": UNKNOWN}} for one in given])["id"]
    done(shared_api, batch)
    errors = lines(shared_api, batch, "errors")
    assert ids(errors) == ["1", "2", "3", "4", "5"]
    assert {one["error"]["code"] for one in errors} == {"invalid_options"}


def test_several_files_are_a_batch_whose_ids_are_their_names(api: Api, clip: bytes) -> None:
    files = [("video", ("a.mp4", clip)), ("video", ("a.mp4", clip)), ("video", ("b.mp4", b"no video" * 50))]
    files += [("video", ("empty.mp4", b"")), ("options", (None, b'{"top_k": 4}'))]
    with working(api):
        batch = api.http.post("/v1/batches?name=files", files=files).json()["id"]
        done(api, batch)
    output, errors = lines(api, batch, "output"), lines(api, batch, "errors")
    assert ids(output) == ["a.mp4", "a.mp4 (2)"]
    assert [one["result"]["video"]["name"] for one in output] == ["a.mp4", "a.mp4"]
    assert [(one["custom_id"], one["error"]["code"]) for one in errors] == [
        ("b.mp4", "unsupported_media"), ("empty.mp4", "malformed_request"),
    ]  # fmt: skip
    assert {job.request.options.top_k for job in api.queue.find(JobFilter(), 10)} == {4}


def test_a_form_that_makes_no_sense_leaves_nothing(shared_api: Api, clip: bytes) -> None:
    before = len(shared_api.records.page(BATCH))
    for files in (
        [("video", ("a.mp4", clip)), ("options", (None, b'{"top_k": 0}'))],
        [("video", ("a.mp4", clip)), ("other", (None, b"x"))],
        [("options", (None, b"{}"))],
    ):
        assert shared_api.http.post("/v1/batches", files=files).status_code in {400, 422}
    assert len(shared_api.records.page(BATCH)) == before


def test_batches_and_their_videos_are_their_owners(api: Api, clip: bytes) -> None:
    (one, mine), (_, others) = key_of(api, "submit", "read"), key_of(api, "submit", "read")
    _, admins = key_of(api, "admin")
    uploaded = api.submit(clip, **mine)
    line = jsonl([{"custom_id": "a", "video": {"id": uploaded["video"]["id"]}}])
    ours, theirs = (post(api, line, **key).json()["id"] for key in (mine, others))
    for method, path in (
        ("GET", ""), ("GET", "/output"), ("GET", "/errors"), ("POST", "/cancel"), ("DELETE", ""),
    ):  # fmt: skip
        refused = api.http.request(method, f"/v1/batches/{ours}{path}", headers=others)
        assert (refused.status_code, refused.json()["code"]) == (404, "batch_not_found")
    assert [found["id"] for found in api.http.get("/v1/batches", headers=mine).json()["batches"]] == [ours]
    assert len(api.http.get("/v1/batches", headers=admins).json()["batches"]) == 2
    with working(api):
        until(lambda: api.http.get(f"/v1/batches/{ours}", headers=admins).json()["done"])
        until(lambda: api.http.get(f"/v1/batches/{theirs}", headers=others).json()["done"])
    assert "video_not_found" in api.http.get(f"/v1/batches/{theirs}/errors", headers=others).text
    assert api.http.get(f"/v1/batches/{ours}", headers=mine).json()["counts"]["succeeded"] == 1
    assert {job.request.owner for job in api.queue.find(JobFilter(tag=f"batch:{ours}"), 10)} == {one.id}


def test_the_same_key_of_two_owners_is_two_keys_and_a_form_makes_its_videos_ones_own(api: Api, clip: bytes) -> None:
    (_, mine), (_, others) = key_of(api, "submit", "read"), key_of(api, "submit", "read")
    files = [("video", ("a.mp4", clip))]
    made = [
        api.http.post("/v1/batches", files=files, headers={**key, "Idempotency-Key": "k"}).json()["id"]
        for key in (mine, others, mine)
    ]
    assert made[0] == made[2] != made[1]
    with working(api):
        until(lambda: api.http.get(f"/v1/batches/{made[0]}", headers=mine).json()["done"])
    found = json.loads(api.http.get(f"/v1/batches/{made[0]}/output", headers=mine).text)
    again = {"video": {"id": found["result"]["video"]["id"]}}
    headers = {**mine, "Prefer": "respond-async"}
    assert api.http.post("/v1/detections", json=again, headers=headers).status_code == 202


def test_a_batch_is_deleted_once_it_has_ended_and_forgotten_after_its_time(api: Api, video: str) -> None:
    batch = create(api, [{"video": {"id": video}}])["id"]
    until(lambda: get(api, batch)["counts"]["submitted"])
    refused = api.http.delete(f"/v1/batches/{batch}")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_not_finished")
    with working(api):
        done(api, batch)
    kept = api.records.page(BATCH)[0]
    assert api.records.replace(replace(kept, due_at_s=time.time() - 1))
    until(lambda: api.http.get(f"/v1/batches/{batch}").status_code == 404)
    until(lambda: api.records.page(CHUNK) == [])
    assert api.http.get(f"/v1/batches/{batch}/output").status_code == 404
    assert api.http.delete("/v1/batches/nonsense").json()["code"] == "batch_not_found"


def test_what_was_left_of_a_request_that_died_is_removed(api: Api) -> None:
    shelf = BatchShelf(api.records)
    shelf.create(Batch("b" * 32, "", "", "receiving", 1.0), time.time() - 1)
    assert api.http.get("/v1/batches").json()["batches"] == []
    until(lambda: api.records.page(BATCH) == [])


def test_videos_of_waiting_items_are_used_so_that_retention_leaves_them(tmp_path: Path, clip: bytes) -> None:
    with serving(modest(tmp_path).model_copy(update={"batch_ahead": 1})) as api:
        first, last = stored(api, clip), stored(api, clip + b"\0\0\0\x08free")
        path = api.store.path("video", last)
        os.utime(path, (1, 1))
        create(api, [{"video": {"id": first}}, {"video": {"id": last}}])
        until(lambda: path.stat().st_mtime > 1000)
        assert api.store.sweep("video", 60, lambda keys: set()) == 0


def test_a_result_that_is_no_longer_kept_is_told_so_in_its_place(api: Api, video: str) -> None:
    with working(api):
        batch = create(api, [{"video": {"id": video}}])["id"]
        done(api, batch)
    job_id = lines(api, batch, "output")[0]["job_id"]
    api.http.delete(f"/v1/jobs/{job_id}")
    (line,) = lines(api, batch, "output")
    assert (line["job_id"], line["error"]["code"]) == (job_id, "job_not_found")


def test_a_drained_server_takes_no_batch(api: Api) -> None:
    api.server._state.drain()
    assert post(api, b"{}").json()["code"] == "draining"


def test_the_client_sends_follows_and_reads_a_batch(api: Api, video: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "POLL_S", 0.05)
    with BatchClient(str(api.http.base_url)) as client:
        made = client.create_batch([{"custom_id": "a", "video": {"id": video}}, {"custom_id": "b"}], name="mine")
        with working(api):
            ended = client.wait_for_batch(made.id)
        assert (ended.state, ended.name, ended.counts["failed"]) == ("completed", "mine", 1)
        assert ids(list(client.output(made.id))) == ["a"]
        assert [one["error"]["code"] for one in client.errors(made.id)] == ["invalid_options"]
        assert ids(list(client.output(made.id, everything=True))) == ["a", "b"]
        assert [one.id for one in client.batches()] == [made.id]
        assert client.cancel_batch(made.id).state == "completed"
        client.delete_batch(made.id)
        with pytest.raises(BatchNotFound):
            client.batch(made.id)
        with pytest.raises(BatchNotFound):
            list(client.errors(made.id))


def test_a_request_whose_end_was_cut_off_goes_on_when_it_is_sent_again(api: Api) -> None:
    """As a kill between the body's last line and the batch's beginning leaves it."""
    first = post(api, b"{}", **{"Idempotency-Key": "k"}).json()["id"]
    done(api, first)
    (kept,) = api.records.page(BATCH)
    unbegun = {**kept.body, "state": "receiving", "ended": {}, "counts": {}, "next_chunk": 0, "expires_at_s": None}
    assert api.records.replace(replace(kept, body=unbegun, due_at_s=time.time() + 1000))
    assert api.http.get(f"/v1/batches/{first}").status_code == 404
    again = post(api, b"{}", **{"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["id"]) == (202, first)
    assert done(api, first)["counts"]["failed"] == 1


@contextmanager
def fetching(tmp_path: Path) -> Iterator[Api]:
    opened = {"video_url_hosts": ("127.0.0.1:*",), "egress_private": True, "video_url_timeout_s": 60.0}
    with serving(modest(tmp_path).model_copy(update=opened)) as api:
        yield api


def test_urls_that_hang_keep_nobody_waiting_and_end_with_their_batch(tmp_path: Path, clip: bytes) -> None:
    with Host(hangs()) as slow, Host(answers("200 OK", clip)) as fast, fetching(tmp_path) as api:
        hanging = [{"video": {"url": f"{slow.url}?n={n}"}} for n in range(20)]
        batches = [create(api, hanging)["id"] for _ in range(3)]
        until(lambda: len(slow.requests) == 4)
        mine = create(api, [{"video": {"id": stored(api, clip)}}])["id"]
        asked = {"video": {"url": fast.url}}
        direct = api.http.post("/v1/detections", json=asked, headers={"Prefer": "respond-async"})
        assert direct.status_code == 202, direct.text
        with working(api):
            assert done(api, mine, 5)["counts"]["succeeded"] == 1
        assert len(slow.requests) == 4
        for batch in batches:
            api.http.post(f"/v1/batches/{batch}/cancel")
        for batch in batches:
            assert done(api, batch, 5)["counts"]["canceled"] == 20
        until(lambda: state_of(api).downloads.value == 8, 5)


def test_videos_by_url_come_beside_the_turns_and_are_their_owners(tmp_path: Path, clip: bytes) -> None:
    with Host(answers("200 OK", clip)) as host, Host(answers("404 Not Found")) as gone, fetching(tmp_path) as api:
        _, mine = key_of(api, "submit", "read")
        urls = [f"{host.url}?n={n}" for n in range(3)] + [gone.url]
        batch = post(api, jsonl({"video": {"url": url}} for url in urls), **mine).json()["id"]
        with working(api):
            until(lambda: api.http.get(f"/v1/batches/{batch}", headers=mine).json()["done"])
        counts = api.http.get(f"/v1/batches/{batch}", headers=mine).json()["counts"]
        assert (counts["succeeded"], counts["failed"]) == (3, 1)
        assert len(host.requests) == 3
        assert "video_url_failed" in api.http.get(f"/v1/batches/{batch}/errors", headers=mine).text


def test_a_batch_that_was_canceled_while_a_video_was_looked_at_submits_nothing(
    api: Api, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking, go_on = threading.Event(), threading.Event()
    real = state_of(api).store.path

    def slowly(*given: Any) -> Path:
        looking.set()
        assert go_on.wait(10)
        return real(*given)

    monkeypatch.setattr(state_of(api).store, "path", slowly)
    batch = create(api, [{"video": {"id": video}}])["id"]
    assert looking.wait(10)
    api.http.post(f"/v1/batches/{batch}/cancel")
    go_on.set()
    assert done(api, batch)["counts"]["canceled"] == 1
    assert api.queue.find(JobFilter(), 10) == []


def test_one_owner_has_half_of_the_turns_at_most(api: Api) -> None:
    feeder = batch_feeder.Feeder(state_of(api))
    begun: list[str] = []

    async def begin() -> None:
        async def turn(record: Record) -> None:
            begun.append(record.body["owner"])

        feeder._turn = turn  # type: ignore[method-assign]
        for n, owner in enumerate(["a"] * 20 + ["b"] * 2):
            feeder._begin(Record(BATCH, f"{owner}/{n}", {"owner": owner}))
        await asyncio.gather(*feeder._turns.values())

    asyncio.run(begin())
    assert begun == ["a"] * 4 + ["b"] * 2


def test_a_video_of_a_form_is_its_owners_before_its_turn(
    api: Api, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, mine), (_, others) = key_of(api, "submit", "read"), key_of(api, "submit", "read")
    monkeypatch.setattr(batch_feeder, "BATCHES_AT_ONCE", 0)
    key = api.submit(clip, **others)["video"]["id"]
    api.http.post(f"/v1/jobs/{api.queue.find(JobFilter(), 1)[0].id}/cancel", headers=others)
    batch = api.http.post("/v1/batches", files=[("video", ("a.mp4", clip))], headers=mine)
    assert batch.status_code == 202
    api.http.delete(f"/v1/videos/{key}", headers=others)
    assert api.store.path("video", key).is_file()
    monkeypatch.setattr(batch_feeder, "BATCHES_AT_ONCE", 8)
    with working(api):
        ended = until(
            lambda: one if (one := api.http.get(batch.headers["location"], headers=mine).json())["done"] else None
        )
    assert ended["counts"]["succeeded"] == 1


def test_a_full_queue_or_too_many_batches_refuse_another_but_not_a_repeated_one(
    api: Api, video: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_records, "MOST_UNFINISHED", 2)
    line = jsonl([{"video": {"id": video}}])
    first = post(api, line, **{"Idempotency-Key": "k"})
    post(api, line)
    refused = post(api, line)
    assert (refused.status_code, refused.json()["code"]) == (429, "queue_full")
    assert "2 of your batches have not ended; at most 2" in refused.json()["detail"]
    assert post(api, line, **{"Idempotency-Key": "k"}).json()["id"] == first.json()["id"]
    with working(api):
        done(api, first.json()["id"])
    assert post(api, line).status_code == 202
    monkeypatch.setattr(state_of(api).admission, "_min_free_bytes", 1 << 62)
    assert post(api, line).json()["code"] == "storage_full"


def test_a_key_that_was_revoked_opens_no_more_of_others_videos(api: Api, clip: bytes) -> None:
    admin, _ = key_of(api, "admin")
    before = asyncio.run(_is_admin(api, admin.id))
    KeyShelf(api.records).revoke(admin.id)
    state_of(api).keys.read()
    assert (before, asyncio.run(_is_admin(api, admin.id))) == (True, False)


async def _is_admin(api: Api, owner: str) -> bool:
    batch = Batch("b" * 32, owner, "", "in_progress", 1.0)
    state = state_of(api)
    return (await BatchItems(state, batch, Beside(Downloads(state))).caller()).admin
