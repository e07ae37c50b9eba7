"""The settings and the options of `tal worker` in, the exit status of the worker that ran out."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from models import bundle as bundles
from models.bundle import BundleError
from service import configured, settings
from service.errors import InvalidOptions
from service.jobs.janitor import Janitor
from service.jobs.job import PRIORITIES, Priority
from service.runtime.session import Device
from service.settings import MIB, Settings
from service.worker.child import ExecutorSetup
from service.worker.job_run import Limits
from service.worker.supervisor import Supervisor, WorkerSetup, log

JANITOR_END_S = 2.0


@dataclass(frozen=True)
class WorkerCall:
    """What the command line says; None leaves the choice to the settings."""

    queues: str = ",".join(PRIORITIES)
    models: str | None = None
    id: str | None = None
    device: Device | None = None
    metrics_port: int | None = None


def run(call: WorkerCall) -> int:
    config = settings.read()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with contextlib.closing(configured.open_backends(config)) as held:
        supervisor = Supervisor(held.queue, held.store, worker_setup(call, config), finder(call, config))
        janitor = Janitor(held.queue, held.store, held.records, configured.retention(config))
        with housekeeping(janitor, held.queue.policy.lease_s / 3):
            return supervisor.run()


@contextlib.contextmanager
def housekeeping(janitor: Janitor, every_s: float) -> Iterator[None]:
    """In a thread of its own, since a sweep of a large store takes long."""
    stop = threading.Event()
    thread = threading.Thread(target=janitor.run_forever, args=(stop, every_s), daemon=True, name="janitor")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(JANITOR_END_S)


def worker_setup(call: WorkerCall, config: Settings) -> WorkerSetup:
    port = config.metrics_port if call.metrics_port is None else call.metrics_port
    return WorkerSetup(
        id=call.id or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}",
        priorities=split_priorities(call.queues),
        limits=Limits(config.worker_stall_s, config.worker_memory_mib * MIB),
        drain_s=config.drain_s,
        metrics_port=port or None,
        gpu_index=config.gpu_index,
    )


def split_priorities(text: str) -> tuple[Priority, ...]:
    given = [part.strip() for part in text.split(",") if part.strip()]
    if not given or set(given) - set(PRIORITIES):
        raise InvalidOptions(f"queues {text!r}: some of {', '.join(PRIORITIES)} are needed, separated by commas")
    return tuple(priority for priority in PRIORITIES if priority in given)


def finder(call: WorkerCall, config: Settings) -> Callable[[], ExecutorSetup]:
    """Looks for the models whenever they are read anew."""

    def find() -> ExecutorSetup:
        folders = _named(call.models, config) if call.models else _installed(config)
        return ExecutorSetup(
            models={folder.name: str(folder.resolve()) for folder in folders},
            resident_models=config.resident_models,
            runtime=configured.onnx_options(config, call.device),
            trusted_torch=config.trusted_torch,
            decoding=configured.decoding(config),
            store=configured.store_address(config),
        )

    return find


def _named(listed: str, config: Settings) -> list[Path]:
    names = [name.strip() for name in listed.split(",") if name.strip()]
    if not names:
        raise InvalidOptions(f"models {listed!r} name none; leave the option out to serve all that are installed")
    return [configured.find_model(name, config) for name in names]


def _installed(config: Settings) -> list[Path]:
    """The default first; what cannot be read is told and left out, so that one broken folder stops no worker."""
    found = {path.name: path for path in sorted(config.models_folder.glob("*")) if _is_sound(path)}
    default = configured.find_model(None, config)
    shipped = configured.find_model(configured.SHIPPED, config)
    found.setdefault(shipped.name, shipped)
    return [default, *(folder for name, folder in found.items() if name != default.name)]


def _is_sound(folder: Path) -> bool:
    if not folder.is_dir() or folder.name.startswith("."):
        return False
    try:
        bundles.read(folder)
    except BundleError as error:
        log.warning("model %s is left out: %s", folder.name, error)
        return False
    return True
