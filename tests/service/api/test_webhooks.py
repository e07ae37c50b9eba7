"""Webhooks over a real connection: a submission that names one, a receiver that is told, and its messages."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import configured
from service.api import webhooks
from service.api.access import Caller
from service.client import Ask, Client
from service.errors import InvalidOptions, WebhookDenied
from service.jobs.job import Failure, new_id
from service.jobs.queue import Failed
from service.settings import Settings
from service.webhooks.message import Attempt, message_of, write
from tests.service.api.conftest import Api, modest, serving
from tests.service.api.processes import Processes
from tests.service.jobs.harness import wait_until
from tests.service.webhooks.desk import SECRET, FinishedJobs
from tests.support import fake_service
from tests.support.fake_service import Asked

NOW_S = 1_800_000_000.0
VIDEO = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
MESSAGES = "/v1/webhooks/messages"


def telling(home: Path) -> Settings:
    changes = {"webhook_secrets": (SECRET,), "webhook_hosts": ("127.0.0.1:*", "hooks.example"), "egress_private": True}
    return modest(home).model_copy(update=changes)


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return telling(tmp_path)


@contextmanager
def delivering(api: Api) -> Iterator[list[str]]:
    """A deliverer beside the server, as `tal serve` starts one."""
    outcomes: list[str] = []
    held = configured.Backends(api.queue, api.store, api.records)
    deliverer = configured.deliverer(api.config, held, webhooks.event_data, outcomes.append)
    stop = threading.Event()
    thread = threading.Thread(target=deliverer.run_forever, args=(stop, 0.02))
    thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


def put(api: Api, count: int = 1, *, owner: str = "", state: Any = "pending") -> list[str]:
    """Ids of messages, the oldest first."""
    made = []
    for number in range(count):
        job = FinishedJobs().finish(owner=owner, job_id=f"{number:012x}" + new_id()[12:])
        one = replace(message_of(job, "https://hooks.example/a", webhooks.event_data(job), NOW_S), state=state)
        one = replace(one.tried(Attempt(NOW_S, 500)), due_at_s=None, expires_at_s=4e9)
        assert api.records.create(write(one))
        made.append(one.id)
    return made


def pages(api: Api, **query: Any) -> list[str]:
    seen, cursor = [], None
    while True:
        answered = api.http.get(MESSAGES, params={**query, **({"cursor": cursor} if cursor else {})})
        assert answered.status_code == 200, answered.text
        seen += [one["id"] for one in answered.json()["messages"]]
        if (cursor := answered.json()["next_cursor"]) is None:
            return seen


def as_owner(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    async def caller_of(request: Any, scope: str) -> Caller:
        return caller

    monkeypatch.setattr(webhooks, "caller_of", caller_of)


def test_a_webhook_is_told_of_the_end_of_a_job_and_where_its_result_is(api: Api, clip: bytes) -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(204, "")

    with fake_service.serving(script) as receiver, delivering(api) as outcomes:
        hook = f"{receiver.url}/tal"
        job = api.http.post("/v1/detections", params={"webhook": hook}, content=clip, headers=VIDEO).json()
        assert job["webhook"] == hook
        api.work().join()
        wait_until(lambda: outcomes)
    (asked,) = receiver.asked
    event, sent = json.loads(asked.body), json.loads(asked.body)
    assert (asked.path, event["type"], event["data"]["state"]) == ("/tal", "job.succeeded", "succeeded")
    assert api.http.get(event["data"].pop("result_path")).json()["segments"]
    assert event["data"] == api.http.get(f"/v1/jobs/{job['id']}").json()
    (told,) = api.http.get(MESSAGES, params={"job": job["id"]}).json()["messages"]
    assert (told["id"], told["state"]) == (asked.headers["webhook-id"], "delivered")
    assert told["event"] == sent
    assert [attempt["status"] for attempt in told["attempts"]] == [204]


def test_a_dead_receiver_holds_no_job_and_is_told_of_failures_when_it_is_back(api: Api, clip: bytes) -> None:
    down = True

    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(500 if down else 200, {}, Retry_After="3600")

    with (
        fake_service.serving(script) as receiver,
        delivering(api) as outcomes,
        Client(str(api.http.base_url)) as client,
    ):
        job = client.submit(io.BytesIO(clip), Ask(webhook=receiver.url))
        api.work(Failed(Failure("zero_frames", "none"))).join()
        assert client.wait(job.id, timeout_s=5).state == "failed"
        wait_until(lambda: outcomes == ["retried"])
        down = False
        (waiting,) = api.http.get(MESSAGES, params={"state": "pending"}).json()["messages"]
        again = api.http.post(f"{MESSAGES}/{waiting['id']}/redeliver")
        assert (again.status_code, again.json()["state"]) == (202, "pending")
        wait_until(lambda: outcomes == ["retried", "delivered"])
    told = api.http.get(f"{MESSAGES}/{waiting['id']}").json()
    assert [attempt["status"] for attempt in told["attempts"]] == [500, 200]
    assert (told["event"]["type"], told["event"]["data"]["failure"]["code"]) == ("job.failed", "zero_frames")
    assert told["event"]["data"]["result_path"] is None
    assert len({asked.headers["webhook-id"] for asked in receiver.asked}) == 1


def test_a_webhook_that_the_guard_refuses_is_refused_before_the_video_is_read(api: Api) -> None:
    for url, said in (
        ("https://evil.example/", "evil.example"),
        ("http://169.254.169.254/", "169.254.169.254"),
        ("ftp://hooks.example/", "ftp"),
        ("no url", "webhook"),
    ):
        answered = api.http.post("/v1/detections", params={"webhook": url}, content=b"none", headers=VIDEO)
        assert (answered.status_code, answered.json()["code"]) == (422, "webhook_denied")
        assert said in answered.json()["detail"]
    assert api.files == []


def test_without_a_secret_no_webhook_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(WebhookDenied, match="no secret"):
        webhooks.check_webhook(Settings(home=tmp_path, webhook_hosts=("*",)), "https://hooks.example/")
    webhooks.check_webhook(Settings(home=tmp_path), None)


def test_unless_it_is_said_webhooks_go_to_public_hosts_with_tls(tmp_path: Path) -> None:
    config = Settings(home=tmp_path, webhook_secrets=f"{SECRET}, {SECRET}", webhook_hosts="*, 127.0.0.1")  # type: ignore[arg-type]
    assert config.webhook_secrets == (SECRET, SECRET)
    assert SECRET not in repr(config)
    webhooks.check_webhook(config, "https://hooks.example/a?b=c")
    for denied in ("http://hooks.example/", "https://127.0.0.1/", "https://user:secret@hooks.example/"):
        with pytest.raises(WebhookDenied, match="webhook: "):
            webhooks.check_webhook(config, denied)


def test_pages_of_messages_leave_nothing_out_and_come_newest_first(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    made = put(api, 7)
    assert pages(api, limit=2) == made[::-1]
    monkeypatch.setattr(webhooks, "LOOKED_AT", 2)
    monkeypatch.setattr(webhooks, "LOOKS", 1)
    delivered = put(api, 1, state="delivered")
    assert pages(api, limit=3, state="delivered") == delivered
    assert pages(api, limit=3) == sorted(made + delivered, reverse=True)
    assert pages(api, job=made[3][4:]) == [made[3]]
    assert api.http.get(MESSAGES, params={"cursor": "forged"}).json()["code"] == "malformed_request"
    assert api.http.get(MESSAGES, params={"state": "lost"}).json()["code"] == "invalid_options"


def test_each_owner_sees_their_own_messages_and_an_admin_all(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    (hers,), (his,), (open_,) = put(api, owner="k1"), put(api, owner="k12"), put(api)
    as_owner(monkeypatch, Caller("k1", admin=False))
    assert pages(api) == pages(api, job=hers[4:36]) == [hers]
    assert pages(api, job=his[4:36]) == []
    assert api.http.get(f"{MESSAGES}/{hers}").status_code == 200
    for other in (his, open_, "msg_none", f"msg_{hers[4:36]}"):
        assert api.http.get(f"{MESSAGES}/{other}").json()["code"] == "message_not_found"
        assert api.http.post(f"{MESSAGES}/{other}/redeliver").status_code == 404
    cursor = api.http.get(MESSAGES, params={"limit": 1}).json()["next_cursor"]
    assert cursor is None
    as_owner(monkeypatch, Caller("k0", admin=True))
    assert sorted(pages(api, limit=1)) == sorted([hers, his, open_])
    assert pages(api, job=his[4:36]) == [his]
    assert api.http.get(f"{MESSAGES}/{his}").json()["attempts"] == [{"at_s": NOW_S, "status": 500, "error": None}]


def test_what_was_given_up_is_sent_again_when_asked_under_the_same_id(api: Api) -> None:
    (given_up,) = put(api, state="given_up")
    answered = api.http.post(f"{MESSAGES}/{given_up}/redeliver").json()
    assert (answered["id"], answered["state"], len(answered["attempts"])) == (given_up, "pending", 1)
    (due,) = api.records.due("message")
    assert due.body["id"] == given_up


def test_nothing_is_sent_again_to_where_nothing_may_be_sent_any_longer(tmp_path: Path) -> None:
    with serving(telling(tmp_path).model_copy(update={"webhook_hosts": ()})) as api:
        (message,) = put(api)
        assert api.http.post(f"{MESSAGES}/{message}/redeliver").json()["code"] == "webhook_denied"
        assert api.http.get(f"{MESSAGES}/{message}").status_code == 200


def test_the_same_key_with_another_webhook_is_another_request(api: Api, clip: bytes) -> None:
    asked = {**VIDEO, "Idempotency-Key": "a1"}
    for url, status in (("https://hooks.example:443/a", 202), ("https://hooks.example/a", 422)):
        given = api.http.post("/v1/detections", params={"webhook": url}, content=clip, headers=asked)
        assert given.status_code == status, given.text
    assert given.json()["code"] == "idempotency_mismatch"


@pytest.mark.slow
def test_the_server_itself_tells_of_a_job_that_was_canceled_and_counts_it(tmp_path: Path, clip: bytes) -> None:
    def script(asked: Asked) -> None:
        asked.read()
        asked.answer(200, {})

    settings = {"webhook_secrets": SECRET, "webhook_hosts": "127.0.0.1:*", "egress_private": 1, "min_free_disk_mib": 0}
    with fake_service.serving(script) as receiver, Processes(tmp_path, **settings) as processes:
        url = processes.serve("--no-worker")
        with Client(url) as client:
            client.cancel(client.submit(io.BytesIO(clip), Ask(webhook=receiver.url)).id)
        counted = 'tal_webhook_deliveries_total{outcome="delivered"} 1.0'
        wait_until(lambda: counted in httpx.get(f"{url}/metrics").text)
    (asked,) = receiver.asked
    assert json.loads(asked.body)["type"] == "job.canceled"


def test_a_server_with_a_secret_that_is_none_does_not_start(api: Api) -> None:
    held = configured.Backends(api.queue, api.store, api.records)
    odd = api.config.model_copy(update={"webhook_secrets": ("hunter2",)})
    with pytest.raises(InvalidOptions, match="webhook secret 1 is not whsec_"):
        configured.deliverer(odd, held, webhooks.event_data, print)
