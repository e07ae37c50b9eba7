"""Videos in; their frames at a backbone's size and rate out, kept on disk so that clips can be drawn from any place.

Frames come through the decoder and the flow that serve, so a backbone is trained on the very pixels that it will see.
Flow is kept in the 255 steps of a byte, and a bundle's flow stream is told to round it so, too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidOptions, TalError
from service.pipeline import video
from service.pipeline.flow import FlowRule, FlowStation
from service.pipeline.frame_views import FrameView
from training.extract import find_videos
from training.feature_files import write_atomically

PART = ".part.npy"
FLOW_ALGORITHM: Literal["dis_fast"] = "dis_fast"
INTERPOLATION: Literal["area"] = "area"

Pixels = NDArray[Any]


@dataclass(frozen=True)
class FrameForm:
    """`clip_px` bounds flow, and is None for RGB. Whole frames are squeezed into a square of `size_px`."""

    fps: float
    size_px: int
    clip_px: float | None

    @property
    def suffix(self) -> str:
        kind = "rgb" if self.clip_px is None else f"flow{self.clip_px:g}"
        return f".{kind}_{self.size_px}px_{self.fps:g}fps.npy"


class FrameStore:
    """Frames of each video as an array on disk, made where it is missing."""

    def __init__(self, videos: dict[str, Path], folder: Path, form: FrameForm) -> None:
        self._videos, self._folder, self._form = videos, folder, form
        self._open: dict[str, Pixels] = {}

    def prepare(self, workers: int, on_video: Callable[[int, int], None] = lambda *_: None) -> None:
        """Decodes what is missing; decoding happens in child processes, so threads are enough here."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            for done, _ in enumerate(pool.map(self._make, self._videos), 1):
                on_video(done, len(self._videos))

    def frames(self, name: str) -> Pixels:
        """(N, H, W, 3) bytes, or (N, H, W, 2) displacements as bytes; see `displacements`."""
        if name not in self._open:
            self._open[name] = np.load(self._path(name), mmap_mode="r")
        return self._open[name]

    def start_s(self, name: str) -> float:
        """The time of the first frame, from which samples are counted."""
        start_s: float = self._facts(name)["start_s"]
        return start_s

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{self._form.suffix}"

    def _facts(self, name: str) -> dict[str, Any]:
        """What stands beside an array: of which video it is, and when that begins; nothing where there is none."""
        path = self._path(name).with_suffix(".json")
        found: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {}
        return found

    def _make(self, name: str) -> None:
        video_path = self._videos[name]
        source = {"bytes": video_path.stat().st_size, "modified_ns": video_path.stat().st_mtime_ns}
        if self._path(name).exists() and self._facts(name).get("source") == source:
            return
        try:
            frames, start_s = _decode(video_path, self._form)
        except TalError as error:
            raise InvalidOptions(f"{video_path}: {error}") from error
        self._path(name).with_suffix(".json").unlink(missing_ok=True)  # until the new array stands, none is vouched for
        part = self._folder / f"{name}.{os.getpid()}{PART}"
        np.save(part, frames)
        part.replace(self._path(name))
        facts = json.dumps({"source": source, "start_s": start_s})
        write_atomically(self._path(name).with_suffix(".json"), facts.encode())


def displacements(stored: Pixels, clip_px: float) -> NDArray[np.float32]:
    """Bytes as pixels of flow, the same numbers that a quantised flow stream gives."""
    return (stored.astype(np.float64) / 255 * 2 * clip_px - clip_px).astype(np.float32)


def _decode(path: Path, form: FrameForm) -> tuple[Pixels, float]:
    view = FrameView("exact", (form.size_px, form.size_px), INTERPOLATION)
    station = None if form.clip_px is None else FlowStation(FlowRule(FLOW_ALGORITHM, form.clip_px, quantised=True))
    parts: list[Pixels] = []
    with video.decode(path, (view,), fps=form.fps) as reader:
        for batch in reader:
            pixels = batch.pixels[0]
            parts.append(pixels.copy() if station is None else _as_bytes(station.push(pixels), form))
    if station is not None:
        parts.append(_as_bytes(station.finish(), form))
    return np.concatenate(parts), reader.summary.first_time_s


def _as_bytes(flow: NDArray[np.float32], form: FrameForm) -> Pixels:
    clip_px = form.clip_px or 1.0
    return np.round((flow.astype(np.float64) + clip_px) / (2 * clip_px) * 255).astype(np.uint8)


def video_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Each name's video below the folder, whatever its ending; those that are missing or stand twice in one error."""
    found: dict[str, list[Path]] = {}
    for path in find_videos([folder]) if names else []:
        found.setdefault(path.stem, []).append(path)
    missing = [name for name in names if name not in found]
    twice = [f"{name} ({', '.join(map(str, found[name]))})" for name in names if len(found.get(name, ())) > 1]
    if missing or twice:
        told = [f"{len(missing)} videos are not there: {', '.join(missing[:10])}"] if missing else []
        told += [f"{len(twice)} are there more than once: {', '.join(twice[:10])}"] if twice else []
        raise InvalidOptions(f"{folder}: {'; '.join(told)}")
    return {name: found[name][0] for name in names}
