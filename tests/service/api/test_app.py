"""Health, metrics, models, and the errors of the framework."""

from __future__ import annotations

from tests.service.api.conftest import Api


def test_readiness_names_what_is_missing(api: Api) -> None:
    assert api.http.get("/livez").status_code == api.http.get("/startupz").status_code == 200
    assert api.http.get("/readyz").json()["status"] == "ok"
    api.queue.leave("w")
    answered = api.http.get("/readyz")
    assert answered.status_code == 503
    assert "marionette" in answered.json()["checks"]["worker"]


def test_models_are_told_with_their_labels(api: Api) -> None:
    listed = api.http.get("/v1/models").json()["models"]
    assert [(one["name"], one["ready"], one["default"]) for one in listed] == [("marionette", True, True)]
    assert api.http.get("/v1/models/marionette").json()["labels"] == ["bow", "clap"]
    assert api.http.get("/v1/models/nope").json()["code"] == "model_not_found"


def test_the_errors_of_the_framework_are_problems_too(api: Api) -> None:
    for answered, status in (
        (api.http.get("/nope"), 404),
        (api.http.put("/v1/jobs"), 405),
        (api.http.get("/v1/jobs?limit=x"), 422),
    ):
        assert answered.status_code == answered.json()["status"] == status
        assert answered.headers["content-type"] == "application/problem+json"


def test_requests_are_counted_by_the_template_of_their_route(api: Api) -> None:
    api.http.get("/v1/jobs/none")
    api.http.get("/a/b/c")
    scraped = api.http.get("/metrics").text
    assert 'tal_http_requests_total{code="404",method="GET",route="/v1/jobs/{job_id}"} 1.0' in scraped
    assert 'tal_http_requests_total{code="404",method="GET",route="unmatched"} 1.0' in scraped
    assert "tal_queue_up 1.0" in scraped


def test_a_sound_request_id_is_kept_and_an_odd_one_replaced(api: Api) -> None:
    assert api.http.get("/livez", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert api.http.get("/livez", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
