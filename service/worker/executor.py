"""Jobs on a socket in; progress, results and typed errors out. The process that holds the models, and nothing else.

It may hang, crash or grow: the supervisor that started it watches, kills and replaces it, and it ends when that does.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import queue
import signal
import socket
import sys
import threading
import traceback
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from models import bundle as bundles
from models.bundle import BundleError
from models.manifest import Manifest
from service import formats
from service.errors import InferenceFailed, InvalidBundle, ModelError, ModelNotFound, TalError
from service.jobs.artifacts import ArtifactStore
from service.jobs.stores import StoreAddress, open_store
from service.localization import DetectOptions, Localization, Progress
from service.pipeline.feature_cache import FeatureCache
from service.pipeline.pipeline import localize
from service.runtime import loaded_model
from service.runtime.loaded_model import LoadedModel
from service.worker.child import ExecutorSetup
from service.worker.messages import Message
from service.worker.stored_features import StoredFeatures
from service.worker.warm_up import warm_up

_PR_SET_PDEATHSIG = 1
REFUSED = 3


class Canceled(BaseException):
    """Raised where progress is told; not an Exception, so that nothing on the way takes it for an error."""


class Supervisor:
    """The other side of the socket; the end of file on it ends this process at once, whatever else it is doing."""

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lines = link.makefile("rb")
        self._sending = threading.Lock()
        self._jobs: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._canceled: str | None = None

    def read_setup(self) -> ExecutorSetup:
        setup = ExecutorSetup.from_message(json.loads(self._lines.readline() or os._exit(0)))
        threading.Thread(target=self._listen, daemon=True).start()
        return setup

    def jobs(self) -> Iterator[Message]:
        while True:
            yield self._jobs.get()

    def send(self, kind: str, **body: Any) -> None:  # whatever JSON can say
        with self._sending:
            # Half a surrogate pair, as odd file names bring it, is refused over there.
            line = json.dumps({"kind": kind, **body}, ensure_ascii=False).encode("utf-8", "replace")
            self._link.sendall(line + b"\n")

    def heed_cancel(self, job_id: str) -> None:
        if self._canceled == job_id:
            raise Canceled

    def _listen(self) -> None:
        try:
            for line in self._lines:
                message: Message = json.loads(line)
                if message["kind"] == "cancel":
                    self._canceled = message["job"]
                else:
                    self._jobs.put(message)
        finally:  # a supervisor that dies may cut its last line, or leave ours unread, which is an error here
            os._exit(0)


class ModelShelf:
    """The models by name, the most recently used of them loaded."""

    def __init__(self, setup: ExecutorSetup) -> None:
        self._setup = setup
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()

    def get(self, name: str) -> LoadedModel:
        if name not in self._setup.models:
            known = ", ".join(self._setup.models)
            raise ModelNotFound(f"model {name!r} is not served by this worker; it serves {known}")
        if name not in self._loaded:
            while len(self._loaded) >= self._setup.resident_models:
                self._loaded.popitem(last=False)  # before the load, so that never more than allowed are there
            self._loaded[name] = self._load(name)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    def describe(self, name: str) -> dict[str, Any]:
        loaded = self._loaded.get(name)
        try:
            bundle = loaded.bundle if loaded else bundles.read(Path(self._setup.models[name]))
        except BundleError as error:
            raise InvalidBundle(str(error)) from error
        return _described(bundle.manifest, bundle.sha256, loaded.info.provider if loaded else None)

    def is_on_gpu(self, name: str) -> bool:
        return name in self._loaded and _is_gpu(self._loaded[name].info.provider)

    def _load(self, name: str) -> LoadedModel:
        folder = Path(self._setup.models[name])
        model = loaded_model.load(folder, self._setup.runtime, trusted_torch=self._setup.trusted_torch)
        warm_up(model)
        return model


def main(parent_pid: int, link_fd: int) -> None:
    _end_with(parent_pid)
    # The supervisor gets these signals as well, and decides what becomes of the job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    supervisor = Supervisor(socket.socket(fileno=link_fd))
    setup = supervisor.read_setup()
    shelf = ModelShelf(setup)
    try:
        supervisor.send("ready", models=_load_first(supervisor, shelf, setup))
    except Exception as error:  # noqa: BLE001  (whatever it is, the supervisor tells it)
        supervisor.send("refused", **_told(error))
        sys.exit(REFUSED)
    for message in supervisor.jobs():
        work(supervisor, shelf, setup, message)


def work(supervisor: Supervisor, shelf: ModelShelf, setup: ExecutorSetup, message: Message) -> None:
    job_id = message["job"]
    try:
        supervisor.send("done", job=job_id, **_answer(supervisor, shelf, setup, message))
    except Canceled:
        supervisor.send("canceled", job=job_id)
    except Exception as error:  # noqa: BLE001  (a defect of ours costs the job, not the process)
        # After an error of its driver a process can often use the GPU no more.
        suspect = isinstance(error, InferenceFailed) and shelf.is_on_gpu(message["model"])
        supervisor.send("failed", job=job_id, gpu_suspect=suspect, **_told(error))


def _answer(supervisor: Supervisor, shelf: ModelShelf, setup: ExecutorSetup, message: Message) -> dict[str, Any]:
    job_id = message["job"]

    def follow(progress: Progress) -> None:
        supervisor.heed_cancel(job_id)
        supervisor.send("progress", job=job_id, **asdict(progress))

    follow(Progress("model", 0, 1))
    model = shelf.get(message["model"])
    follow(Progress("model", 1, 1))
    result = localize(
        Path(message["path"]),
        model,
        _options(message["options"]),
        decoding=setup.decoding,
        on_progress=follow,
        features=_features(setup, message["sha256"]),
    )
    return _document(message, replace(result, video_name=message["video_name"]))


def _document(message: Message, result: Localization) -> dict[str, Any]:
    document = {"id": message["job"], **formats.as_document(result)}
    document["video"]["sha256"] = message["sha256"]
    return {
        # Half a surrogate pair, as odd file names bring it, cannot be stored.
        "text": json.dumps(document, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace").decode(),
        "stages_s": result.timings_s,
        "video_s": result.video.duration_s,
        "frames": result.video.num_frames,
        "decoder": str(result.details.get("decoder", "")),
        "segments": len(result.segments),
        "features": result.details.get("features"),
        "batches": result.details.get("batches", {}),
        "gpu_oom": bool(result.details.get("batch")) and _is_gpu(result.model.provider),
    }


def _is_gpu(provider: str) -> bool:
    return "CUDA" in provider


def _features(setup: ExecutorSetup, video_key: str) -> FeatureCache | None:
    return FeatureCache(StoredFeatures(_store(setup.store)), video_key) if setup.store else None


@functools.cache
def _store(address: StoreAddress) -> ArtifactStore:
    """One for the life of the process: it remembers what it has marked as used."""
    return open_store(address)


def _options(fields: dict[str, Any]) -> DetectOptions:
    tuples = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return DetectOptions(**{**fields, **tuples})


def _load_first(supervisor: Supervisor, shelf: ModelShelf, setup: ExecutorSetup) -> dict[str, dict[str, Any]]:
    """Loads as many as stay; the default last of them, so that it is the last to go."""
    for name in reversed(list(setup.models)[: setup.resident_models]):
        supervisor.send("loading", model=name)
        shelf.get(name)
    return {name: shelf.describe(name) for name in setup.models}


def _described(manifest: Manifest, sha256: str, provider: str | None) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "sha256": sha256,
        "format": "torchscript" if any(graph.endswith(".pt") for graph in manifest.graphs) else "onnx",
        "provider": provider,
        "licence": manifest.licence,
        "provenance": manifest.provenance,
        "labels": list(manifest.segment_labels),
        "output_kind": manifest.output_kind,
        "streams": [
            {"name": s.name, "kind": s.kind, "clip_frames": s.clip_frames, "frame_step": s.frame_step}
            for s in manifest.streams
        ],
        "grid": manifest.grid.model_dump(mode="json"),
        "windowing": manifest.windowing.model_dump(mode="json", exclude_none=True) if manifest.windowing else None,
        "metrics": dict(manifest.metrics),
    }


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, TalError):
        return {
            "code": error.code,
            "message": str(error),
            "retryable": error.retryable,
            "model_fault": isinstance(error, ModelError),
        }
    message = f"{type(error).__name__}: {error}"
    trace = "".join(traceback.format_exception(error))
    return {"code": TalError.code, "message": message, "retryable": False, "model_fault": False, "trace": trace}


def _end_with(parent_pid: int) -> None:
    """Linux kills this process with the supervisor's main thread, even where it is stuck in a library."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)
