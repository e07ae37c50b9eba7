"""Jobs, their results and their events, over a real connection."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.jobs.job import Failure
from service.jobs.queue import Failed
from tests.service.api.conftest import Api


def _done(api: Api, clip: bytes) -> str:
    job = api.submit(clip)
    api.work().join()
    return str(job["id"])


def test_a_job_that_has_not_changed_is_not_told_again(api: Api, clip: bytes) -> None:
    job = api.submit(clip)["id"]
    first = api.http.get(f"/v1/jobs/{job}")
    assert api.http.get(f"/v1/jobs/{job}", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    api.work().join()
    after = api.http.get(f"/v1/jobs/{job}", headers={"If-None-Match": first.headers["etag"]})
    assert (after.status_code, after.json()["state"]) == (200, "succeeded")


def test_pages_follow_each_other_and_leave_nothing_out(api: Api, clip: bytes) -> None:
    made = [api.submit(clip)["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        page = api.http.get("/v1/jobs", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [job["id"] for job in page["jobs"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(made)
    assert api.http.get("/v1/jobs?cursor=forged").status_code == 400
    assert api.http.get("/v1/jobs?state=succeeded").json()["jobs"] == []


@pytest.mark.parametrize(
    ("form", "begins"),
    [("json", "{"), ("jsonl", "{"), ("csv", "video,"), ("activitynet", "{"), ("vtt", "WEBVTT"), ("srt", "1\n")],
)
def test_a_result_comes_in_every_form(shared_api: Api, clip: bytes, form: str, begins: str) -> None:
    job = _done(shared_api, clip)
    answered = shared_api.http.get(f"/v1/jobs/{job}/result", params={"format": form})
    assert answered.status_code == 200
    assert answered.text.startswith(begins)


def test_a_form_may_be_asked_for_by_its_media_type(shared_api: Api, clip: bytes) -> None:
    job = _done(shared_api, clip)
    answered = shared_api.http.get(f"/v1/jobs/{job}/result", headers={"Accept": "text/csv"})
    assert answered.text.startswith("video,")
    for accept, kind in (
        ("image/png, */*;q=0.1", "application/json"),
        ("text/csv;q=0, application/json;q=0.5", "application/json"),
        ("application/json;q=0.5, text/vtt", "text/vtt"),
        ("text/*", "text/csv"),
    ):
        answered = shared_api.http.get(f"/v1/jobs/{job}/result", headers={"Accept": accept})
        assert answered.headers["content-type"].split(";")[0] == kind, accept
    for accept in ("image/png", "application/*;q=0"):
        assert shared_api.http.get(f"/v1/jobs/{job}/result", headers={"Accept": accept}).status_code == 406


def test_a_list_takes_no_parameter_that_it_does_not_know_and_no_page_is_endless(shared_api: Api) -> None:
    refused = shared_api.http.get("/v1/jobs?status=failed")
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_options")
    assert "status" in refused.json()["detail"]
    assert shared_api.http.get("/v1/jobs?limit=100000").status_code == 200


def test_what_is_not_done_has_no_result_and_stays(api: Api, clip: bytes) -> None:
    job = api.submit(clip)["id"]
    assert api.http.get(f"/v1/jobs/{job}/result").json()["code"] == "job_not_finished"
    assert api.http.delete(f"/v1/jobs/{job}").status_code == 409
    for _ in range(2):
        canceled = api.http.post(f"/v1/jobs/{job}/cancel")
        assert (canceled.status_code, canceled.json()["state"]) == (202, "canceled")
    assert api.http.delete(f"/v1/jobs/{job}").status_code == 204
    assert api.http.get(f"/v1/jobs/{job}").json()["code"] == "job_not_found"


def test_a_job_that_failed_is_tried_again_as_another_one(api: Api, clip: bytes) -> None:
    job = api.submit(clip)["id"]
    api.work(Failed(Failure("zero_frames", "none"))).join()
    again = api.http.post(f"/v1/jobs/{job}/retry")
    assert (again.status_code, again.json()["retry_of"]) == (202, job)
    twice = [api.http.post(f"/v1/jobs/{job}/retry", headers={"Idempotency-Key": "k"}) for _ in range(2)]
    assert twice[0].json()["id"] == twice[1].json()["id"] != again.json()["id"]
    assert [one.headers.get("idempotency-replayed") for one in twice] == [None, "true"]
    assert api.http.post(f"/v1/jobs/{again.json()['id']}/retry").status_code == 409


def test_a_job_of_a_model_that_is_no_more_is_not_tried_again(api: Api, clip: bytes) -> None:
    request = replace(api.queue.get(api.submit(clip)["id"]).request, model="gone")
    old = api.queue.cancel(api.queue.submit(request).job.id)
    again = api.http.post(f"/v1/jobs/{old.id}/retry")
    assert (again.status_code, again.json()["code"]) == (404, "model_not_found")


def test_events_go_on_behind_the_last_one_seen_also_of_a_finished_job(api: Api, clip: bytes) -> None:
    job = _done(api, clip)
    whole = api.http.get(f"/v1/jobs/{job}/events")
    assert whole.headers["content-type"].startswith("text/event-stream")
    ids = [line[4:] for line in whole.text.splitlines() if line.startswith("id: ")]
    assert '"succeeded"' in whole.text
    for seen in range(len(ids)):
        rest = api.http.get(f"/v1/jobs/{job}/events", headers={"Last-Event-ID": ids[seen]}).text
        assert [line[4:] for line in rest.splitlines() if line.startswith("id: ")] == ids[seen + 1 :]


def test_events_of_a_job_come_as_it_happens(api: Api, clip: bytes) -> None:
    job = api.submit(clip)["id"]
    with api.http.stream("GET", f"/v1/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        assert any('"queued"' in line for line in lines)
        working = api.work()
        assert '"succeeded"' in "\n".join(lines)
    working.join()
