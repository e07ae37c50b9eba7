"""How much moves in each frame of a video in; the frames where hardly anything does for a while out.

Whoever stands and waits is no action, but looks like one: such parts teach a detector that knows no times what the
background is (CMCS, Liu et al., CVPR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models.schema import Fraction, Part, Positive
from service.errors import InvalidOptions
from service.pipeline.activations import dilate, find_runs, join
from service.pipeline.snippets import SnippetGrid
from service.runtime.session import Array
from training.feature_arrays import read_npz
from training.feature_names import find

# How far the lengths of a video, by its features and by its motion, may lie apart.
MISMATCH, SLACK_S = 1.5, 2.0

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class StaticRule(Part):
    """A frame is still if it moves less than this percentile of its video's frames do.

    `smoothing` tidies that up over `least_s`, by a median or by widening what is still, and shorter parts are dropped.
    A video is of use if the share of it that remains lies within `share`.
    """

    percentile: Annotated[float, Field(gt=0, lt=100)] = 25.0
    smoothing: Literal["median", "dilation"] = "median"
    least_s: Positive = 2.0
    share: tuple[Fraction, Fraction] = (0.05, 0.3)

    @model_validator(mode="after")
    def _share_rises(self) -> StaticRule:
        if not self.share[0] <= self.share[1]:
            raise ValueError(f"share is {list(self.share)}; two rising shares are needed")
        return self


@dataclass(frozen=True)
class Motion:
    """How much moves in each frame, in any unit, and when the frames are."""

    intensity: Floats
    frame_times_s: Floats

    @property
    def fps(self) -> float:
        times_s = self.frame_times_s
        return (len(times_s) - 1) / max(float(times_s[-1] - times_s[0]), 1e-9) if len(times_s) > 1 else 1.0


def read(folder: Path, video: str) -> Motion:
    path = find(folder, video)
    return of_arrays(read_npz(path), path)


def of_arrays(arrays: Mapping[str, Array], path: Path) -> Motion:
    """What the file at `path` holds."""
    missing = {"intensity", "frame_times_s"} - arrays.keys()
    if missing:
        raise InvalidOptions(f"{path}: lacks {', '.join(sorted(missing))}: not a file that `tal motion` made")
    kinds = {arrays[name].dtype.kind for name in ("intensity", "frame_times_s")}
    if not kinds <= set("fiu"):
        raise InvalidOptions(
            f"{path}: intensity and frame_times_s are {arrays['intensity'].dtype} and "
            f"{arrays['frame_times_s'].dtype}; numbers are needed"
        )
    intensity, times_s = (np.asarray(arrays[name], np.float64) for name in ("intensity", "frame_times_s"))
    sound = intensity.ndim == 1 and intensity.shape == times_s.shape and len(intensity) > 0
    if not sound or not np.isfinite(intensity).all() or not (np.diff(times_s) >= 0).all():
        raise InvalidOptions(
            f"{path}: intensity {intensity.shape} and frame_times_s {times_s.shape}; a finite number and a rising time "
            "for every frame are needed"
        )
    return Motion(intensity, times_s)


def static_frames(motion: Motion, rule: StaticRule) -> Bools:
    """(N,): true in the still parts that are long enough."""
    still = motion.intensity < np.percentile(motion.intensity, rule.percentile)
    least = max(1, round(rule.least_s * motion.fps))
    runs = _runs_of_median(still, least) if rule.smoothing == "median" else _runs_widened(still, least)
    mask = np.zeros(len(still), bool)
    for start, end in runs:
        mask[start:end] = end - start >= least
    return mask


def check_cover(motion: Motion, lasts_s: float, video: str) -> None:
    """Motion of another video, or of a few frames of it, says nothing of the rest. NaN, a video whose length nobody
    told, passes."""
    covered_s = float(motion.frame_times_s[-1] - motion.frame_times_s[0])
    if covered_s + SLACK_S < lasts_s / MISMATCH or covered_s > MISMATCH * lasts_s + SLACK_S:
        raise InvalidOptions(
            f"{video}: {len(motion.frame_times_s)} frames of motion cover {covered_s:.1f} s; the video lasts "
            f"{lasts_s:.1f} s: the motion is of another video"
        )


def is_usable(mask: Bools, rule: StaticRule) -> bool:
    return bool(mask.any()) and rule.share[0] <= mask.mean() <= rule.share[1]


def static_rows(mask: Bools, motion: Motion, grid: SnippetGrid, rows: int) -> Bools:
    """(rows,): which snippets stand at a static frame."""
    moments_s = grid.to_seconds(np.arange(rows)) + 1e-6  # a moment that falls on a frame is that frame's
    frames = np.searchsorted(motion.frame_times_s, moments_s, side="right") - 1
    return np.asarray(mask[np.clip(frames, 0, len(mask) - 1)])


def _runs_of_median(still: Bools, least: int) -> NDArray[np.int64]:
    """Of an odd window just below `least` frames; beyond the video everything moves."""
    reach = (least - 1 + least % 2) // 2
    counts = np.concatenate([[0], np.cumsum(still)])
    frames = np.arange(len(still))
    inside = counts[np.minimum(frames + reach + 1, len(still))] - counts[np.maximum(frames - reach, 0)]
    return find_runs(inside > reach)


def _runs_widened(still: Bools, least: int) -> NDArray[np.int64]:
    return join(dilate(find_runs(still), least, len(still)), 0)
