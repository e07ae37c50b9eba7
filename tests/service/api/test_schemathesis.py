"""Requests drawn from the OpenAPI document in, at a running server; answers that the document allows, and no 5xx, out.

`TAL_SCHEMATHESIS_EXAMPLES` sets how many are drawn for each operation.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from service.jobs.job import Failure
from service.jobs.queue import Failed
from service.settings import Settings
from tests.service.api.conftest import Api, serving

schemathesis = pytest.importorskip("schemathesis")
openapi_checks = pytest.importorskip("schemathesis.specs.openapi.checks")
EXAMPLES = int(os.environ.get("TAL_SCHEMATHESIS_EXAMPLES", "6"))
SCHEMA = schemathesis.openapi.from_path(Path(__file__).parents[3] / "docs" / "openapi.json")
# A drawn body is no video, so what is asked for soundly may still be refused; all else is checked.
# Of these, what the service takes depends on its models, and on the video.
CHOSEN = {"model", "labels", "start_s", "end_s"}
# Of longer ones the web server thinks that they are no HTTP.
LONGEST_QUERY = 5000
CHECKS = [
    schemathesis.checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.unsupported_method,
]


@schemathesis.serializer(
    "video/mp4", "video/*", "application/jsonl", "application/x-ndjson", "application/offset+octet-stream"
)
def video(_: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


class Known:
    """A service with jobs in every state, for what is drawn soundly to find something there."""

    def __init__(self, api: Api, clip: bytes) -> None:
        self.api, self.clip = api, clip
        self.video = api.submit(clip)["video"]["id"]
        api.work().join()
        api.submit(clip)
        api.work(Failed(Failure("zero_frames", "no frame"))).join()
        self.canceled()
        self.finished = [job["id"] for job in api.http.get("/v1/jobs").json()["jobs"]]
        self.queued = api.submit(clip)["id"]

    def canceled(self) -> str:
        job = str(self.api.submit(self.clip)["id"])
        self.api.http.post(f"/v1/jobs/{job}/cancel")
        return job

    def put_into(self, case: Any) -> bool:
        """Whether it did: only where all is sound, two times of three; the rest asks for what is not there."""
        if not case.meta.generation.mode.is_positive or len(case.id) % 3 == sum(map(ord, case.id)) % 3:
            return False
        if "job_id" in case.path_parameters:
            case.path_parameters["job_id"] = self._job(case)
        if "batch_id" in case.path_parameters:
            case.path_parameters["batch_id"] = self._batch(case)
        if "upload_id" in case.path_parameters:
            case.path_parameters["upload_id"] = self._upload()
        if case.operation.label == "GET /v1/videos/{video_id}":
            case.path_parameters["video_id"] = self.video
        if case.operation.label == "POST /v1/detections":
            self._submission(case)
        return True

    def _upload(self) -> str:
        headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "100"}
        return str(self.api.http.post("/v1/videos", headers=headers).headers["location"])[-32:]

    def _job(self, case: Any) -> str:
        if case.method == "DELETE":
            return self.canceled()
        # A stream of a job that waits would not end.
        jobs = [*self.finished, *([] if "events" in case.path else [self.queued])]
        return str(jobs[sum(map(ord, case.id)) % len(jobs)])

    def _batch(self, case: Any) -> str:
        """Of one item that has failed, so that each ends at once."""
        made = self.api.http.post("/v1/batches", content=b"{}", headers={"Content-Type": "application/jsonl"}).json()
        while case.method == "DELETE" and not self.api.http.get(f"/v1/batches/{made['id']}").json()["done"]:
            time.sleep(0.02)
        return str(made["id"])

    def _submission(self, case: Any) -> None:
        case.query = {name: value for name, value in (case.query or {}).items() if name not in CHOSEN}
        case.headers.pop("Idempotency-Key", None)
        if case.media_type == "application/json":
            case.body = {"video": {"id": self.video}, "priority": "low"}
        elif case.media_type == "multipart/form-data":
            case.body = {"video": self.clip, "options": {"top_k": 3}}
        else:
            case.body = self.clip


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory, clip: bytes) -> Iterator[Known]:
    config = Settings(
        home=tmp_path_factory.mktemp("home"), min_free_disk_mib=0, wait_s=0, max_wait_s=0, max_video_mib=1, drain_s=2
    )
    with serving(config) as api:
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(1):
                api.beat()

        beating = threading.Thread(target=beat)
        beating.start()
        yield Known(api, clip)
        ended.set()
        beating.join()


def answers_are_those_that_the_document_allows(case: Any, known: Known) -> None:
    if len(str(case.query)) > LONGEST_QUERY:
        return
    changed = known.put_into(case)
    resumable = case.path.startswith("/v1/videos")  # tus refuses with statuses that this check does not know
    wanted = CHECKS if changed or resumable else [*CHECKS, openapi_checks.negative_data_rejection]
    case.call_and_validate(base_url=str(known.api.http.base_url), checks=wanted, timeout=20)


def functions_by_operation() -> Iterator[tuple[str, Any]]:
    """A function for each: those that schemathesis makes of one function share their address, and of these only the
    first would run where tests run side by side."""
    limits = settings(
        max_examples=EXAMPLES,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    for operation in (found.ok() for found in SCHEMA.get_all_operations()):

        def test(case: Any, known: Known) -> None:
            answers_are_those_that_the_document_allows(case, known)

        chosen = SCHEMA.include(method=operation.method, path=operation.path)
        yield f"test_{re.sub('[^a-z0-9]+', '_', operation.label.lower())}", chosen.parametrize()(limits(test))


globals().update(functions_by_operation())
