"""Videos stored for later, looked up and removed by their ids, each owner's apart from all others'."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from service.api import grants
from service.settings import Settings
from tests.service.api.conftest import Api, serving
from tests.service.api.test_access import key_of

NOBODY = "0" * 64
MP4 = {"Content-Type": "video/mp4"}


def padded(clip: bytes, mark: str) -> bytes:
    """The same video in other bytes: a box that players pass over follows it."""
    return clip + (8 + len(mark)).to_bytes(4, "big") + b"free" + mark.encode()


def upload(api: Api, clip: bytes, **headers: str) -> str:
    answer = api.http.post("/v1/videos?name=a.mp4", content=clip, headers={**MP4, **headers})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("keyed")
    with serving(Settings(home=home, min_free_disk_mib=0, wait_s=0, drain_s=2.0, max_video_mib=1)) as api:
        key_of(api, "read")
        yield api


def holder(api: Api) -> dict[str, str]:
    return key_of(api, "submit", "read")[1]


def test_an_upload_is_answered_with_what_is_known_and_where_it_is(shared_api: Api, clip: bytes) -> None:
    answer = shared_api.http.post("/v1/videos?name=../my.mp4", content=clip, headers=MP4)
    told = answer.json()
    assert answer.status_code == 201
    assert told["id"] == hashlib.sha256(clip).hexdigest()
    assert (told["name"], told["size_bytes"], told["duration_s"]) == ("my.mp4", len(clip), 1.0)
    again = shared_api.http.get(answer.headers["location"]).json()
    assert {**again, "expires_at_s": 0} == {**told, "expires_at_s": 0}
    assert again["expires_at_s"] >= told["expires_at_s"]


def test_a_form_is_taken_too_and_options_in_it_are_not(shared_api: Api, clip: bytes) -> None:
    form = shared_api.http.post("/v1/videos", files={"video": ("b.mp4", clip)})
    assert (form.status_code, form.json()["name"]) == (201, "b.mp4")
    more = shared_api.http.post("/v1/videos", files={"video": ("b.mp4", clip), "options": (None, "{}")})
    assert (more.status_code, more.json()["code"]) == (422, "invalid_options")


@pytest.mark.parametrize(
    ("path", "kind", "body", "expected"),
    [
        ("/v1/videos", "application/json", b"{}", (415, "unsupported_media")),
        ("/v1/videos", "application/offset+octet-stream", b"x", (415, "unsupported_media")),
        ("/v1/videos?top_k=3", "video/mp4", b"x", (422, "invalid_options")),
        ("/v1/videos", "video/mp4", b"", (400, "malformed_request")),
        ("/v1/videos", "video/mp4", b"x" * 2000, (415, "unsupported_media")),
        ("/v1/videos", "video/mp4", b"x" * (1024 * 1024 + 1), (413, "video_too_large")),
    ],
)
def test_what_is_no_video_is_refused(
    shared_api: Api, path: str, kind: str, body: bytes, expected: tuple[int, str]
) -> None:
    answer = shared_api.http.post(path, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == expected
    assert "tus-resumable" not in answer.headers


def test_what_is_not_there_is_not_found(shared_api: Api) -> None:
    for video_id in (NOBODY, "x", "A" * 64):
        for answer in (shared_api.http.get(f"/v1/videos/{video_id}"), shared_api.http.delete(f"/v1/videos/{video_id}")):
            assert (answer.status_code, answer.json()["code"]) == (404, "video_not_found")


def test_a_video_that_came_with_a_detection_is_known_as_well(shared_api: Api, clip: bytes) -> None:
    working = shared_api.work()
    job = shared_api.submit(padded(clip, "detected"))
    working.join()
    told = shared_api.http.get(f"/v1/videos/{job['video']['id']}").json()
    assert (told["size_bytes"], told["duration_s"]) == (job["video"]["size_bytes"], 1.0)


def test_a_video_is_removed_once_no_job_needs_it(api: Api, clip: bytes) -> None:
    video_id = upload(api, clip)
    job = api.http.post("/v1/detections", json={"video": {"id": video_id}}, headers={"Prefer": "respond-async"}).json()
    refused = api.http.delete(f"/v1/videos/{video_id}")
    assert (refused.status_code, refused.json()["code"]) == (409, "video_in_use")
    assert api.http.get(f"/v1/videos/{video_id}").status_code == 200
    api.http.post(f"/v1/jobs/{job['id']}/cancel")
    assert api.http.delete(f"/v1/videos/{video_id}").status_code == 204
    assert api.http.get(f"/v1/videos/{video_id}").status_code == 404
    assert not [path for path in api.files if path.name == video_id]
    assert upload(api, clip) == video_id


def denied(answer: httpx.Response) -> bool:
    return (answer.status_code, answer.json()["code"]) == (404, "video_not_found")


def test_nobody_names_a_video_of_somebody_else(keyed: Api, clip: bytes) -> None:
    mine, theirs = holder(keyed), holder(keyed)
    video_id = upload(keyed, padded(clip, "mine"), **mine)
    body = {"video": {"id": video_id}}
    assert denied(keyed.http.get(f"/v1/videos/{video_id}", headers=theirs))
    assert denied(keyed.http.delete(f"/v1/videos/{video_id}", headers=theirs))
    assert denied(keyed.http.post("/v1/detections", json=body, headers=theirs))
    assert keyed.http.post("/v1/detections", json=body, headers=mine).status_code == 202
    assert keyed.http.get(f"/v1/videos/{video_id}", headers=key_of(keyed, "admin")[1]).status_code == 200


@pytest.mark.parametrize("way", ["detection", "form", "video", "resumable"])
def test_whoever_has_the_bytes_may_name_them(keyed: Api, clip: bytes, way: str) -> None:
    mine, theirs, data = holder(keyed), holder(keyed), padded(clip, way)
    video_id = upload(keyed, data, **mine)
    assert denied(keyed.http.get(f"/v1/videos/{video_id}", headers=theirs))
    if way == "resumable":
        part = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
        given = {**part, "Upload-Length": str(len(data)), **theirs}
        assert keyed.http.post("/v1/videos", content=data, headers=given).headers["upload-video-id"] == video_id
    elif way == "form":
        assert keyed.http.post("/v1/detections", files={"video": ("c.mp4", data)}, headers=theirs).status_code == 202
    else:
        path = "/v1/detections" if way == "detection" else "/v1/videos"
        assert keyed.http.post(path, content=data, headers={**MP4, **theirs}).status_code in {201, 202}
    assert keyed.http.get(f"/v1/videos/{video_id}", headers=theirs).status_code == 200


def test_one_owners_removal_leaves_the_others_theirs(keyed: Api, clip: bytes) -> None:
    mine, theirs, data = holder(keyed), holder(keyed), padded(clip, "shared")
    video_id = upload(keyed, data, **mine)
    assert upload(keyed, data, **theirs) == video_id
    url = f"/v1/videos/{video_id}"
    assert keyed.http.delete(url, headers=mine).status_code == 204
    assert denied(keyed.http.get(url, headers=mine))
    assert keyed.http.get(url, headers=theirs).status_code == 200
    assert keyed.http.delete(url, headers=theirs).status_code == 204
    assert not [path for path in keyed.files if path.name == video_id]


def test_an_upload_in_parts_is_its_owners_alone(keyed: Api) -> None:
    mine, theirs = holder(keyed), holder(keyed)
    tus = {"Tus-Resumable": "1.0.0"}
    url = keyed.http.post("/v1/videos", headers={**tus, "Upload-Length": "9", **mine}).headers["location"]
    part = {**tus, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    assert keyed.http.head(url, headers={**tus, **theirs}).status_code == 404
    assert keyed.http.get(url, headers=theirs).json()["code"] == "upload_not_found"
    assert keyed.http.delete(url, headers={**tus, **theirs}).status_code == 404
    assert keyed.http.patch(url, content=b"x", headers={**part, **theirs}).status_code == 404
    assert keyed.http.patch(url, content=b"x", headers={**part, **mine}).status_code == 204


def test_a_grant_ends_with_its_time_and_every_use_puts_that_off(keyed: Api, clip: bytes) -> None:
    mine = holder(keyed)
    video_id = upload(keyed, padded(clip, "grant"), **mine)
    [record] = keyed.records.page(grants.KIND, f"{video_id}/")
    sooner = keyed.records.replace(replace(record, expires_at_s=(record.expires_at_s or 0) - 3600))
    assert sooner is not None
    told = keyed.http.get(f"/v1/videos/{video_id}", headers=mine).json()
    assert told["expires_at_s"] >= (record.expires_at_s or 0)
    [renewed] = keyed.records.page(grants.KIND, f"{video_id}/")
    keyed.records.replace(replace(renewed, expires_at_s=1.0))
    assert denied(keyed.http.get(f"/v1/videos/{video_id}", headers=mine))
