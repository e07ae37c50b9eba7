"""This installation in, one line per thing that has to work out."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from models import bundle as bundles
from models.bundle import BundleError
from service import configured
from service.errors import TalError
from service.pipeline.decoders import FASTER_DECODER
from service.runtime import onnx_session
from service.settings import Settings

PACKAGES = (
    *("tal-service", "numpy", "av", "decord", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch"),
    *("fastapi", "uvicorn", "redis"),
)
LOW_DISK_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Finding:
    what: str
    found: str
    sound: bool = True


def examine(config: Settings) -> list[Finding]:
    checks: tuple[tuple[str, Callable[[Settings], Finding]], ...] = (
        ("engine", _engine),
        ("device", _device),
        ("torch bundles", _torch_bundles),
        ("decoders", _decoders),
        ("limits", _limits),
        ("home", _home),
        ("queue", _queue),
        ("store", _store),
        ("disk", _disk),
        ("models", _models),
    )
    found = [Finding("python", f"{platform.python_version()} on {platform.platform()}"), *map(_package, PACKAGES)]
    for what, check in checks:
        try:
            found.append(check(config))
        except TalError as error:
            found.append(Finding(what, str(error), sound=False))
    return found


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "not installed")


def _engine(_: Settings) -> Finding:
    return Finding("engine", f"ONNX Runtime with {', '.join(onnx_session.available_providers())}")


def _device(config: Settings) -> Finding:
    bounds = [f"{config.threads or 'all'} CPU threads", f"GPU {config.gpu_index}"]
    bounds += [f"at most {config.cpu_memory_mib} MiB on the CPU"] if config.cpu_memory_mib else []
    bounds += [f"at most {config.gpu_memory_mib} MiB on the GPU"] if config.gpu_memory_mib else []
    return Finding("device", f"{config.device}: {onnx_session.choose_provider(config.device)}; {', '.join(bounds)}")


def _torch_bundles(config: Settings) -> Finding:
    if not config.trusted_torch:
        return Finding(
            "torch bundles", "refused; TAL_ALLOW_TORCH_BUNDLES and TAL_TRUSTED_TORCH_BUNDLES would allow some"
        )
    installed = importlib.util.find_spec("torch") is not None
    found = f"{len(config.trusted_torch)} may load"
    return Finding("torch bundles", found if installed else f"{found}, but torch is not installed", installed)


def _limits(config: Settings) -> Finding:
    accepted = f"{config.max_video_s:g} s, {config.max_frame_px} px a frame, {config.max_video_mib} MiB a file"
    child = f"{config.decode_memory_mib} MiB, {config.decode_stall_s:g} s of silence, {config.decode_threads} thread(s)"
    return Finding("limits", f"videos up to {accepted}; a decoder has {child}")


def _decoders(config: Settings) -> Finding:
    present = [name for name in ("av", "decord") if importlib.util.find_spec(name) is not None]
    chosen = f"{config.decoder} is {FASTER_DECODER} here" if config.decoder == "auto" else config.decoder
    return Finding("decoders", f"{', '.join(present) or 'none'}; {chosen}", "av" in present)


def _home(config: Settings) -> Finding:
    return _folder("home", config.home)


def _queue(config: Settings) -> Finding:
    if config.redis_url is None:
        return Finding("queue", f"{config.queue_file}, for workers on this machine; TAL_REDIS_URL is not set")
    with closing(configured.open_queue(config)) as queue:
        queue.ping()
        ready = sum(worker.ready for worker in queue.workers())
    return Finding("queue", f"Redis answers and keeps what it is given; {ready} worker(s) ready")


def _store(config: Settings) -> Finding:
    place = config.store_place
    if "://" not in place:
        return _folder("store", config.store_folder)
    return Finding("store", f"{place} answers; its id is {configured.open_store(config).id}")


def _folder(what: str, folder: Path) -> Finding:
    nearest = _existing(folder)
    usable = nearest.is_dir() and os.access(nearest, os.W_OK)
    return Finding(what, f"{folder}{'' if usable else f': {nearest} is not a folder to write in'}", usable)


def _disk(config: Settings) -> Finding:
    free_bytes = shutil.disk_usage(_existing(config.home)).free
    return Finding("disk", f"{free_bytes / 1e9:.1f} GB free", free_bytes > LOW_DISK_BYTES)


def _models(config: Settings) -> Finding:
    folders = [path for path in config.models_folder.glob("*") if path.is_dir() and not path.name.startswith(".")]
    broken = []
    for folder in folders:
        try:
            bundles.read(folder).verify()
        except BundleError as error:
            broken.append(str(error))
    return Finding("models", "; ".join([f"{len(folders)} in {config.models_folder}", *broken]), not broken)


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.absolute().parents) if parent.exists())
