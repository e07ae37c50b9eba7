"""Videos and a plan in; worker processes at work, their feature files, and word of what became of each video, out."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from service import localization
from service.errors import InferenceFailed, TalError
from service.pipeline import extraction, video
from service.pipeline.extraction import OnProgress, Watch
from service.pipeline.features import FeatureSequence
from service.pipeline.pipeline import Decoding
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.runtime.onnx_session import OnnxOptions
from training import feature_files, worker_life
from training.feature_settings import Dtype, FeatureSettings

PROGRESS_EVERY_S = 0.2
GRACE_S = 5.0


@dataclass(frozen=True)
class ExtractionPlan:
    """What `extract` is asked for. `force` makes every file anew, whatever the folder holds."""

    bundle: Path
    out: Path
    onnx: OnnxOptions = field(default_factory=OnnxOptions)
    decoding: Decoding = field(default_factory=Decoding)
    trusted_torch: tuple[str, ...] = ()
    workers: int = 1
    dtype: Dtype = "float32"
    with_scores: bool = False
    force: bool = False


@dataclass(frozen=True)
class Failure:
    """A video without features, and why."""

    video: Path
    code: str
    error: str


@dataclass(frozen=True)
class Progress:
    """Work is counted in bytes of video, which is what time goes with."""

    done_bytes: float
    total_bytes: int
    videos_done: int
    videos_total: int


@dataclass(frozen=True)
class Task:
    """One video and the file its features go to."""

    video: Path
    target: Path


@dataclass(frozen=True)
class Report:
    """Whom a crew tells: of the features' settings before the first file, of every failure, and how far it is."""

    on_ready: Callable[[FeatureSettings], None]
    on_failure: Callable[[Failure], None]
    on_progress: Callable[[Progress], None] | None = None


def extract_video(
    path: Path, model: LoadedModel, decoding: Decoding, on_progress: OnProgress = extraction.tell_nobody
) -> FeatureSequence:
    """The features of one video, as detection would see them; no detector runs."""
    manifest = model.manifest
    views = extraction.frame_views(manifest)
    fps = None if manifest.grid.fps == "native" else manifest.grid.fps
    reader = video.decode(path, views, fps=fps, decoder=decoding.decoder, limits=decoding.limits)
    with reader:
        return extraction.extract(reader, views, model, Watch(on_progress))


def channels_of(model: LoadedModel) -> int | None:
    """Columns of all streams together, where every graph says how many it gives."""
    widths = [
        spec.shape[-1]
        for loaded in model.streams
        for spec in loaded.session.outputs
        if spec.name == loaded.stream.outputs.features and spec.shape
    ]
    known = [width for width in widths if width is not None]
    return sum(known) if len(known) == len(model.streams) else None


class Crew:
    """Worker processes and what they are at; one that dies costs the video it held, and is replaced."""

    def __init__(self, plan: ExtractionPlan, settings: FeatureSettings, report: Report, tasks: Sequence[Task]) -> None:
        self._plan = plan
        self._settings = settings
        self._report = report
        self._teller = _Teller(tasks, report.on_progress)
        self._waiting = deque(tasks)
        self._made: set[Task] = set()
        self._workers: list[Worker] = []
        self._any_was_ready = False

    def run(self) -> set[Task]:
        """The tasks whose file was made; the others were reported as failures."""
        try:
            while self._waiting or any(worker.task for worker in self._workers):
                self._hire()
                self._listen()
        finally:
            for worker in self._workers:
                worker.dismiss()
            for worker in self._workers:
                worker.wait()
            feature_files.remove_partials(self._plan.out)
        return self._made

    def _hire(self) -> None:
        """As many as there are videos to take; the first alone, so that what ails the bundle is said once."""
        idle = sum(worker.task is None for worker in self._workers)
        wanted = min(self._plan.workers, len(self._workers) - idle + len(self._waiting))
        if not self._any_was_ready:
            wanted = min(wanted, 1)
        while len(self._workers) < wanted:
            self._workers.append(Worker(self._plan, self._settings))

    def _listen(self) -> None:
        ready = connection.wait([worker.pipe for worker in self._workers])
        for worker in [worker for worker in self._workers if worker.pipe in ready]:
            try:
                kind, content = worker.pipe.recv()
            except (EOFError, OSError):
                self._bury(worker)
                continue
            self._take(worker, kind, content)

    def _take(self, worker: Worker, kind: str, content: Any) -> None:
        if kind == "unable":
            raise content
        if kind == "progress" and worker.task:
            self._teller.at(worker.task, content)
            return
        if kind == "ready":
            worker.is_ready = True
            self._begin(content)
        elif worker.task:
            self._close(worker.task, content)
            worker.task = None
        if self._waiting:
            worker.give(self._waiting.popleft())

    def _begin(self, channels: int | None) -> None:
        if not self._any_was_ready:
            self._report.on_ready(replace(self._settings, channels=channels))
        self._any_was_ready = True

    def _close(self, task: Task, failure: Failure | None) -> None:
        self._teller.finished(task)
        if failure is None:
            self._made.add(task)
        else:
            self._report.on_failure(failure)

    def _bury(self, worker: Worker) -> None:
        worker.wait()
        self._workers.remove(worker)
        how = f"the worker process ended with status {worker.status}"
        if not worker.is_ready:
            raise InferenceFailed(f"{how} before it had loaded the bundle")
        if worker.task:
            self._close(worker.task, Failure(worker.task.video, InferenceFailed.code, how))


class Worker:
    """A spawned process that loads the model once, and this end of its pipe."""

    def __init__(self, plan: ExtractionPlan, settings: FeatureSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self.task: Task | None = None
        self.is_ready = False
        self.pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=_work, args=(theirs, plan, settings), daemon=True)
        # An interrupt goes to the whole group; only the parent answers it, and it ends the workers.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    @property
    def status(self) -> int | None:
        return self._process.exitcode

    def give(self, task: Task) -> None:
        self.task = task
        with contextlib.suppress(OSError):  # a worker that died is found when it is listened to
            self.pipe.send(task)

    def dismiss(self) -> None:
        self._process.terminate()

    def wait(self) -> None:
        self.pipe.close()
        self._process.join(GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class _Teller:
    """Adds up what the workers report."""

    def __init__(self, tasks: Sequence[Task], on_progress: Callable[[Progress], None] | None) -> None:
        self._sizes_bytes = {task: max(1, size_bytes(task.video)) for task in tasks}
        self._shares: dict[Task, float] = {}
        self._num_done = 0
        self._on_progress = on_progress

    def at(self, task: Task, share: float) -> None:
        self._shares[task] = share
        if self._on_progress:
            done_bytes = sum(self._sizes_bytes[task] * share for task, share in self._shares.items())
            total_bytes = sum(self._sizes_bytes.values())
            self._on_progress(Progress(done_bytes, total_bytes, self._num_done, len(self._sizes_bytes)))

    def finished(self, task: Task) -> None:
        self._num_done += 1
        self.at(task, 1.0)


def _work(pipe: Connection, plan: ExtractionPlan, settings: FeatureSettings) -> None:
    """A worker's whole life: load, say so, then one video after the other."""
    worker_life.end_with_parent()
    try:
        model = loaded_model.load(plan.bundle, _shared_threads(plan), trusted_torch=plan.trusted_torch)
    except TalError as error:
        pipe.send(("unable", error))
        return
    pipe.send(("ready", channels_of(model)))
    with contextlib.suppress(EOFError):
        while True:
            task = pipe.recv()
            pipe.send(("closed", _attempt(task, model, settings, plan, _Reporter(pipe))))


class _Reporter:
    """Tells the parent how far a video is, a few times a second."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._told_at_s = time.monotonic()

    def __call__(self, progress: localization.Progress) -> None:
        if time.monotonic() - self._told_at_s >= PROGRESS_EVERY_S and progress.total > 0:
            self._told_at_s = time.monotonic()
            self._pipe.send(("progress", min(1.0, progress.done / progress.total)))


def _attempt(
    task: Task, model: LoadedModel, settings: FeatureSettings, plan: ExtractionPlan, on_progress: OnProgress
) -> Failure | None:
    try:
        sequence = extract_video(task.video, model, plan.decoding, on_progress)
        feature_files.write(task.target, sequence, settings, source_bytes=size_bytes(task.video))
    except TalError as error:
        return Failure(task.video, error.code, str(error))
    except Exception as error:  # noqa: BLE001  (a defect of ours must not cost the videos after this one)
        return Failure(task.video, TalError.code, f"{type(error).__name__}: {error}; a defect, please report it")
    return None


def _shared_threads(plan: ExtractionPlan) -> OnnxOptions:
    """Workers side by side have the cores of one."""
    cores = plan.onnx.threads or (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())
    return replace(plan.onnx, threads=max(1, (cores or 1) // plan.workers))


def size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
