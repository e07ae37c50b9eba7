"""A path in; what the video is, and its frames in batches with their presentation times, out.

All decoding happens in a child process (decode_child.py): a file that makes FFmpeg hang, crash or eat memory costs one
request. Frames come back through anonymous shared memory, at the sizes that the views ask for.
"""

from __future__ import annotations

import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from service import errors
from service.localization import VideoInfo
from service.pipeline.frame_ring import FrameRing, RingLayout, create_memory, trust_memory
from service.pipeline.frame_views import FrameView, Pixels

DecoderChoice = Literal["auto", "pyav", "decord"]

_PACKAGE_ROOT = Path(__file__).resolve().parents[2]
_MESSAGE_LIMIT_BYTES = 1024 * 1024
_CHILD_CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from service.pipeline.decode_child import main; main(*map(int, sys.argv[2:]))"
)
# One thread each: frames are the unit of parallel work, and a pool's stacks would count against the memory limit.
_CHILD_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True)
class DecodeLimits:
    """What one video may cost. `stall_s` is the longest silence of the decoder, not the length of the whole decode."""

    memory_bytes: int = 4 * 1024**3
    stall_s: float = 30.0
    cpu_base_s: float = 60.0
    cpu_s_per_video_s: float = 20.0
    max_duration_s: float = 4 * 3600.0
    max_frame_px: int = 8192 * 4352
    max_file_bytes: int = 32 * 1024**3
    threads: int = 1


@dataclass(frozen=True)
class DecodeRequest:
    """What the child is asked for; `skip_samples` go unsent, since another decoder delivered them before it failed."""

    path: str
    views: tuple[FrameView, ...] = ()
    fps: float | None = None
    decoder: DecoderChoice = "auto"
    limits: DecodeLimits = DecodeLimits()
    skip_samples: int = 0
    header_only: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DecodeRequest:
        fields = json.loads(text)
        views = tuple(FrameView(**{k: _tuple(v) for k, v in view.items()}) for view in fields.pop("views"))
        return cls(views=views, limits=DecodeLimits(**fields.pop("limits")), **fields)


@dataclass(frozen=True, repr=False)
class FrameBatch:
    """Consecutive frames: uint8 (N, H, W, 3) per view, and one time per frame on the container's timeline."""

    pixels: tuple[Pixels, ...]
    times_s: NDArray[np.float64]
    first_index: int

    def __post_init__(self) -> None:
        shapes = [view.shape for view in self.pixels]
        if not shapes or any(len(s) != 4 or s[3] != 3 or s[0] != len(self.times_s) for s in shapes):
            raise ValueError(f"views of shape {shapes} do not agree with {self.times_s.shape} times")

    def __repr__(self) -> str:
        shapes = ", ".join(str(view.shape) for view in self.pixels)
        return f"FrameBatch(pixels=({shapes}), times_s={self.times_s.shape}, first_index={self.first_index})"


@dataclass(frozen=True)
class DecodeSummary:
    """What the video turned out to be; `num_frames` counts decoded frames, sampled or not."""

    num_frames: int
    first_time_s: float
    last_time_s: float
    end_s: float
    fps: float
    is_vfr: bool
    decoder: str
    warnings: tuple[str, ...] = ()


def probe(path: str | Path, limits: DecodeLimits = DecodeLimits()) -> VideoInfo:  # noqa: B008  # frozen
    """The header's word; num_frames is 0 where the container does not say."""
    with VideoReader(DecodeRequest(_checked_path(path, limits), limits=limits, header_only=True)) as reader:
        return reader.info


def decode(
    path: str | Path,
    views: Sequence[FrameView],
    *,
    fps: float | None = None,
    decoder: DecoderChoice = "auto",
    limits: DecodeLimits = DecodeLimits(),  # noqa: B008  # frozen
) -> VideoReader:
    """Frames of the best video stream, each as every view shows it: all of them, or `fps` of them a second.

    With `fps`, sample k is the frame on screen k / fps after the first one, and its time is that moment.
    """
    if not views:
        raise errors.InvalidOptions("no view is asked for; accepted are one or more")
    if fps is not None and not 0 < fps <= 1000:
        raise errors.InvalidOptions(f"the sampling rate is {fps}; accepted are rates above 0 up to 1000 a second")
    if decoder not in {"auto", "pyav", "decord"}:
        raise errors.InvalidOptions(f"the decoder is {decoder!r}; accepted are 'auto', 'pyav' and 'decord'")
    return VideoReader(DecodeRequest(_checked_path(path, limits), tuple(views), fps, decoder, limits))
