"""The record of a job as JSON, between releases."""

from __future__ import annotations

import json

from service.jobs.job import SCHEMA, new_id, request_from_dict, request_to_dict
from service.localization import DetectOptions
from tests.service.jobs.harness import request


def test_a_request_comes_back_from_json_as_it_was() -> None:
    options = DetectOptions(min_score=0.5, labels=("a", "b"), start_s=1.0, include=("activations",))
    asked = request(options=options, tags=("x",), priority="high", deadline_at_s=5.0, retry_of="j")
    fields = json.loads(json.dumps(request_to_dict(asked)))
    assert fields["schema"] == SCHEMA
    assert request_from_dict(fields) == asked


def test_fields_of_a_later_release_are_passed_over() -> None:
    fields = request_to_dict(request())
    fields.update({"schema": SCHEMA + 1, "colour": "blue"})
    fields["options"] = {**fields["options"], "depth": 3}
    fields["video"] = {**fields["video"], "codec": "av1"}
    assert request_from_dict(fields) == request()


def test_a_record_of_an_earlier_release_gets_the_defaults() -> None:
    fields = request_to_dict(request())
    early = {name: fields[name] for name in ("schema", "video", "model")}
    assert request_from_dict({**early, "options": {}}) == request()


def test_the_seconds_that_count_are_those_asked_for() -> None:
    assert request(video_s=10.0).video_s == 10.0
    assert request(video_s=10.0, options=DetectOptions(start_s=4.0, end_s=99.0)).video_s == 6.0
    assert request(video_s=10.0, options=DetectOptions(start_s=12.0)).video_s == 0.0


def test_ids_are_all_different_and_equally_long() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(job_id) for job_id in ids} == {32}
