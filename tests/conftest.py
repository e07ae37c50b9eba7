"""What tests may need and a machine may lack: skipped with the line that installs it, failed where CI must have it."""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from service.runtime import onnx_session

STDERR = pytest.StashKey[int]()
GRACE_S = 120.0
# Files are tested side by side, and sums in one thread have one order, in which published numbers were made, too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Serving is tested where torch is not installed, too (tests/pythons); what needs it is left out there, and only there.
NEEDS_TORCH = [
    *("models/backbones/*", "models/detectors/*", "models/test_catalog.py", "exporters/layouts/*"),
    *("exporters/test_export.py", "exporters/test_graphs.py", "exporters/test_published.py"),
    "soak/test_detector_memory.py",
    *("training/test_loop.py", "training/test_detector_job.py", "training/test_plan.py", "training/test_train.py"),
    *("training/test_pretrain.py", "training/test_run.py", "exporters/test_own_weights.py"),
    *("training/test_studies.py", "training/test_amnet_mask.py", "exporters/test_served.py", "exporters/test_cmcs.py"),
    *("models/classifiers/*", "training/test_classifier.py", "training/test_video_label_job.py"),
    *("training/test_multiply_adds.py", "training/test_static_parts.py"),
]
WITHOUT_TORCH = importlib.util.find_spec("torch") is None
if WITHOUT_TORCH and os.environ.get("CI") == "true" and "TAL_TESTS_WITHOUT_TORCH" not in os.environ:
    raise pytest.UsageError("torch is not installed; the extra 'train' brings it")
collect_ignore_glob = NEEDS_TORCH if WITHOUT_TORCH else []

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


def _has_assets() -> bool:
    return bool(os.environ.get("TAL_ASSETS")) and Path(os.environ["TAL_ASSETS"]).is_dir()


def _has_ffmpeg() -> bool:
    return shutil.which("ffmpeg") is not None and shutil.which("ffprobe") is not None


def _has_redis() -> bool:
    return shutil.which("redis-server") is not None


def _has_gpu() -> bool:
    return onnx_session.choose_provider("auto") == onnx_session.CUDA


# marker -> (is it there, how to get it, whether CI always has it)
NEEDS: dict[str, tuple[Callable[[], bool], str, bool]] = {
    "needs_assets": (_has_assets, "set TAL_ASSETS to the folder of real videos and weights", False),
    "needs_ffmpeg": (_has_ffmpeg, "make system-packages (as root), or install ffmpeg", True),
    "needs_redis": (_has_redis, "make system-packages (as root), or install redis-server", True),
    "needs_gpu": (_has_gpu, "an NVIDIA GPU and: pip install -e '.[gpu]'", False),
}


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STDERR] = os.dup(2)  # the real one: output is not captured at this moment


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that share an address only one would run where they run side by side."""
    shared = [address for address, count in Counter(item.nodeid for item in items).items() if count > 1]
    if shared:
        raise pytest.UsageError(f"several tests are called {', '.join(sorted(shared))}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test that is deaf to its timeout, as in native code or in a `finally`, ends its process and tells where it is,
    rather than hold up all others."""
    marker = item.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker else item.config.getini("timeout"))
    faulthandler.dump_traceback_later(limit_s + GRACE_S, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker, (present, install, ci_has_it) in NEEDS.items():
        if item.get_closest_marker(marker) and not present():
            if ci_has_it and os.environ.get("CI") == "true":
                pytest.fail(f"{marker}: {install}")
            pytest.skip(f"{marker}: {install}")


@pytest.fixture
def assets() -> Path:
    return Path(os.environ["TAL_ASSETS"])
