"""What happens in a worker in, Prometheus metrics out. They live in the supervisor, which outlasts model processes."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from service.errors import TalError, VideoError
from service.jobs.job import Job
from service.jobs.queue import Ended, Failed, HandedBack, Outcome, Succeeded
from service.worker.messages import Message

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody reads

RestartReason = Literal["crash", "oom", "stall", "timeout", "cancel", "lease", "drain", "cuda", "reload"]

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 1800, 3600, 7200)
_FACTORS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SHARES = (0.1, 0.25, 0.5, 0.75, 0.9, 1)
_MOST_RUNS = 100_000  # of one job and size; what is said beyond is nonsense
_SEGMENTS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def _codes(kind: type[TalError]) -> set[str]:
    return {kind.code}.union(*(_codes(below) for below in kind.__subclasses__()))


KNOWN_CODES = _codes(TalError)
VIDEO_CODES = _codes(VideoError)

log = logging.getLogger("tal.worker")


class WorkerMetrics:
    """Labels take a bounded number of values: names of served models, codes of our error tree, stages of ours."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        add: dict[str, Any] = {"registry": self.registry}
        self._jobs = Counter("tal_jobs", "Deliveries by how they ended", ["status", "model", "priority"], **add)
        self._failures = Counter("tal_job_failures", "Failed deliveries by error code", ["error_type"], **add)
        self._wait = Histogram("tal_job_wait_seconds", "From submission to start", buckets=_SECONDS, **add)
        self._duration = Histogram("tal_job_duration_seconds", "From start to end", buckets=_SECONDS, **add)
        stages = "Time of a job in a stage"
        self._stages = Histogram("tal_stage_duration_seconds", stages, ["stage"], buckets=_SECONDS, **add)
        self._video_s = Counter("tal_video_seconds", "Video worked through", **add)
        factor = "Seconds of video per second of work"
        self._factor = Histogram("tal_realtime_factor", factor, buckets=_FACTORS, **add)
        self._frames = Counter("tal_frames_decoded", "Frames decoded", ["backend"], **add)
        self._decode_errors = Counter("tal_decode_errors", "Videos that failed, by code", ["reason"], **add)
        self._segments = Histogram("tal_segments_per_video", "Segments of a result", buckets=_SEGMENTS, **add)
        self._cache = Counter("tal_feature_cache_requests", "Look-ups of stored features", ["result"], **add)
        self._reloads = Counter("tal_model_reloads", "Reloads of models", ["outcome"], **add)
        self._models = Gauge(
            "tal_model_info", "Models served", ["model", "version", "format", "provider", "sha256"], **add
        )
        self.redeliveries = Counter("tal_job_redeliveries", "Jobs taken that had been handed out before", **add)
        self.lease_lost = Counter("tal_lease_lost", "Jobs lost to another worker", **add)
        self._restarts = Counter("tal_worker_restarts", "Ends of model processes", ["reason"], **add)
        self._gpu_oom = Counter("tal_gpu_oom", "Jobs whose batches were halved for want of GPU memory", **add)
        sizes, fill = "Items that a model saw in one run", "Items of a run by those of the job's largest"
        self._batch_size = Histogram("tal_batch_size", sizes, ["part"], buckets=_SIZES, **add)
        self._batch_fill = Histogram("tal_batch_fill_ratio", fill, ["part"], buckets=_SHARES, **add)
        build = Gauge("tal_build_info", "Version of this service", ["version", "python"], **add)
        build.labels(metadata.version("tal-service"), platform.python_version()).set(1)

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def took(self, job: Job, now_s: float) -> None:
        if job.delivery > 1:
            self.redeliveries.inc()
        self._wait.observe(max(0.0, now_s - job.created_at_s))

    def ended(self, job: Job, outcome: Outcome, seconds: float) -> None:
        status = _status(outcome)
        self._jobs.labels(status, job.request.model, job.request.priority).inc()
        self._duration.observe(seconds)
        failure = outcome.failure if isinstance(outcome, Failed | Ended) else None
        if failure is not None:
            code = failure.code if failure.code in KNOWN_CODES else TalError.code
            self._failures.labels(code).inc()
            if code in VIDEO_CODES:
                self._decode_errors.labels(code).inc()

    def measured(self, done: Message, seconds: float) -> None:
        """No defect in here may cost a result that is there."""
        try:
            self._measure(done, seconds)
        except Exception:
            log.exception("a result could not be measured")

    def _measure(self, done: Message, seconds: float) -> None:
        for stage, stage_s in done["stages_s"].items():
            if stage != "total":
                self._stages.labels(stage).observe(stage_s)
        self._video_s.inc(max(0.0, done["video_s"]))
        self._factor.observe(done["video_s"] / seconds if seconds > 0 else 0.0)
        self._frames.labels(done["decoder"]).inc(done["frames"])
        self._segments.observe(done["segments"])
        if features := done["features"]:
            self._cache.labels({"cached": "hit", "kept": "miss"}.get(features, "not_kept")).inc()
        if done["gpu_oom"]:
            self._gpu_oom.inc()
        for what, runs in done["batches"].items():
            self._measure_batches(what.split()[0], {int(size): count for size, count in runs.items()})

    def _measure_batches(self, part: str, runs: Mapping[int, int]) -> None:
        largest = max(runs)
        for size, count in runs.items():
            for _ in range(min(count, _MOST_RUNS)):
                self._batch_size.labels(part).observe(size)
                self._batch_fill.labels(part).observe(size / largest)

    def reloaded(self, outcome: Literal["succeeded", "failed"]) -> None:
        self._reloads.labels(outcome).inc()

    def restarted(self, reason: RestartReason) -> None:
        self._restarts.labels(reason).inc()

    def serves(self, models: Mapping[str, Mapping[str, Any]]) -> None:
        self._models.clear()
        for name, about in models.items():
            provider = about["provider"] or "not loaded"
            self._models.labels(name, about["version"], about["format"], provider, about["sha256"]).set(1)


def _status(outcome: Outcome) -> str:
    if isinstance(outcome, Ended):
        return outcome.state
    return {Succeeded: "succeeded", Failed: "failed", HandedBack: "handed_back"}[type(outcome)]
