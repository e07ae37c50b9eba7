"""An API and a worker that share nothing but Redis and object storage: clips in over HTTP, segments out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.service.api.processes import Processes, eventually
from tests.service.jobs.redis_server import running
from tests.service.jobs.relay import Relay
from tests.service.jobs.s3_server import BUCKET, S3Server
from tests.service.pipeline.video_samples import Sample, steady, write
from tests.support import bundles

pytestmark = [pytest.mark.needs_redis, pytest.mark.slow]
FINISHED = {"succeeded", "failed", "dead", "expired", "canceled"}


class Service:
    def __init__(self, http: httpx.Client, worker: Processes, storage: Relay) -> None:
        self.http, self.worker, self.storage = http, worker, storage
        eventually(lambda: self.http.get("/readyz").status_code == 200)

    def submit(self, clip: Path) -> httpx.Response:
        headers = {"Content-Type": "video/mp4", "Prefer": "respond-async"}
        return self.http.post("/v1/detections", content=clip.read_bytes(), headers=headers)

    def job(self, job_id: str) -> dict:
        return self.http.get(f"/v1/jobs/{job_id}").json()

    def await_end(self, job_id: str) -> dict:
        return eventually(lambda: found if (found := self.job(job_id))["state"] in FINISHED else None)

    def segments(self, job_id: str) -> list[dict]:
        return self.http.get(f"/v1/jobs/{job_id}/result").json()["segments"]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("machines")
    with pytest.MonkeyPatch.context() as patch, S3Server(folder) as server, Relay(server.port) as relay:
        for name, value in server.environment.items():
            patch.setenv(name, value.replace(str(server.port), str(relay.port)))
        with running(tmp_path_factory.mktemp("redis")) as redis_url:
            machines = [_machine(folder / name, redis_url) for name in ("api", "worker")]
            with machines[0] as api, machines[1] as worker:
                worker.start("worker", "--models", "tiny")
                with httpx.Client(base_url=api.serve("--no-worker"), timeout=60) as http:
                    yield Service(http, worker, relay)
                relay.come_back()


def _machine(folder: Path, redis_url: str) -> Processes:
    bundles.classifier(folder / "home" / "models" / "tiny")
    settings = {"redis_url": redis_url, "store": f"s3://{BUCKET}/clips", "default_model": "tiny", "device": "cpu"}
    return Processes(folder, **settings, threads=1, lease_s=5, wait_s=0, min_free_disk_mib=0)


def test_a_clip_goes_from_one_machine_to_the_other_and_its_segments_come_back(service, tmp_path):
    answer = service.submit(write(tmp_path / "clip.mp4", Sample(steady(20))))
    assert answer.status_code == 202, answer.text
    job = service.await_end(answer.json()["id"])
    assert (job["state"], job["attempts"]) == ("succeeded", 1), job
    assert isinstance(service.segments(job["id"]), list)
    assert list((service.worker.folder / "home" / "cache").glob("*/files/*/*"))


def test_while_the_storage_is_away_nothing_is_accepted_and_nothing_is_lost(service, tmp_path):
    (worker,) = service.worker.running
    worker.send_signal(signal.SIGSTOP)
    accepted = service.submit(write(tmp_path / "accepted.mp4", Sample(steady(24))))
    assert accepted.status_code == 202, accepted.text
    job_id = accepted.json()["id"]
    service.storage.go_away()
    worker.send_signal(signal.SIGCONT)
    refused = service.submit(write(tmp_path / "refused.mp4", Sample(steady(28))))
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable"), refused.text
    assert service.http.get("/readyz").status_code == 503
    assert service.http.get("/livez").status_code == 200
    eventually(lambda: "does not answer" in service.worker.log(0))
    assert service.job(job_id)["state"] not in FINISHED
    service.storage.come_back()
    job = service.await_end(job_id)
    assert job["state"] == "succeeded", job
    assert job["attempts"] > 1
    again = service.submit(tmp_path / "refused.mp4")
    assert service.await_end(again.json()["id"])["state"] == "succeeded"
    assert worker.poll() is None
