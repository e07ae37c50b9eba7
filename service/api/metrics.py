"""Requests in, Prometheus metrics of this process out, in a registry of their own."""

from __future__ import annotations

from importlib import metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, disable_created_metrics

from service.jobs.artifacts import ArtifactStore
from service.jobs.queue import JobQueue
from service.jobs.queue_gauges import QueueGauges

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, which nobody reads

REASONS = {
    "queue_full": "queue_full",
    "video_too_large": "size",
    "video_too_long": "duration",
    "frame_too_large": "pixels",
    "storage_full": "disk",
    "draining": "draining",
    "queue_unavailable": "queue_unavailable",
    "unavailable": "busy",
}


class ApiMetrics:
    def __init__(self, queue: JobQueue, store: ArtifactStore) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "tal_http_requests", "Requests answered.", ["route", "method", "code"], registry=registry
        )
        self.seconds = Histogram("tal_http_request_duration_seconds", "Time to answer.", ["route"], registry=registry)
        self.inflight = Gauge("tal_http_inflight", "Requests being answered.", registry=registry)
        self.upload_bytes = Counter("tal_upload_bytes", "Bytes of bodies received.", registry=registry)
        self.rejected = Counter("tal_admission_rejected", "Submissions refused.", ["reason"], registry=registry)
        self.submitted = Counter("tal_jobs_submitted", "Jobs accepted.", ["model", "priority"], registry=registry)
        self.webhook_deliveries = Counter(
            "tal_webhook_deliveries", "Attempts to send webhooks, by their outcome.", ["outcome"], registry=registry
        )
        Info("tal_build", "This release.", registry=registry).info({"version": metadata.version("tal-service")})
        registry.register(QueueGauges(queue, store))

    def count_webhook(self, outcome: str) -> None:
        self.webhook_deliveries.labels(outcome).inc()

    def reject(self, code: str) -> None:
        if code in REASONS:
            self.rejected.labels(REASONS[code]).inc()
