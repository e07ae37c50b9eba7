"""Health, metrics, models, the errors of the framework, and what stands before the service: proxies and web pages."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from service.api.server import Address
from service.jobs.queue import WorkerRecord
from service.settings import Settings
from tests.service.api.conftest import Api, serving

PAGE = "https://page.example"


def test_readiness_names_what_is_missing(api: Api) -> None:
    assert api.http.get("/livez").status_code == api.http.get("/startupz").status_code == 200
    assert api.http.get("/readyz").json()["status"] == "ok"
    api.queue.leave("w")
    answered = api.http.get("/readyz")
    assert answered.status_code == 503
    assert "marionette" in answered.json()["checks"]["worker"]


def test_models_are_told_with_their_labels(shared_api: Api) -> None:
    listed = shared_api.http.get("/v1/models").json()["models"]
    assert [(one["name"], one["ready"], one["default"]) for one in listed] == [("marionette", True, True)]
    assert shared_api.http.get("/v1/models/marionette").json()["labels"] == ["bow", "clap"]
    assert shared_api.http.get("/v1/models/nope").json()["code"] == "model_not_found"


def test_what_a_worker_announced_can_be_asked_for_while_no_worker_is_up(config: Settings, clip: bytes) -> None:
    with serving(config) as api:
        described = {"name": "far", "version": "1", "sha256": "0" * 64, "licence": "MIT", "labels": ["bow"]}
        far = WorkerRecord("f", "there", 1, time.time(), True, {"far": described}, ("normal",))
        api.queue.beat(far)
        assert api.http.get("/v1/models/far").json()["ready"] is True
    with serving(config) as api:
        api.queue.leave("f")
        assert api.http.get("/v1/models/far").json()["ready"] is False
        job = api.http.post(
            "/v1/detections?model=far", content=clip, headers={"Content-Type": "video/mp4", "Prefer": "wait=0"}
        ).json()
        assert job["state"] == "queued"


def test_a_model_that_cannot_be_read_is_told_once_and_left_out(
    api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "models" / "broken").mkdir(parents=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [one["name"] for one in api.http.get("/v1/models").json()["models"]] == ["marionette"]
    assert [record.message.split(":")[0] for record in caplog.records] == ["model broken is left out"]


def test_the_errors_of_the_framework_are_problems_too(shared_api: Api) -> None:
    for answered, status, code in (
        (shared_api.http.get("/nope"), 404, "not_found"),
        (shared_api.http.get("/v1/jobs/"), 404, "not_found"),
        (shared_api.http.put("/v1/jobs"), 405, "method_not_allowed"),
        (shared_api.http.get("/v1/jobs?limit=x"), 422, "invalid_options"),
    ):
        assert answered.status_code == answered.json()["status"] == status
        assert answered.json()["code"] == code
        assert answered.headers["content-type"] == "application/problem+json"


def test_a_method_that_is_not_there_is_told_with_all_that_are(shared_api: Api) -> None:
    answered = shared_api.http.put(f"/v1/jobs/{'0' * 32}")
    assert (answered.status_code, answered.headers["allow"]) == (405, "DELETE, GET")


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    api.http.get("/v1/jobs/none")
    api.http.get("/a/b/c")
    scraped = api.http.get("/metrics").text
    assert 'tal_http_requests_total{code="404",method="GET",route="/v1/jobs/{job_id}"} 1.0' in scraped
    assert 'tal_http_requests_total{code="404",method="GET",route="unmatched"} 1.0' in scraped
    assert "tal_queue_up 1.0" in scraped


def test_a_sound_request_id_is_kept_and_an_odd_one_replaced(shared_api: Api) -> None:
    assert shared_api.http.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert shared_api.http.get("/livez", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_what_is_not_foreseen_is_a_problem_too_and_logged(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.queue.find = None  # type: ignore[method-assign,assignment]
    answered = api.http.get("/v1/jobs", headers={"X-Request-Id": "odd"})
    assert (answered.status_code, answered.json()["code"], answered.json()["request_id"]) == (500, "internal", "odd")
    assert answered.headers["x-request-id"] == "odd"
    assert "GET /v1/jobs failed" in caplog.text


def test_web_pages_may_call_only_where_that_is_allowed(config: Settings) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    with serving(config) as closed:
        assert "access-control-allow-origin" not in closed.http.get("/livez", headers={"Origin": PAGE}).headers
        assert closed.http.options("/v1/detections", headers=asked).status_code == 405
    with serving(config.model_copy(update={"cors_origins": (PAGE,)})) as api:
        assert api.http.options("/v1/detections", headers=asked).headers["access-control-allow-origin"] == PAGE
        seen = api.http.get("/livez", headers={"Origin": PAGE}).headers
        assert seen["access-control-allow-origin"] == PAGE
        assert "X-Request-Id" in seen["access-control-expose-headers"]
        refused = api.http.get("/v1/jobs/none", headers={"Origin": PAGE})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (404, PAGE)
        api.queue.find = None  # type: ignore[method-assign,assignment]
        broken = api.http.get("/v1/jobs", headers={"Origin": PAGE})
        assert (broken.status_code, broken.headers["access-control-allow-origin"]) == (500, PAGE)
        other = api.http.get("/livez", headers={"Origin": "https://other.example"}).headers
        assert "access-control-allow-origin" not in other


@pytest.mark.parametrize("before", ["", "/tal"])
def test_under_a_path_of_a_proxy_locations_hold_it_once(config: Settings, clip: bytes, before: str) -> None:
    """Whether the proxy takes the path away or hands it on."""
    with serving(config, address=Address(port=0, root_path="/tal")) as api:
        asked = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
        answered = api.http.post(f"{before}/v1/detections", content=clip, headers=asked)
        assert answered.status_code == 202
        location = urlsplit(answered.headers["location"])
        assert location.path == f"/tal/v1/jobs/{answered.json()['id']}"
        assert location.netloc == api.http.base_url.netloc.decode()
        assert api.http.get(location.path).status_code == 200


def test_only_a_proxy_that_is_trusted_says_how_the_service_is_reached(config: Settings, clip: bytes) -> None:
    asked = {
        "Content-Type": "video/mp4",
        "Prefer": "respond-async",
        "X-Forwarded-Proto": "https",
        "Host": "tal.example",
    }
    for trusted, scheme in (((), "http"), (("10.0.0.1",), "http"), (("127.0.0.1",), "https")):
        with serving(config.model_copy(update={"trusted_proxies": trusted})) as api:
            answered = api.http.post("/v1/detections", content=clip, headers=asked)
            assert answered.headers["location"].startswith(f"{scheme}://tal.example/v1/jobs/")


def test_a_model_of_a_worker_alone_can_be_asked_for(api: Api, clip: bytes) -> None:
    described = {"name": "far", "version": "2", "sha256": "0" * 64, "licence": "MIT", "labels": ["fly"]}
    api.queue.beat(WorkerRecord("far", "there", 2, 0.0, True, {"far": described}, ("normal",)))
    asked = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
    answered = api.http.post("/v1/detections?model=far&labels=fly", content=clip, headers=asked)
    assert (answered.status_code, answered.json()["model"]) == (202, "far")
