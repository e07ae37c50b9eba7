"""Marionette's features and motion in; features of two kinds side by side, appearance and flow, out.

The bundle that ships sees RGB alone. Here every snippet also has how much moved in each frame of its clip, by optical
flow (`tal motion`), as logarithms: what early and late fusion of CMCS are compared on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from training import static_parts
from training.feature_arrays import read_npz

STRIDE_FRAMES, CLIP_FRAMES, FPS = 2, 8, 10
FOLDER = "two-streams"
RULE: Mapping[str, Any] = {
    "folder": FOLDER,
    "stride_frames": STRIDE_FRAMES,
    "offset_frames": CLIP_FRAMES / 2,
    "clip_frames": CLIP_FRAMES,
    "fps": FPS,
}
CHANNELS = (256, CLIP_FRAMES)


def make(folder: Path) -> None:
    (folder / FOLDER).mkdir(exist_ok=True)
    for path in sorted((folder / "features").glob("*.npz")):
        target = folder / FOLDER / f"{path.stem}.npy"
        if not target.exists():
            appearance = read_npz(path)["values"]
            moved = np.log1p(static_parts.read(folder / "motion", path.stem).intensity)
            np.save(target, np.concatenate([appearance, flow(moved, len(appearance))], axis=1))


def flow(moved: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """(rows, CLIP_FRAMES): of each snippet its frames', of which the last stand for those that are not there."""
    frames = np.arange(rows)[:, None] * STRIDE_FRAMES + np.arange(CLIP_FRAMES)
    return moved[np.minimum(frames, len(moved) - 1)].astype(np.float32)
