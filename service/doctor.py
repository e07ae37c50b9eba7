"""This installation in, one line per thing that has to work out."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from models import bundle as bundles
from models.bundle import BundleError
from service.errors import TalError
from service.pipeline.decoders import FASTER_DECODER
from service.runtime import onnx_session
from service.settings import Settings

PACKAGES = ("tal-service", "numpy", "av", "decord", "opencv-python-headless", "onnxruntime", "onnxruntime-gpu", "torch")
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
        ("decoders", _decoders),
        ("home", _home),
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
    return Finding("device", f"{config.device}: {onnx_session.choose_provider(config.device)}")


def _decoders(config: Settings) -> Finding:
    present = [name for name in ("av", "decord") if importlib.util.find_spec(name) is not None]
    chosen = f"{config.decoder} is {FASTER_DECODER} here" if config.decoder == "auto" else config.decoder
    return Finding("decoders", f"{', '.join(present) or 'none'}; {chosen}", "av" in present)


def _home(config: Settings) -> Finding:
    nearest = _existing(config.home)
    writable = os.access(nearest, os.W_OK)
    return Finding("home", f"{config.home}{'' if writable else f': {nearest} is not writable'}", writable)


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
    return next(parent for parent in (path, *path.parents) if parent.exists())
