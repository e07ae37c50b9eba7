"""Who may ask for what: every route without a key and with each scope, what belongs to others, rates, revocation."""

from __future__ import annotations

import hmac
import importlib
import json
import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from service.api import exposure
from service.api.state import ApiState
from service.errors import InvalidOptions
from service.jobs import keys
from service.jobs.keys import Allowance, ApiKey, KeyRing, KeyShelf, Scope
from service.jobs.queue import JobFilter
from service.jobs.records import Record
from service.settings import Settings
from tests.service.api.conftest import Api, serving
from tests.service.api.processes import Processes, eventually

# What is asked of the process, by whoever watches over it.
FOR_EVERYBODY = {
    "/livez",
    "/readyz",
    "/startupz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
}
# Tells what the service offers, before anybody knows whether a key is needed.
ASKS_NOTHING = "OPTIONS"
NO_ALLOWANCE = Allowance()


def key_of(
    api: Api, *scopes: Scope, allowance: Allowance = NO_ALLOWANCE, expires_at_s: float | None = None
) -> tuple[ApiKey, dict[str, str]]:
    """A new key, known at once, and the header that gives it."""
    key, text = KeyShelf(api.records).create("test", scopes, allowance, expires_at_s)
    state_of(api).keys.read()
    return key, {"Authorization": f"Bearer {text}"}


def state_of(api: Api) -> ApiState:
    return api.server._state


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("keyed")
    with serving(Settings(home=home, min_free_disk_mib=0, wait_s=0, drain_s=2.0, max_video_mib=1)) as api:
        key_of(api, "read")
        yield api


def routes(api: Api) -> list[tuple[str, str]]:
    app = api.server.config.app
    assert isinstance(app, FastAPI)
    found = [(method, path) for method, path in within(app) if path not in FOR_EVERYBODY]
    documented = {(method.upper(), path) for path, of in app.openapi()["paths"].items() for method in of}
    assert {(method, path) for method, path in documented if path not in FOR_EVERYBODY} <= set(found)
    return sorted(found)


def within(place: Any) -> Iterator[tuple[str, str]]:
    """Methods and paths of an application or a router; newer frameworks keep the routers that were included whole."""
    for one in place.routes:
        if hasattr(one, "original_router"):
            yield from within(one.original_router)
        else:
            yield from ((method, one.path) for method in one.methods)


def ask(api: Api, method: str, template: str, **headers: str) -> Any:
    """With ids of the right form, of nothing that is there; a POST to an upload has to say what it stands for."""
    meant = {"X-HTTP-Method-Override": "PATCH"} if (method, template[-12:]) == ("POST", "/{upload_id}") else {}
    path = re.sub(r"{message_id[^}]*}", "msg_" + "0" * 32, template)
    path = re.sub(r"{\w*(video|upload)\w*}", "0" * 64, path)
    return api.http.request(method, re.sub(r"{[^}]*}", "0" * 32, path), headers={**meant, **headers})


def test_every_route_needs_a_key_as_soon_as_there_is_one(keyed: Api) -> None:
    asked = routes(keyed)
    assert {path for _, path in asked} >= {"/v1/detections", "/v1/jobs", "/v1/models", "/v1/batches"}
    for method, path in asked:
        if method == ASKS_NOTHING:
            assert ask(keyed, method, path).status_code == 204
            continue
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"X-API-Key": f"tal_{'0' * 10}_{'0' * 64}"}):
            answered = ask(keyed, method, path, **headers)
            assert (method, path, answered.status_code) == (method, path, 401)
            assert answered.headers["www-authenticate"] == "Bearer"
            assert method == "HEAD" or answered.json()["code"] == "unauthenticated"


def test_every_route_asks_for_the_scope_that_its_method_says(keyed: Api) -> None:
    given: dict[Scope, dict[str, str]] = {scope: key_of(keyed, scope)[1] for scope in keys.SCOPES}
    for method, path in routes(keyed):
        for scope, headers in given.items() if method != ASKS_NOTHING else ():
            refused = ask(keyed, method, path, **headers).status_code in {401, 403}
            allowed = scope in {"admin", "read" if method == "GET" else "submit"}
            assert (method, path, scope, refused) == (method, path, scope, not allowed)


def test_what_watches_over_the_process_needs_no_key(keyed: Api) -> None:
    for path in ("/livez", "/readyz", "/startupz", "/metrics", "/openapi.json", "/docs"):
        assert keyed.http.get(path).status_code == 200


def test_a_key_without_the_scope_is_told_which_one_is_needed(keyed: Api) -> None:
    key, headers = key_of(keyed, "read")
    answered = keyed.http.post(f"/v1/jobs/{'0' * 32}/cancel", headers=headers).json()
    assert (answered["status"], answered["code"]) == (403, "forbidden")
    assert answered["detail"] == f"this needs the scope 'submit', and the API key {key.id} has read"


@pytest.mark.parametrize("form", ["Bearer {}", "bearer  {}", "X-API-Key"])
def test_a_key_is_given_in_one_of_two_headers(keyed: Api, form: str) -> None:
    text = key_of(keyed, "read")[1]["Authorization"].removeprefix("Bearer ")
    headers = {"X-API-Key": text} if form == "X-API-Key" else {"Authorization": form.format(text)}
    assert keyed.http.get("/v1/jobs", headers=headers).status_code == 200


def test_expired_and_revoked_keys_are_refused(keyed: Api) -> None:
    for key, headers in (key_of(keyed, "read", expires_at_s=time.time() - 1), key_of(keyed, "read")):
        KeyShelf(keyed.records).revoke(key.id) if key.expires_at_s is None else None
        state_of(keyed).keys.read()
        answered = keyed.http.get("/v1/jobs", headers=headers)
        assert answered.status_code == 401
        assert f"{key.id} is {'revoked' if key.expires_at_s is None else 'expired'}" in answered.json()["detail"]


def test_a_revocation_acts_within_five_seconds_and_a_new_key_within_one(api: Api) -> None:
    now_s = 1000.0
    state = state_of(api)
    state.keys = KeyRing(api.records, lambda: now_s)
    shelf = KeyShelf(api.records)
    assert api.http.get("/v1/jobs").status_code == 200  # nobody needs a key yet
    key, text = shelf.create("new", ("read",), NO_ALLOWANCE, None)
    headers = {"X-API-Key": text}
    now_s += 1.0
    assert api.http.get("/v1/jobs", headers=headers).status_code == 200
    assert api.http.get("/v1/jobs").status_code == 401
    shelf.revoke(key.id)
    now_s += 4.9
    assert api.http.get("/v1/jobs", headers=headers).status_code == 200
    now_s += 0.1
    assert api.http.get("/v1/jobs", headers=headers).status_code == 401
    assert api.http.get("/v1/jobs").status_code == 401  # a revoked key opens nothing


def test_keys_that_cannot_be_read_let_nobody_in(keyed: Api) -> None:
    _, headers = key_of(keyed, "read")
    ring = state_of(keyed).keys

    class Gone:
        def page(self, *_: Any, **__: Any) -> list[Record]:
            from service.errors import QueueUnavailable

            raise QueueUnavailable("the queue does not answer")

    state_of(keyed).keys = KeyRing(Gone())  # type: ignore[arg-type]
    try:
        answered = keyed.http.get("/v1/models", headers=headers)
    finally:
        state_of(keyed).keys = ring
    assert (answered.status_code, answered.json()["code"]) == (503, "queue_unavailable")


def test_jobs_of_others_are_as_if_they_never_were(api: Api, clip: bytes) -> None:
    owner, ours = key_of(api, "submit", "read")
    _, theirs = key_of(api, "submit", "read")
    _, admin = key_of(api, "admin")
    done, waiting = api.submit(clip, **ours)["id"], None
    api.work().join()
    waiting = api.submit(clip, **ours)["id"]
    assert api.queue.get(done).request.owner == owner.id
    for job in (done, waiting):
        for method, part in (
            *(("GET", ""), ("GET", "/result"), ("GET", "/events")),
            *(("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")),
        ):
            other = api.http.request(method, f"/v1/jobs/{job}{part}", headers=theirs)
            none = api.http.request(method, f"/v1/jobs/{'0' * 32}{part}", headers=ours)
            assert other.status_code == none.status_code == 404, (method, part)
            assert other.json()["detail"].replace(job, "0" * 32) == none.json()["detail"]
    assert {job: api.queue.get(job).state for job in (done, waiting)} == {done: "succeeded", waiting: "queued"}
    listed = [
        [job["id"] for job in api.http.get("/v1/jobs", headers=headers).json()["jobs"]]
        for headers in (ours, theirs, admin)
    ]
    assert listed == [[waiting, done], [], [waiting, done]]
    assert api.http.get(f"/v1/jobs/{done}/result", headers=ours).status_code == 200
    assert "succeeded" in api.http.get(f"/v1/jobs/{done}/events", headers=ours).text
    assert api.http.post(f"/v1/jobs/{waiting}/cancel", headers=admin).json()["state"] == "canceled"
    again = api.http.post(f"/v1/jobs/{waiting}/retry", headers=admin).json()["id"]
    assert api.http.get(f"/v1/jobs/{again}", headers=ours).status_code == 200  # it stays its owner's
    assert api.http.delete(f"/v1/jobs/{done}", headers=ours).status_code == 204


def test_a_video_is_named_by_its_id_by_those_who_uploaded_it(api: Api, clip: bytes) -> None:
    ours, theirs = key_of(api, "submit")[1], key_of(api, "submit")[1]
    body = {"video": {"id": api.submit(clip, **ours)["video"]["id"]}}
    asked = [
        api.http.post("/v1/detections", json=body, headers={"Prefer": "respond-async", **headers})
        for headers in (ours, theirs, key_of(api, "admin")[1])
    ]
    assert [one.status_code for one in asked] == [202, 404, 202]
    assert asked[1].json()["code"] == "video_not_found"
    api.submit(clip, **theirs)
    assert api.http.post("/v1/detections", json=body, headers={"Prefer": "respond-async", **theirs}).status_code == 202


def test_a_batch_is_its_owners_and_names_no_video_of_others(api: Api, clip: bytes) -> None:
    owner, ours = key_of(api, "submit", "read")
    theirs = key_of(api, "submit", "read")[1]
    video = api.submit(clip, **theirs)["video"]["id"]
    lines = json.dumps({"custom_id": "foreign", "video": {"id": video}})
    sent = {"Content-Type": "application/jsonl", **ours}
    batch = api.http.post("/v1/batches", content=lines, headers=sent).json()["id"]
    eventually(lambda: api.http.get(f"/v1/batches/{batch}", headers=ours).json()["state"] == "completed")
    errors = api.http.get(f"/v1/batches/{batch}/errors", headers=ours).json()
    assert (errors["custom_id"], errors["error"]["code"]) == ("foreign", "video_not_found")
    for part in ("", "/errors", "/output"):
        assert api.http.get(f"/v1/batches/{batch}{part}", headers=theirs).status_code == 404
    assert api.http.get("/v1/batches", headers=theirs).json()["batches"] == []
    assert len(api.http.get("/v1/batches", headers=ours).json()["batches"]) == 1
    assert [job.request.owner for job in api.queue.find(JobFilter(owner=owner.id), 10)] == []


def test_two_owners_may_use_the_same_idempotency_key(api: Api, clip: bytes) -> None:
    one, other = key_of(api, "submit", "read")[1], key_of(api, "submit", "read")[1]
    named = {"Idempotency-Key": "a1"}
    first, second = api.submit(clip, **one, **named), api.submit(clip, **other, **named)
    assert first["id"] != second["id"]
    assert api.submit(clip, **one, **named)["id"] == first["id"]
    for headers in (one, other):
        api.http.post(f"/v1/jobs/{first['id']}/cancel", headers=headers)
    asked = {**named, **one}
    retried = api.http.post(f"/v1/jobs/{first['id']}/retry", headers={**asked, "Idempotency-Key": "a2"}).json()["id"]
    assert retried not in {first["id"], second["id"]}


def test_a_key_has_its_rate(api: Api) -> None:
    key, headers = key_of(api, "read", allowance=Allowance(requests_per_s=0.1, burst=2))
    _, free = key_of(api, "read")
    answered = [api.http.get("/v1/jobs", headers=headers) for _ in range(3)]
    assert [one.status_code for one in answered] == [200, 200, 429]
    assert answered[2].json()["code"] == "rate_limited"
    assert key.id in answered[2].json()["detail"]
    assert 1 <= int(answered[2].headers["retry-after"]) <= 10
    assert api.http.get("/v1/jobs", headers=free).status_code == 200


@pytest.mark.needs_redis
def test_two_servers_on_one_redis_share_keys_and_rates(tmp_path: Path) -> None:
    redis_server = importlib.import_module("tests.service.jobs.redis_server")
    with redis_server.running(tmp_path) as url:
        config = Settings(home=tmp_path, redis_url=url, min_free_disk_mib=0, drain_s=2.0)
        with serving(config) as one, serving(config) as other:
            _, headers = key_of(one, "read", allowance=Allowance(requests_per_s=0.1, burst=2))
            answered = [api.http.get("/v1/jobs", headers=headers).status_code for api in (one, other, one, other)]
            assert answered == [200, 200, 429, 429]
            assert other.http.get("/v1/jobs").status_code == 401


def test_a_key_has_its_seconds_of_video_that_wait(api: Api, clip: bytes) -> None:
    _, headers = key_of(api, "submit", allowance=Allowance(max_queued_video_s=1.5))
    _, small = key_of(api, "submit", allowance=Allowance(max_queued_video_s=0.5))
    given = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
    api.submit(clip, **headers)
    full = api.http.post("/v1/detections", content=clip, headers={**given, **headers})
    assert (full.status_code, full.json()["code"]) == (429, "queue_full")
    never = api.http.post("/v1/detections", content=clip, headers={**given, **small})
    assert (never.status_code, never.json()["code"]) == (413, "video_too_long")
    api.submit(clip, **key_of(api, "submit")[1])


def test_an_unknown_id_is_compared_as_long_as_a_known_one(keyed: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    known = key_of(keyed, "read")[1]["Authorization"].removeprefix("Bearer ")
    compared: list[tuple[int, int]] = []

    def compare(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    class Counting:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(keys, "hmac", Counting)
    ring = state_of(keyed).keys
    for given in (known, known[:-1] + ("0" if known[-1] != "0" else "1"), f"tal_{'f' * 10}_{'0' * 64}", "x", ""):
        assert (ring.holder(given) is not None) == (given == known)
    assert compared == [(64, 64)] * 5


def test_neither_a_key_nor_its_digest_is_ever_told(keyed: Api, clip: bytes, caplog: pytest.LogCaptureFixture) -> None:
    key, headers = key_of(keyed, "read", allowance=Allowance(requests_per_s=0.01, burst=1))
    text = headers["Authorization"].removeprefix("Bearer ")
    wrong = text[:-6] + "a" * 6
    with caplog.at_level(logging.DEBUG):
        told = [
            keyed.http.request(method, path, headers=given).text
            for given in (headers, {"X-API-Key": text}, {"X-API-Key": wrong}, {"Authorization": f"Bearer {wrong}"})
            for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/detections"), ("PUT", "/v1/jobs"), ("GET", "/nope"))
        ]
    assert len(caplog.records) >= len(told)
    everything = "\n".join([*told, caplog.text, repr(key), repr(state_of(keyed).keys.__dict__)])
    for secret in (text, wrong, text.rsplit("_", 1)[1], keys.digest(text)):
        assert secret not in everything


def test_open_asks_nobody_for_a_key(config: Settings) -> None:
    with serving(config.model_copy(update={"open": True})) as api:
        key_of(api, "read")
        assert api.http.get("/v1/jobs").status_code == 200


def test_off_loopback_nothing_is_served_without_a_key(config: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with serving(config) as api:
        for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
            exposure.check(host, config, api.records)
        for host in ("0.0.0.0", "::", "10.0.0.1", "example.org", ""):
            with pytest.raises(InvalidOptions, match=r"tal keys create.*--open"):
                exposure.check(host, config, api.records)
        exposure.check("0.0.0.0", config.model_copy(update={"open": True}), api.records)
        assert "whoever reaches this server may do everything" in caplog.text
        key_of(api, "read")
        exposure.check("0.0.0.0", config, api.records)


def test_tal_serve_refuses_to_be_open_by_accident(tmp_path: Path) -> None:
    with Processes(tmp_path) as here:
        refused = here.start("serve", "--host", "0.0.0.0", "--port", "0", "--no-worker")
        assert refused.wait(60) == 2
        assert "tal keys create" in here.log(0)
        assert "[invalid_options]" in here.log(0)
        url = here.serve("--host", "0.0.0.0", "--no-worker", "--open")
        assert url.startswith("http://0.0.0.0:")
