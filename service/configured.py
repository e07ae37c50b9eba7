"""Settings, and what a command line adds to them, in; a model's folder and plain values for the rooms out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import models
from service.egress import requests
from service.egress.requests import Answer, Guard
from service.errors import ModelNotFound
from service.jobs import stores
from service.jobs.artifacts import ArtifactStore
from service.jobs.buckets import Buckets, MemoryBuckets
from service.jobs.janitor import Retention
from service.jobs.job import Job
from service.jobs.queue import JobQueue, QueuePolicy
from service.jobs.records import Records
from service.jobs.stores import StoreAddress
from service.pipeline.pipeline import Decoding
from service.pipeline.video import DecodeLimits
from service.runtime.onnx_session import OnnxOptions
from service.runtime.session import Device
from service.settings import MIB, Settings
from service.webhooks.courier import Courier
from service.webhooks.deliverer import Deliverer
from service.webhooks.outbox import Outbox
from service.webhooks.signing import Signer


@dataclass(frozen=True)
class Backends:
    """What outlives every process: jobs, files and all other records."""

    queue: JobQueue
    store: ArtifactStore
    records: Records
    buckets: Buckets = field(default_factory=MemoryBuckets)

    def close(self) -> None:
        self.buckets.close()
        self.records.close()
        self.queue.close()


# Models that come with the project.
SHIPPED_FOLDER = Path(models.__file__).parent / "bundles"
SHIPPED = "marionette"


def find_model(named: str | None, config: Settings) -> Path:
    """A model's folder, from a folder or a name; without either, TAL_DEFAULT_MODEL, else the one that ships."""
    chosen = named or config.default_model
    wanted = chosen or SHIPPED
    folder, installed = Path(wanted).expanduser(), config.models_folder / wanted
    if Path(wanted).name == wanted and installed.is_dir():
        return installed
    if chosen is not None and folder.is_dir():  # unasked, no folder that happens to be here is taken
        return folder
    if wanted == SHIPPED:
        return SHIPPED_FOLDER / SHIPPED
    raise ModelNotFound(f"model {wanted!r} is neither a folder nor installed; {_installed(config)}")


def onnx_options(config: Settings, device: Device | None) -> OnnxOptions:
    return OnnxOptions(
        device=device or config.device,
        threads=config.threads,
        gpu_memory_bytes=config.gpu_memory_mib * MIB,
        gpu_index=config.gpu_index,
        cpu_memory_bytes=config.cpu_memory_mib * MIB,
    )


def decoding(config: Settings) -> Decoding:
    limits = DecodeLimits(
        memory_bytes=config.decode_memory_mib * MIB,
        stall_s=config.decode_stall_s,
        max_duration_s=config.max_video_s,
        max_frame_px=config.max_frame_px,
        max_file_bytes=config.max_video_mib * MIB,
        threads=config.decode_threads,
    )
    return Decoding(config.decoder, limits)


def queue_policy(config: Settings) -> QueuePolicy:
    return QueuePolicy(
        lease_s=config.lease_s,
        max_attempts=config.max_attempts,
        max_queued_jobs=config.max_queued_jobs,
        max_queued_video_s=config.max_queued_video_s,
        keep_jobs_s=config.keep_jobs_s,
    )


def open_queue(config: Settings) -> JobQueue:
    """Redis where a URL is set, else a file; the client of the one that is not used is not even imported."""
    policy = queue_policy(config)
    if config.redis_url:
        from service.jobs.redis_queue import RedisQueue  # noqa: PLC0415

        return RedisQueue(config.redis_url, policy, config.redis_namespace)
    from service.jobs.sqlite_queue import SqliteQueue  # noqa: PLC0415

    return SqliteQueue(config.queue_file, policy)


def store_address(config: Settings) -> StoreAddress:
    return StoreAddress(
        config.store_place,
        min_free_bytes=config.min_free_disk_mib * MIB,
        cache_folder=str(config.store_cache_folder),
        cache_bytes=config.store_cache_mib * MIB,
    )


def open_store(config: Settings) -> ArtifactStore:
    return stores.open_store(store_address(config))


def open_records(config: Settings) -> Records:
    if config.redis_url:
        from service.jobs.redis_record_shelf import RedisRecords  # noqa: PLC0415

        return RedisRecords(config.redis_url, config.redis_namespace)
    from service.jobs.sqlite_records import SqliteRecords  # noqa: PLC0415

    return SqliteRecords(config.queue_file)


def open_buckets(config: Settings) -> Buckets:
    """Without Redis there is one API process, which counts requests by itself."""
    if config.redis_url:
        from service.jobs.redis_buckets import RedisBuckets  # noqa: PLC0415

        return RedisBuckets(config.redis_url, config.redis_namespace)
    return MemoryBuckets()


def open_backends(config: Settings) -> Backends:
    """Raises StoreMismatch where the queue's jobs refer to another store's artifacts."""
    store, queue = open_store(config), open_queue(config)
    try:
        queue.pair(store.id)
        return Backends(queue, store, open_records(config), open_buckets(config))
    except BaseException:
        queue.close()
        raise


def webhook_guard(config: Settings) -> Guard:
    return _guard(config, config.webhook_hosts)


def deliverer(
    config: Settings, held: Backends, describe: Callable[[Job], Mapping[str, Any]], count: Callable[[str], None]
) -> Deliverer:
    """Raises InvalidOptions for a secret that is none. `describe` gives what a webhook is told of a job."""
    guard = webhook_guard(config)

    def send(url: str, headers: Mapping[str, str], body: bytes, timeout_s: float) -> Answer:
        return requests.post(url, guard, headers, body, timeout_s)

    outbox = Outbox(held.queue, held.records, describe)
    return Deliverer(outbox, held.records, Courier(Signer(config.webhook_secrets), send), count=count)


def video_url_guard(config: Settings) -> Guard:
    """Without hosts it lets nothing through."""
    return _guard(config, config.video_url_hosts)


def _guard(config: Settings, hosts: tuple[str, ...]) -> Guard:
    return Guard(hosts, ("https", "http") if config.egress_private else ("https",), config.egress_private)


def retention(config: Settings) -> Retention:
    return Retention(config.keep_uploads_s, config.keep_jobs_s, config.keep_features_s, config.keep_parts_s)


def _installed(config: Settings) -> str:
    names = sorted(path.name for path in config.models_folder.glob("*") if path.is_dir())
    return f"installed in {config.models_folder}: {', '.join(names) or 'none'}; shipped: {SHIPPED}"
