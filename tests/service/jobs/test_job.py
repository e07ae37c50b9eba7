"""The record of a job as JSON, between releases."""

from __future__ import annotations

import json
from dataclasses import replace

from service.jobs.job import SCHEMA, Failure, failure_from, new_id, progress_from, request_from_dict, request_to_dict
from service.localization import DetectOptions, Progress
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


def test_what_a_later_release_says_of_failures_and_progress_is_passed_over() -> None:
    assert failure_from('{"code": "c", "message": "m", "retryable": true, "hint": "later"}') == Failure("c", "m", True)
    assert progress_from('{"stage": "decode", "done": 1, "total": 2, "eta_s": 3}') == Progress("decode", 1, 2)


def test_the_seconds_that_count_are_those_asked_for() -> None:
    assert request(video_s=10.0).video_s == 10.0
    assert request(video_s=10.0, options=DetectOptions(start_s=4.0, end_s=99.0)).video_s == 6.0
    assert request(video_s=10.0, options=DetectOptions(start_s=12.0)).video_s == 0.0


def test_a_video_that_does_not_tell_its_length_counts_by_its_size() -> None:
    live = request(video_s=0.0)
    live = replace(live, video=replace(live.video, size_bytes=1_250_000))
    assert live.video_s == 10.0
    assert replace(live, options=DetectOptions(end_s=4.0)).video_s == 4.0


def test_ids_are_all_different_and_equally_long() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert {len(job_id) for job_id in ids} == {32}
