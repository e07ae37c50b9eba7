"""Videos in; a file with the amount of motion in every frame of each, for `training/static_parts.py`, out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from service.errors import InvalidOptions, TalError
from service.pipeline import video
from service.pipeline.flow import FlowRule, FlowStation
from service.pipeline.frame_views import FrameView
from service.pipeline.pipeline import Decoding
from training.feature_files import remove_partials, write_atomically
from training.static_parts import Motion

SIDE_PX = 128  # of the shorter side: enough to tell still from moving
VIEW = FrameView("short_side", SIDE_PX, "area")
RULE = FlowRule("dis_fast")


def measure(path: Path, fps: float | None = None, decoding: Decoding = Decoding()) -> Motion:
    """The mean length of optical flow from each frame to the next, in pixels; the last frame is like its neighbour."""
    station, means, times_s = FlowStation(RULE), [], []
    with video.decode(path, (VIEW,), fps=fps, decoder=decoding.decoder, limits=decoding.limits) as reader:
        for batch in reader:
            times_s.append(batch.times_s.copy())
            means.append(np.linalg.norm(station.push(batch.pixels[0]), axis=3).mean(axis=(1, 2)))
    found = np.concatenate(means)
    last = found[-1:] if len(found) else np.zeros(1)
    return Motion(np.concatenate([found, last]).astype(np.float64), np.concatenate(times_s))


def write(
    videos: Sequence[Path],
    out: Path,
    *,
    fps: float | None = None,
    workers: int = 1,
    decoding: Decoding = Decoding(),
    on_video: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """`<name>.npz` for every video that has none yet; gives how many were made."""
    targets = {path.stem: path for path in videos}
    if len(targets) < len(videos):
        raise InvalidOptions("two videos have the same name, so their motion would be one file")
    out.mkdir(parents=True, exist_ok=True)
    remove_partials(out)
    missing = [name for name in targets if not (out / f"{name}.npz").exists()]

    def make(name: str) -> None:
        try:
            motion = measure(targets[name], fps, decoding)
        except TalError as error:
            raise InvalidOptions(f"{targets[name]}: {error}") from error
        content = io.BytesIO()
        np.savez(content, intensity=motion.intensity.astype(np.float32), frame_times_s=motion.frame_times_s)
        write_atomically(out / f"{name}.npz", content.getvalue())

    # Decoding happens in child processes, and flow leaves the interpreter free, so threads are enough here.
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, _ in enumerate(pool.map(make, missing), 1):
            on_video(done, len(missing))
    return len(missing)
