"""A folder and a backend in; the service as real processes out, each of which can be killed and replaced."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import psutil

from service import configured
from service.client import Client
from service.errors import QueueUnavailable
from service.jobs.job import FINISHED, Event, Job
from service.jobs.local_store import LocalStore
from service.jobs.queue import JobFilter, JobQueue
from service.settings import Settings
from tests.faults.clips import Clips
from tests.faults.leftovers import MARK, Leftovers
from tests.support import bundles as tiny

ROOT = Path(__file__).parents[2]
TAL = ("-c", "from service.cli import main; main()")
FAULTY = ("-m", "tests.faults.faulty_worker")
MODEL = "tiny"
LEASE_S = 2.0
START_S = 90.0
T = TypeVar("T")


@dataclass
class Member:
    """One of the service's processes; `name` is unique to this life of it."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


class Deployment:
    """Everything ends with the block, whatever happened in it."""

    def __init__(self, folder: Path, redis_url: str | None = None, **settings: Any) -> None:
        self.folder = folder
        self.backend = "redis" if redis_url else "sqlite"
        self.mark = secrets.token_hex(8)
        self.clips = Clips(folder / "clips")
        self.runs = folder / "runs.txt"
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        tiny.classifier(folder / "home" / "models" / MODEL)
        wanted = {"home": folder / "home", "default_model": MODEL, "lease_s": LEASE_S, "min_free_disk_mib": 0}
        self._values = {**wanted, "threads": 1, "device": "cpu", "decoder": "pyav", **settings}
        if redis_url:
            self._values["redis_url"] = redis_url
        self.settings = Settings(**self._values)
        self.leftovers = Leftovers(self.mark, self.temporary, self.settings.store_folder)
        self.members: dict[str, Member] = {}
        self._ports: dict[str, int] = {}
        self._lives = 0
        self._queue: JobQueue | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for member in list(self.members.values()):
            member.process.kill()
            member.process.wait()
        if self._queue is not None:
            self._queue.close()

    # Processes.

    def start(self, workers: int = 2, faulty: bool = True) -> Self:
        self.start_api(wait=False)
        for number in range(workers):
            self.start_worker(f"worker{number}", faulty=faulty, wait=False)
        self.await_all()
        return self

    def start_api(self, place: str = "api", *, worker: bool = False, wait: bool = True) -> None:
        port = self._ports.setdefault(place, free_port())
        self._start(place, [*TAL, "serve", "--port", str(port), *([] if worker else ["--no-worker"])])
        if wait:
            wait_until(lambda: self._api_answers(place), START_S)

    def start_worker(self, place: str, *, faulty: bool = True, wait: bool = True) -> None:
        name = self._next_name(place)
        self._start(place, [*(FAULTY if faulty else TAL), "worker", "--models", MODEL, "--id", name], name)
        if wait:
            self.await_worker(place)

    def await_all(self) -> None:
        for place in list(self.members):
            if place in self._ports:
                wait_until(lambda place=place: self._api_answers(place), START_S)
            else:
                self.await_worker(place)

    def await_worker(self, place: str) -> None:
        name = self.members[place].name
        wait_until(lambda: any(one.id == name and one.ready for one in self.patient(self.queue.workers)), START_S)

    def kill(self, place: str) -> float:
        """The moment of its death; the place is free for another one."""
        member = self.members.pop(place)
        member.process.kill()
        at_s = time.time()
        member.process.wait()
        return at_s

    def terminate(self, place: str) -> Member:
        member = self.members.pop(place)
        member.process.terminate()
        return member

    def model_process(self, place: str) -> psutil.Process | None:
        found = psutil.Process(self.members[place].pid).children()
        return found[0] if found else None

    # What they know.

    def new_key(self) -> str:
        return secrets.token_hex(8)

    @property
    def queue(self) -> JobQueue:
        if self._queue is None:
            self._queue = configured.open_queue(self.settings)
        return self._queue

    @property
    def store(self) -> LocalStore:
        return configured.open_store(self.settings)

    def url(self, place: str = "api") -> str:
        return f"http://127.0.0.1:{self._ports[place]}"

    def client(self, place: str = "api") -> Client:
        return Client(self.url(place), retries=12)

    def http(self, place: str = "api") -> httpx.Client:
        return httpx.Client(base_url=self.url(place), timeout=60.0)

    def patient(self, call: Callable[[], T]) -> T:
        """An answer of the queue, however often it takes: what is asked here is not under trial."""
        give_up_s = time.monotonic() + START_S
        while True:
            try:
                return call()
            except QueueUnavailable:
                if time.monotonic() > give_up_s:
                    raise
                time.sleep(0.1)

    def leads_a_ready_worker(self, place: str) -> bool:
        """Whether an API has started a worker that is ready."""
        below = {child.pid for child in psutil.Process(self.members[place].pid).children()}
        return any(worker.ready and worker.pid in below for worker in self.patient(self.queue.workers))

    def running_on(self, place: str) -> Job | None:
        name = self.members[place].name
        found = self.patient(lambda: self.queue.find(JobFilter(states=("running",)), 20))
        return next((job for job in found if job.worker == name), None)

    def job(self, job_id: str) -> Job:
        return self.patient(lambda: self.queue.get(job_id))

    def await_end(self, job_ids: Collection[str], timeout_s: float = 120.0) -> list[Job]:
        return [
            wait_until(lambda one=one: found if (found := self.job(one)).state in FINISHED else None, timeout_s)
            for one in job_ids
        ]

    def await_idle(self) -> None:
        """Until no worker of ours is at work any longer."""
        ours = {member.name for member in self.members.values()}
        wait_until(lambda: not any(one.job_id for one in self.patient(self.queue.workers) if one.id in ours))

    def events(self, job_id: str) -> list[Event]:
        return self.patient(lambda: self.queue.events(job_id, limit=2000))

    def states(self, job_id: str) -> list[tuple[float, str]]:
        return [(event.at_s, event.data["state"]) for event in self.events(job_id) if event.kind == "state"]

    def runs_of(self, job_id: str) -> int:
        return self.runs.read_text().split().count(job_id) if self.runs.exists() else 0

    def _start(self, place: str, arguments: list[str], name: str | None = None) -> None:
        name = name or self._next_name(place)
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.members[place] = Member(name, process)

    def _environment(self, name: str) -> dict[str, str]:
        own = {f"TAL_{setting.upper()}": str(value) for setting, value in self._values.items()}
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("TAL_")}
        marks = {MARK: f"{self.mark}:{name}:", "TAL_FAULTS_RUNS": str(self.runs), "TMPDIR": str(self.temporary)}
        return {**inherited, **own, **marks, "OMP_NUM_THREADS": "1"}

    def _next_name(self, place: str) -> str:
        self._lives += 1
        return f"{place}-{self._lives}"

    def _api_answers(self, place: str) -> bool:
        process = self.members[place].process
        if process.poll() is not None:
            raise RuntimeError(f"{self.members[place].name} ended with status {process.returncode}; see its log")
        try:
            return httpx.get(f"{self.url(place)}/livez", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False


def stop(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)


def go_on(process: psutil.Process | subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGCONT)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def wait_until(condition: Callable[[], T], timeout_s: float = 30.0) -> T:
    give_up_s = time.monotonic() + timeout_s
    while not (answer := condition()):
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"not within {timeout_s:g} s")
        time.sleep(0.02)
    return answer
