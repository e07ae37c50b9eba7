"""A real server on a free port with a queue in a file, a store in a folder, and a worker of the test's own making."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import configured
from service.api.app import create_app
from service.api.server import Address, DrainingServer, build
from service.jobs.local_store import LocalStore
from service.jobs.queue import Claim, JobQueue, Outcome, StoredResult, Succeeded, WorkerRecord
from service.jobs.records import Records
from service.localization import Progress
from service.settings import Settings
from tests.service.pipeline import video_samples

LABELS = ["bow", "clap"]


@dataclass
class Api:
    config: Settings
    queue: JobQueue
    store: LocalStore
    records: Records
    server: DrainingServer
    http: httpx.Client

    @property
    def files(self) -> list[Path]:
        """Everything in the store, finished or not, but its own notes."""
        parts = ("incoming", "video")
        return [path for part in parts for path in (self.store.folder / part).rglob("*") if path.is_file()]

    def beat(self) -> None:
        described = {"name": "marionette", "version": "1.0.0", "sha256": "0" * 64, "licence": "MIT", "labels": LABELS}
        models = {"marionette": described}
        self.queue.beat(WorkerRecord("w", "here", 1, time.time(), True, models, ("high", "normal", "low")))

    def take(self) -> Claim:
        ends_at_s = time.monotonic() + 10
        while time.monotonic() < ends_at_s:
            if claim := self.queue.take("w", ["marionette"], ["high", "normal", "low"]):
                return claim
            time.sleep(0.02)
        raise AssertionError("no job came")

    def work(self, outcome: Outcome | None = None) -> threading.Thread:
        """Takes one job, soon, and ends it."""

        def do() -> None:
            claim = self.take()
            self.queue.report(claim, Progress("decode", 1, 2))
            self.queue.settle(claim, outcome or Succeeded(StoredResult(json.dumps(answer()))))

        thread = threading.Thread(target=do)
        thread.start()
        return thread

    def submit(self, clip: bytes, **headers: str) -> dict[str, Any]:
        given = {"Content-Type": "video/mp4", "Prefer": "respond-async", **headers}
        answered = self.http.post("/v1/detections", content=clip, headers=given)
        assert answered.status_code == 202, answered.text
        document: dict[str, Any] = answered.json()
        return document


def answer() -> dict[str, Any]:
    video = {"name": "x", "duration_s": 1.0, "num_frames": 25, "fps": 25.0, "is_vfr": False, "width_px": 96}
    video |= {"height_px": 64, "rotation_deg": 0, "codec": "h264", "container": "mp4", "start_s": 0.0}
    model = {"name": "marionette", "version": "1.0.0", "sha256": "0" * 64, "provider": "CPU"}
    segment = {"start_s": 0.1, "end_s": 0.5, "label": "bow", "score": 0.9}
    return {"video": video, "model": model, "segments": [segment], "timings": {"total_s": 0.1}, "warnings": []}


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    return video_samples.write(path, video_samples.Sample(video_samples.steady(25))).read_bytes()


@contextmanager
def serving(config: Settings, *, address: Address | None = None) -> Iterator[Api]:
    """A server in a thread of this process, as long as the block."""
    address = address or Address(port=0)
    held = configured.open_backends(config)
    server = build(create_app(config, held, root_path=address.root_path), config, address)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            assert isinstance(held.store, LocalStore)
            api = Api(config, held.queue, held.store, held.records, server, http)
            api.beat()
            yield api
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
        held.close()


def modest(home: Path) -> Settings:
    return Settings(home=home, min_free_disk_mib=0, wait_s=5.0, max_video_mib=1, drain_s=2.0, max_queued_jobs=20)


@pytest.fixture
def config(tmp_path: Path) -> Settings:
    return modest(tmp_path)


@pytest.fixture
def api(config: Settings) -> Iterator[Api]:
    with serving(config) as api:
        yield api


@pytest.fixture(scope="session")
def running_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serving(modest(tmp_path_factory.mktemp("shared"))) as api:
        yield api


@pytest.fixture
def shared_api(running_api: Api) -> Api:
    """One server for all tests that leave neither a waiting job nor a changed service behind."""
    running_api.beat()
    return running_api
