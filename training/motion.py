"""Videos in; a file with the amount of motion in every frame of each, for `training/static_parts.py`, out."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.errors import InvalidOptions, TalError
from service.pipeline import video
from service.pipeline.flow import FlowRule, FlowStation
from service.pipeline.frame_views import FrameView
from service.pipeline.pipeline import Decoding
from training import static_parts
from training.extract import Failure, by_name, check_workers
from training.feature_arrays import read_npz
from training.feature_files import remove_partials, write_atomically
from training.run_folder import sole_writer
from training.static_parts import Motion

SIDE_PX = 128  # of the shorter side: enough to tell still from moving
VIEW = FrameView("short_side", SIDE_PX, "area")
RULE = FlowRule("dis_fast")
EVERY_FRAME = 0.0  # as a rate, in a file


@dataclass(frozen=True)
class Written:
    """How many files were made and how many were there already, and the failures."""

    made: int
    kept: int
    failed: tuple[Failure, ...]


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
    on_failure: Callable[[Failure], None] = lambda _: None,
) -> Written:
    """`<name>.npz` for every video that has none yet that can be read; a bad video does not stop the others."""
    targets = {out / f"{name}.npz": path for name, path in by_name(videos).items()}
    if wrong := check_workers(workers):
        raise InvalidOptions("; ".join(wrong))
    video.check_rate(fps)
    with sole_writer(out, "writing motion"):
        remove_partials(out)
        missing = [target for target in targets if not _is_known(target, fps)]

        def make(target: Path) -> Failure | None:
            path = targets[target]
            try:
                motion = measure(path, fps, decoding)
            except TalError as error:
                return Failure(path, error.code, str(error))
            write_atomically(target, pack(motion, EVERY_FRAME if fps is None else fps))
            return None

        # Decoding happens in child processes, and flow leaves the interpreter free, so threads are enough here.
        failed = []
        with ThreadPoolExecutor(workers) as pool:
            for done, failure in enumerate(pool.map(make, missing), 1):
                on_video(done, len(missing))
                if failure is not None:
                    failed.append(failure)
                    on_failure(failure)
    return Written(len(missing) - len(failed), len(targets) - len(missing), tuple(failed))


def pack(motion: Motion, fps: float) -> bytes:
    """A file of it, made at this rate."""
    content = io.BytesIO()
    intensity = motion.intensity.astype(np.float32)
    np.savez(content, intensity=intensity, frame_times_s=motion.frame_times_s, fps=np.array(fps))
    return content.getvalue()


def _is_known(target: Path, fps: float | None) -> bool:
    """What cannot be read is made again; what is something else, or was made at another rate, is refused."""
    try:
        arrays = read_npz(target)
    except InvalidOptions:
        return False
    static_parts.of_arrays(arrays, target)
    made, wanted = float(arrays.get("fps", np.nan)), EVERY_FRAME if fps is None else fps
    if np.isnan(made) or made == wanted:
        return True
    told = ["every frame" if rate == EVERY_FRAME else f"{rate:g} frames a second" for rate in (made, wanted)]
    raise InvalidOptions(f"{target} was made of {told[0]}, and {told[1]} are asked for; choose another folder")
