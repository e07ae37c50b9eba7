"""What a webhook is told, and how it is kept."""

from __future__ import annotations

import json

from service.webhooks.message import MOST_ATTEMPTS, Attempt, message_id, message_of, owner_of, read, write
from tests.service.webhooks.desk import URL, FinishedJobs

JOB_ID = "0199c4a0f6b27d3e9c41a85d20f7b6e3"


def test_an_event_has_the_type_the_moment_and_the_job() -> None:
    job = FinishedJobs().finish(job_id=JOB_ID)
    made = message_of(job, URL, {"id": JOB_ID}, 5.0)
    assert json.loads(made.body()) == {
        "type": "job.succeeded",
        "timestamp": "2027-01-15T08:00:01.000Z",
        "data": {"id": JOB_ID},
    }
    assert made.id == f"msg_{JOB_ID}"


def test_a_message_comes_back_from_its_record_as_it_was() -> None:
    made = message_of(FinishedJobs().finish(owner="k7"), URL, {"label": "Straße"}, 5.0)
    made = made.tried(Attempt(6.0, 500)).tried(Attempt(7.0, None, "unreachable"))
    record = write(made)
    assert record.id == f"k7/{made.id}"
    assert read(record) == made
    body = json.loads(json.dumps(dict(record.body)))
    body["attempts"][0]["took_s"] = 1.0  # of a later release
    assert read(type(record)("message", record.id, body, 0, 5.0, record.expires_at_s)) == made


def test_the_owner_stands_in_the_id_and_what_is_none_has_none() -> None:
    assert owner_of(message_id(JOB_ID, "")) == ""
    assert owner_of(message_id(JOB_ID, "k_7-a")) == "k_7-a"
    for wrong in ("", "msg_", JOB_ID, f"msg_{JOB_ID}/", f"msg_{JOB_ID}_", f"msg_{JOB_ID}_a/b", f"msg_{JOB_ID.upper()}"):
        assert owner_of(wrong) is None


def test_only_the_latest_attempts_are_kept() -> None:
    made = message_of(FinishedJobs().finish(), URL, {}, 5.0)
    for at_s in range(MOST_ATTEMPTS + 5):
        made = made.tried(Attempt(at_s))
    assert [attempt.at_s for attempt in made.attempts] == list(range(5, MOST_ATTEMPTS + 5))
