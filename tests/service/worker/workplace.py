"""A folder in; a queue, a store and models in it out, and workers on them: real processes that tests may kill."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import psutil

from service.jobs.job import Job, JobRequest, StoredVideo
from service.jobs.local_store import LocalStore
from service.jobs.sqlite_queue import SqliteQueue
from tests.service.pipeline.video_samples import Sample, steady, write
from tests.service.worker.faulty_child import ROOT
from tests.service.worker.worker_process import POLICY
from tests.support import bundles

T = TypeVar("T")
START_S = 60.0


class Workplace:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.queue = SqliteQueue(folder / "queue.db", POLICY)
        self.store = LocalStore(folder / "store", 0)
        bundles.classifier(folder / "models" / "bright")
        (folder / "runs").mkdir()
        self.clip = self.add_clip(20)

    def add_clip(self, num_frames: int) -> str:
        path = write(self.folder / f"{num_frames}.mp4", Sample(steady(num_frames)))
        return self.store.put("video", path.read_bytes()).key

    def submit(self, name: str = "plain", clip: str | None = None, **request: Any) -> Job:
        video = StoredVideo(clip or self.clip, name, 1000, 0.8)
        return self.queue.submit(JobRequest(video, **{"model": "bright", **request})).job

    def await_state(self, job: Job, *states: str, timeout_s: float = 40.0) -> Job:
        return wait_until(lambda: found if (found := self.queue.get(job.id)).state in states else None, timeout_s)

    def await_end(self, job: Job, timeout_s: float = 40.0) -> Job:
        return wait_until(lambda: found if (found := self.queue.get(job.id)).finished else None, timeout_s)

    def await_stage(self, job: Job, stage: str = "slow") -> None:
        wait_until(lambda: (seen := self.queue.get(job.id).progress) is not None and seen.stage == stage)

    def runs(self, job: Job) -> int:
        path = self.folder / "runs" / job.id
        return len(path.read_text()) if path.exists() else 0

    def document(self, job: Job) -> dict[str, Any]:
        stored = self.queue.result(job.id)
        text = self.store.path("result", stored.key).read_text() if stored.key else stored.text
        return json.loads(text)

    def failures(self, job: Job) -> list[dict[str, Any]]:
        return [event.data["failure"] for event in self.queue.events(job.id) if "failure" in event.data]

    @contextlib.contextmanager
    def trouble(self, kind: str) -> Iterator[None]:
        """What the workers' queue does meanwhile; the test's own answers."""
        path = self.folder / "trouble"
        path.write_text(kind)
        try:
            yield
        finally:
            path.unlink()

    @contextlib.contextmanager
    def worker(self, id: str = "one", *, wait: bool = True, **options: Any) -> Iterator[Worker]:  # noqa: A002
        arguments = ["-m", "tests.service.worker.worker_process", str(self.folder), json.dumps({"id": id, **options})]
        with starting(arguments, self.folder / f"{id}.log") as process:
            worker = Worker(id, process, self)
            if wait:
                worker.await_ready()
            yield worker


@contextlib.contextmanager
def starting(arguments: list[str], log: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment or None, stdout=output, stderr=output
        )
    below: list[psutil.Process] = []
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            below = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
    assert psutil.wait_procs(below, 10)[1] == []


class Worker:
    def __init__(self, id: str, process: subprocess.Popen[bytes], place: Workplace) -> None:  # noqa: A002
        self.id, self.process, self._place = id, process, place

    @property
    def log(self) -> str:
        return (self._place.folder / f"{self.id}.log").read_text()

    @property
    def child(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def await_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log
            return any(one.id == self.id and one.ready for one in self._place.queue.workers())

        wait_until(ready, START_S)

    def await_end(self) -> int:
        return self.process.wait(40)

    def probe(self, path: str) -> tuple[int, str]:
        (port, *_) = re.findall(r"metrics on port (\d+)", self.log)
        return probe(port, path)

    def metric(self, name: str) -> float:
        """Of a series by its name and labels, as the text form gives them; 0 where it is not there."""
        lines = [line for line in self.probe("/metrics")[1].splitlines() if line.startswith(f"{name} ")]
        return float(lines[0].split()[-1]) if lines else 0.0

    def restarts(self, reason: str) -> float:
        return self.metric(f'tal_worker_restarts_total{{reason="{reason}"}}')


def probe(port: int | str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition: Callable[[], T], timeout_s: float = 40.0) -> T:
    give_up_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        assert time.monotonic() < give_up_s, f"not within {timeout_s:g} s"
        time.sleep(0.01)
    return answer


def gone(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() == psutil.STATUS_ZOMBIE
    return True
