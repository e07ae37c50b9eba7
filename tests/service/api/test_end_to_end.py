"""A rendered clip in, through the real client, server, queue and worker with the model that ships; its segments out."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from service.client import Ask, Client
from service.localization import DetectOptions, Progress
from tests.service.api.processes import Processes, eventually
from tests.service.api.test_openapi import DOCUMENT
from tests.service.jobs.redis_server import running
from training.marionette import benchmark
from training.marionette.benchmark import Plan

pytestmark = pytest.mark.slow
jsonschema_rs = pytest.importorskip("jsonschema_rs")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    benchmark.generate(folder, Plan(train=0, val=0, test=1, seed=3))
    return next((folder / "videos").iterdir())


def _detect(url: str, video: Path) -> None:
    """Segments that make sense, the same when the stored video is asked for again, and a job that says so."""
    seen: list[Progress] = []
    with Client(url) as client:
        eventually(client.ready)
        assert [(one["name"], one["ready"]) for one in client.models()] == [("marionette", True)]
        found = client.detect(
            video, Ask(options=DetectOptions(top_k=5, include=("activations",))), on_progress=seen.append, timeout_s=120
        )
        assert 0 < len(found.segments) <= 5
        assert all(0 <= one.start_s < one.end_s <= found.video.duration_s for one in found.segments)
        assert (found.video_name, found.model.name) == (video.name, "marionette")
        assert seen
        job = next(client.jobs())
        assert (job.state, job.attempts) == ("succeeded", 1)
        _agrees_with_the_document(url, job.id)
        subtitles = client.result(job.id, "vtt")
        assert subtitles.count("-->") == len(found.segments)


def _agrees_with_the_document(url: str, job: str) -> None:
    """What a worker with a real model says has the form that is promised."""
    for path, schema in (
        (f"/v1/jobs/{job}/result", "ResultDocument"),
        (f"/v1/jobs/{job}", "JobDocument"),
        ("/v1/jobs", "JobList"),
        ("/v1/models", "ModelList"),
        ("/readyz", "Readiness"),
    ):
        given = httpx.get(url + path).json()
        jsonschema_rs.Draft202012Validator(
            {"$ref": f"#/components/schemas/{schema}", "components": DOCUMENT["components"]}
        ).validate(given)


def test_a_video_goes_through_one_server_with_its_worker(tmp_path: Path, rendered: Path) -> None:
    with Processes(tmp_path) as processes:
        _detect(processes.serve(), rendered)


@pytest.mark.needs_redis
def test_a_video_goes_through_redis_and_a_worker_of_its_own(tmp_path: Path, rendered: Path) -> None:
    (tmp_path / "redis").mkdir()
    with running(tmp_path / "redis") as redis_url, Processes(tmp_path, redis_url=redis_url) as processes:
        url = processes.serve("--no-worker")
        processes.start("worker")
        _detect(url, rendered)
